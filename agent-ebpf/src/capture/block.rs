//! Bytes of a segment, out of the process's memory into the level's block.

use agent_common::{
    abi::{Counter, Direction, PAYLOAD_BLOCK, segment_flags},
    wire::scan::{self, CARRY},
};

use crate::{
    conn::Stream,
    globals::{fault, faulty},
    kernel::{
        field,
        iter::{self, IOVEC, kind},
        user,
    },
    maps::{add, count},
    scratch::{self, Scratch, View, Work, bound_block},
};

/// Finds where the segment's bytes are.
#[inline(always)]
pub(super) fn place(level: u32, work: *mut Work) {
    let work = scratch::borrow(work);
    work.too_long = 0;
    if work.place.kind == kind::OPAQUE {
        work.flags |= segment_flags::NO_PAYLOAD;
        count(Counter::LengthsOnly);
    } else if work.direction == Direction::Send as u32 {
        iter::settle(&mut work.place);
    } else if work.flags & segment_flags::NO_PAYLOAD == 0 {
        let length = u64::from(work.length);
        let found = if work.place.kind == kind::BUFFER {
            iter::rewind_buffer(&mut work.place, length)
        } else {
            ut_rewind_vector(level) != 0
        };
        if !found {
            work.flags |= segment_flags::NO_PAYLOAD;
            count(Counter::IteratorTooLong);
        }
    }
}

/// Walks back over the buffers that a receive has filled. Returns 0 when they are too many.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_rewind_vector(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let length = u64::from(scratch.work.length);
    u32::from(iter::rewind_vector(&mut scratch.work.place, length))
}

/// Keeps the segment's last bytes: the end of a chunked body is told by them.
#[inline(always)]
pub(super) fn keep_tail(level: u32, work: *mut Work, stream: *mut Stream) {
    let (work, stream) = (scratch::borrow(work), scratch::borrow(stream));
    const TAIL: u32 = 16;
    let length = if work.length < TAIL {
        work.length
    } else {
        TAIL
    };
    let Some(scratch) = scratch::get(level) else {
        return;
    };
    let old = if stream.tail_end == work.position {
        stream.state.tail
    } else {
        [0; 2]
    };
    // The old tail, the new bytes behind it, and of all that the last 16.
    scratch.bytes[CARRY as usize / 8] = old[0];
    scratch.bytes[CARRY as usize / 8 + 1] = old[1];
    work.block_offset = work.length.wrapping_sub(length);
    work.block_length = length;
    work.copy_base = TAIL;
    ut_read_block(level);
    work.copy_base = 0;
    if work.block_length != length {
        return;
    }
    let view = View::of(scratch);
    let at = CARRY.wrapping_add(u64::from(length));
    stream.state.tail = [
        scan::Bytes::word(&view, at),
        scan::Bytes::word(&view, at.wrapping_add(8)),
    ];
    stream.tail_end = work.position.wrapping_add(u64::from(work.length));
}

/// Reads up to [`Work::block_length`] bytes of the segment, from [`Work::block_offset`] on, into the level's block, and notes how many there are.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_read_block(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let wanted = work.block_length;
    let read = if work.flags & segment_flags::NO_PAYLOAD != 0 || faulty(fault::UNREADABLE) {
        0
    } else if work.place.kind == kind::BUFFER {
        work.copy_length = wanted;
        work.copy_to = 0;
        work.copy_from = work.place.base.wrapping_add(u64::from(work.block_offset));
        ut_copy(level)
    } else {
        read_vector(level, work, wanted)
    };
    let missing = wanted.wrapping_sub(read);
    if missing != 0 && work.flags & segment_flags::NO_PAYLOAD == 0 {
        add(Counter::UnreadableBytes, u64::from(missing));
    }
    work.block_length = read;
    work.unreadable = missing;
    0
}

/// Copies what [`Work`] says from the process into the level's block; where that crosses into a page that is not there, what lies before it.
/// Returns how many bytes.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_copy(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let block = scratch.block();
    let work = &scratch.work;
    let (length, from) = (bound_length(work.copy_length), work.copy_from);
    if length == 0 {
        return 0;
    }
    let to = u64::from(work.copy_base.wrapping_add(work.copy_to));
    let to = block.wrapping_add(bound_block(to) as usize);
    // SAFETY: at most 4 KiB go to the block or the 4 KiB behind it.
    if unsafe { user::read(to, length as u32, from) } {
        return length as u32;
    }
    let page = bound_block(4096 - (from & 4095));
    // SAFETY: as above.
    if page != 0 && page < length && unsafe { user::read(to, page as u32, from) } {
        return page as u32;
    }
    0
}

/// Reads from several buffers.
#[inline(always)]
fn read_vector(level: u32, work: *mut Work, wanted: u32) -> u32 {
    let work = scratch::borrow(work);
    let mut base = work.place.base;
    let mut inside = work.place.offset;
    let mut skip = u64::from(work.block_offset);
    work.copy_to = 0;
    for _ in 0..iter::WALK_LIMIT {
        if work.copy_to >= wanted {
            return work.copy_to;
        }
        let [address, length] = field::read_pair(base);
        let here = length.saturating_sub(inside);
        if skip >= here {
            skip -= here;
        } else {
            let available = here - skip;
            let rest = u64::from(wanted.wrapping_sub(work.copy_to));
            let part = if available < rest { available } else { rest };
            work.copy_length = part as u32;
            work.copy_from = address.wrapping_add(inside).wrapping_add(skip);
            let read = ut_copy(level);
            work.copy_to = work.copy_to.wrapping_add(read);
            if read != work.copy_length {
                return work.copy_to;
            }
            skip = 0;
        }
        inside = 0;
        base = base.wrapping_add(IOVEC);
    }
    if work.copy_to < wanted && work.too_long == 0 {
        work.too_long = 1;
        count(Counter::IteratorTooLong);
    }
    work.copy_to
}

#[inline(always)]
fn bound_length(length: u32) -> u64 {
    let length = u64::from(length);
    if length >= PAYLOAD_BLOCK as u64 {
        PAYLOAD_BLOCK as u64
    } else {
        bound_block(length)
    }
}

/// Whether the segment begins like a status line. For connections whose start was not seen.
#[inline(always)]
pub(crate) fn begins_response(level: u32, scratch: *mut Scratch) -> bool {
    let scratch = scratch::borrow(scratch);
    let work = &mut scratch.work;
    work.block_offset = 0;
    work.block_length = 8;
    ut_read_block(level);
    let read = work.block_length;
    let word = scan::Bytes::word(&View::of(scratch), CARRY);
    read == 8 && word & 0x00ff_ffff_ffff_ffff == u64::from_le_bytes(*b"HTTP/1.\0")
}
