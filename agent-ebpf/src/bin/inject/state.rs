//! The `tracestate` that a request brought along, written behind the line.
//!
//! Input: an instruction's reference to what [`STATES`] holds. Output: the second line. Nothing reaches it yet (ARCHITECTURE.md, "Headers").

use core::arch::asm;

use agent_common::{
    abi::{Injection, KeptState},
    wire::inject::{self, LINE, STATE_LIMIT, STATE_NAME},
};
use aya_ebpf::programs::SkMsgContext;

use crate::{STATES, packet::Packet};

/// Bytes of the `tracestate` that goes into this slot, 0 for none.
#[inline(always)]
pub(crate) fn state_for(injection: &Injection, index: u32) -> u32 {
    if injection.state_slot == index && injection.state_length <= STATE_LIMIT {
        injection.state_length
    } else {
        0
    }
}

/// Writes a `tracestate` line of `length` bytes of value behind the first one. False when the value is not the one that was meant, or was replaced meanwhile.
#[inline(always)]
pub(crate) fn write_state(ctx: &SkMsgContext, injection: &Injection, length: u32) -> bool {
    const NAME_AT: usize = LINE as usize;
    const VALUE_AT: usize = (LINE + STATE_NAME) as usize;
    let Some(state) = state_of(injection) else {
        return false;
    };
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + VALUE_AT > end {
        return false;
    }
    inject::write_state_name(&mut Packet((data as *mut u8).wrapping_add(NAME_AT)));
    let value = (&raw const state.value).cast::<u8>();
    for index in 0..STATE_LIMIT as usize {
        if index as u32 >= length || data + VALUE_AT + index + 1 > end {
            break;
        }
        // SAFETY: the index is below the length of the value; the verifier follows the place in the packet.
        unsafe {
            let byte = value.wrapping_add(index).read_volatile();
            (data as *mut u8).wrapping_add(VALUE_AT + index).write(byte);
        }
    }
    let behind = data + VALUE_AT + bound_state(length) as usize;
    if behind + 2 > end {
        return false;
    }
    // SAFETY: two bytes are there.
    unsafe {
        (behind as *mut u16).write_unaligned(u16::from_le_bytes(*b"\r\n"));
    }
    is_of(state, injection)
}

/// The `tracestate` that was meant, if it is still the same request's.
#[inline(always)]
fn state_of(injection: &Injection) -> Option<&'static KeptState> {
    let state = STATES.get_ptr(injection.state_sk)?;
    // SAFETY: plain words of a map entry; that they may be replaced meanwhile is looked after.
    let state = unsafe { &*state };
    is_of(state, injection).then_some(state)
}

#[inline(always)]
fn is_of(state: &KeptState, injection: &Injection) -> bool {
    let (sk, position) = (&raw const state.sk, &raw const state.position);
    // SAFETY: words of a map entry.
    let (sk, position) = unsafe { (sk.read_volatile(), position.read_volatile()) };
    sk == injection.state_sk && position == injection.state_position
}

/// `length & 511`, as [`bound`].
#[inline(always)]
fn bound_state(length: u32) -> u32 {
    let mut length = u64::from(length);
    // SAFETY: one instruction without effects.
    unsafe { asm!("{0} &= 511", inout(reg) length, options(pure, nomem, nostack)) };
    length as u32
}
