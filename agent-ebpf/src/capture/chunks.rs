//! The lines of a chunked body: where the message ends, and how much of it is body, without shipping a byte of it.
//!
//! Input: the run's [`Work`], whose cursor stands behind the head or in the body. Output: the phase that follows, and a `MessageEnd` record when the
//! end is not among the bytes that are shipped. Only lines are read; data is passed over.

use agent_common::{
    abi::{Counter, Direction, MessageEnd},
    wire::{
        chunked::Step,
        http1::Phase,
        scan::{Bytes, CARRY},
    },
};

use super::{
    block::ut_read_block,
    ship::finish_block,
    step::{DONE, MORE},
};
use crate::{
    conn::{self, Socket},
    emit,
    maps::count,
    scratch::{self, View, Work},
};

/// Bytes of lines read at one time.
const PART: u32 = 64;

/// Parts read of one segment.
const PARTS: u32 = 32;

/// Follows the lines of the chunked body at the cursor. Returns [`MORE`] when it ends before the segment does, else [`DONE`].
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_chunks(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return DONE;
    };
    let work = &raw mut scratch.work;
    let Some(socket) = conn::find(scratch.work.sk) else {
        return DONE;
    };
    follow(level, work, socket)
}

#[inline(always)]
fn follow(level: u32, work: *mut Work, socket: &mut Socket) -> u32 {
    let work = scratch::borrow(work);
    let direction = (work.direction & 1) as usize;
    let head = work.cursor.wrapping_sub(work.block_offset);
    if work.hides != 0 && work.ship > head {
        // What lies behind the body may be a hidden message.
        work.ship = head;
    }
    finish_block(level, work, work.cursor);
    work.block_length = 0;
    let at = work.position.wrapping_add(u64::from(work.cursor));
    let (chunks, stream) = (&mut socket.chunks, &mut socket.streams[direction]);
    // A copy first: the other direction may take it meanwhile.
    work.chunks = *chunks;
    let followed = conn::follows(&work.chunks, direction);
    let known = if at == stream.head_end {
        work.chunks.begin(at);
        work.chunks.follows = 1 << direction;
        if !followed {
            work.chunks.told = 0;
        }
        true
    } else {
        followed && work.chunks.resume(at)
    };
    let end = work.position.wrapping_add(u64::from(work.length));
    let mut result = if !known {
        Step::Malformed
    } else if work.chunks.has_ended() {
        // Offered again, and known to the end.
        Step::End
    } else {
        Step::More
    } as u32;
    for _ in 0..PARTS {
        if work.chunks.line_at >= end || result != Step::More as u32 {
            break;
        }
        work.block_offset = work.chunks.line_at.wrapping_sub(work.position) as u32;
        let rest = work.length.wrapping_sub(work.block_offset);
        work.block_length = if rest > PART { PART } else { rest };
        ut_read_block(level);
        result = if work.block_length == 0 {
            Step::Malformed as u32
        } else {
            ut_chunk_lines(level)
        };
    }
    work.block_length = 0;
    let unfinished = result == Step::More as u32 && work.chunks.line_at < end;
    if result == Step::Malformed as u32 || unfinished {
        if followed || known {
            chunks.follows = 0;
        }
        take_back(work, stream.message_start);
        // The last bytes decide from here on.
        count(Counter::ChunkFramingLost);
        stream.phase = Phase::ChunkedLost as u8;
        stream.lost = 1;
        return DONE;
    }
    if result != Step::End as u32 {
        take_back(work, stream.message_start);
        *chunks = work.chunks;
        stream.phase = Phase::Chunked as u8;
        return DONE;
    }
    stream.phase = Phase::Body as u8;
    stream.message_end = work.chunks.line_at;
    work.cursor = work.chunks.line_at.wrapping_sub(work.position) as u32;
    // Where another request waits, its response may follow in this segment.
    if work.direction == Direction::Send as u32 && socket.pending.count() == 0 {
        work.finished = 1;
    }
    // Bytes that are shipped tell it themselves.
    let begins_here = stream.message_start >= work.position;
    if work.hidden == 0 && (!begins_here || work.cursor > work.shipped || work.chunks.told != 0) {
        work.chunks.told = 1;
        if !emit::message_end(work, stream.message_start) {
            work.untold = 1;
        }
    }
    *chunks = work.chunks;
    if work.cursor < work.length {
        MORE
    } else {
        DONE
    }
}

/// What was told of the end did not come true: something else is offered now.
#[inline(always)]
fn take_back(work: &mut Work, start: u64) {
    if work.chunks.told != 0 {
        work.chunks.told = 0;
        let line_at = work.chunks.line_at;
        work.chunks.line_at = MessageEnd::UNKNOWN;
        emit::message_end(work, start);
        work.chunks.line_at = line_at;
    }
}

/// Reads the lines in the level's block, passing over data between them. Returns a [`Step`]: `More` says that nothing is left of the block.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_chunk_lines(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return Step::Malformed as u32;
    };
    let view = View::of(scratch);
    let work = &mut scratch.work;
    let start = work.position.wrapping_add(u64::from(work.block_offset));
    let length = u64::from(work.block_length);
    for _ in 0..PART {
        let index = work.chunks.line_at.wrapping_sub(start);
        if index >= length {
            return Step::More as u32;
        }
        let byte = view.word(CARRY.wrapping_add(index)) as u8;
        match work.chunks.feed(byte) {
            Step::More | Step::Data => {}
            Step::End => return Step::End as u32,
            Step::Malformed => return Step::Malformed as u32,
        }
    }
    Step::More as u32
}
