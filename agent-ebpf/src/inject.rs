//! What the program on the socket's send path is told to write into requests.
//!
//! Input: connections that are established, and requests whose whole head was seen. Output: entries of `INJECTIONS`. Only this side looks at
//! bytes; the object `inject` executes. Nothing here is compiled in where the frozen global `INJECT` is 0.

use core::arch::asm;

use agent_common::{
    abi::{
        Counter, Decision, Direction, Header, Injection, InjectionSlot, InjectionState, Kind,
        PolicyKind, Source, decision_flags, switches,
    },
    kernel_fields::ABSENT,
    wire::{
        http1,
        inject::{self, Action, Reason, Request},
        propagator,
        scan::head_flags,
    },
};

use crate::{
    adopt,
    conn::{self, Socket, flags},
    decide, emit,
    globals::{fault, faulty, global},
    kernel::sock,
    maps::{INJECTIONS, STATES, SWITCHES, add, count},
    scratch::{self, Work},
};

/// Places further inside a send than this are left alone: the kernel copies what lies before them.
const FURTHEST: u32 = 32 << 10;

/// Bytes that the kernel needs for one byte of a send at most, where segments are small, and for the first one.
const ROOM_FACTOR: u64 = 4;
const ROOM_FIRST: u64 = 4 << 10;

#[inline(always)]
pub(crate) fn find(sk: u64) -> Option<&'static mut Injection> {
    let injection = INJECTIONS.get_ptr_mut(sk)?;
    // SAFETY: entries are plain words; the program that executes them runs in the same task as the send hook that wrote them.
    Some(unsafe { &mut *injection })
}

/// Whether user space has turned writing off for good.
#[inline(always)]
fn is_stopped() -> bool {
    SWITCHES.get(0).copied().unwrap_or(0) & switches::STOPPED != 0
}

/// A connection of a traced process is established: the handshake's callback, which comes next, shall enrol it.
#[inline(never)]
pub(crate) fn want(sk: u64, socket: &mut Socket) {
    if global!(INJECT) == 0 || socket.policy != PolicyKind::Heads as u8 || is_stopped() {
        return;
    }
    let injection = Injection {
        connection: socket.connection,
        state: InjectionState::Wanted as u32,
        ..Injection::default()
    };
    if INJECTIONS.insert(sk, &injection, 0).is_ok() {
        socket.flags |= flags::INJECTABLE;
    } else {
        count(Counter::InjectionsFull);
    }
}

/// Learns what the other object has done with a connection; at the beginning of a send, what is left of the one before is withdrawn.
#[inline(always)]
pub(crate) fn refresh(sk: u64, socket: &mut Socket, write_seq: Option<u32>, withdraw: bool) {
    if global!(INJECT) == 0 || !socket.has(flags::INJECTABLE) {
        return;
    }
    let Some(injection) = find(sk) else {
        return;
    };
    let injection: *mut Injection = injection;
    // SAFETY: a word of the entry; in this order, because the other side writes them in the opposite one.
    let inserted = unsafe { (&raw const (*injection).inserted).read_volatile() };
    // SAFETY: as above.
    let until = unsafe { (&raw const (*injection).until).read_volatile() };
    let write_seq = write_seq.unwrap_or_else(|| sock::write_seq(sk));
    if inserted != socket.inserted && (write_seq.wrapping_sub(until) as i32) < 0 {
        socket.flags |= flags::UNDER_WAY;
    } else {
        socket.flags &= !flags::UNDER_WAY;
        socket.inserted = inserted;
    }
    // SAFETY: the entry, as before.
    let injection = unsafe { &mut *injection };
    if injection.state == InjectionState::Enrolled as u32 {
        socket.flags |= flags::ENROLLED;
    }
    if withdraw {
        socket.planned = 0;
        let left = injection.count;
        if left != 0 {
            injection.count = 0;
            add(Counter::InjectUnsent, u64::from(left));
        }
    }
}

/// Bytes of ours before this sequence number; where it lies in the newest send with any, or before, those of that send may be among them.
#[inline(always)]
pub(crate) fn inserted(sk: u64, socket: &Socket, sequence: u32) -> u32 {
    if global!(INJECT) == 0 || !socket.has(flags::INJECTABLE) {
        return socket.inserted;
    }
    let Some(injection) = find(sk) else {
        return socket.inserted;
    };
    let injection: *const Injection = injection;
    // SAFETY: a word of the entry, in the order of `refresh`.
    let inserted = unsafe { (&raw const (*injection).inserted).read_volatile() };
    // SAFETY: as above.
    let until = unsafe { (&raw const (*injection).until).read_volatile() };
    if (sequence.wrapping_sub(until) as i32) < 0 {
        socket.inserted
    } else {
        inserted
    }
}

/// Bytes of the `tracestate` line of the request on whose behalf a request is sent, 0 for none.
#[inline(always)]
fn state_of_parent(socket: &Socket, decision: &Decision) -> u32 {
    if decision.source != Source::Causal as u8 {
        return 0;
    }
    let Some(kept) = STATES.get_ptr(socket.request.parent_sk) else {
        return 0;
    };
    // SAFETY: plain words. They may be replaced meanwhile: who uses the line looks again, at a copy.
    let kept = unsafe { &*kept };
    if kept.connection == decision.parent_connection && kept.position == decision.parent_position {
        kept.length as u32
    } else {
        0
    }
}

/// Bytes of the `tracestate` line that goes into this request beside a `traceparent`, 0 for none.
#[inline(always)]
fn state_to_write(work: &Work, socket: &Socket, injection: &Injection) -> u32 {
    if work.head.flags & head_flags::ANY_TRACEPARENT != 0 {
        return 0;
    }
    let decision = &work.decision;
    let length = state_of_parent(socket, decision);
    if length == 0 {
        return 0;
    }
    let others = injection.count != 0
        && injection.state_slots != 0
        && (injection.state_connection != decision.parent_connection
            || injection.state_position != decision.parent_position);
    if others || work.head.flags & head_flags::STATE_LOST != 0 {
        count(Counter::InjectStatesWithheld);
        return 0;
    }
    length
}

/// A connection is over.
#[inline(always)]
pub(crate) fn forget(sk: u64, socket: &Socket) {
    if global!(INJECT) == 0 {
        return;
    }
    // Whether it has one is not asked: of two that came to close its last request, each may have left it to the other.
    let _ = STATES.remove(sk);
    if socket.has(flags::INJECTABLE) || adopt::is_left(sk, socket) {
        let _ = INJECTIONS.remove(sk);
    }
}

/// Tells what to write into the request whose head was completed in this send, if it is one of a connection that is enrolled.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_instruct(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    if work.direction != Direction::Send as u32
        || !socket.has(flags::ENROLLED)
        || !http1::is_request(&work.head)
        // The request was decided, and not one before it.
        || work.decision.position != work.message_start
        || work.decision.direction != Direction::Send as u8
        || work.decisions == 0
    {
        return 0;
    }
    // Its socket was let go, or is about to be.
    if is_stopped() {
        return 0;
    }
    let Some(injection) = find(work.sk) else {
        return 0;
    };
    instruct(work, socket, injection);
    1
}

#[inline(always)]
fn instruct(work: &Work, socket: &mut Socket, injection: &mut Injection) {
    count(Counter::InjectRequests);
    let decision = &work.decision;
    let own = decision.decision_flags & decision_flags::APPLICATION_CONTEXT != 0;
    let trace_id = decide::words(decision.trace_id);
    // It names another trace in other headers: a receiver would follow ours out of that one.
    if global!(PROPAGATORS) != 0
        && propagator::is_complete(&work.head)
        && trace_id != work.head.trace_id
    {
        count(Counter::InjectOwnContext);
        return;
    }
    let state_line = state_to_write(work, socket, injection);
    let choice = inject::choose(&Request {
        flags: work.head.flags,
        ending: work.ending,
        end: work.cursor,
        value_at: work.value_at,
        state_line,
        method: work.head.method,
        proven: adopt::is_proven(socket),
        forwarded: !own
            && work.head.flags & head_flags::TRACEPARENT != 0
            && trace_id == work.head.trace_id,
        behind_connect: socket.pending.has_connect(),
    });
    if choice.action == Action::Nothing {
        count(match choice.reason {
            Reason::OwnContext => Counter::InjectOwnContext,
            Reason::Split => Counter::InjectSplit,
            Reason::LineEnds => Counter::InjectLineEnds,
            Reason::Tunnel => Counter::InjectTunnel,
            Reason::None | Reason::Unproven => Counter::InjectUnproven,
        });
        return;
    }
    let index = injection.count;
    if choice.at > FURTHEST || index >= InjectionSlot::COUNT as u32 {
        count(Counter::InjectBeyondLimit);
        return;
    }
    let planned = socket.planned.wrapping_add(choice.length);
    if !has_room(work.sk, u64::from(choice.at) + u64::from(planned)) {
        count(Counter::InjectNoRoom);
        return;
    }
    let slot = (&raw mut injection.slots).cast::<InjectionSlot>();
    let slot = slot.wrapping_add(bound_slot(u64::from(index)) as usize);
    // SAFETY: the index is below the number of slots.
    let slot = unsafe { &mut *slot };
    slot.at = choice.at;
    slot.action = choice.action as u32;
    slot.trace_id = trace_id;
    slot.span_id = u64::from_ne_bytes(decision.span_id);
    slot.trace_flags = u64::from(decision.trace_flags);
    if index == 0 {
        injection.state_slots = 0;
    }
    if choice.length > inject::LINE {
        injection.state_sk = socket.request.parent_sk;
        injection.state_connection = decision.parent_connection;
        injection.state_position = decision.parent_position;
        injection.state_length = state_line;
        injection.state_slots |= 1 << index;
    }
    socket.planned = planned;
    injection.pid_tgid = work.pid_tgid;
    injection.length = work.length;
    injection.start = if faulty(fault::INJECT_STALE) {
        work.write_seq.wrapping_sub(work.length)
    } else {
        work.write_seq
    };
    injection.count = index + 1;
}

/// `index & 3`, in assembly because LLVM drops a mask where it believes that it knows the bound.
#[inline(always)]
fn bound_slot(mut index: u64) -> u64 {
    const { assert!(InjectionSlot::COUNT == 4) };
    // SAFETY: one instruction without effects.
    unsafe { asm!("{0} &= 3", inout(reg) index, options(pure, nomem, nostack)) };
    index
}

/// Whether the kernel is certain to take `bytes` bytes at once, in the clear.
///
/// Where it took fewer, it would tell the process so, less the bytes that we put in: the process would send some of its own twice
/// (`tcp_bpf_send_verdict`, net/ipv4/tcp_bpf.c). So nothing is put in unless the send queue has room for all that lies before.
#[inline(always)]
fn has_room(sk: u64, bytes: u64) -> bool {
    let state = sock::state(sk);
    if (state != sock::TCP_ESTABLISHED && state != sock::TCP_CLOSE_WAIT)
        || sock::has_upper_layer(sk)
        || global!(O_SOCK_SK_WMEM_QUEUED) == ABSENT
        || global!(O_SOCK_SK_SNDBUF) == ABSENT
    {
        return false;
    }
    let queue = sock::send_queue(sk);
    let needed = u64::from(queue.used)
        .wrapping_add(ROOM_FIRST)
        .wrapping_add(bytes.wrapping_mul(ROOM_FACTOR));
    needed <= u64::from(queue.limit)
        && u64::from(queue.used).wrapping_add(bytes) < u64::from(queue.unsent_limit)
}

/// Nothing will be written into a connection any more: user space takes it out of the sockhash.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_release(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    // User space may be about to put an older one in.
    if !socket.has(flags::INJECTABLE) && !adopt::may_be_adopted(socket) {
        return 0;
    }
    release(work, socket)
}

#[inline(always)]
pub(crate) fn release(work: &mut Work, socket: &mut Socket) -> u32 {
    refresh(work.sk, socket, Some(work.write_seq), true);
    socket.flags &= !(flags::INJECTABLE | flags::ENROLLED);
    let _ = INJECTIONS.remove(work.sk);
    // Built in scratch: the stack is full enough.
    let header = &mut work.staged.header;
    *header = emit::header(
        Kind::Release,
        size_of::<Header>(),
        work.time_ns,
        socket.connection,
    );
    u32::from(emit::record(header))
}
