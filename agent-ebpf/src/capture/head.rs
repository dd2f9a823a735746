//! A complete head: the message is noted and decided, and its direction enters the phase that follows.

use agent_common::{
    abi::{Counter, Direction, Role, SlotKind},
    wire::{
        http1::{self, Framing, Phase},
        scan::HeadKind,
        traceparent,
    },
};

use super::hide::{self, ut_lose_hidden};
use super::step::{CHUNKS, DONE, MORE, lose};
use super::unfinished::drop_saved;
use crate::{
    conn::{self, Socket, request_flags},
    context, decide, emit,
    globals::global,
    inject,
    maps::count,
    scratch::{self, Work},
};

/// Messages of one segment that are decided.
const DECISIONS: u32 = 8;

/// A head is complete: notes the message, decides, and enters the phase that follows. Returns [`DONE`] when nothing more of the segment is looked at,
/// [`MORE`] when it is, [`CHUNKS`] when a chunked body follows.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_complete(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    let direction = (work.direction & 1) as usize;
    complete(level, work, socket, direction)
}

#[inline(always)]
fn complete(level: u32, work: *mut Work, socket: *mut Socket, direction: usize) -> u32 {
    let (work, socket) = (scratch::borrow(work), scratch::borrow(socket));
    let end = work.position.wrapping_add(u64::from(work.cursor));
    let is_request = http1::is_request(&work.head);
    let receive = work.direction == Direction::Receive as u32;
    if is_request && !receive {
        inject::take_state_back(work.sk, socket);
    }
    let start = work.message_start;
    if start >= work.position.wrapping_add(u64::from(work.block_offset)) && work.head_length == 0 {
        work.head_length = (end - start) as u32;
    }
    if work.repeated != 0 && socket.streams[direction].head_end == end {
        // Offered again, because it was not accepted: the same message, the same decision.
        work.repeated = 0;
        if work.hidden != 0 {
            // User space has not heard of it, and does not now.
            hide::leave_out(work, socket);
            if is_request && socket.request.decision.position == start {
                // For the header that it may get.
                work.decision = socket.request.decision;
                work.decisions = work.decisions.wrapping_add(1);
            }
        } else if is_request && socket.request.decision.position == start {
            work.decision = socket.request.decision;
            place_decision(work);
        }
        return if conn::follows(&socket.chunks, direction) {
            CHUNKS
        } else if socket.streams[direction].phase == Phase::Body as u8 {
            MORE
        } else {
            DONE
        };
    }
    if conn::follows(&socket.chunks, direction) {
        socket.chunks.follows = 0;
        socket.chunks.told = 0;
    }
    if work.repeated != 0 {
        // Something else is offered.
        work.mute = 0;
        if is_request {
            socket.pending.take_back();
        } else {
            // The request that it answers was answered: what waits is not known exactly any more.
            socket.streams[direction].lost = 1;
        }
    }
    work.repeated = 0;
    {
        let stream = &mut socket.streams[direction];
        stream.message_start = start;
        stream.head_end = end;
        stream.message_end = end;
        stream.tries = 0;
    }
    if is_request {
        let alone = hide::is_alone(work, socket);
        forget_answered(work, socket, direction);
        if global!(HIDE_UNSAMPLED) != 0 && hide::is_lost(socket) {
            ut_lose_hidden(level, alone);
        }
        if !socket.pending.push(work.head.method) || work.decisions >= DECISIONS {
            count(Counter::DecisionsBeyondLimit);
            lose(&mut socket.streams[direction]);
            return DONE;
        }
        if global!(HIDE_UNSAMPLED) != 0 && socket.pending.count() > 1 {
            socket.streams[direction].pipelined = 1;
        }
        if receive {
            decide::server(work, socket);
        } else {
            decide::client(work, socket);
        }
        let hidden = global!(HIDE_UNSAMPLED) != 0
            && work.decision.trace_flags & traceparent::FLAG_SAMPLED == 0
            && hide::hide(work, socket);
        if hidden {
            work.decisions = work.decisions.wrapping_add(1);
        } else {
            place_decision(work);
        }
    } else {
        if global!(HIDE_UNSAMPLED) != 0 && hide::is_lost(socket) {
            ut_lose_hidden(level, 0);
        }
        if receive {
            decide::read(work, socket, true);
        }
        work.decisions = work.decisions.wrapping_add(1);
        if work.mute != 0 {
            hide::answer(work, socket);
        }
    }
    enter(work, socket, direction)
}

/// Enters the phase that follows the head which was noted. What it needs is read anew, so that it is one piece of code behind all the ways to it and the
/// verifier need not walk it once for each.
#[inline(always)]
fn enter(work: *mut Work, socket: *mut Socket, direction: usize) -> u32 {
    let (work, socket) = (scratch::borrow(work), scratch::borrow(socket));
    let end = work.position.wrapping_add(u64::from(work.cursor));
    // SAFETY: two fields of the level's own scratch.
    let (kind, direction_now) = unsafe {
        (
            (&raw const work.head.kind).read_volatile(),
            (&raw const work.direction).read_volatile(),
        )
    };
    let is_request = kind == HeadKind::Request as u8;
    let receive = direction_now == Direction::Receive as u32;
    let framing = if is_request {
        http1::request_framing(&work.head)
    } else {
        http1::response_framing(&work.head, socket.pending.first())
    };
    let phase = match framing {
        Framing::Length => {
            let length = work.head.content_length;
            let stream = &mut socket.streams[direction];
            stream.message_end = end.wrapping_add(length);
            Phase::Body
        }
        Framing::Nothing => Phase::Body,
        Framing::Interim => Phase::Body,
        Framing::Chunked => Phase::Chunked,
        Framing::UntilClose => Phase::UntilClose,
        Framing::Unknown => Phase::Turn,
        Framing::Upgrade => {
            let other = &mut socket.streams[direction ^ 1];
            drop_saved(work, other, direction ^ 1);
            other.phase = Phase::Opaque as u8;
            other.detected = 1;
            socket.streams[direction].detected = 1;
            work.releases = 1;
            Phase::Opaque
        }
    };
    socket.streams[direction].phase = phase as u8;
    if matches!(framing, Framing::Unknown) {
        socket.streams[direction].lost = 1;
    }
    // After the end of the response: who finds no request waiting takes that for the end of the newest.
    if !is_request && !matches!(framing, Framing::Interim) {
        socket.pending.pop();
    }
    if matches!(framing, Framing::Upgrade) {
        finish_request(work.sk, socket);
        return DONE;
    }
    let offered = work.position.wrapping_add(u64::from(work.length));
    if !is_request && !receive && !matches!(framing, Framing::Interim) {
        let over = matches!(framing, Framing::Length | Framing::Nothing)
            && socket.streams[direction].message_end <= offered;
        if over {
            finish_request(work.sk, socket);
        } else if global!(HIDE_UNSAMPLED) != 0 && global!(PAGES_SEEN) == 0 && work.hidden != 0 {
            work.awaits = 1;
        }
    }
    match framing {
        // All that is left of the segment belongs to the body.
        Framing::Length
            if work.head.content_length >= u64::from(work.length.wrapping_sub(work.cursor)) =>
        {
            DONE
        }
        Framing::Length | Framing::Nothing | Framing::Interim => MORE,
        Framing::Chunked => CHUNKS,
        Framing::UntilClose | Framing::Unknown | Framing::Upgrade => DONE,
    }
}

/// When bytes of the other direction passed unseen behind its last message: they are taken for the responses to the requests that seem to wait, which would
/// otherwise keep all later requests of the connection open. A client that pipelines may still wait for a part of them; the request that begins here is no
/// parent in either case, since the one before it was never seen answered. What waits from here on is forgotten only when more bytes have passed.
///
/// Of what is received only after a change of direction: it is counted before the hook sees it, by a thread that may be reading at this moment. A send is
/// seen before it is counted, or never.
#[inline(always)]
fn forget_answered(work: &Work, socket: &mut Socket, direction: usize) {
    let is_sent = work.direction == Direction::Receive as u32 && !socket.has(conn::flags::COUNTED);
    let other = &mut socket.streams[direction ^ 1];
    if work.decisions != 0 || other.state.position <= other.message_end {
        return;
    }
    if socket.pending.has_connect() {
        // What passed may be a tunnel.
        return;
    }
    let is_known = other.phase == Phase::Body as u8;
    let is_lost = other.phase == Phase::Turn as u8;
    if is_sent && (is_known || is_lost) {
        other.message_end = other.state.position;
        if is_known {
            count(Counter::HeadsUnseen);
            lose(other);
        }
        socket.pending.clear();
    } else if !is_sent && (is_known || is_lost && socket.unpaired != 0) && work.turned != 0 {
        if is_known {
            other.lost = 1;
        } else if socket.pending.count() != 1 {
            // Which of them passed is not known.
            return;
        } else {
            other.message_end = other.state.position;
        }
        socket.pending.clear();
    }
}

/// The response to the oldest request is complete: the request is over when no other waits.
#[inline(always)]
pub(super) fn finish_request(sk: u64, socket: &mut Socket) {
    let at = context::place(socket);
    if socket.request.flags & request_flags::OPEN != 0 && socket.pending.count() == 0 {
        context::close(sk, socket, at);
    }
}

/// Closes the request whose response is complete, though the last of it passed no hook: before Linux 6.5 none sees what goes into a socket by
/// splice or sendfile. The connection's positions have to be up to date.
#[inline(always)]
pub(crate) fn settle(sk: u64, socket: &mut Socket) {
    // Another CPU may read the next request meanwhile.
    let at = context::place(socket);
    let sent = &socket.streams[Direction::Send as usize];
    if sent.phase == Phase::Body as u8
        && sent.state.position >= sent.message_end
        && socket.role == Role::Server as u8
        && socket.request.flags & request_flags::OPEN != 0
        && socket.pending.count() == 0
    {
        context::close(sk, socket, at);
    }
}

/// Puts a decision into the slot of the record under construction, or writes it as a record of its own.
#[inline(always)]
fn place_decision(work: &mut Work) {
    work.decisions = work.decisions.wrapping_add(1);
    let record = work.position.wrapping_add(u64::from(work.block_offset));
    if work.message_start == record {
        work.slot = SlotKind::Decision as u32;
        work.slot_decision = work.decision;
        return;
    }
    emit::decision(work);
}
