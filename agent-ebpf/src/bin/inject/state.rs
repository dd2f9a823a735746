//! The `tracestate` line of the request on whose behalf a request is sent, written behind the `traceparent`.
//!
//! Input: an instruction's reference to what [`STATES`] holds. Output: a copy that nobody else changes, proven to be the line that was meant; and that
//! copy in the message. The entry may be replaced or removed at any time by who serves that request's connection, so nothing is put into the message
//! before the proof: what has been put in never has to be taken out again for that reason.

use core::arch::asm;

use agent_common::{
    abi::{Counter, Injection, KeptState},
    wire::{
        inject::LINE,
        state_line::{LONGEST, SHORTEST, WORDS},
    },
};
use aya_ebpf::{
    macros::map,
    maps::{HashMap, PerCpuArray},
    programs::SkMsgContext,
};

use crate::{count, fault, faulty};

/// What requests brought along, shared with `capture`.
#[map]
static STATES: HashMap<u64, KeptState> = HashMap::with_max_entries(4_096, 0);

/// Where a run has its copy: another task may run on this CPU meanwhile, and finds it taken.
#[map]
static STAGED: PerCpuArray<Staged> = PerCpuArray::with_max_entries(1, 0);

#[repr(C)]
pub(crate) struct Staged {
    busy: u64,
    kept: KeptState,
    /// As much as an index can reach.
    rest: [u64; 32],
}

const _: () = assert!((WORDS + 32) * 8 >= INDEX_MASK as usize + 8);

const INDEX_MASK: u64 = 511;

/// This CPU's copy, whoever has it.
#[inline(always)]
pub(crate) fn staged() -> Option<*mut Staged> {
    STAGED.get_ptr_mut(0)
}

/// Copies the line that these slots are to get. Returns its bytes, and the copy is this run's until it is [`released`](release); or 0, and there is none.
#[inline(always)]
pub(crate) fn acquire(staged: *mut Staged, injection: &Injection, slots: u32) -> u32 {
    if slots == 0 {
        return 0;
    }
    add(staged, 1);
    // SAFETY: an aligned word of the map.
    let alone = unsafe { (&raw const (*staged).busy).read_volatile() } == 1;
    let length = if alone { fill(staged, injection) } else { 0 };
    if length == 0 {
        release(staged);
        count(
            Counter::InjectStatesWithheld,
            u64::from((slots & 15).count_ones()),
        );
    }
    length
}

/// Gives the copy back.
#[inline(always)]
pub(crate) fn release(staged: *mut Staged) {
    add(staged, 1u64.wrapping_neg());
}

#[inline(always)]
fn add(staged: *mut Staged, amount: u64) {
    let busy = staged.cast::<u64>();
    const { assert!(core::mem::offset_of!(Staged, busy) == 0) };
    // SAFETY: an aligned u64 of a map entry; the instruction is BPF_XADD, which has no result and is there since Linux 3.
    unsafe {
        asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) busy, in(reg) amount, options(nostack))
    };
}

/// Copies the entry, and proves of the copy that it is one state, and the one that was meant: only it has this connection and this position, and none that
/// was copied while it was replaced has its seal. Returns the bytes of its line, or 0.
#[inline(always)]
fn fill(staged: *mut Staged, injection: &Injection) -> u32 {
    let Some(source) = STATES.get_ptr(injection.state_sk) else {
        return 0;
    };
    // SAFETY: the copy is this run's.
    let kept = unsafe { &mut (*staged).kept };
    let (from, to) = (source.cast::<u64>(), (&raw mut *kept).cast::<u64>());
    for index in 0..KeptState::WORDS {
        // SAFETY: both have so many words.
        unsafe {
            to.wrapping_add(index)
                .write(from.wrapping_add(index).read_volatile());
        }
    }
    // Behind this the copy is read anew: LLVM would keep all words on the stack.
    // SAFETY: no instruction at all.
    unsafe { asm!("", options(nostack)) };
    if faulty(fault::STATE_REPLACED) {
        // The value's first byte.
        kept.text[1] ^= 1 << 32;
    }
    let differs = (kept.seal ^ kept.seal_of())
        | (kept.connection ^ injection.state_connection)
        | (kept.position ^ injection.state_position)
        | (kept.length ^ u64::from(injection.state_length));
    let length = bound(kept.length);
    let sealed = differs == 0 || faulty(fault::STATE_UNCHECKED);
    if sealed && (SHORTEST..=LONGEST).contains(&length) {
        length as u32
    } else {
        0
    }
}

/// Writes the line of `length` bytes, which is the copy's, behind the `traceparent` line, with which the message's readable bytes begin. False when there is no
/// room for it.
#[inline(always)]
pub(crate) fn write(ctx: &SkMsgContext, staged: *const Staged, length: u32) -> bool {
    // SAFETY: only the address is made.
    let text = unsafe { (&raw const (*staged).kept.text).cast::<u8>() };
    let (data, end) = (ctx.data(), ctx.data_end());
    // The last word overlaps the one before it, where the line is no multiple of eight bytes.
    let last = u64::from(length).wrapping_sub(8);
    for index in 0..WORDS as u64 {
        let here = index * 8;
        let from = bound(if here < last { here } else { last }) as usize;
        let to = (data as *mut u8)
            .wrapping_add(LINE as usize)
            .wrapping_add(from);
        if to as usize + 8 > end {
            return false;
        }
        let word: u64;
        // SAFETY: the index is below 512, and the copy is longer; eight bytes are there to write. Unaligned loads and stores are allowed where the
        // kernel's verifier allows them (x86-64, arm64).
        unsafe {
            asm!("{0} = *(u64 *)({1} + 0)", out(reg) word, in(reg) text.wrapping_add(from), options(readonly, nostack));
            asm!("*(u64 *)({0} + 0) = {1}", in(reg) to, in(reg) word, options(nostack));
        }
        if here >= last {
            return true;
        }
    }
    false
}

/// `index & 511`, in assembly because LLVM drops a mask where it believes that it knows the bound.
#[inline(always)]
fn bound(mut index: u64) -> u64 {
    const { assert!(INDEX_MASK == 511 && LONGEST <= INDEX_MASK) };
    // SAFETY: one instruction without effects.
    unsafe { asm!("{0} &= 511", inout(reg) index, options(pure, nomem, nostack)) };
    index
}
