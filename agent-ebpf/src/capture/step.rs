//! The messages of a segment, one by one: where the next byte stands, and what the scan of a block means.
//!
//! Input: the run's [`Work`], whose cursor tells what is dealt with. Output: what the caller does next ([`DONE`], [`MORE`], [`COMPLETE`]).

use agent_common::{
    abi::{Counter, Direction, PolicyKind, Role, segment_flags},
    wire::{
        http1::{self, Phase},
        inject::GONE,
        scan::{self, CARRY, Head},
    },
};

use super::{
    block::ut_read_block,
    carried::ut_carried,
    hide::{self, ut_give_up},
    lines::{outcome, ut_find_lines, ut_judge, ut_traceparent},
    ship::{BEHIND_HEAD, DETECT, finish_block, ship_again, unknown, want_snapshot},
    state::ut_take_state,
    unfinished::{drop_saved, keep_carry, restore, save},
};
use crate::{
    conn::{self, Socket, Stream, flags},
    globals::global,
    maps::count,
    scratch::{self, Scratch, View, Work},
    tls,
};

/// The longest head.
const HEAD_LIMIT: u32 = 16 * 1024;
/// Turns without a message after which a direction is given up.
const TRIES: u8 = 4;
/// Results of [`ut_step`]: nothing more of the segment is looked at.
pub(super) const DONE: u32 = 0;

/// There may be more.
pub(super) const MORE: u32 = 1;

/// A head is complete.
pub(super) const COMPLETE: u32 = 2;

/// What follows is in a chunked body.
pub(super) const CHUNKS: u32 = 3;

/// Values of [`Work::continued`].
pub(super) const FRESH: u32 = 0;

/// The head in scratch began in an earlier segment.
pub(super) const RESTORED: u32 = 1;

/// The head in scratch began in an earlier block of this segment.
pub(super) const NEXT_BLOCK: u32 = 2;

/// What to do with the rest of a segment.
enum Step {
    /// Nothing.
    Leave,
    /// Look for a message that begins here.
    Scan,
    /// Go on with an unfinished head.
    Continue,
    /// Ship the rest of a head that was decided before.
    Again(u32),
    /// Follow the lines of a chunked body.
    Chunks,
    /// A protocol that the kernel does not know.
    Unknown,
}

/// Deals with one message, or one block of one. Returns [`DONE`], [`MORE`], [`COMPLETE`] or [`CHUNKS`].
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_step(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let Some(socket) = conn::find(scratch.work.sk) else {
        return 0;
    };
    step(level, scratch, socket)
}

#[inline(always)]
fn step(level: u32, scratch: *mut Scratch, socket: &mut Socket) -> u32 {
    let scratch = scratch::borrow(scratch);
    let direction = (scratch.work.direction & 1) as usize;
    let step = if scratch.work.continued == NEXT_BLOCK {
        Step::Continue
    } else {
        next(&mut scratch.work, socket)
    };
    match step {
        Step::Leave => return DONE,
        Step::Chunks => return CHUNKS,
        Step::Again(length) => {
            let work = &mut scratch.work;
            if work.hidden == 0 {
                ship_again(level, work, length);
            }
            let behind = work.cursor.wrapping_add(length);
            if conn::follows(&socket.chunks, direction) && behind < work.length {
                work.cursor = behind;
                return CHUNKS;
            }
            return DONE;
        }
        Step::Unknown => {
            if global!(TLS) != 0
                && scratch.work.cursor == 0
                && tls::in_call(scratch.work.pid_tgid)
                && is_record(level, scratch)
            {
                return DONE;
            }
            unknown(level, &raw mut scratch.work, socket);
            return DONE;
        }
        Step::Scan => {
            let work = &mut scratch.work;
            work.value_at = GONE;
            let stream = &mut socket.streams[direction];
            // A message that is offered again began where it began.
            if work.repeated == 0 && stream.phase != Phase::Head as u8 {
                let phase = stream.phase;
                stream.proven =
                    u8::from(phase != Phase::Turn as u8 && phase != Phase::ChunkedLost as u8);
            }
            work.head = Head::default();
            work.kept.length = 0;
            work.message_start = work.position.wrapping_add(u64::from(work.cursor));
            if work.repeated != 0 {
                work.mute = work.hidden;
            } else if global!(HIDE_UNSAMPLED) != 0 && socket.hides | work.hides != 0 {
                let [received, sent] = &socket.streams;
                if received.lost | sent.lost != 0 || socket.hides < work.hides {
                    ut_give_up(level);
                } else if hide::mute(work, socket) {
                    return MORE;
                }
            }
        }
        Step::Continue => {
            if scratch.work.continued == FRESH && !restore(scratch, socket, direction) {
                lose(&mut socket.streams[direction]);
                return DONE;
            }
            if scratch.work.continued == RESTORED {
                scratch.work.mute = scratch.work.hidden;
            }
        }
    }
    scratch.work.turn = 0;
    scan_step(level, scratch, socket, direction)
}

/// Whether the segment begins like a record of TLS.
#[inline(always)]
fn is_record(level: u32, scratch: *mut Scratch) -> bool {
    let scratch = scratch::borrow(scratch);
    scratch.work.block_offset = 0;
    scratch.work.block_length = 3;
    ut_read_block(level);
    let work = &mut scratch.work;
    let read = work.block_length;
    work.block_length = 0;
    work.unreadable = 0;
    let start = scan::Bytes::word(&View::of(scratch), CARRY);
    scratch.work.record = u32::from(read == 3 && tls::begins_record(start));
    scratch.work.record != 0
}

/// Where the segment's next byte stands in its stream.
#[inline(always)]
fn next(work: &mut Work, socket: &mut Socket) -> Step {
    let turn = work.turn != 0;
    let direction = (work.direction & 1) as usize;
    let pending = socket.pending.count();
    let role = socket.role;
    let follows = conn::follows(&socket.chunks, direction);
    let receive = work.direction == Direction::Receive as u32;
    let stream = &mut socket.streams[direction];
    let rest = work.length.wrapping_sub(work.cursor);
    if rest == 0 || work.cursor > work.length {
        return Step::Leave;
    }
    let at = work.position.wrapping_add(u64::from(work.cursor));
    let phase = stream.phase;
    if phase == Phase::Opaque as u8 || phase == Phase::UntilClose as u8 {
        if at < stream.head_end && at >= stream.message_start {
            return Step::Again((stream.head_end - at) as u32);
        }
        return if phase == Phase::Opaque as u8 {
            Step::Unknown
        } else {
            Step::Leave
        };
    }
    if phase == Phase::Turn as u8 {
        return if turn { Step::Scan } else { Step::Leave };
    }
    if phase == Phase::Head as u8 {
        if at == stream.head_end {
            return Step::Continue;
        }
        if at == stream.message_start {
            work.repeated = 0;
            return Step::Scan;
        }
        count(Counter::HeadsUnseen);
        drop_saved(work, stream, direction);
        lose(stream);
        return Step::Leave;
    }
    // A body, known or chunked. A send may offer again what was not accepted.
    if at == stream.message_start && stream.head_end != at {
        work.repeated = 1;
        return Step::Scan;
    }
    if at < stream.head_end {
        if at < stream.message_start {
            count(Counter::HeadsUnseen);
            lose(stream);
            return Step::Leave;
        }
        return Step::Again((stream.head_end - at) as u32);
    }
    if phase == Phase::Chunked as u8 || at < stream.message_end && follows {
        return Step::Chunks;
    }
    if phase == Phase::ChunkedLost as u8 {
        let ended = stream.tail_end == at && http1::ends_chunked(stream.state.tail[1]);
        let is_request = (role == Role::Server as u8) == receive;
        let begins = if is_request {
            ended && turn && pending == 0
        } else {
            (ended || turn) && pending != 0
        };
        return if begins { Step::Scan } else { Step::Leave };
    }
    if at > stream.message_end {
        // Bytes passed unseen: where the next message begins is not known.
        count(Counter::HeadsUnseen);
        lose(stream);
        return if turn { Step::Scan } else { Step::Leave };
    }
    let body = stream.message_end - at;
    if body == u64::from(rest) && !receive {
        work.finished = 1;
    }
    if body >= u64::from(rest) {
        return if body == 0 { Step::Scan } else { Step::Leave };
    }
    work.cursor = work.cursor.wrapping_add(body as u32);
    Step::Scan
}

/// The direction has lost its place.
#[inline(always)]
pub(super) fn lose(stream: &mut Stream) {
    stream.phase = Phase::Turn as u8;
    stream.tries = 0;
    stream.lost = 1;
}

/// Loads the next block where it is needed, scans it, and acts on the outcome. False when the segment is dealt with.
#[inline(always)]
fn scan_step(level: u32, scratch: *mut Scratch, socket: &mut Socket, direction: usize) -> u32 {
    let scratch = scratch::borrow(scratch);
    let work = &mut scratch.work;
    let block_end = work.block_offset.wrapping_add(work.block_length);
    if work.block_length == 0 || work.cursor >= block_end {
        finish_block(level, work, work.cursor);
        work.block_offset = work.cursor;
        let wanted = work.length.wrapping_sub(work.cursor);
        let limit = scan::BLOCK as u32;
        work.block_length = if wanted > limit { limit } else { wanted };
        ut_read_block(level);
        if work.block_length == 0 {
            unread(work, socket, direction);
            return DONE;
        }
        if work.continued == FRESH {
            // The block was loaded for the message that begins with it.
            work.record_flags |= segment_flags::MESSAGE_START;
        }
    }
    work.scan_at = (CARRY as u32).wrapping_add(work.cursor.wrapping_sub(work.block_offset));
    ut_find_lines(level);
    if work.lines.has_traceparent() {
        ut_traceparent(level);
    }
    if global!(PROPAGATORS) != 0 {
        ut_carried(level);
    }
    if global!(INJECT) != 0 && work.lines.states() != 0 {
        ut_take_state(level);
    }
    let result = ut_judge(level);
    let stream = &mut socket.streams[direction];
    let block_end = work.block_offset.wrapping_add(work.block_length);
    match result {
        outcome::MORE => {
            work.ship = if work.mute == 0 { work.block_length } else { 0 };
            work.cursor = block_end;
            if work.head.length > HEAD_LIMIT || work.unreadable != 0 {
                count(Counter::HeadsUnseen);
                drop_saved(work, stream, direction);
                lose(stream);
                return DONE;
            }
            if work.cursor < work.length {
                keep_carry(scratch);
                scratch.work.continued = NEXT_BLOCK;
                return MORE;
            }
            if work.repeated != 0 {
                // Less, or something else, is offered than was: what was noted of it then comes again.
                stream.lost = 1;
                if socket.role == Role::Client as u8 {
                    socket.pending.take_back();
                }
            }
            save(scratch, stream, direction);
            DONE
        }
        outcome::END => {
            let in_block = work.scan_end.wrapping_sub(CARRY as u32);
            work.cursor = work.block_offset.wrapping_add(in_block);
            let behind = work.length.wrapping_sub(work.cursor);
            let extra = if behind <= global!(HEAD_EXTRA) {
                behind
            } else {
                BEHIND_HEAD
            };
            let ship = in_block.wrapping_add(extra);
            work.ship = if ship > work.block_length {
                work.block_length
            } else {
                ship
            };
            if work.continued != FRESH {
                drop_saved(work, stream, direction);
                work.continued = FRESH;
            }
            COMPLETE
        }
        _ => {
            if result == outcome::TOO_MANY_LINES {
                count(Counter::HeadsUnseen);
            }
            if work.continued != FRESH {
                drop_saved(work, stream, direction);
            }
            if global!(TLS) != 0
                && work.block_offset == 0
                && work.block_length >= 3
                && tls::in_call(work.pid_tgid)
            {
                let start = scan::Bytes::word(&View::of(scratch), CARRY);
                if tls::begins_record(start) {
                    scratch.work.ship = 0;
                    scratch.work.record_flags = 0;
                    scratch.work.record = 1;
                    return DONE;
                }
            }
            refuse(&mut scratch.work, socket, direction);
            DONE
        }
    }
}

/// Bytes that do not begin an HTTP/1 message.
#[inline(always)]
fn refuse(work: &mut Work, socket: &mut Socket, direction: usize) {
    work.record_flags &= !segment_flags::MESSAGE_START;
    socket.streams[direction].lost = 1;
    if socket.streams[direction].phase == Phase::ChunkedLost as u8 {
        work.ship = 0;
        return;
    }
    let first = socket.streams[direction].detected == 0;
    socket.streams[direction].detected = 1;
    if first {
        work.record_flags |= segment_flags::POLICY_LIMIT;
        work.policy = PolicyKind::Detect as u32;
        want_snapshot(work, socket);
        work.ship = if work.block_length > DETECT {
            DETECT
        } else {
            work.block_length
        };
    } else {
        work.ship = 0;
    }
    let stream = &mut socket.streams[direction];
    if stream.phase == Phase::Turn as u8 && stream.tries < TRIES {
        stream.tries += 1;
        return;
    }
    stream.phase = Phase::Opaque as u8;
    work.releases = 1;
    if !socket.has(flags::NOT_RECOGNISED) {
        socket.flags |= flags::NOT_RECOGNISED;
        count(Counter::ConnectionsNotRecognised);
    }
}

/// A message begins, or goes on, in bytes that cannot be read.
#[inline(always)]
fn unread(work: &mut Work, socket: &mut Socket, direction: usize) {
    let stream = &mut socket.streams[direction];
    count(Counter::HeadsUnseen);
    if work.continued != FRESH {
        drop_saved(work, stream, direction);
    }
    lose(stream);
    // The record tells user space that there were bytes.
    work.ship = 0;
    work.record_flags &= !segment_flags::MESSAGE_START;
    work.record_flags |= segment_flags::POLICY_LIMIT;
}
