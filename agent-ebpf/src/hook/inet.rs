//! Sends and receives of internet sockets: `inet_sendmsg(sock, msg, size)`, `inet_recvmsg(sock, msg, size, flags)` and their IPv6 twins
//! (net/ipv4/af_inet.c, net/ipv6/af_inet6.c). The same prototypes since Linux 5.10.

use agent_common::abi::{Direction, segment_flags};
use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use crate::{
    capture::ut_segment,
    conn,
    globals::global,
    kernel::{
        field, iter,
        sock::{self, IPPROTO_MPTCP, IPPROTO_TCP, Identity},
        task,
    },
    scratch, select,
};

pub(super) const MSG_OOB: u32 = 1;
pub(super) const MSG_PEEK: u32 = 2;
const MSG_TRUNC: u32 = 0x20;
const MSG_ERRQUEUE: u32 = 0x2000;

// since Linux 2.6
#[fentry(function = "inet_sendmsg")]
pub fn inet_sendmsg_enter(ctx: FEntryContext) -> i32 {
    send(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

#[fentry(function = "inet6_sendmsg")]
pub fn inet6_sendmsg_enter(ctx: FEntryContext) -> i32 {
    send(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

#[fexit(function = "inet_recvmsg")]
pub fn inet_recvmsg_exit(ctx: FExitContext) -> i32 {
    receive(ctx.arg(0), ctx.arg(1), ctx.arg(3), ctx.arg(4));
    0
}

#[fexit(function = "inet6_recvmsg")]
pub fn inet6_recvmsg_exit(ctx: FExitContext) -> i32 {
    receive(ctx.arg(0), ctx.arg(1), ctx.arg(3), ctx.arg(4));
    0
}

#[inline(always)]
fn send(socket: *const u8, message: *const u8, size: u64) {
    let pid_tgid = task::pid_tgid();
    if !select::is_selected(pid_tgid) || size == 0 {
        return;
    }
    handle(socket, message, pid_tgid, size as u32, Direction::Send, 0);
}

#[inline(always)]
fn receive(socket: *const u8, message: *const u8, flags: u32, result: i32) {
    let pid_tgid = task::pid_tgid();
    if result <= 0
        || flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE) != 0
        || !select::is_selected(pid_tgid)
    {
        return;
    }
    let truncated = if flags & MSG_TRUNC != 0 {
        segment_flags::TRUNCATED | segment_flags::NO_PAYLOAD
    } else {
        0
    };
    handle(
        socket,
        message,
        pid_tgid,
        result as u32,
        Direction::Receive,
        truncated,
    );
}

#[inline(always)]
fn handle(
    socket: *const u8,
    message: *const u8,
    pid_tgid: u64,
    length: u32,
    direction: Direction,
    segment_flags: u32,
) {
    let sk: *const u8 = field::load(socket, global!(O_SOCKET_SK));
    let identity = sock::identity(sk);
    if identity.protocol != IPPROTO_TCP && identity.protocol != IPPROTO_MPTCP {
        return;
    }
    run(
        sk,
        identity,
        message,
        pid_tgid,
        length,
        direction,
        segment_flags,
    );
}

/// Describes a send or receive in scratch and hands it on.
#[inline(always)]
pub(super) fn run(
    sk: *const u8,
    identity: Identity,
    message: *const u8,
    pid_tgid: u64,
    length: u32,
    direction: Direction,
    segment_flags: u32,
) {
    let Some((level, scratch)) = scratch::acquire() else {
        return;
    };
    let work = &mut scratch.work;
    if identity.protocol == IPPROTO_TCP {
        (work.write_seq, work.copied_seq) = sock::sequences(sk);
    }
    let sk = sk as u64;
    work.time_ns = conn::now();
    work.pid_tgid = pid_tgid;
    work.task = task::current();
    work.process_start_ns = task::own_process_start();
    work.sk = sk;
    work.identity = identity.word();
    work.length = length;
    work.flags = segment_flags;
    work.direction = direction as u32;
    iter::note(message, &mut work.place);
    ut_segment(level);
    scratch::release(scratch);
}
