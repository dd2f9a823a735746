//! What a send or receive means, and what of it is shipped.
//!
//! Input: the run's [`Work`] and the connection's streams. Output: `Segment` records, decisions by [`crate::decide`], the phases of both directions.
//! The bytes are looked at by [`agent_common::wire::scan`] alone.

use agent_common::{
    abi::{Counter, Direction, PAYLOAD_BLOCK, PolicyKind, Role, SlotKind, segment_flags},
    wire::{
        http1::{self, Framing, Phase},
        scan::{self, CARRY, Head, Outcome},
    },
};

use crate::{
    conn::{self, Socket, Stream, flags, request_flags, ut_first_seen},
    context, decide,
    emit::{self, ut_emit_segment},
    globals::{fault, faulty, global},
    kernel::{
        field,
        iter::{self, IOVEC, kind},
        sock::{IPPROTO_MPTCP, Identity},
        user,
    },
    maps::{HEADS, POLICIES, add, count},
    scratch::{self, Found, HeadKey, Scratch, View, Work, bound_block},
};

/// Blocks and messages of one segment that are looked at.
const STEPS: u32 = 20;
/// Messages of one segment that are decided.
const DECISIONS: u32 = 8;
/// The longest head.
const HEAD_LIMIT: u32 = 16 * 1024;
/// Bytes shipped of a protocol that nobody knows yet.
const DETECT: u32 = 256;
/// Bytes shipped behind a head when more follow than `HEAD_EXTRA`.
const BEHIND_HEAD: u32 = 64;
/// Turns without a message after which a direction is given up.
const TRIES: u8 = 4;

/// Outcomes of [`ut_judge`].
mod outcome {
    pub(super) const MORE: u32 = 0;
    pub(super) const END: u32 = 1;
    pub(super) const NOT_HTTP: u32 = 2;
    pub(super) const TOO_MANY_LINES: u32 = 3;
}

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
        Some(socket) => socket,
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
    observe(work, socket);
    if socket.policy == PolicyKind::Ignore as u8 {
        return 0;
    }
    let receive = work.direction == Direction::Receive as u32;
    let turn = u32::from(socket.last_direction) != work.direction;
    socket.last_direction = work.direction as u8;
    work.finished = 0;
    work.wants_snapshot = 0;
    follow(level, work, turn);
    socket.dropped = work.dropped;
    let direction = (work.direction & 1) as usize;
    let phase = socket.streams[direction].phase;
    if phase == Phase::Chunked as u8 || phase == Phase::Turn as u8 {
        keep_tail(level, work, &raw mut socket.streams[direction]);
        if !receive
            && phase == Phase::Chunked as u8
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

/// Keeps the segment's last bytes: the end of a chunked body is told by them.
#[inline(always)]
fn keep_tail(level: u32, work: *mut Work, stream: *mut Stream) {
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

/// Finds where the segment's bytes are.
#[inline(always)]
fn place(level: u32, work: *mut Work) {
    let work = scratch::borrow(work);
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

/// Brings the connection's positions up to date, and notes in `work` where the segment lies and what both streams had seen.
#[inline(always)]
fn observe(work: &mut Work, socket: &mut Socket) {
    work.connection = socket.connection;
    work.dropped = socket.dropped;
    work.policy = u32::from(socket.policy);
    let receive = work.direction == Direction::Receive as u32;
    let length = u64::from(work.length);
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
}

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
    /// A protocol that the kernel does not know.
    Unknown,
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
    work.turn = u32::from(turn);
    for _ in 0..STEPS {
        // Called from here and not from within the step: the kernel adds up the stacks of all nested calls.
        let mut result = ut_step(level);
        if result == COMPLETE {
            result = ut_complete(level);
        }
        if result == DONE {
            break;
        }
    }
    if work.wants_snapshot != 0 {
        ut_snapshot(level);
    }
    finish_block(level, work);
}

/// Results of [`ut_step`]: nothing more of the segment is looked at.
const DONE: u32 = 0;
/// There may be more.
const MORE: u32 = 1;
/// A head is complete.
const COMPLETE: u32 = 2;

/// Values of [`Work::continued`].
const FRESH: u32 = 0;
/// The head in scratch began in an earlier segment.
const RESTORED: u32 = 1;
/// The head in scratch began in an earlier block of this segment.
const NEXT_BLOCK: u32 = 2;

/// Deals with one message, or one block of one. Returns [`DONE`], [`MORE`] or [`COMPLETE`].
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
        Step::Leave => return 0,
        Step::Again(length) => {
            ship_again(level, &mut scratch.work, length);
            return DONE;
        }
        Step::Unknown => {
            unknown(level, &raw mut scratch.work, socket);
            return DONE;
        }
        Step::Scan => {
            let work = &mut scratch.work;
            work.head = Head::default();
            work.message_start = work.position.wrapping_add(u64::from(work.cursor));
        }
        Step::Continue => {
            if scratch.work.continued == FRESH && !restore(scratch, socket, direction) {
                lose(&mut socket.streams[direction]);
                return DONE;
            }
        }
    }
    scratch.work.turn = 0;
    scan_step(level, scratch, socket, direction)
}

/// Where the segment's next byte stands in its stream.
#[inline(always)]
fn next(work: &mut Work, socket: &mut Socket) -> Step {
    let turn = work.turn != 0;
    let direction = (work.direction & 1) as usize;
    let pending = socket.pending.count();
    let role = socket.role;
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
            lose(stream);
            return Step::Leave;
        }
        return Step::Again((stream.head_end - at) as u32);
    }
    if phase == Phase::Chunked as u8 {
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
fn lose(stream: &mut Stream) {
    stream.phase = Phase::Turn as u8;
    stream.tries = 0;
}

/// Loads the next block where it is needed, scans it, and acts on the outcome. False when the segment is dealt with.
#[inline(always)]
fn scan_step(level: u32, scratch: *mut Scratch, socket: &mut Socket, direction: usize) -> u32 {
    let scratch = scratch::borrow(scratch);
    let work = &mut scratch.work;
    let block_end = work.block_offset.wrapping_add(work.block_length);
    if work.block_length == 0 || work.cursor >= block_end {
        finish_block(level, work);
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
    let result = ut_judge(level);
    let stream = &mut socket.streams[direction];
    let block_end = work.block_offset.wrapping_add(work.block_length);
    match result {
        outcome::MORE => {
            work.ship = work.block_length;
            work.cursor = block_end;

            if work.head.length > HEAD_LIMIT || work.unreadable != 0 {
                count(Counter::HeadsUnseen);
                lose(stream);
                return DONE;
            }
            if work.cursor < work.length {
                keep_carry(scratch);
                scratch.work.continued = NEXT_BLOCK;
                return MORE;
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
            refuse(work, socket, direction);
            DONE
        }
    }
}

/// A head is complete: notes the message, decides, and enters the phase that follows. Returns 0 when nothing more of the segment is looked at.
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
    u32::from(complete(work, socket, direction))
}

#[inline(always)]
fn complete(work: &mut Work, socket: &mut Socket, direction: usize) -> bool {
    let end = work.position.wrapping_add(u64::from(work.cursor));
    let is_request = http1::is_request(&work.head);
    let receive = work.direction == Direction::Receive as u32;
    let start = work.message_start;
    if start >= work.position.wrapping_add(u64::from(work.block_offset)) && work.head_length == 0 {
        work.head_length = (end - start) as u32;
    }
    if work.repeated != 0 && socket.streams[direction].head_end == end {
        // Offered again, because it was not accepted: the same message, the same decision.
        work.repeated = 0;
        if is_request && socket.request.decision.position == start {
            work.decision = socket.request.decision;
            place_decision(work);
        }
        return socket.streams[direction].phase == Phase::Body as u8;
    }
    work.repeated = 0;
    let framing = if is_request {
        http1::request_framing(&work.head)
    } else {
        http1::response_framing(&work.head, socket.pending.first())
    };
    {
        let stream = &mut socket.streams[direction];
        stream.message_start = start;
        stream.head_end = end;
        stream.message_end = end;
        stream.tries = 0;
    }
    if is_request {
        if !socket.pending.push(work.head.method) || work.decisions >= DECISIONS {
            count(Counter::DecisionsBeyondLimit);
            lose(&mut socket.streams[direction]);
            return false;
        }
        if receive {
            decide::server(work, socket);
        } else {
            decide::client(work, socket);
        }
        place_decision(work);
    } else {
        let interim = matches!(framing, Framing::Interim);
        if !interim {
            socket.pending.pop();
        }
        if receive {
            decide::read(work, socket, true);
        }
        work.decisions = work.decisions.wrapping_add(1);
    }
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
            other.phase = Phase::Opaque as u8;
            other.detected = 1;
            socket.streams[direction].detected = 1;
            Phase::Opaque
        }
    };
    socket.streams[direction].phase = phase as u8;
    if matches!(framing, Framing::Upgrade) {
        finish_request(work.sk, socket);
        return false;
    }
    let offered = work.position.wrapping_add(u64::from(work.length));
    if !is_request && !receive && !matches!(framing, Framing::Interim) {
        let over = matches!(framing, Framing::Length | Framing::Nothing)
            && socket.streams[direction].message_end <= offered;
        if over {
            finish_request(work.sk, socket);
        }
    }
    matches!(
        framing,
        Framing::Length | Framing::Nothing | Framing::Interim
    )
}

/// The response to the oldest request is complete: the request is over when no other waits.
#[inline(always)]
fn finish_request(sk: u64, socket: &mut Socket) {
    if socket.request.flags & request_flags::OPEN != 0 && socket.pending.count() == 0 {
        context::close(sk, socket);
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

/// Bytes that do not begin an HTTP/1 message.
#[inline(always)]
fn refuse(work: &mut Work, socket: &mut Socket, direction: usize) {
    work.record_flags &= !segment_flags::MESSAGE_START;
    if socket.streams[direction].phase == Phase::Chunked as u8 {
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

/// Ships what user space wants of a protocol that the kernel does not know. It is asked at each change of direction.
#[inline(always)]
fn unknown(level: u32, work: *mut Work, socket: &mut Socket) {
    let work = scratch::borrow(work);
    if work.turn != 0
        && let Some((kind, limit)) = policy_of(socket.connection)
    {
        socket.policy = kind as u8;
        socket.limit = limit;
    }
    work.policy = u32::from(socket.policy);
    if socket.policy != PolicyKind::Segments as u8 || work.cursor != 0 {
        return;
    }
    let limit = if socket.limit > PAYLOAD_BLOCK as u32 {
        PAYLOAD_BLOCK as u32
    } else {
        socket.limit
    };
    work.block_offset = 0;
    work.block_length = if work.length > limit {
        limit
    } else {
        work.length
    };
    ut_read_block(level);
    work.ship = work.block_length;
    work.record_flags |= segment_flags::POLICY_LIMIT;
    want_snapshot(work, socket);
}

/// Asks for the sender's current request in the record's slot.
#[inline(always)]
fn want_snapshot(work: &mut Work, socket: &Socket) {
    if work.direction == Direction::Send as u32 && socket.role != Role::Server as u8 {
        work.wants_snapshot = 1;
    }
}

/// Puts the sender's current request into the slot of the record under construction.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_snapshot(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    if let Some(socket) = conn::find(scratch.work.sk) {
        decide::snapshot(&mut scratch.work, socket);
    }
    0
}

/// Ships what is left of a head that was offered before.
#[inline(always)]
fn ship_again(level: u32, work: *mut Work, length: u32) {
    let work = scratch::borrow(work);
    let rest = work.length.wrapping_sub(work.cursor);
    let wanted = length.wrapping_add(BEHIND_HEAD);
    let wanted = if wanted > rest { rest } else { wanted };
    work.block_offset = work.cursor;
    work.block_length = if wanted > PAYLOAD_BLOCK as u32 {
        PAYLOAD_BLOCK as u32
    } else {
        wanted
    };
    ut_read_block(level);
    work.ship = work.block_length;
}

/// Writes the block under construction, when there is something to ship.
#[inline(always)]
fn finish_block(level: u32, work: *mut Work) {
    let work = scratch::borrow(work);
    let mut continued = work.record_flags & segment_flags::CONTINUED;
    if work.ship != 0 || work.record_flags & segment_flags::POLICY_LIMIT != 0 {
        ut_emit_segment(level);
        continued = segment_flags::CONTINUED;
    }
    work.ship = 0;
    work.slot = SlotKind::None as u32;
    work.head_length = 0;
    work.unreadable = 0;
    work.record_flags = continued;
}

/// Puts the unfinished line before the next block.
#[inline(always)]
fn keep_carry(scratch: &mut Scratch) {
    let end = CARRY.wrapping_add(u64::from(scratch.work.block_length));
    let view = View::of(scratch);
    let from = end.wrapping_sub(CARRY);
    for index in 0..scratch.unfinished.carry.len() {
        let word = scan::Bytes::word(&view, from.wrapping_add(index as u64 * 8));
        if let Some(slot) = scratch.unfinished.carry.get_mut(index) {
            *slot = word;
        }
    }
}

/// Keeps an unfinished head until the direction's next segment.
#[inline(always)]
fn save(scratch: &mut Scratch, stream: &mut Stream, direction: usize) {
    keep_carry(scratch);
    scratch.unfinished.head = scratch.work.head;
    let key = HeadKey {
        sk: scratch.work.sk,
        direction: direction as u64,
    };
    let start = scratch.work.message_start;
    let end = scratch
        .work
        .position
        .wrapping_add(u64::from(scratch.work.length));
    stream.message_start = start;
    stream.head_end = end;
    stream.message_end = end;
    if faulty(fault::HEADS_FULL) || HEADS.insert(key, &scratch.unfinished, 0).is_err() {
        count(Counter::HeadsFull);
        lose(stream);
        return;
    }
    stream.phase = Phase::Head as u8;
}

/// Fetches the unfinished head of a direction.
#[inline(always)]
fn restore(scratch: &mut Scratch, socket: &Socket, direction: usize) -> bool {
    let key = HeadKey {
        sk: scratch.work.sk,
        direction: direction as u64,
    };
    let Some(kept) = HEADS.get_ptr(key) else {
        return false;
    };
    // SAFETY: entries are plain data.
    scratch.unfinished = unsafe { *kept };
    scratch.work.head = scratch.unfinished.head;
    scratch.work.message_start = socket.streams[direction].message_start;
    scratch.work.continued = RESTORED;
    true
}

#[inline(always)]
fn drop_saved(work: &Work, stream: &Stream, direction: usize) {
    if stream.phase == Phase::Head as u8 {
        let _ = HEADS.remove(HeadKey {
            sk: work.sk,
            direction: direction as u64,
        });
    }
}

/// Finds the lines of the level's block, from [`Work::scan_at`] on.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_find_lines(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    if scratch.work.head.carry != 0 {
        let carry = scratch.unfinished.carry;
        scratch.bytes[..carry.len()].copy_from_slice(&carry);
    }
    let (start, end) = range(&scratch.work);
    let view = View::of(scratch);
    let work = &mut scratch.work;
    let found = Found::of(work);
    scan::find_lines(&view, &work.head, &found, start, end);
    0
}

/// Reads the `traceparent` among the lines found.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_traceparent(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let view = View::of(scratch);
    let work = &mut scratch.work;
    scan::take_traceparent(&view, &mut work.head, &work.lines);
    0
}

/// Judges the lines found and notes the head. Returns one of [`outcome`].
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_judge(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return outcome::NOT_HTTP;
    };
    let view = View::of(scratch);
    let (start, end) = range(&scratch.work);
    let work = &mut scratch.work;
    match scan::judge(&view, &mut work.head, &work.lines, start, end) {
        Outcome::End(index) => {
            work.scan_end = index as u32;
            outcome::END
        }
        Outcome::More => outcome::MORE,
        Outcome::NotHttp => outcome::NOT_HTTP,
        Outcome::TooManyLines => outcome::TOO_MANY_LINES,
    }
}

/// Indices between which the scan runs.
#[inline(always)]
fn range(work: &Work) -> (u64, u64) {
    let start = scratch::bound(u64::from(work.scan_at));
    (
        start,
        CARRY + scratch::bound_scan(u64::from(work.block_length)),
    )
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
        let length: u64 = field::read(base, 8);
        let here = length.saturating_sub(inside);
        if skip >= here {
            skip -= here;
        } else {
            let available = here - skip;
            let rest = u64::from(wanted.wrapping_sub(work.copy_to));
            let part = if available < rest { available } else { rest };
            let address: u64 = field::read(base, 0);
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
    if work.copy_to < wanted {
        count(Counter::IteratorTooLong);
    }
    work.copy_to
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

/// What user space wants of an unknown protocol's segments; `None` while it has not spoken.
#[inline(always)]
pub(crate) fn policy_of(connection: u64) -> Option<(u32, u32)> {
    let policy = POLICIES.get_ptr(connection)?;
    // SAFETY: two words, written by user space only.
    let policy = unsafe { *policy };
    Some((policy.kind, policy.limit))
}
