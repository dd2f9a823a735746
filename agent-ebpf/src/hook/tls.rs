//! Calls of TLS libraries, seen at the entry and at the return of their functions (uprobe and uretprobe, perf_event_open(2)). There is one program for
//! each shape of call; which functions have it is in the agent, `tls/`.
//!
//! What is written is seen at entry, because its receiver may read it before the call returns; how much of it was taken, and what was read, at the return.

use agent_common::abi::{Counter, Direction};
use aya_ebpf::{
    EbpfContext,
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use super::{
    body::{Next, body, keeps_its_stack},
    inet::describe_task,
};
use crate::{
    conn::{self, Socket},
    globals::global,
    kernel::{iter, task, user},
    maps::{TLS_CALL, count},
    scratch, select,
    tls::{self, Call, NEITHER},
};

/// (session, where to, room) gives how many bytes were read.
#[uprobe]
pub fn tls_read(ctx: ProbeContext) -> u32 {
    begin(&ctx, Direction::Receive as u32, false);
    0
}

/// (session, where to, room, where to store how many bytes were read) gives 1 when any were.
#[uprobe]
pub fn tls_read_stored(ctx: ProbeContext) -> u32 {
    begin(&ctx, Direction::Receive as u32, true);
    0
}

/// (session, bytes, length) gives how many bytes were written.
#[uprobe]
pub fn tls_write(ctx: ProbeContext) -> u32 {
    begin(&ctx, Direction::Send as u32, false);
    0
}

/// (session, bytes, length, where to store how many bytes were written) gives 1 when any were.
#[uprobe]
pub fn tls_write_stored(ctx: ProbeContext) -> u32 {
    begin(&ctx, Direction::Send as u32, true);
    0
}

/// (session): the handshake, and whatever else moves records and no plaintext.
#[uprobe]
pub fn tls_handshake(ctx: ProbeContext) -> u32 {
    begin(&ctx, NEITHER, false);
    0
}

/// (session): its address means another one from now on.
#[uprobe]
pub fn tls_free(ctx: ProbeContext) -> u32 {
    let pid_tgid = task::pid_tgid();
    if select::is_selected(pid_tgid)
        && let Some(session) = ctx.arg(0)
    {
        tls::free(session, pid_tgid);
    }
    0
}

/// Any of these calls returns.
#[uretprobe]
pub fn tls_return(ctx: RetProbeContext) -> u32 {
    end(&ctx);
    0
}

#[uprobe]
pub fn tls_body(ctx: ProbeContext) -> u32 {
    body(&ctx, &TLS_CALL);
    0
}

/// The stack pointer.
#[inline(always)]
fn stack(regs: *const aya_ebpf::bindings::pt_regs) -> u64 {
    // SAFETY: a load from the context, where the verifier allows it.
    #[cfg(bpf_target_arch = "x86_64")]
    unsafe {
        (*regs).rsp
    }
    // SAFETY: as above.
    #[cfg(bpf_target_arch = "aarch64")]
    unsafe {
        (*regs).sp
    }
}

#[inline(always)]
fn begin(ctx: &ProbeContext, direction: u32, stored: bool) {
    keeps_its_stack(ctx, &TLS_CALL);
    let pid_tgid = task::pid_tgid();
    if !select::is_selected(pid_tgid) {
        return;
    }
    let moves = direction != NEITHER;
    let argument = |index| {
        let value: Option<u64> = ctx.arg(index);
        value.unwrap_or(0)
    };
    // An `int` in C, or a `size_t` of which no more is looked at.
    let length = if moves { argument(2) as u32 } else { 0 };
    let call = Call {
        session: argument(0),
        buffer: if moves { argument(1) } else { 0 },
        stored: if stored { argument(3) } else { 0 },
        stack: stack(ctx.regs),
        length: if length as i32 > 0 { length } else { 0 },
        direction,
    };
    if !tls::enter(pid_tgid, &call) || direction != Direction::Send as u32 || call.length == 0 {
        return;
    }
    if let Some((sk, socket)) = tls::carrier(call.session, pid_tgid) {
        pass(
            ctx,
            sk,
            socket,
            pid_tgid,
            call.buffer,
            call.length,
            Direction::Send,
        );
    }
}

#[inline(always)]
fn end(ctx: &RetProbeContext) {
    let pid_tgid = task::pid_tgid();
    let mut call = Call {
        session: 0,
        buffer: 0,
        stored: 0,
        stack: 0,
        length: 0,
        direction: NEITHER,
    };
    if !tls::leave(pid_tgid, stack(ctx.regs), &mut call) || call.direction == NEITHER {
        return;
    }
    let result: i32 = ctx.ret();
    let mut moved = result;
    if call.stored != 0 {
        let mut stored = 0u64;
        // SAFETY: a word of the stack.
        let read = unsafe { user::read((&raw mut stored).cast(), 8, call.stored) };
        moved = if read && result == 1 {
            stored as i32
        } else {
            0
        };
    }
    // More than was asked for is no number of bytes.
    if moved <= 0 || moved as u32 > call.length {
        return;
    }
    let Some((sk, socket)) = tls::carrier(call.session, pid_tgid) else {
        // Of ports that nobody asked for none is known.
        if global!(PORT_FILTER) == 0 {
            count(Counter::TlsUnproven);
        }
        return;
    };
    if call.direction == Direction::Send as u32 {
        let position = &mut socket.streams[Direction::Send as usize].state.position;
        *position = position.wrapping_add(moved as u64);
        return;
    }
    let length = moved as u32;
    pass(
        ctx,
        sk,
        socket,
        pid_tgid,
        call.buffer,
        length,
        Direction::Receive,
    );
}

/// Describes plaintext in scratch and goes on with the body. Comes back only where nothing was to be done.
#[inline(always)]
fn pass(
    ctx: &impl EbpfContext,
    sk: u64,
    socket: &Socket,
    pid_tgid: u64,
    buffer: u64,
    length: u32,
    direction: Direction,
) {
    let Some((_level, scratch)) = scratch::acquire() else {
        return;
    };
    let work = &mut scratch.work;
    work.time_ns = conn::now();
    work.pid_tgid = pid_tgid;
    describe_task(work);
    work.sk = sk;
    work.identity = socket.identity;
    work.length = length;
    work.flags = 0;
    work.direction = direction as u32;
    work.plaintext = 1;
    work.place.kind = iter::kind::BUFFER;
    work.place.base = buffer;
    // As an iterator stands behind what it has received.
    work.place.offset = match direction {
        Direction::Send => 0,
        Direction::Receive => u64::from(length),
    };
    Next::of_call(ctx, &TLS_CALL).go_on(scratch);
}
