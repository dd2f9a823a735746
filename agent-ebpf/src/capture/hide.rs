//! Messages of traces that are not sampled: user space is not told of them, neither by records nor by positions.
//!
//! Input: a request that was decided, or the response to a hidden one that begins. Output: records that end before it, and positions that stay where it
//! begins ([`conn::stop_at_hidden`]). The first record behind hidden messages says so
//! ([`HIDDEN_BEFORE`](agent_common::abi::segment_flags::HIDDEN_BEFORE)). A message is hidden whole or not at all, and only while the places of both
//! directions are proven: where one is lost, positions go on to where they are, and the next record says that nothing can be paired across it
//! ([`HIDING_LOST`](agent_common::abi::segment_flags::HIDING_LOST)).

use agent_common::{
    abi::{Counter, Direction, Header, Kind, Role},
    wire::{
        http1::{self, Framing, Phase},
        scan::MethodKind,
    },
};

use super::ship::finish_block;
use crate::{
    conn::{self, Socket, flags},
    emit,
    maps::count,
    scratch::{self, Work},
};

/// Judges the request that was decided last, which is not sampled: whether it is hidden.
///
/// No global function: the two look-ups of one would cost more than the judgement.
#[inline(never)]
pub(super) fn hide(work: &mut Work, socket: &mut Socket) -> bool {
    let direction = (work.direction & 1) as usize;
    let (own, other) = (&socket.streams[direction], &socket.streams[direction ^ 1]);
    if socket.has(flags::COUNTED) || own.proven == 0 || own.lost != 0 || other.lost != 0 {
        return false;
    }
    if socket.unpaired != 0 {
        return false;
    }
    // No record may have spoken of its first bytes.
    let block = work.position.wrapping_add(u64::from(work.block_offset));
    if work.message_start < block {
        return false;
    }
    let framing = http1::request_framing(&work.head);
    if !matches!(framing, Framing::Length | Framing::Nothing)
        || work.head.method == MethodKind::Connect as u8
    {
        return false;
    }
    if other.phase != Phase::Body as u8 && other.phase != Phase::Chunked as u8 {
        return false;
    }
    if socket.hides == 0 {
        // From here on it is known which messages are hidden: no other request waits, and all of the last response has passed.
        let clean = socket.pending.count() == 1
            && other.phase == Phase::Body as u8
            && other.state.position == other.message_end;
        if !clean {
            return false;
        }
        for stream in &mut socket.streams {
            stream.hidden = 0;
        }
        work.hidden = 0;
        work.hides = 1;
        socket.hides = 1;
    }
    socket.pending.hide_newest();
    count(Counter::RequestsHidden);
    leave_out(work, socket);
    true
}

/// Judges the message that begins where no place was lost: it is hidden when it answers a hidden request. True, and sets [`Work::cut`], when the record
/// under construction has to end before it first.
#[inline(always)]
pub(super) fn mute(work: &mut Work, socket: &mut Socket) -> bool {
    let sends = work.direction == Direction::Send as u32;
    let answers = (socket.role == Role::Server as u8) == sends;
    if !answers || work.mute != 0 || !socket.pending.is_first_hidden() {
        return false;
    }
    if work.block_length != 0 {
        // Of messages before it.
        work.cut = 1;
        return true;
    }
    work.mute = 1;
    begin_hiding(work, socket);
    false
}

/// A message begins on a connection where a place was lost, or where another CPU lost one since this run began: it is not hidden.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_give_up(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    if socket.hides < work.hides {
        stop(work);
        work.hiding_lost = socket.hiding_lost;
        work.unpaired = 1;
    } else {
        give_up(work, socket);
    }
    0
}

/// The head at hand is complete, and is hidden: no record speaks of it.
#[inline(always)]
pub(super) fn leave_out(work: &mut Work, socket: &mut Socket) {
    let block = work.position.wrapping_add(u64::from(work.block_offset));
    if work.message_start > block && work.mute == 0 {
        // Messages before it are in the record under construction.
        work.cut = 1;
        return;
    }
    begin_hiding(work, socket);
    work.mute = 0;
    work.ship = 0;
    work.head_length = 0;
    work.record_flags = 0;
    // What follows has a record of its own.
    work.block_length = 0;
}

/// A response to a hidden request is complete.
#[inline(always)]
pub(super) fn answer(work: &mut Work, socket: &mut Socket) {
    let least = if socket.role == Role::Server as u8 {
        500
    } else {
        400
    };
    if work.head.status >= least {
        count(Counter::RequestsHiddenFailed);
    }
    leave_out(work, socket);
}

/// Ends the record under construction before the message at hand, which is hidden.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_cut(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &raw mut scratch.work;
    let work = scratch::borrow(work);
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    work.cut = 0;
    let begin = work.message_start.wrapping_sub(work.position) as u32;
    let before = begin.wrapping_sub(work.block_offset);
    if work.ship > before {
        work.ship = before;
    }
    finish_block(level, work, begin);
    work.block_length = 0;
    if work.cursor > begin {
        // Its head is complete.
        begin_hiding(work, socket);
    }
    0
}

/// The message at hand is hidden, and may be the first one.
#[inline(always)]
fn begin_hiding(work: &mut Work, socket: &mut Socket) {
    if work.hidden != 0 {
        return;
    }
    let stream = &mut socket.streams[(work.direction & 1) as usize];
    stream.hidden_from = work.message_start;
    stream.hidden_time_ns = if work.message_start == work.position {
        work.own.last_time_ns
    } else {
        work.time_ns
    };
    stream.hidden = 1;
    work.hidden_from = work.message_start;
    work.hidden = 1;
    work.hid = 1;
}

/// Asks user space to ask for positions: the answer to a hidden request goes on, perhaps as pages that no hook sees, and the request would be open until
/// something else happens on the connection.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_await(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let header = &mut work.staged.header;
    *header = emit::header(
        Kind::Await,
        size_of::<Header>(),
        work.time_ns,
        work.connection,
    );
    u32::from(emit::record(header))
}

/// A run begins on a connection that hides: takes what both directions have seen back to their first hidden messages.
#[inline(always)]
pub(super) fn begin(work: &mut Work, socket: &Socket) {
    let direction = (work.direction & 1) as usize;
    let own = &socket.streams[direction];
    let at = work.own.position;
    conn::stop_at_hidden(&mut work.own, own, false);
    let sends = work.direction == Direction::Send as u32;
    conn::stop_at_hidden(&mut work.peer, &socket.streams[direction ^ 1], sends);
    work.hidden = u32::from(own.hidden);
    work.behind = u32::from(own.hidden == 0 && at > own.hidden_from && at <= own.hidden_to);
    work.hidden_from = own.hidden_from;
    work.hidden_to = own.hidden_to;
}

/// A run ends: keeps what it came to.
#[inline(always)]
pub(super) fn end(level: u32, work: &mut Work, socket: &mut Socket) {
    let [received, sent] = &socket.streams;
    let lost = u32::from(received.lost | sent.lost);
    if lost | work.hiding_told != 0 || socket.hides < work.hid {
        ut_note_lost(level);
    } else if socket.hides != 0 {
        keep(work, socket);
    }
}

/// Keeps what the direction came to.
#[inline(always)]
fn keep(work: &Work, socket: &mut Socket) {
    let own = &mut socket.streams[(work.direction & 1) as usize];
    own.hidden = work.hidden as u8;
    own.hidden_to = work.hidden_to;
}

/// The same where something was lost, or was told to be: gives hiding up where a place was lost.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_note_lost(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    if work.hiding_told != 0 {
        socket.hiding_told = work.hiding_told;
    }
    let [received, sent] = &socket.streams;
    if received.lost | sent.lost != 0 {
        give_up(work, socket);
        for stream in &mut socket.streams {
            // Until its place is known again, which its phase tells.
            stream.lost = 0;
        }
    } else if work.hid != 0 && socket.hides == 0 {
        // Another CPU lost a place meanwhile.
        lose(work, socket);
    }
    keep(work, socket);
    0
}

/// A place was lost: nothing is hidden any more.
#[inline(always)]
fn give_up(work: &mut Work, socket: &mut Socket) {
    let [received, sent] = &socket.streams;
    let active = received.hidden | sent.hidden != 0 || work.hidden != 0;
    if socket.hides != 0 && (active || socket.pending.hidden() != 0) {
        lose(work, socket);
    }
    socket.hides = 0;
    stop(work);
    for stream in &mut socket.streams {
        stream.hidden = 0;
        stream.hidden_to = 0;
    }
}

/// The run hides nothing any more.
#[inline(always)]
fn stop(work: &mut Work) {
    work.hides = 0;
    work.hidden = 0;
    work.behind = 0;
    work.hidden_to = 0;
    work.hid = 0;
    work.mute = 0;
}

/// 1: the request that begins is the only one that waits, whatever was lost before it: none did, or one whose response passed unseen. To be asked before
/// that one is forgotten. Never where requests were pipelined: of those that seem answered some may still wait.
#[inline(always)]
pub(super) fn is_alone(work: &Work, socket: &Socket) -> u32 {
    let direction = (work.direction & 1) as usize;
    let other = &socket.streams[direction ^ 1];
    let waiting = socket.pending.count();
    // In other phases the end of the head, or of a part, stands for that of the message.
    let passed = other.phase == Phase::Body as u8 || other.phase == Phase::Turn as u8;
    let answered =
        waiting == 0 || waiting == 1 && passed && other.state.position > other.message_end;
    let begins =
        work.turned != 0 && work.decisions == 0 && socket.streams[direction].pipelined == 0;
    u32::from(answered && begins && other.phase != Phase::Head as u8)
}

/// Whether a place was lost, or was and nothing can be paired yet.
#[inline(always)]
pub(super) fn is_lost(socket: &Socket) -> bool {
    let [received, sent] = &socket.streams;
    u32::from(received.lost | sent.lost) | socket.unpaired != 0
}

/// A message begins on a connection where a place was lost: its record says so. A request that is `alone` has its own response.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_lose_hidden(level: u32, alone: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    let [received, sent] = &socket.streams;
    if received.lost | sent.lost != 0 {
        give_up(work, socket);
    }
    if alone != 0 {
        socket.unpaired = 0;
        work.unpaired = 0;
    }
    0
}

/// The next record says that hidden messages cannot be told from others.
#[inline(always)]
fn lose(work: &mut Work, socket: &mut Socket) {
    socket.hiding_lost = socket.hiding_lost.wrapping_add(1);
    socket.unpaired = 1;
    work.hiding_lost = socket.hiding_lost;
    work.unpaired = 1;
    count(Counter::HidingLost);
}
