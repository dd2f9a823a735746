//! The `tracestate` that a request brings along. Nothing here is called where the frozen global `INJECT` is 0.
//!
//! Input: the level's block and the lines found in it; the decision that was made for the head. Output: an entry of `STATES` where the request's own
//! context was adopted, or that the value is not carried on, counted. Of a head that several reads bring, only a value in the last part is taken.

use agent_common::{
    abi::{Counter, Direction},
    wire::{
        http1,
        scan::{self, head_flags},
        state_line,
    },
};

use super::lines;
use crate::{
    conn::{self, flags},
    decide,
    globals::{fault, faulty},
    maps::{STATES, count},
    scratch::{self, View},
};

/// Takes the value of the `tracestate` among the lines found, of a head that is read. One in a head that is sent is only noted.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_take_state(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let (_, end) = lines::range(&scratch.work);
    let view = View::of(scratch);
    let work = &mut scratch.work;
    if work.direction == Direction::Send as u32 {
        work.head.flags |= head_flags::STATE_LOST;
        return 0;
    }
    let (at, length) = scan::state_value(&view, &work.lines, end);
    if length > state_line::LIMIT || work.head.flags & head_flags::STATE_SEEN != 0 {
        work.head.flags |= head_flags::STATE_LOST;
    } else if length != 0 {
        work.kept.length = state_line::compose(&view, at, length, &mut work.kept.text);
        if work.kept.length == 0 {
            work.head.flags |= head_flags::STATE_LOST;
        }
    }
    work.head.flags |= head_flags::STATE_SEEN;
    0
}

/// Keeps the `tracestate` of the request that was read and decided, if its own context was adopted and its peer is trusted.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_keep_state(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let adopted = work.direction == Direction::Receive as u32
        && http1::is_request(&work.head)
        && work.decisions != 0
        && work.decision.position == work.message_start
        && work.decision.direction == Direction::Receive as u8
        && work.head.flags & head_flags::TRACEPARENT != 0
        && decide::words(work.decision.trace_id) == work.head.trace_id;
    if !adopted {
        return 0;
    }
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    if !socket.has(flags::TRUSTED) {
        return 0;
    }
    if work.head.flags & head_flags::STATE_LOST != 0 {
        count(Counter::InjectStatesDropped);
        return 0;
    }
    let kept = &mut work.kept;
    kept.connection = socket.connection;
    kept.position = work.decision.position;
    kept.seal = kept.seal_of();
    // First: whoever closes the request takes the entry out.
    socket.request.state_kept = 1;
    if faulty(fault::STATES_VANISH) {
        return 0;
    }
    if STATES.insert(work.sk, &*kept, 0).is_err() {
        socket.request.state_kept = 0;
        count(Counter::InjectStatesFull);
    }
    0
}
