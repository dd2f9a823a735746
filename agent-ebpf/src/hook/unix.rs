//! Unix stream sockets: `unix_stream_sendmsg(sock, msg, size)`, `unix_stream_recvmsg(sock, msg, size, flags)`, `unix_release_sock(sk, embrion)` and
//! `unix_stream_connect(sock, address, length, flags)` (net/unix/af_unix.c). There are no sequence numbers: positions count what was accepted and
//! read, from connect() on. Ends that were connected before, or by socketpair(), have no same-kernel key.
//!
//! Before Linux 6.5, sendfile and splice call `unix_stream_sendpage(socket, page, offset, size, flags)`, once for each page; later they come by
//! `unix_stream_sendmsg`. No bytes of a page are looked at: it only moves the position, as if its bytes had passed no hook of a TCP socket.

use agent_common::abi::{CloseReason, Direction, Origin, Role};
use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use super::{
    body::Next,
    inet::{ECONNRESET, MSG_OOB, MSG_PEEK, run},
    state::describe,
};
use crate::{
    capture,
    conn::{self, flags},
    decide,
    globals::global,
    kernel::{
        field,
        sock::{self, AF_UNIX, Identity},
        task,
    },
    maps::{UNIX_RECEIVE, UNIX_SEND},
    scratch, select,
    spare::{self, Post},
};

#[fentry(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_enter(ctx: FEntryContext) -> i32 {
    if let Some(pid_tgid) = sends(&ctx) {
        send(
            &ctx,
            &Next::of_first(&ctx, &UNIX_SEND, Post::UnixSend),
            pid_tgid,
        );
        spare::done(Post::UnixSend);
    }
    0
}

#[fentry(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_spare(ctx: FEntryContext) -> i32 {
    if let Some(pid_tgid) = sends(&ctx)
        && spare::skipped(Post::UnixSend)
    {
        send(&ctx, &Next::of_spare(&ctx, &UNIX_SEND), pid_tgid);
    }
    0
}

#[fexit(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_exit(ctx: FExitContext) -> i32 {
    if has_sent(&ctx) {
        accepted(&ctx);
        spare::done(Post::UnixSent);
    }
    0
}

#[fexit(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_exit_spare(ctx: FExitContext) -> i32 {
    if has_sent(&ctx) && spare::skipped(Post::UnixSent) {
        accepted(&ctx);
    }
    0
}

// until Linux 6.4
#[fexit(function = "unix_stream_sendpage")]
pub fn unix_stream_sendpage_exit(ctx: FExitContext) -> i32 {
    if let Some(length) = has_sent_page(&ctx) {
        passed(&ctx, length);
        spare::done(Post::UnixSent);
    }
    0
}

#[fexit(function = "unix_stream_sendpage")]
pub fn unix_stream_sendpage_spare(ctx: FExitContext) -> i32 {
    if let Some(length) = has_sent_page(&ctx)
        && spare::skipped(Post::UnixSent)
    {
        passed(&ctx, length);
    }
    0
}

#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg_exit(ctx: FExitContext) -> i32 {
    if let Some(pid_tgid) = has_read(&ctx) {
        receive(
            &ctx,
            &Next::of_first(&ctx, &UNIX_RECEIVE, Post::UnixReceive),
            pid_tgid,
        );
        spare::done(Post::UnixReceive);
    }
    0
}

#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg_spare(ctx: FExitContext) -> i32 {
    if let Some(pid_tgid) = has_read(&ctx)
        && spare::skipped(Post::UnixReceive)
    {
        receive(&ctx, &Next::of_spare(&ctx, &UNIX_RECEIVE), pid_tgid);
    }
    0
}

#[fexit(function = "unix_stream_connect")]
pub fn unix_stream_connect_exit(ctx: FExitContext) -> i32 {
    let result: i32 = ctx.arg(4);
    let pid_tgid = task::pid_tgid();
    if result == 0 && select::is_selected(pid_tgid) {
        let socket: *const u8 = ctx.arg(0);
        connected(field::load(socket, global!(O_SOCKET_SK)), pid_tgid);
    }
    0
}

#[fentry(function = "unix_release_sock")]
pub fn unix_release_sock_enter(ctx: FEntryContext) -> i32 {
    conn::close(ctx.arg(0), CloseReason::Closed);
    0
}

/// The sender, when it is traced.
#[inline(always)]
fn sends(ctx: &FEntryContext) -> Option<u64> {
    let size: u64 = ctx.arg(2);
    let pid_tgid = task::pid_tgid();
    (size != 0 && select::is_selected(pid_tgid)).then_some(pid_tgid)
}

#[inline(always)]
fn send(ctx: &FEntryContext, next: &Next<'_, FEntryContext>, pid_tgid: u64) {
    let size: u64 = ctx.arg(2);
    run(
        next,
        sk(ctx.arg(0)),
        IDENTITY,
        ctx.arg(1),
        pid_tgid,
        size as u32,
        Direction::Send,
        0,
    );
}

/// The reader, when it is traced and has got something, or has met the end.
#[inline(always)]
fn has_read(ctx: &FExitContext) -> Option<u64> {
    let (flags, result): (u32, i32) = (ctx.arg(3), ctx.arg(4));
    let pid_tgid = task::pid_tgid();
    let read = (result >= 0 || result == -ECONNRESET) && flags & (MSG_PEEK | MSG_OOB) == 0;
    (read && select::is_selected(pid_tgid)).then_some(pid_tgid)
}

#[inline(always)]
fn receive(ctx: &FExitContext, next: &Next<'_, FExitContext>, pid_tgid: u64) {
    let result: i32 = ctx.arg(4);
    let sk = sk(ctx.arg(0));
    if result <= 0 {
        decide::read_end(sk as u64, pid_tgid);
        return;
    }
    run(
        next,
        sk,
        IDENTITY,
        ctx.arg(1),
        pid_tgid,
        result as u32,
        Direction::Receive,
        0,
    );
}

#[inline(always)]
fn has_sent(ctx: &FExitContext) -> bool {
    let result: i32 = ctx.arg(3);
    result > 0 && select::is_selected(task::pid_tgid())
}

/// How much of a page was accepted, when its sender is traced.
#[inline(always)]
fn has_sent_page(ctx: &FExitContext) -> Option<u64> {
    let result: i64 = ctx.arg(5);
    (result > 0 && select::is_selected(task::pid_tgid())).then_some(result as u64)
}

#[inline(always)]
fn sk(socket: *const u8) -> *const u8 {
    field::load(socket, global!(O_SOCKET_SK))
}

/// Unix sockets have no ports and no protocol.
const IDENTITY: Identity = Identity {
    family: AF_UNIX,
    protocol: 0,
    local_port: 0,
    peer_port: 0,
};

/// In the context of the task that has connected: nothing was sent in either direction yet.
#[inline(always)]
fn connected(sk: u64, pid_tgid: u64) {
    let Some((_level, scratch)) = scratch::acquire() else {
        return;
    };
    scratch.work.sk = sk;
    scratch.work.identity = IDENTITY.word();
    if describe(&mut scratch.work, pid_tgid) {
        let socket = conn::stage(scratch, Origin::Connect, Role::Client);
        socket.unix_peer = sock::unix_peer(sk);
        socket.flags |= flags::BASES_EXACT;
        let (request, position) = decide::current_request(&mut scratch.work, &scratch.socket);
        scratch.socket.connect_sk = request;
        scratch.socket.connect_position = position;
        if conn::store(sk, &scratch.socket)
            && let Some(socket) = conn::find(sk)
        {
            conn::open(socket, sk, scratch.work.time_ns);
        }
    }
    scratch::release(scratch);
}

/// Counts what a send has put into the stream.
#[inline(always)]
fn accepted(ctx: &FExitContext) {
    let length: i32 = ctx.arg(3);
    if let Some(socket) = conn::find(sk(ctx.arg(0)) as u64) {
        let position = &mut socket.streams[Direction::Send as usize].state.position;
        *position = position.wrapping_add(length as u64);
    }
}

/// Counts a page that was put into the stream, of which nothing was seen. The request is over when these were the last bytes of its response.
#[inline(always)]
fn passed(ctx: &FExitContext, length: u64) {
    let sk = sk(ctx.arg(0)) as u64;
    let Some(socket) = conn::find(sk) else {
        return;
    };
    let state = &mut socket.streams[Direction::Send as usize].state;
    state.position = state.position.wrapping_add(length);
    state.last_time_ns = conn::now();
    // A response may begin with a page: what is read next comes after a change of direction all the same.
    socket.last_direction = Direction::Send as u8;
    capture::settle(sk, socket);
}
