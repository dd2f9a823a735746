//! Programs that stand in for others.
//!
//! A kernel that preempts a task inside a program skips that program for whoever comes to it next on the same CPU, until the first task is through
//! (`recursion_misses`, since Linux 5.12). A send or receive that nobody saw is a hole in its stream, and leaves its thread with a wrong idea of what
//! it read last. So where the kernel preempts, each hook of sends, receives and states of connections has a second program, which does the first one's
//! work when some task is inside the first one on this CPU, and else returns at once.
//!
//! Input: [`enter`] and [`leave`] around the first program's work. Output: [`skipped`], for the second one. A kernel that does not preempt has no
//! spare programs, and the first ones are free of these calls (`PREEMPTIBLE`).

use agent_common::abi::Counter;

use crate::{
    globals::global,
    maps::{INSIDE, count},
};

/// Hooks that have a spare program: indices of `INSIDE`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Post {
    InetSend,
    Inet6Send,
    InetReceive,
    Inet6Receive,
    UnixSend,
    UnixSent,
    UnixReceive,
    SetState,
    /// How many there are.
    Count,
}

/// A task begins the first program's work.
#[inline(always)]
pub(crate) fn enter(post: Post) {
    note(post as u32, 1);
}

/// It is through.
#[inline(always)]
pub(crate) fn leave(post: Post) {
    note(post as u32, 0);
}

/// As [`leave`], for a number that may be that of no post.
#[inline(always)]
pub(crate) fn leave_number(post: u64) {
    note(post as u32, 0);
}

/// Whether the first program was skipped for the running task. In between the two programs, another task may run and be preempted inside the first one:
/// then this is wrongly true, and the same bytes are seen twice.
#[inline(always)]
pub(crate) fn skipped(post: Post) -> bool {
    let Some(inside) = INSIDE.get_ptr(post as u32) else {
        return false;
    };
    // SAFETY: a word of this CPU.
    let skipped = unsafe { inside.read_volatile() } != 0;
    if skipped {
        count(Counter::ProgramsStoodIn);
    }
    skipped
}

#[inline(always)]
fn note(post: u32, inside: u64) {
    if global!(PREEMPTIBLE) == 0 {
        return;
    }
    if let Some(slot) = INSIDE.get_ptr_mut(post) {
        // SAFETY: a word of this CPU, which a program leaves only when it ends.
        unsafe { slot.write_volatile(inside) };
    }
}
