//! Messages of traces that are not sampled: user space is not told of them, neither by records nor by positions.
//!
//! Input: a request that was decided, or the response to a hidden one that begins. Output: records that end before it, and positions that stay where it
//! begins ([`conn::stop_at_hidden`]). The first record behind hidden messages says so
//! ([`HIDDEN_BEFORE`](agent_common::abi::segment_flags::HIDDEN_BEFORE)). A message is hidden whole or not at all, and only while the places of both
//! directions are proven: where one is lost, positions go on to where they are, and the next record says that nothing can be paired across it
//! ([`HIDING_LOST`](agent_common::abi::segment_flags::HIDING_LOST)).

use agent_common::{
    abi::{Counter, Direction, Role},
    wire::{
        http1::{self, Framing, Phase},
        scan::MethodKind,
    },
};

use super::ship::finish_block;
use crate::{
    conn::{self, Socket, flags},
    maps::{add, count},
    scratch::{self, Work},
};

/// Values of [`Work::cut`]: the head of a request, or of a message that was offered before, is complete.
pub(super) const COMPLETE: u32 = 1;

/// That of a response is.
pub(super) const ANSWERED: u32 = 2;

/// Judges the request that was decided last, which is not sampled: where it can be hidden, sets [`Work::cut`].
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_hide(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    let direction = (work.direction & 1) as usize;
    let (own, other) = (&socket.streams[direction], &socket.streams[direction ^ 1]);
    if socket.has(flags::COUNTED) || own.proven == 0 || own.lost != 0 || other.lost != 0 {
        return 0;
    }
    // Its bytes must be in the block at hand, and nothing may have been said of them.
    let block = work.position.wrapping_add(u64::from(work.block_offset));
    if work.message_start < block || work.told != 0 {
        return 0;
    }
    let framing = http1::request_framing(&work.head);
    if !matches!(framing, Framing::Length | Framing::Nothing)
        || work.head.method == MethodKind::Connect as u8
    {
        return 0;
    }
    if other.phase != Phase::Body as u8 && other.phase != Phase::Chunked as u8 {
        return 0;
    }
    if socket.hides == 0 {
        // From here on it is known which messages are hidden: no other request waits, and all of the last response has passed.
        let clean = socket.pending.count() == 1
            && other.phase == Phase::Body as u8
            && other.state.position == other.message_end;
        if !clean {
            return 0;
        }
        for stream in &mut socket.streams {
            stream.hidden = 0;
        }
        work.hidden = 0;
        socket.hides = 1;
    }
    socket.pending.hide_newest();
    work.cut = COMPLETE;
    count(Counter::RequestsHidden);
    0
}

/// Judges the message that begins: 1 when the record under construction has to end before it, because it answers a hidden request, or because a record
/// that is written later would speak of messages that may be hidden.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_mute(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    let direction = (work.direction & 1) as usize;
    if socket.streams[direction].lost != 0 || socket.streams[direction ^ 1].lost != 0 {
        give_up(work, socket);
        return 0;
    }
    let sends = work.direction == Direction::Send as u32;
    let answers = (socket.role == Role::Server as u8) == sends;
    if !answers || work.mute != 0 {
        return 0;
    }
    let first = socket.pending.is_first_hidden();
    let block_end = work.block_offset.wrapping_add(work.block_length);
    let reloads = work.block_length != 0 && work.cursor >= block_end;
    if !first && !(reloads && socket.pending.hidden() != 0) {
        return 0;
    }
    if first && work.told != 0 {
        // It was spoken of already.
        give_up(work, socket);
        return 0;
    }
    work.mute = u32::from(first);
    1
}

/// Ends the record under construction before the message at hand, which is hidden, or begins in a record of its own.
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
    let begin = work.message_start.wrapping_sub(work.position) as u32;
    let before = begin.wrapping_sub(work.block_offset);
    if work.message_start < work.position || begin < work.block_offset || work.block_length == 0 {
        work.ship = 0;
    } else if work.ship > before {
        work.ship = before;
    }
    work.told_length = begin;
    finish_block(level, work);
    work.told_length = work.length;
    // What follows speaks for itself.
    work.record_flags = 0;
    work.block_length = 0;
    if work.cut == ANSWERED {
        let least = if socket.role == Role::Server as u8 {
            500
        } else {
            400
        };
        if work.head.status >= least {
            count(Counter::RequestsHiddenFailed);
        }
    }
    let hides = work.cut != 0 || work.mute != 0;
    if work.cut != 0 {
        work.mute = 0;
    }
    work.cut = 0;
    if hides && work.hidden == 0 {
        begin_hiding(work, socket);
    }
    0
}

/// The message at hand is the first one that is hidden.
#[inline(always)]
fn begin_hiding(work: &mut Work, socket: &mut Socket) {
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

/// Takes what both directions have seen back to their first hidden messages.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_stop_at_hidden(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    let direction = (work.direction & 1) as usize;
    let own = &socket.streams[direction];
    conn::stop_at_hidden(&mut work.own, own);
    conn::stop_at_hidden(&mut work.peer, &socket.streams[direction ^ 1]);
    work.hidden = u32::from(own.hidden);
    work.hidden_from = own.hidden_from;
    0
}

/// Keeps what a run came to, and gives hiding up where a place was lost.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_note_hidden(level: u32) -> u32 {
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
    socket.streams[(work.direction & 1) as usize].hidden = work.hidden as u8;
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
    work.hidden = 0;
    work.hid = 0;
    for stream in &mut socket.streams {
        stream.hidden = 0;
    }
}

/// The next record says that hidden messages cannot be told from others.
#[inline(always)]
fn lose(work: &mut Work, socket: &mut Socket) {
    socket.hiding_lost = socket.hiding_lost.wrapping_add(1);
    work.hiding_lost = socket.hiding_lost;
    count(Counter::HidingLost);
}

/// A connection ends: counts the hidden requests that nobody answered, and the hidden bytes that no record follows.
#[inline(always)]
pub(crate) fn count_hidden(socket: &Socket) {
    add(
        Counter::RequestsHiddenFailed,
        u64::from(socket.pending.hidden()),
    );
    for stream in &socket.streams {
        if stream.hidden != 0 && stream.state.position > stream.hidden_from {
            add(
                Counter::HiddenBytes,
                stream.state.position - stream.hidden_from,
            );
        }
    }
}
