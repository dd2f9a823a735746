//! Sends and receives of internet sockets: `inet_sendmsg(sock, msg, size)`, `inet_recvmsg(sock, msg, size, flags)` and their IPv6 twins
//! (net/ipv4/af_inet.c, net/ipv6/af_inet6.c). The same prototypes since Linux 5.10.

use agent_common::abi::{Direction, segment_flags};
use aya_ebpf::{
    EbpfContext,
    macros::{fentry, fexit},
    maps::ProgramArray,
    programs::{FEntryContext, FExitContext},
};

use super::body::Next;
use crate::{
    conn, decide,
    globals::global,
    kernel::{
        field, iter,
        sock::{self, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, Identity},
        task,
    },
    maps::{INET_RECEIVE, INET_SEND, INET6_RECEIVE, INET6_SEND},
    scratch::{self, Work},
    select,
    spare::{self, Post},
};

pub(super) const MSG_OOB: u32 = 1;
pub(super) const MSG_PEEK: u32 = 2;
const MSG_TRUNC: u32 = 0x20;
const MSG_ERRQUEUE: u32 = 0x2000;
/// A peer has reset the connection (include/uapi/asm-generic/errno.h).
pub(super) const ECONNRESET: i32 = 104;

// since Linux 2.6
#[fentry(function = "inet_sendmsg")]
pub fn inet_sendmsg_enter(ctx: FEntryContext) -> i32 {
    if let Some(call) = Call::send(&ctx) {
        first(&ctx, &INET_SEND, Post::InetSend, &call);
    }
    0
}

#[fentry(function = "inet6_sendmsg")]
pub fn inet6_sendmsg_enter(ctx: FEntryContext) -> i32 {
    if let Some(call) = Call::send(&ctx) {
        first(&ctx, &INET6_SEND, Post::Inet6Send, &call);
    }
    0
}

#[fexit(function = "inet_recvmsg")]
pub fn inet_recvmsg_exit(ctx: FExitContext) -> i32 {
    if let Some(call) = Call::receive(&ctx) {
        first(&ctx, &INET_RECEIVE, Post::InetReceive, &call);
    }
    0
}

#[fexit(function = "inet6_recvmsg")]
pub fn inet6_recvmsg_exit(ctx: FExitContext) -> i32 {
    if let Some(call) = Call::receive(&ctx) {
        first(&ctx, &INET6_RECEIVE, Post::Inet6Receive, &call);
    }
    0
}

#[fentry(function = "inet_sendmsg")]
pub fn inet_sendmsg_spare(ctx: FEntryContext) -> i32 {
    if let Some(call) = Call::send(&ctx)
        && spare::skipped(Post::InetSend)
    {
        call.handle(&Next::of_spare(&ctx, &INET_SEND));
    }
    0
}

#[fentry(function = "inet6_sendmsg")]
pub fn inet6_sendmsg_spare(ctx: FEntryContext) -> i32 {
    if let Some(call) = Call::send(&ctx)
        && spare::skipped(Post::Inet6Send)
    {
        call.handle(&Next::of_spare(&ctx, &INET6_SEND));
    }
    0
}

#[fexit(function = "inet_recvmsg")]
pub fn inet_recvmsg_spare(ctx: FExitContext) -> i32 {
    if let Some(call) = Call::receive(&ctx)
        && spare::skipped(Post::InetReceive)
    {
        call.handle_unseen(&Next::of_spare(&ctx, &INET_RECEIVE));
    }
    0
}

#[fexit(function = "inet6_recvmsg")]
pub fn inet6_recvmsg_spare(ctx: FExitContext) -> i32 {
    if let Some(call) = Call::receive(&ctx)
        && spare::skipped(Post::Inet6Receive)
    {
        call.handle_unseen(&Next::of_spare(&ctx, &INET6_RECEIVE));
    }
    0
}

/// A send or receive by a selected process; a receive of no bytes has met the end.
struct Call {
    socket: *const u8,
    message: *const u8,
    pid_tgid: u64,
    length: u32,
    direction: Direction,
    segment_flags: u32,
}

impl Call {
    #[inline(always)]
    fn send(ctx: &FEntryContext) -> Option<Self> {
        let size: u64 = ctx.arg(2);
        let pid_tgid = task::pid_tgid();
        if !select::is_selected(pid_tgid) || size == 0 {
            return None;
        }
        Some(Self {
            socket: ctx.arg(0),
            message: ctx.arg(1),
            pid_tgid,
            length: size as u32,
            direction: Direction::Send,
            segment_flags: 0,
        })
    }

    #[inline(always)]
    fn receive(ctx: &FExitContext) -> Option<Self> {
        let (flags, result): (u32, i32) = (ctx.arg(3), ctx.arg(4));
        let pid_tgid = task::pid_tgid();
        if (result < 0 && result != -ECONNRESET)
            || flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE) != 0
            || !select::is_selected(pid_tgid)
        {
            return None;
        }
        let truncated = if flags & MSG_TRUNC != 0 {
            segment_flags::TRUNCATED | segment_flags::NO_PAYLOAD
        } else {
            0
        };
        Some(Self {
            socket: ctx.arg(0),
            message: ctx.arg(1),
            pid_tgid,
            length: if result > 0 { result as u32 } else { 0 },
            direction: Direction::Receive,
            segment_flags: truncated,
        })
    }

    #[inline(always)]
    fn sk(&self) -> *const u8 {
        field::load(self.socket, global!(O_SOCKET_SK))
    }

    #[inline(always)]
    fn handle(&self, next: &Next<'_, impl EbpfContext>) {
        let sk = self.sk();
        if self.length == 0 {
            decide::read_end(sk as u64, self.pid_tgid);
            return;
        }
        let identity = sock::identity(sk);
        if identity.protocol != IPPROTO_TCP && identity.protocol != IPPROTO_MPTCP {
            if identity.protocol == IPPROTO_UDP && matches!(self.direction, Direction::Receive) {
                decide::read_datagram(sk as u64, self.pid_tgid);
            }
            return;
        }
        run(
            next,
            sk,
            identity,
            self.message,
            self.pid_tgid,
            self.length,
            self.direction,
            self.segment_flags,
        );
    }

    /// As [`Call::handle`], for a receive that may have been dealt with.
    #[inline(always)]
    fn handle_unseen(&self, next: &Next<'_, impl EbpfContext>) {
        let sk = self.sk() as u64;
        if !conn::has_read(sk) {
            self.handle(next);
        }
    }
}

#[inline(always)]
fn first(ctx: &impl EbpfContext, body: &'static ProgramArray, post: Post, call: &Call) {
    call.handle(&Next::of_first(ctx, body, post));
    spare::done(post);
}

/// Notes the running task.
#[inline(always)]
pub(super) fn describe_task(work: &mut Work) {
    let own = task::own();
    work.thread_start_ns = own.start_ns;
    work.process_start_ns = own.process_start_ns;
    work.task_flags = own.flags;
}

/// Describes a send or receive in scratch and goes on with the body. Comes back only where nothing was to be done.
#[inline(always)]
pub(super) fn run(
    next: &Next<'_, impl EbpfContext>,
    sk: *const u8,
    identity: Identity,
    message: *const u8,
    pid_tgid: u64,
    length: u32,
    direction: Direction,
    segment_flags: u32,
) {
    let Some((_level, scratch)) = scratch::acquire() else {
        return;
    };
    let work = &mut scratch.work;
    if identity.protocol == IPPROTO_TCP {
        (work.write_seq, work.copied_seq) = sock::sequences(sk);
    }
    let sk = sk as u64;
    work.time_ns = conn::now();
    work.pid_tgid = pid_tgid;
    describe_task(work);
    work.sk = sk;
    work.identity = identity.word();
    work.length = length;
    work.flags = segment_flags;
    work.plaintext = 0;
    work.direction = direction as u32;
    iter::note(message, &mut work.place);
    next.go_on(scratch);
}
