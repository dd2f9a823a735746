//! Decisions: ids and parent of the request whose head has just been completed.
//!
//! Input: the head in scratch, the connection, the running thread. Output: the decision in scratch and in the connection's request, and the
//! records it leaves. The choices themselves are [`agent_common::wire::decide`].

mod cause;
pub(crate) mod root;

use agent_common::{
    abi::{Counter, Decision, Method, Role, SlotKind, Source, decision_flags},
    wire::{
        decide::{self, Context},
        propagator, sampling,
        scan::{Head, head_flags},
        traceparent,
    },
};

use self::cause::{Act, NOTHING, find_cause, find_forwarded};
pub(crate) use self::cause::{current_request, read, read_datagram, read_end};
use crate::{
    conn::{Request, Socket, flags, request_flags},
    context::{self, Handover},
    globals::global,
    kernel::task,
    maps::count,
    option,
    scratch::{self, Work},
};

/// The context in a head.
#[inline(always)]
fn header_context(head: &Head) -> Context {
    if head.flags & head_flags::TRACEPARENT != 0 {
        return Context {
            trace_id: head.trace_id,
            span_id: head.span_id,
            flags: u64::from(head.trace_flags),
        };
    }
    if !has_context(head) {
        return Context::default();
    }
    let sampled = match propagator::is_sampled(head) {
        Some(sampled) => sampled,
        // The caller leaves it to us. Such a trace may pass services with rules of their own, which must all decide alike.
        None => sampling::is_sampled(&bytes(head.trace_id), global!(SAMPLE_THRESHOLD)),
    };
    Context {
        trace_id: head.trace_id,
        span_id: head.span_id,
        flags: if sampled {
            u64::from(traceparent::FLAG_SAMPLED)
        } else {
            0
        },
    }
}

/// Whether a head carries a context, of whichever propagator.
#[inline(always)]
fn has_context(head: &Head) -> bool {
    head.flags & head_flags::TRACEPARENT != 0
        || global!(PROPAGATORS) != 0 && propagator::is_complete(head)
}

#[inline(always)]
pub(crate) fn words(trace_id: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = trace_id;
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    ]
}

#[inline(always)]
fn bytes(words: [u64; 2]) -> [u8; 16] {
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) =
        (words[0].to_ne_bytes(), words[1].to_ne_bytes());
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Fills the decision in scratch: a child of `context`, or a root where there is none.
#[inline(always)]
fn fill(work: &mut Work, context: Context) {
    let span_id = scratch::random(work);
    let (mut trace_id, parent) = (context.trace_id, context.span_id);
    let mut trace_flags = context.flags as u8;
    if !context.exists() {
        trace_id = [scratch::random(work), scratch::random(work)];
        let sampled = root::is_sampled(work, &bytes(trace_id));
        trace_flags = traceparent::FLAG_RANDOM;
        if sampled {
            trace_flags |= traceparent::FLAG_SAMPLED;
        }
    }
    work.decision = Decision {
        position: work.message_start,
        trace_id: bytes(trace_id),
        span_id: span_id.to_ne_bytes(),
        parent_span_id: parent.to_ne_bytes(),
        parent_connection: 0,
        parent_position: 0,
        stream: 0,
        direction: work.direction as u8,
        source: Source::Root as u8,
        method: Method::None as u8,
        confidence: 0,
        trace_flags,
        decision_flags: 0,
        open_requests: 0,
        reserved: [0; 5],
    };
}

#[inline(always)]
fn duplicate_flag(head: &Head) -> u8 {
    if head.flags & head_flags::TRACEPARENT_BAD != 0 {
        count(Counter::TraceparentMalformed);
    }
    const MALFORMED: u32 = head_flags::CARRIED_BAD;
    if global!(PROPAGATORS) != 0
        && head.flags & (MALFORMED | head_flags::ANY_TRACEPARENT) == MALFORMED
    {
        count(Counter::PropagatorMalformed);
    }
    if head.flags & head_flags::TRACEPARENT_TWICE != 0 {
        decision_flags::DUPLICATE_TRACEPARENT
    } else {
        0
    }
}

/// Decides the request that the running thread has read, and opens it.
#[inline(never)]
pub(crate) fn server(work: &mut Work, socket: &mut Socket) {
    // In scratch: the stack is full enough.
    work.handover = Handover::default();
    if socket.has(flags::BASES_EXACT) {
        work.handover_key = context::receiving_key(work.sk, socket, work.message_start);
        context::take_over(&work.handover_key, &mut work.handover);
    }
    if global!(TCP_OPTION) != 0 {
        option::take_over(work);
    }
    let record = Context {
        trace_id: work.handover.trace_id,
        span_id: work.handover.span_id,
        flags: work.handover.trace_flags,
    };
    let trusted = socket.has(flags::TRUSTED);
    let inherited = decide::server(record, header_context(&work.head), trusted);
    let has_parent = inherited.has_parent();
    fill(work, inherited.context);
    let decision = &mut work.decision;
    decision.source = inherited.source as u8;
    if global!(TCP_OPTION) != 0 {
        option::name_source(&work.brought, decision);
    }
    decision.confidence = if has_parent { 100 } else { 0 };
    decision.decision_flags = inherited.flags | duplicate_flag(&work.head);
    if inherited.flags & decision_flags::RECORD_DIFFERS != 0 {
        count(Counter::RecordDiffers);
    }
    if inherited.flags & decision_flags::UNTRUSTED != 0 {
        count(Counter::ContextsUntrusted);
    }

    let several = socket.request.flags & request_flags::OPEN != 0;
    if several {
        context::close(work.sk, socket, context::place(socket));
    }
    context::replace_state(work.sk, socket);
    if socket.role == Role::Unknown as u8 {
        socket.role = Role::Server as u8;
    }
    socket.request.decision = work.decision;
    socket.request.parent_sk = 0;
    socket.request.flags = if several { request_flags::SEVERAL } else { 0 };
    if has_context(&work.head) {
        socket.request.incoming_trace = work.head.trace_id;
        socket.request.incoming_span = work.head.span_id;
        context::remember_forward(work, &mut socket.request);
    }
    context::open(work, socket);
    count(Counter::ServerDecisions);
}

/// Decides the request that the running thread is about to send, and leaves a record for its receiver.
#[inline(never)]
pub(crate) fn client(work: &mut Work, socket: &mut Socket) {
    // Several requests in flight each need their record.
    if socket.pending.count() <= 1 {
        context::forget_handover(work.sk, socket);
    }
    let header = header_context(&work.head);
    let mut thread = if task::is_worker(work.task_flags) {
        None
    } else {
        context::current(work)
    };
    let open = thread.as_deref().map_or(0, |thread| thread.open);
    let mut found = NOTHING;
    let mut forwarded = false;
    if header.exists() {
        found = find_forwarded(work, &header);
        forwarded = found.parent.is_some() || found.ambiguous;
    }
    if found.parent.is_none() {
        found = find_cause(work, thread.as_deref(), socket, Act::Send);
        // The application speaks of another trace than the request it seems to serve: its word counts.
        if let Some(parent) = found.parent
            && header.exists()
            && words(parent.request.decision.trace_id) != header.trace_id
        {
            found = NOTHING;
        }
    }
    if let Some(thread) = &mut thread {
        thread.called = 1;
    }
    let own_context = header.exists() && !forwarded;
    let parent = if own_context { None } else { found.parent };
    let context = match (parent, own_context) {
        (Some(parent), _) => parent_context(&parent.request),
        (None, true) => header,
        (None, false) => Context::default(),
    };
    fill(work, context);
    let decision = &mut work.decision;
    decision.open_requests = if open > 255 { 255 } else { open as u8 };
    decision.decision_flags = duplicate_flag(&work.head);
    if header.exists() {
        decision.decision_flags |= decision_flags::HAS_TRACEPARENT;
    }
    if let Some(parent) = parent {
        decision.source = Source::Causal as u8;
        decision.method = found.method as u8;
        decision.confidence = decide::confidence(found.method);
        decision.parent_connection = parent.connection;
        decision.parent_position = parent.request.decision.position;
    } else if own_context {
        decision.source = Source::Header as u8;
        decision.confidence = 100;
        decision.decision_flags |= decision_flags::APPLICATION_CONTEXT;
    } else if found.ambiguous {
        decision.decision_flags |= decision_flags::AMBIGUOUS;
        count(Counter::LinksAmbiguous);
    }

    if socket.role == Role::Unknown as u8 {
        socket.role = Role::Client as u8;
    }
    socket.flags |= flags::USED;
    socket.request.state_kept = parent.map_or(0, |parent| parent.request.state_kept);
    socket.request.parent_sk = if found.parent.is_some() {
        found.parent_sk
    } else {
        0
    };
    if let Some(parent) = found.parent {
        decision.parent_position = parent.request.decision.position;
    }
    // What is forwarded is not the context of the request that brought it in: that one did not trust it.
    let restarts = forwarded && words(work.decision.trace_id) != header.trace_id;
    socket.request.restarts = u32::from(restarts);
    let restarted = if restarts { decide::RESTARTED } else { 0 };
    if socket.has(flags::BASES_EXACT) {
        // Built in scratch: the stack is full enough.
        // The receiver counts what is put into the stream, too.
        let ours = socket.inserted.wrapping_add(socket.planned);
        socket.handover_position = work.message_start.wrapping_add(u64::from(ours));
        work.handover_key = context::sending_key(work.sk, socket, socket.handover_position);
        work.handover = Handover {
            trace_id: words(work.decision.trace_id),
            span_id: u64::from_ne_bytes(work.decision.span_id),
            trace_flags: decide::stored_at(
                u64::from(work.decision.trace_flags) | restarted,
                work.time_ns,
            ),
        };
        if context::hand_over(&work.handover_key, &work.handover) {
            work.decision.decision_flags |= decision_flags::PROPAGATED;
            socket.flags |= flags::HANDED_OVER;
        }
    }
    if socket.has(flags::ENROLLED) && (!header.exists() || forwarded) {
        work.decision.decision_flags |= decision_flags::PROPAGATED;
    }
    socket.request.decision = work.decision;
    count(Counter::ClientDecisions);
}

#[inline(always)]
fn parent_context(request: &Request) -> Context {
    Context {
        trace_id: words(request.decision.trace_id),
        span_id: u64::from_ne_bytes(request.decision.span_id),
        flags: u64::from(request.decision.trace_flags),
    }
}

/// Fills the decision in scratch with the sender's current request, as a snapshot.
#[inline(always)]
pub(crate) fn snapshot(work: &mut Work, socket: &Socket) {
    if task::is_worker(work.task_flags) {
        return;
    }
    let thread = context::current(work);
    let found = find_cause(work, thread.as_deref(), socket, Act::Send);
    let Some(parent) = found.parent else {
        return;
    };
    work.decision = parent.request.decision;
    work.decision.position = work.position;
    work.decision.direction = work.direction as u8;
    work.decision.source = Source::Causal as u8;
    work.decision.method = found.method as u8;
    work.decision.confidence = decide::confidence(found.method);
    work.decision.parent_connection = parent.connection;
    work.decision.parent_position = parent.request.decision.position;
    work.slot = SlotKind::Snapshot as u32;
    work.slot_decision = work.decision;
}
