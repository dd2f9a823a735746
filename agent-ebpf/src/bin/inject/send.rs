//! One send: what `capture` has asked for, and whether it was asked for this one.
//!
//! Input: a message on the send path. Output: its instructions executed, each counted.

use agent_common::{
    abi::{Counter, Injection, InjectionSlot},
    wire::inject::{Action, LINE},
};
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_msg_pull_data},
    programs::SkMsgContext,
};

use crate::{
    O_TCP_SOCK_WRITE_SEQ, SELF_TEST, count, find,
    line::{insert, rewrite},
    packet::bound,
    state, tcp_sock,
};

/// The kernel hands a send over in parts only where it has filled that many bytes.
const PART: u32 = 32 << 10;

/// Executes what the send hook has asked for in this send.
#[inline(always)]
pub(crate) fn execute(ctx: &SkMsgContext) -> Option<()> {
    let injection = instructions(ctx)?;
    let thread = bpf_get_current_pid_tgid();
    let (slots, start) = (injection.count, injection.start);
    injection.count = 0;
    let staged = state::staged()?;
    // Once: another send's instructions may replace it.
    // SAFETY: a word of the entry.
    let state_slots = unsafe { (&raw const injection.state_slots).read_volatile() };
    let state_line = state::acquire(staged, injection, state_slots);
    let (mut shift, mut behind) = (0, 0);
    for index in 0..InjectionSlot::COUNT {
        if index as u32 >= slots {
            break;
        }
        // SAFETY: a slot of the entry.
        let slot = unsafe { (&raw const injection.slots[index]).read_volatile() };
        if !is_of(injection, thread) {
            count(
                Counter::InjectOtherSend,
                u64::from(slots.wrapping_sub(index as u32)),
            );
            break;
        }
        let at = bound(slot.at.wrapping_add(shift));
        let mut length = LINE;
        let written = if slot.action == Action::Insert as u32 {
            let gets = (state_slots >> index & 1).wrapping_neg();
            insert(ctx, at, &slot, staged, state_line & gets)
        } else {
            rewrite(ctx, at, &slot)
        };
        match written {
            Ok(bytes) => {
                shift += bytes;
                if bytes != 0 {
                    length = bytes;
                    let until = start.wrapping_add(at).wrapping_add(bytes);
                    let inserted = injection.inserted.wrapping_add(bytes);
                    // SAFETY: words of the entry; in this order, because the other side reads them in the opposite one.
                    unsafe { (&raw mut injection.until).write_volatile(until) };
                    // SAFETY: as above.
                    unsafe { (&raw mut injection.inserted).write_volatile(inserted) };
                }
                count(Counter::InjectBytes, u64::from(bytes));
                count(
                    if bytes == 0 {
                        Counter::InjectRewritten
                    } else {
                        Counter::InjectInserted
                    },
                    1,
                );
            }
            Err(counter) => count(counter, 1),
        }
        behind = at.wrapping_add(length);
    }
    if state_line != 0 {
        state::release(staged);
    }
    if shift != 0 {
        // The kernel sends each piece of a message as if it were a message: a client that leaves small packets to Nagle's algorithm would
        // wait for the peer's acknowledgement of the first piece. So they become one piece again; where that fails, they are only slower.
        // SAFETY: the context is the kernel's; no pointer into the message is used any more.
        let _ = unsafe { bpf_msg_pull_data(ctx.msg, 0, bound(behind).wrapping_add(2), 0) };
    }
    Some(())
}

/// Whether what was read of the instructions is still this thread's. Another thread that comes to send on the same connection writes its id before all else.
#[inline(always)]
fn is_of(injection: &Injection, thread: u64) -> bool {
    // SAFETY: a word of the entry.
    unsafe { (&raw const injection.pid_tgid).read_volatile() == thread }
}

/// What is to be written into this message, if the send hook has left something for this very send.
#[inline(always)]
fn instructions(ctx: &SkMsgContext) -> Option<&'static mut Injection> {
    // SAFETY: a static of a plain integer type, never written after loading.
    if unsafe { core::ptr::read_volatile(&raw const SELF_TEST) } != 0 {
        let injection = find(bpf_get_current_pid_tgid())?;
        return is_for(injection, ctx.size(), injection.start);
    }
    // SAFETY: a load from the context.
    let message = unsafe { &*ctx.msg };
    // SAFETY: the only member of the union that is a value.
    let tcp = tcp_sock(unsafe { message.__bindgen_anon_3.sk }.cast())?;
    // SAFETY: a static of a plain integer type, never written after loading.
    let offset = unsafe { core::ptr::read_volatile(&raw const O_TCP_SOCK_WRITE_SEQ) };
    let write_seq = tcp.wrapping_add(offset as usize).cast::<u32>();
    // SAFETY: a member of the struct, which the verifier checks.
    let write_seq = unsafe { write_seq.read_volatile() };
    is_for(find(tcp as u64)?, ctx.size(), write_seq)
}

/// The instructions, when they were left by this thread for a send of this size whose first byte gets this sequence number; they are taken in any case.
#[inline(always)]
fn is_for(
    injection: &'static mut Injection,
    size: u32,
    write_seq: u32,
) -> Option<&'static mut Injection> {
    let slots = injection.count;
    if slots == 0 {
        return None;
    }
    let whole = size == injection.length || (size < injection.length && size >= PART);
    if whole && injection.start == write_seq && injection.pid_tgid == bpf_get_current_pid_tgid() {
        return Some(injection);
    }
    injection.count = 0;
    count(Counter::InjectOtherSend, u64::from(slots));
    None
}
