//! Birth and death of internet connections: `inet_sock_set_state(sk, oldstate, newstate)` (include/trace/events/sock.h), the return of
//! `inet_csk_accept`, and `inet_sock_destruct(sk)`.

use core::arch::asm;

use agent_common::{
    abi::{CloseReason, Origin, Role, Verdict},
    wire::decide::stored_at,
};
use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, fentry, fexit},
    programs::{BtfTracePointContext, FEntryContext, FExitContext},
};

use super::inet::describe_task;
use crate::{
    conn::{self, flags},
    context::{self, Handover, UNTRACED},
    decide,
    globals::global,
    inject,
    kernel::{
        sock::{
            self, IPPROTO_MPTCP, IPPROTO_TCP, TCP_CLOSE, TCP_CLOSING, TCP_ESTABLISHED,
            TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_SYN_SENT,
        },
        task,
    },
    option,
    scratch::{self, Work},
    select,
    spare::{self, Post},
};

// since Linux 4.16
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    set_state(&ctx);
    spare::done(Post::SetState);
    0
}

// A soft interrupt that comes while a task is inside the first one is skipped like a task that preempts it.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state_spare(ctx: BtfTracePointContext) -> i32 {
    if spare::skipped(Post::SetState) {
        set_state(&ctx);
    }
    0
}

#[fexit(function = "inet_csk_accept")]
pub fn inet_csk_accept_exit(ctx: FExitContext) -> i32 {
    // Two loads that LLVM cannot make one of: an offset that is not constant is refused for a context.
    let child: *const u8;
    if global!(N_ARGS_ACCEPT) == 4 {
        // SAFETY: a load of the fifth word of the context, where the verifier allows it.
        unsafe {
            asm!("{0} = *(u64 *)({1} + 32)", out(reg) child, in(reg) ctx.as_ptr(), options(readonly, nostack))
        };
    } else {
        // SAFETY: likewise, of the third word.
        unsafe {
            asm!("{0} = *(u64 *)({1} + 16)", out(reg) child, in(reg) ctx.as_ptr(), options(readonly, nostack))
        };
    }
    accepted(child);
    0
}

#[fentry(function = "inet_sock_destruct")]
pub fn inet_sock_destruct_enter(ctx: FEntryContext) -> i32 {
    let sk: u64 = ctx.arg(0);
    conn::close(sk, CloseReason::Closed);
    0
}

#[inline(always)]
fn set_state(ctx: &BtfTracePointContext) {
    let sk: *const u8 = ctx.arg(0);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let (old, new) = (old as u8, new as u8);
    if new == TCP_SYN_SENT {
        connecting(sk);
    } else if new == TCP_ESTABLISHED && old == TCP_SYN_SENT {
        established(sk as u64);
    } else if new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK {
        finishing(sk as u64);
    } else if new == old && (new == TCP_FIN_WAIT2 || new == TCP_CLOSING) {
        leaving(sk as u64);
    } else if new == TCP_CLOSE {
        closed(sk as u64);
    }
}

/// Notes the running task and the time; false for a kernel thread.
#[inline(always)]
pub(super) fn describe(work: &mut Work, pid_tgid: u64) -> bool {
    work.time_ns = conn::now();
    work.pid_tgid = pid_tgid;
    describe_task(work);
    !task::is_kernel_thread(work.task_flags)
}

/// In the context of the task that calls connect().
///
/// A function of its own: the stack that it needs would be missing where the others call.
#[inline(never)]
fn connecting(sk: *const u8) {
    let pid_tgid = task::pid_tgid();
    let verdict = select::verdict(pid_tgid);
    let own = verdict == Verdict::Own as u8;
    if !own && !select::is_selected(pid_tgid) {
        return;
    }
    let identity = sock::identity(sk);
    let address = sk as u64;
    if (identity.protocol != IPPROTO_TCP && identity.protocol != IPPROTO_MPTCP)
        || (identity.protocol == IPPROTO_TCP && sock::has_upper_layer(address))
    {
        return;
    }
    let Some((_level, scratch)) = scratch::acquire() else {
        return;
    };
    scratch.work.sk = address;
    scratch.work.identity = identity.word();
    if !describe(&mut scratch.work, pid_tgid) {
        scratch::release(scratch);
        return;
    }
    let time_ns = scratch.work.time_ns;
    let socket = conn::stage(scratch, Origin::Connect, Role::Client);
    socket.connect_start_ns = time_ns;
    socket.flags |= flags::CONNECTING;
    if own {
        socket.flags |= flags::OWN;
        socket.policy = agent_common::abi::PolicyKind::Ignore as u8;
    } else {
        let (sk, position) = decide::current_request(&mut scratch.work, &scratch.socket);
        scratch.socket.connect_sk = sk;
        scratch.socket.connect_position = position;
    }
    conn::store(address, &scratch.socket);
    scratch::release(scratch);
}

/// The handshake of a connection of ours is done; mostly in a soft interrupt.
#[inline(always)]
fn established(sk: u64) {
    let Some(socket) = conn::find(sk) else {
        return;
    };
    socket.flags &= !flags::CONNECTING;
    if socket.has(flags::COUNTED) {
        // An MPTCP socket learns its addresses from its first subflow, later.
        socket.flags |= flags::ADDRESS_LATE;
        return;
    }
    // The local port was chosen after SYN_SENT for an unbound socket.
    socket.send_base = sock::write_seq(sk);
    socket.receive_base = sock::copied_seq(sk);
    socket.flags |= flags::BASES_EXACT;
    socket.identity = sock::identity_of(sk).word();
    if socket.has(flags::OWN) {
        let key = context::sending_key(sk, socket, UNTRACED);
        let mark = Handover {
            trace_id: [0; 2],
            span_id: 0,
            trace_flags: stored_at(0, conn::now()),
        };
        context::hand_over(&key, &mark);
        return;
    }
    inject::want(sk, socket);
    option::want(sk, socket);
    conn::open(socket, sk, conn::now());
}

/// In the context of the task that calls accept().
#[inline(always)]
fn accepted(child: *const u8) {
    let pid_tgid = task::pid_tgid();
    if child.is_null() || !select::is_selected(pid_tgid) {
        return;
    }
    let sk = child as u64;
    let identity = sock::identity_of(sk);
    if identity.protocol != IPPROTO_TCP || sock::has_upper_layer(sk) {
        return;
    }
    let Some((_level, scratch)) = scratch::acquire() else {
        return;
    };
    scratch.work.sk = sk;
    scratch.work.identity = identity.word();
    if describe(&mut scratch.work, pid_tgid) {
        let time_ns = scratch.work.time_ns;
        let socket = conn::stage(scratch, Origin::Accept, Role::Server);
        socket.send_base = sock::write_seq(sk);
        socket.receive_base = sock::copied_seq(sk);
        socket.flags |= flags::BASES_EXACT;
        let mark = context::receiving_key(sk, socket, UNTRACED);
        if context::take_over(&mark, &mut context::Handover::default()) {
            socket.policy = agent_common::abi::PolicyKind::Ignore as u8;
        }
        if conn::store(sk, &scratch.socket)
            && let Some(socket) = conn::find(sk)
        {
            conn::open(socket, sk, time_ns);
        }
    }
    scratch::release(scratch);
}

/// This end sends no more: the FIN is queued right after this, and counted by `write_seq`.
#[inline(always)]
fn finishing(sk: u64) {
    if let Some(socket) = conn::find(sk)
        && (!socket.has(flags::COUNTED) || socket.has(flags::TLS))
    {
        inject::refresh(sk, socket, None, false);
        if !socket.has(flags::COUNTED) {
            conn::unwrap(socket, sk, sock::write_seq(sk), sock::copied_seq(sk));
        }
        socket.flags |= flags::FIN_SENT;
        shut(sk, socket);
    }
}

/// The process closes a socket whose sending end it had shut before (`tcp_close_state`, net/ipv4/tcp.c, which sets the same state again).
#[inline(always)]
fn leaving(sk: u64) {
    if let Some(socket) = conn::find(sk)
        && (!socket.has(flags::COUNTED) || socket.has(flags::TLS))
    {
        if !socket.has(flags::COUNTED) {
            conn::unwrap(socket, sk, sock::write_seq(sk), sock::copied_seq(sk));
        }
        shut(sk, socket);
    }
}

/// A socket that its process has closed, or shut with nothing left to read, is over for that process. TCP goes on: `TCP_CLOSE` may come when the peer
/// takes what is queued, a timer ends, or the peer closes too.
///
/// `tcp_close` sets `sk_shutdown` before the state, and resets a connection with unread bytes at once.
#[inline(always)]
fn shut(sk: u64, socket: &mut conn::Socket) {
    if sock::is_shut(sk) && sock::is_read_out(sk) {
        if socket.closed_ns == 0 {
            socket.closed_ns = conn::now();
        }
        conn::tell_close(sk, socket, CloseReason::Closed);
    }
}

/// The connection is over, unless there are bytes that a process may still read.
#[inline(always)]
fn closed(sk: u64) {
    let Some(socket) = conn::find(sk) else {
        return;
    };
    if socket.has(flags::CONNECTING) {
        context::connect_failed(socket.opener);
        socket.identity = sock::identity_of(sk).word();
        if !socket.has(flags::OWN) {
            conn::open(socket, sk, conn::now());
        }
        conn::close(sk, CloseReason::ConnectFailed);
        return;
    }
    if socket.has(flags::COUNTED) || sock::is_drained(sk) || sock::is_orphan(sk) {
        conn::close(sk, CloseReason::Closed);
    }
}
