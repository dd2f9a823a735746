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
        user,
    },
    maps::{HEADS, POLICIES, add, count},
    scratch::{self, HeadKey, Scratch, State, View, Work, bound_block},
};

/// Blocks and messages of one segment that are looked at.
const STEPS: u32 = 12;
/// Messages of one segment that are decided.
const DECISIONS: u32 = 8;
/// The longest head.
const HEAD_LIMIT: u32 = 16 * 1024;
/// Bytes that a segment's first block has: enough for most heads, and little to copy when a long body follows.
const FIRST_BLOCK: u32 = 1024;
/// Bytes shipped of a protocol that nobody knows yet.
const DETECT: u32 = 256;
/// Bytes shipped behind a head when more follow than `HEAD_EXTRA`.
const BEHIND_HEAD: u32 = 64;
/// Turns without a message after which a direction is given up.
const TRIES: u8 = 4;

/// Outcomes of [`ut_scan`].
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
    let mut found = conn::find(work.sk);
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
            match conn::find(work.sk) {
                Some(socket) => socket,
                None => return 0,
            }
        }
    };
    observe(work, socket);
    if socket.policy == PolicyKind::Ignore as u8 {
        return 0;
    }
    let receive = work.direction == Direction::Receive as u32;
    let turn = u32::from(socket.last_direction) != work.direction;
    socket.last_direction = work.direction as u8;
    follow(level, scratch, socket, turn);
    let work = &mut scratch.work;
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
    if socket.has(flags::COUNTED) {
        work.flags |= segment_flags::COUNTED;
    } else {
        let read = if receive { work.length } else { 0 };
        conn::unwrap(socket, work.write_seq, work.copied_seq.wrapping_sub(read));
    }
    let [received, sent] = &mut socket.streams;
    let (own, peer) = if receive { (received, sent) } else { (sent, received) };
    work.position = own.state.position;
    work.own = state_of(own);
    work.peer = state_of(peer);
    own.state.last_time_ns = work.time_ns;
    if receive {
        own.state.position = own.state.position.wrapping_add(length);
    }
}

#[inline(always)]
fn state_of(stream: &Stream) -> State {
    let mut state = stream.state;
    if stream.tail_end != state.position {
        state.tail = [0; 2];
    }
    state
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
}

/// The loop over the messages of a segment.
#[inline(always)]
fn follow(level: u32, scratch: &mut Scratch, socket: &mut Socket, turn: bool) {
    let direction = (scratch.work.direction & 1) as usize;
    {
        let work = &mut scratch.work;
        work.cursor = 0;
        work.block_offset = 0;
        work.block_length = 0;
        work.unreadable = 0;
        work.decisions = 0;
        work.repeated = 0;
        work.slot = SlotKind::None as u32;
        work.head_length = 0;
        work.record_flags = 0;
        work.continued = 0;
        work.ship = 0;
    }
    let mut turned = turn;
    for _ in 0..STEPS {
        let step = if scratch.work.continued == 2 {
            Step::Continue
        } else {
            next(&mut scratch.work, socket, turned)
        };
        match step {
            Step::Leave => break,
            Step::Again(length) => {
                ship_again(level, &mut scratch.work, length);
                break;
            }
            Step::Scan => {
                scratch.work.head = Head::default();
                scratch.work.message_start =
                    scratch.work.position.wrapping_add(u64::from(scratch.work.cursor));
                scratch.work.record_flags |= segment_flags::MESSAGE_START;
            }
            Step::Continue => {
                if scratch.work.continued == 0 && !restore(scratch, socket, direction) {
                    lose(&mut socket.streams[direction]);
                    break;
                }
            }
        }
        if !scan_step(level, scratch, socket, direction) {
            break;
        }
        turned = false;
    }
    finish_block(level, &mut scratch.work, socket);
    keep_tail(level, scratch, &mut socket.streams[direction]);
}

/// Where the segment's next byte stands in its stream.
#[inline(always)]
fn next(work: &mut Work, socket: &mut Socket, turn: bool) -> Step {
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
        if at >= stream.head_end || at < stream.message_start {
            return Step::Leave;
        }
        return Step::Again((stream.head_end - at) as u32);
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
fn scan_step(level: u32, scratch: &mut Scratch, socket: &mut Socket, direction: usize) -> bool {
    let work = &mut scratch.work;
    let block_end = work.block_offset.wrapping_add(work.block_length);
    if work.block_length == 0 || work.cursor >= block_end {
        finish_block(level, work, socket);
        work.block_offset = work.cursor;
        let wanted = work.length.wrapping_sub(work.cursor);
        let limit = if work.cursor == 0 { FIRST_BLOCK } else { PAYLOAD_BLOCK as u32 };
        work.block_length = if wanted > limit { limit } else { wanted };
        ut_read_block(level);
        if work.block_length == 0 {
            return unread(work, socket, direction);
        }
    }
    work.scan_at = (CARRY as u32).wrapping_add(work.cursor.wrapping_sub(work.block_offset));
    let result = ut_scan(level);
    let stream = &mut socket.streams[direction];
    let block_end = work.block_offset.wrapping_add(work.block_length);
    match result {
        outcome::MORE => {
            work.ship = work.block_length;
            work.cursor = block_end;
            work.continued = 1;
            if work.head.length > HEAD_LIMIT || work.unreadable != 0 {
                count(Counter::HeadsUnseen);
                lose(stream);
                return false;
            }
            if work.cursor < work.length {
                keep_carry(scratch);
                scratch.work.continued = 2;
                return true;
            }
            save(scratch, stream, direction);
            false
        }
        outcome::END => {
            let in_block = work.scan_end.wrapping_sub(CARRY as u32);
            work.cursor = work.block_offset.wrapping_add(in_block);
            let behind = work.length.wrapping_sub(work.cursor);
            let extra = if behind <= global!(HEAD_EXTRA) { behind } else { BEHIND_HEAD };
            let ship = in_block.wrapping_add(extra);
            work.ship = if ship > work.block_length { work.block_length } else { ship };
            if work.continued != 0 {
                drop_saved(work, stream, direction);
                work.continued = 0;
            }
            complete(work, socket, direction)
        }
        _ => {
            if result == outcome::TOO_MANY_LINES {
                count(Counter::HeadsUnseen);
            }
            if work.continued != 0 {
                drop_saved(work, stream, direction);
            }
            refuse(work, socket, direction);
            false
        }
    }
}

/// A head is complete: notes the message, decides, and enters the phase that follows. False when nothing more of the segment is looked at.
#[inline(always)]
fn complete(work: &mut Work, socket: &mut Socket, direction: usize) -> bool {
    let end = work.position.wrapping_add(u64::from(work.cursor));
    let is_request = http1::is_request(&work.head);
    let receive = work.direction == Direction::Receive as u32;
    let start = work.message_start;
    if start >= work.position.wrapping_add(u64::from(work.block_offset)) && work.head_length == 0 {
        work.head_length = (end - start) as u32;
    }
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
        if work.repeated != 0 && socket.request.decision.position == start {
            decide::repeat(work, socket);
            place_decision(work);
        } else {
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
        }
    } else if work.repeated == 0 {
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
        Framing::Length(length) => {
            let stream = &mut socket.streams[direction];
            stream.message_end = end.wrapping_add(length);
            Phase::Body
        }
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
        let over = matches!(framing, Framing::Length(_))
            && socket.streams[direction].message_end <= offered;
        if over {
            finish_request(work.sk, socket);
        }
    }
    matches!(framing, Framing::Length(_) | Framing::Interim)
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
        return;
    }
    let slot = work.slot;
    if slot == 0 {
        emit::decision(work, work.message_start);
        return;
    }
    emit::decision(work, work.message_start);
}

/// Bytes that do not begin an HTTP/1 message.
#[inline(always)]
fn refuse(work: &mut Work, socket: &mut Socket, direction: usize) {
    work.record_flags &= !segment_flags::MESSAGE_START;
    let stream = &mut socket.streams[direction];
    if stream.phase == Phase::Chunked as u8 {
        work.ship = 0;
        return;
    }
    let first = stream.detected == 0;
    stream.detected = 1;
    if first {
        work.record_flags |= segment_flags::POLICY_LIMIT;
        work.policy = PolicyKind::Detect as u32;
        work.ship = if work.block_length > DETECT { DETECT } else { work.block_length };
    } else {
        work.ship = 0;
    }
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
fn unread(work: &mut Work, socket: &mut Socket, direction: usize) -> bool {
    let stream = &mut socket.streams[direction];
    count(Counter::HeadsUnseen);
    if work.continued != 0 {
        drop_saved(work, stream, direction);
    }
    lose(stream);
    // The record tells user space that there were bytes.
    work.ship = 0;
    work.record_flags &= !segment_flags::MESSAGE_START;
    work.record_flags |= segment_flags::POLICY_LIMIT;
    false
}

/// Ships what is left of a head that was offered before.
#[inline(always)]
fn ship_again(level: u32, work: &mut Work, length: u32) {
    let rest = work.length.wrapping_sub(work.cursor);
    let wanted = length.wrapping_add(BEHIND_HEAD);
    let wanted = if wanted > rest { rest } else { wanted };
    work.block_offset = work.cursor;
    work.block_length = if wanted > PAYLOAD_BLOCK as u32 { PAYLOAD_BLOCK as u32 } else { wanted };
    ut_read_block(level);
    work.ship = work.block_length;
}

/// Writes the block under construction, when there is something to ship.
#[inline(always)]
fn finish_block(level: u32, work: &mut Work, socket: &mut Socket) {
    let forced = work.record_flags & segment_flags::POLICY_LIMIT != 0;
    if work.ship == 0 && !forced {
        work.slot = SlotKind::None as u32;
        work.record_flags = 0;
        return;
    }
    if work.ship < work.block_length {
        work.record_flags |= segment_flags::POLICY_LIMIT;
    }
    ut_emit_segment(level);
    socket.dropped = work.dropped;
    work.ship = 0;
    work.slot = SlotKind::None as u32;
    work.head_length = 0;
    work.unreadable = 0;
    work.record_flags = segment_flags::CONTINUED;
}

/// Puts the unfinished line before the next block.
#[inline(always)]
fn keep_carry(scratch: &mut Scratch) {
    let end = CARRY.wrapping_add(u64::from(scratch.work.block_length));
    let view = View::of(scratch);
    let mut carry = [0u64; 16];
    let from = end.wrapping_sub(CARRY);
    for (index, word) in carry.iter_mut().enumerate() {
        *word = scan::Bytes::word(&view, from.wrapping_add(index as u64 * 8));
    }
    let target = &mut scratch.unfinished.carry;
    *target = carry;
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
    scratch.work.continued = 1;
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

/// Scans the level's block from [`Work::scan_at`] on and notes the head. Returns one of [`outcome`].
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_scan(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return outcome::NOT_HTTP;
    };
    if scratch.work.head.carry != 0 {
        let carry = scratch.unfinished.carry;
        let first = scratch.lead.len();
        let _ = first;
        scratch.bytes[..16].copy_from_slice(&carry);
    }
    let view = View::of(scratch);
    let start = scratch::bound(u64::from(scratch.work.scan_at));
    let end = CARRY + bound_length(scratch.work.block_length);
    let mut head = scratch.work.head;
    let result = scan::scan(&view, &mut head, start, end);
    scratch.work.head = head;
    match result {
        Outcome::End(index) => {
            scratch.work.scan_end = index as u32;
            outcome::END
        }
        Outcome::More => outcome::MORE,
        Outcome::NotHttp => outcome::NOT_HTTP,
        Outcome::TooManyLines => outcome::TOO_MANY_LINES,
    }
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
    let block = scratch.block();
    let work = &mut scratch.work;
    let wanted = bound_length(work.block_length);
    let skip = u64::from(work.block_offset);
    let read = if work.flags & segment_flags::NO_PAYLOAD != 0 || faulty(fault::UNREADABLE) {
        0
    } else if work.place.kind == kind::BUFFER {
        read_some(block, 0, wanted, work.place.base.wrapping_add(skip))
    } else {
        read_vector(block, wanted, skip, work)
    };
    let missing = wanted.wrapping_sub(read);
    if missing != 0 && work.flags & segment_flags::NO_PAYLOAD == 0 {
        add(Counter::UnreadableBytes, missing);
    }
    work.block_length = read as u32;
    work.unreadable = missing as u32;
    0
}

/// Reads `length` bytes to `block + at`; where that crosses into a page that is not there, what lies before it. Returns how many.
#[inline(always)]
fn read_some(block: *mut u8, at: u64, length: u64, from: u64) -> u64 {
    if length == 0 {
        return 0;
    }
    let to = block.wrapping_add(bound_block(at) as usize);
    let whole = if length >= PAYLOAD_BLOCK as u64 {
        // SAFETY: the block is followed by another 4 KiB.
        unsafe { user::read(to, PAYLOAD_BLOCK as u32, from) }
    } else {
        // SAFETY: as above.
        unsafe { user::read(to, bound_block(length) as u32, from) }
    };
    if whole {
        return length;
    }
    let page = bound_block(4096 - (from & 4095));
    // SAFETY: as above.
    if page != 0 && page < length && unsafe { user::read(to, page as u32, from) } {
        return page;
    }
    0
}

/// Reads from several buffers.
#[inline(always)]
fn read_vector(block: *mut u8, wanted: u64, mut skip: u64, work: &Work) -> u64 {
    let mut base = work.place.base;
    let mut inside = work.place.offset;
    let mut done = 0u64;
    for _ in 0..iter::WALK_LIMIT {
        if done >= wanted {
            return done;
        }
        let address: u64 = field::read(base, 0);
        let length: u64 = field::read(base, 8);
        let here = if length > inside { length - inside } else { 0 };
        if skip >= here {
            skip -= here;
        } else {
            let available = here - skip;
            let rest = wanted - done;
            let part = if available < rest { available } else { rest };
            let from = address.wrapping_add(inside).wrapping_add(skip);
            let read = read_some(block, done, part, from);
            done += read;
            if read != part {
                return done;
            }
            skip = 0;
        }
        inside = 0;
        base = base.wrapping_add(IOVEC);
    }
    if done < wanted {
        count(Counter::IteratorTooLong);
    }
    done
}

/// Whether the segment begins like a status line. For connections whose start was not seen.
#[inline(always)]
pub(crate) fn begins_response(scratch: &mut Scratch) -> bool {
    let block = scratch.block();
    let work = &scratch.work;
    if work.flags & segment_flags::NO_PAYLOAD != 0 {
        return false;
    }
    let read = if work.place.kind == kind::BUFFER {
        read_some(block, 0, 8, work.place.base)
    } else {
        read_vector(block, 8, 0, work)
    };
    let word = scan::Bytes::word(&View::of(scratch), CARRY);
    read == 8 && word & 0x00ff_ffff_ffff_ffff == u64::from_le_bytes(*b"HTTP/1.\0")
}

/// Keeps the last bytes of a segment where the end of a chunked body is told by them.
#[inline(always)]
fn keep_tail(_level: u32, _scratch: &mut Scratch, _stream: &mut Stream) {}

/// What user space wants of an unknown protocol's segments; `None` while it has not spoken.
#[inline(always)]
pub(crate) fn policy_of(connection: u64) -> Option<(u32, u32)> {
    let policy = POLICIES.get_ptr(connection)?;
    // SAFETY: two words, written by user space only.
    let policy = unsafe { *policy };
    Some((policy.kind, policy.limit))
}
