//! Programs that stand in for others.
//!
//! A kernel that preempts a task inside a program skips that program for whoever comes to it next on the same CPU, until the first task is through
//! (`recursion_misses`, since Linux 5.12). A send or receive that nobody saw is a hole in its stream, and leaves its thread with a wrong idea of what
//! it read last. So where the kernel preempts, each hook of sends, receives and states of connections has a second program, the spare, which the kernel
//! runs behind the first one: it does that one's work when that one did not run.
//!
//! Input: [`done`] when the first program is through. Output: [`skipped`], for the spare. Both speak of the running task and not of the CPU: whether
//! another one is inside the first program at this moment cannot be told exactly, because the kernel's guard begins before a program and ends behind it.
//! A kernel that does not preempt has no spare programs, and the first ones are free of these calls (`PREEMPTIBLE`).

use agent_common::abi::Counter;

use crate::{
    globals::global,
    kernel::task,
    maps::{DONE, count},
};

/// Hooks that have a spare program.
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

/// Notes of each hook in `DONE`. Tasks share one: where another task's note comes in between, which takes two tasks of one number within some
/// hundred nanoseconds, the spare works although the first program did, and the same bytes are seen twice.
const NOTES: u32 = 1024;

/// Notes of all hooks.
pub(crate) const ALL_NOTES: u32 = NOTES * Post::Count as u32;

/// The first program has done its work for the running task.
#[inline(always)]
pub(crate) fn done(post: Post) {
    done_number(post as u64);
}

/// As [`done`], for a number that may be that of no post.
#[inline(always)]
pub(crate) fn done_number(post: u64) {
    if global!(PREEMPTIBLE) == 0 {
        return;
    }
    let task = task::pid_tgid();
    if let Some(note) = DONE.get_ptr_mut(index(post, task)) {
        // SAFETY: an aligned word of the map.
        unsafe { note.write_volatile(task) };
    }
}

/// Whether the first program was skipped for the running task.
#[inline(always)]
pub(crate) fn skipped(post: Post) -> bool {
    let task = task::pid_tgid();
    let Some(note) = DONE.get_ptr_mut(index(post as u64, task)) else {
        return false;
    };
    // SAFETY: an aligned word of the map. The idle task, whose number is 0, is inside no program that it could be preempted in.
    unsafe {
        if note.read_volatile() == task {
            note.write_volatile(0);
            return false;
        }
    }
    count(Counter::ProgramsStoodIn);
    true
}

/// Where a task's note is; behind the map for no post.
#[inline(always)]
fn index(post: u64, task: u64) -> u32 {
    post as u32 * NOTES + (task as u32 & (NOTES - 1))
}
