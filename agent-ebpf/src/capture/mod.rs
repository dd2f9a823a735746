//! What a send or receive means, and what of it is shipped.
//!
//! Input: the run's [`Work`] and the connection's streams. Output: `Segment` records, decisions by [`crate::decide`], the phases of both directions.
//! The bytes are looked at by [`agent_common::wire::scan`] alone.
//!
//! [`step`] deals with one message of a segment, or one block of one; [`lines`] runs the scanner, [`head`] acts on a complete head, [`unfinished`]
//! keeps one that a segment boundary cuts, [`state`] the `tracestate` of one, [`chunks`] finds the end of a chunked body. [`block`] reads bytes of the process, [`ship`] writes the records.

mod block;
mod carried;
mod chunks;
mod head;
mod hide;
mod lines;
mod ship;
mod state;
mod step;
mod unfinished;

use agent_common::{
    abi::{Direction, PolicyKind, Role, SlotKind, segment_flags},
    wire::{
        http1::{self, Phase},
        inject::GONE,
        scan::head_flags,
    },
};

pub(crate) use self::{block::begins_response, head::settle};
use self::{
    block::{keep_tail, place},
    chunks::ut_chunks,
    head::{finish_request, ut_complete},
    hide::{ut_await, ut_cut},
    ship::{finish_block, ut_snapshot},
    state::ut_keep_state,
    step::{CHUNKS, COMPLETE, DONE, FRESH, ut_step},
};
use crate::{
    adopt::{self, ut_adopt},
    conn::{self, Socket, flags, ut_first_seen},
    decide,
    globals::global,
    inject::{self, ut_instruct, ut_release},
    kernel::sock::{IPPROTO_MPTCP, Identity},
    option::{ut_offer, ut_take_brought},
    scratch::{self, Work},
    tls::ut_bind,
};

/// Blocks and messages of one segment that are looked at.
const STEPS: u32 = 26;

/// Handles the send or receive that the level's [`Work`] describes.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_segment(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    place(level, work);
    let mut found = conn::find(work.sk);
    if let Some(socket) = &mut found
        && socket.has(flags::ADDRESS_LATE)
    {
        conn::learn_address(socket, work.identity);
        conn::open(socket, work.sk, work.time_ns);
    }
    if let Some(socket) = &found
        && socket.identity != work.identity
    {
        // The sock was freed without our hook and is another connection now.
        conn::close(work.sk, agent_common::abi::CloseReason::Closed);
        found = None;
    }
    let socket = match found {
        Some(socket) => {
            if global!(TLS) != 0 && work.plaintext == 0 && socket.has(flags::TLS) {
                return 0;
            }
            socket
        }
        None => {
            if ut_first_seen(level) == 0 {
                return 0;
            }
            let Some(socket) = conn::find(work.sk) else {
                return 0;
            };
            conn::open(socket, work.sk, work.time_ns);
            socket
        }
    };
    if work.direction == Direction::Send as u32 && adopt::may_be_adopted(socket) {
        ut_adopt(level);
    }
    observe(work, socket);
    work.hides = socket.hides;
    if global!(HIDE_UNSAMPLED) != 0 && work.hides != 0 {
        hide::begin(work, socket);
    }
    if socket.policy == PolicyKind::Ignore as u8 {
        return 0;
    }
    let receive = work.direction == Direction::Receive as u32;
    if receive {
        settle(work.sk, socket);
    }
    let turn = u32::from(socket.last_direction) != work.direction;
    socket.last_direction = work.direction as u8;
    work.finished = 0;
    work.wants_snapshot = 0;
    follow(level, work, turn);
    if global!(TLS) != 0 && work.record != 0 {
        return 0;
    }
    socket.dropped = work.dropped;
    if global!(HIDE_UNSAMPLED) != 0 {
        hide::end(level, work, socket);
    }
    let direction = (work.direction & 1) as usize;
    let phase = socket.streams[direction].phase;
    if phase == Phase::ChunkedLost as u8 || phase == Phase::Turn as u8 || work.untold != 0 {
        keep_tail(level, work, &raw mut socket.streams[direction]);
        if !receive
            && phase == Phase::ChunkedLost as u8
            && http1::ends_chunked(socket.streams[direction].state.tail[1])
        {
            work.finished = 1;
        }
    }
    if work.finished != 0 && socket.role == Role::Server as u8 {
        finish_request(work.sk, socket);
    }
    if receive && work.decisions == 0 {
        decide::read(work, socket, true);
    }
    0
}

/// Brings the connection's positions up to date, and notes in `work` where the segment lies and what both streams had seen.
#[inline(always)]
fn observe(work: &mut Work, socket: &mut Socket) {
    work.connection = socket.connection;
    work.dropped = socket.dropped;
    work.policy = u32::from(socket.policy);
    let receive = work.direction == Direction::Receive as u32;
    let length = u64::from(work.length);
    inject::refresh(work.sk, socket, Some(work.write_seq), !receive);
    if socket.has(flags::COUNTED) {
        work.flags |= segment_flags::COUNTED;
    } else {
        let read = if receive { work.length } else { 0 };
        conn::unwrap(
            socket,
            work.sk,
            work.write_seq,
            work.copied_seq.wrapping_sub(read),
        );
    }
    let [received, sent] = &mut socket.streams;
    let (own, peer) = if receive {
        (received, sent)
    } else {
        (sent, received)
    };
    work.position = own.state.position;
    work.own = conn::state_of(own);
    work.peer = conn::state_of(peer);
    own.state.last_time_ns = work.time_ns;
    let counts_asked = Identity::from_word(work.identity).protocol == IPPROTO_MPTCP;
    if receive || counts_asked {
        own.state.position = own.state.position.wrapping_add(length);
    }
    work.hidden = 0;
    work.behind = 0;
    work.hidden_to = 0;
    work.hid = 0;
    work.unpaired = socket.unpaired;
    work.hiding_told = 0;
    work.hiding_lost = if socket.hiding_lost == socket.hiding_told {
        0
    } else {
        socket.hiding_lost
    };
}

/// The loop over the messages of a segment.
#[inline(always)]
fn follow(level: u32, work: *mut Work, turn: bool) {
    let work = scratch::borrow(work);
    work.cursor = 0;
    work.block_offset = 0;
    work.block_length = 0;
    work.unreadable = 0;
    work.decisions = 0;
    work.repeated = 0;
    work.slot = SlotKind::None as u32;
    work.head_length = 0;
    work.record_flags = 0;
    work.continued = FRESH;
    work.ship = 0;
    work.shipped = 0;
    work.untold = 0;
    work.turn = u32::from(turn);
    work.turned = work.turn;
    work.value_at = GONE;
    work.releases = 0;
    work.mute = 0;
    work.cut = 0;
    work.awaits = 0;
    work.record = 0;
    for _ in 0..STEPS {
        // Called from here and not from within the step: the kernel adds up the stacks of all nested calls.
        let mut result = ut_step(level);
        if global!(TLS) != 0 && work.record != 0 {
            ut_bind(level);
            return;
        }
        if result == COMPLETE {
            if global!(TCP_OPTION) != 0 {
                ut_take_brought(level);
            }
            result = ut_complete(level);
            if global!(TCP_OPTION) != 0 {
                ut_offer(level);
            }
            if global!(INJECT) != 0 {
                ut_instruct(level);
                if work.kept.length != 0 || work.head.flags & head_flags::STATE_LOST != 0 {
                    ut_keep_state(level);
                }
            }
        }
        if global!(HIDE_UNSAMPLED) != 0 && work.cut != 0 {
            ut_cut(level);
        }
        if result == CHUNKS {
            result = ut_chunks(level);
        }
        // The last of a segment needs no step that finds nothing left.
        if result == DONE || work.cursor >= work.length {
            break;
        }
    }
    if work.wants_snapshot != 0 {
        ut_snapshot(level);
    }
    if global!(INJECT) != 0 && work.releases != 0 {
        ut_release(level);
    }
    finish_block(level, work, work.length);
    if global!(HIDE_UNSAMPLED) != 0 && work.awaits != 0 {
        ut_await(level);
    }
}
