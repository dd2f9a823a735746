//! What sends and receives have in common: one program that all their hooks go on with.
//!
//! The verifier walks a program each time it is loaded, and the one that reads heads and decides is by far the largest. So a hook's own program only
//! describes what it sees in scratch and then jumps (`bpf_tail_call`, together with functions since Linux 5.10). Which program it jumps to stands
//! in the hook's program array: the kernel asks that both attach to functions of one type (since Linux 6.12), which user space finds out by trying.
//! None of the bodies here reads its context, so that any of them can stand in any array that takes it.

use agent_common::abi::Counter;
use aya_ebpf::{
    EbpfContext,
    macros::{fentry, fexit},
    maps::ProgramArray,
    programs::{FEntryContext, FExitContext},
};

use crate::{
    capture::ut_segment,
    globals::{fault, faulty, global},
    maps::{INET_RECEIVE, INET_SEND, INET6_RECEIVE, INET6_SEND, UNIX_RECEIVE, UNIX_SEND, count},
    scratch::{self, Scratch},
    spare::{self, Post},
};

#[fentry(function = "inet_sendmsg")]
pub fn inet_sendmsg_body(ctx: FEntryContext) -> i32 {
    body(&ctx, &INET_SEND)
}

#[fentry(function = "inet6_sendmsg")]
pub fn inet6_sendmsg_body(ctx: FEntryContext) -> i32 {
    body(&ctx, &INET6_SEND)
}

#[fentry(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_body(ctx: FEntryContext) -> i32 {
    body(&ctx, &UNIX_SEND)
}

#[fexit(function = "inet_recvmsg")]
pub fn inet_recvmsg_body(ctx: FExitContext) -> i32 {
    body(&ctx, &INET_RECEIVE)
}

#[fexit(function = "inet6_recvmsg")]
pub fn inet6_recvmsg_body(ctx: FExitContext) -> i32 {
    body(&ctx, &INET6_RECEIVE)
}

#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg_body(ctx: FExitContext) -> i32 {
    body(&ctx, &UNIX_RECEIVE)
}

/// Where a hook's program goes on, and what it has to leave when that is done.
pub(super) struct Next<'a, C> {
    ctx: &'a C,
    body: &'static ProgramArray,
    post: Post,
}

impl<'a, C: EbpfContext> Next<'a, C> {
    /// For the first program of a hook.
    #[inline(always)]
    pub(super) fn of_first(ctx: &'a C, body: &'static ProgramArray, post: Post) -> Self {
        Self { ctx, body, post }
    }

    /// For a program that is no hook of the kernel.
    #[inline(always)]
    pub(super) fn of_call(ctx: &'a C, body: &'static ProgramArray) -> Self {
        Self::of_spare(ctx, body)
    }

    /// For a spare program.
    #[inline(always)]
    pub(super) fn of_spare(ctx: &'a C, body: &'static ProgramArray) -> Self {
        Self {
            ctx,
            body,
            post: Post::Count,
        }
    }

    /// Goes on with the level that describes the send or receive. Comes back only where there is nothing to go on with.
    #[inline(always)]
    pub(super) fn go_on(&self, scratch: &mut Scratch) {
        scratch.work.post = self.post as u64;
        scratch::pass_on(scratch);
        if !faulty(fault::BODIES_MISSING) {
            // SAFETY: nothing is left behind: the body releases the level and is done with the post.
            unsafe { self.body.tail_call(self.ctx, 0) };
        }
        scratch.work.passed_by = 0;
        count(Counter::BodiesMissing);
        scratch::release(scratch);
    }
}

/// From Linux 6.13 on, functions of a tracing program with 64 bytes of stack or more may have them on a *private* stack: one per program and CPU, which
/// nothing but the attached program's guard against recursion protects. A body has no such guard, and two tasks may be inside it on one CPU, one of them
/// preempted: they would overwrite each other's variables. A program in which a tail call stands gets no private stack (`check_max_stack_depth`, Linux
/// kernel/bpf/verifier.c), so one stands here that is never made.
#[inline(always)]
pub(super) fn keeps_its_stack(ctx: &impl EbpfContext, own: &'static ProgramArray) {
    if global!(NEVER) != 0 {
        // SAFETY: not reached; and the array has no second entry.
        unsafe { own.tail_call(ctx, 1) };
    }
}

#[inline(always)]
pub(super) fn body(ctx: &impl EbpfContext, own: &'static ProgramArray) -> i32 {
    keeps_its_stack(ctx, own);
    if let Some((level, scratch)) = scratch::take_over() {
        let post = scratch.work.post;
        ut_segment(level);
        scratch::release(scratch);
        spare::done_number(post);
    }
    0
}
