//! A socket that writes records.
//!
//! Input: sends, receives and what else happens to one connection. Output: the records that the programs would write, in order.

use std::ops::Range;

use agent_common::abi::{
    ABI_VERSION, Close, CloseReason, Decision, DecisionRecord, Direction, Header, Kind,
    LiveRequest, MessageEnd, Open, Origin, PolicyKind, Retransmit, Role, Segment, StreamState,
    segment_flags,
};
use zerocopy::FromZeros;

use super::{
    MILLISECOND, PROCESS,
    record::{Fixed, Record},
};
use crate::process::ProcessKey;

/// One end of a connection, as the kernel sees it.
#[derive(Clone, Debug)]
pub struct Socket {
    id: u64,
    role: Role,
    process: ProcessKey,
    states: [StreamState; 2],
    /// Bytes of hidden messages behind that.
    hidden: [u64; 2],
    dropped: u32,
    /// The next record's time, CLOCK_MONOTONIC nanoseconds; each one takes a millisecond.
    pub now_ns: u64,
    /// Captured bytes of one send or receive at most.
    pub capture_limit: usize,
    /// What was written so far.
    pub records: Vec<Record>,
}

impl Socket {
    /// A TCP connection from 10.0.0.2:40000 to 10.0.0.1:8080, just established, and its `Open` record.
    #[must_use]
    pub fn open(id: u64, role: Role) -> Self {
        let mut socket = Self {
            id,
            role,
            process: PROCESS,
            states: [StreamState::default(); 2],
            hidden: [0; 2],
            dropped: 0,
            now_ns: 1_000 * MILLISECOND,
            capture_limit: usize::MAX,
            records: Vec::new(),
        };
        let mut open = Open::new_zeroed();
        open.header = socket.header(Kind::Open, 0, 0);
        open.pid_tgid = socket.pid_tgid();
        open.process_start_ns = PROCESS.start_ns;
        let (client, server) = ((40_000, [10, 0, 0, 2]), (8080, [10, 0, 0, 1]));
        let (local, peer) = match role {
            Role::Server => (server, client),
            Role::Client | Role::Unknown => (client, server),
        };
        open.local_port = local.0;
        open.peer_port = peer.0;
        open.local_address[..4].copy_from_slice(&local.1);
        open.peer_address[..4].copy_from_slice(&peer.1);
        open.family = 2;
        open.protocol = 6;
        open.role = role as u8;
        open.origin = match role {
            Role::Server => Origin::Accept,
            Role::Client => Origin::Connect,
            Role::Unknown => Origin::FirstSeen,
        } as u8;
        open.socket = id << 8;
        socket.push(Fixed::Open(open), &[]);
        socket
    }

    /// The same connection at another process.
    #[must_use]
    pub fn of(mut self, process: ProcessKey) -> Self {
        self.process = process;
        for record in &mut self.records {
            if let Fixed::Open(open) = &mut record.fixed {
                open.pid_tgid = u64::from(process.tgid) << 32 | 1;
                open.process_start_ns = process.start_ns;
            }
        }
        self
    }

    /// The process reads bytes.
    pub fn receive(&mut self, bytes: &[u8]) -> &mut Segment {
        self.transfer(Direction::Receive, bytes, bytes.len())
    }

    /// The process sends bytes, and the kernel accepts them all.
    pub fn send(&mut self, bytes: &[u8]) -> &mut Segment {
        self.transfer(Direction::Send, bytes, bytes.len())
    }

    /// The process offers bytes, and the kernel accepts the first ones.
    pub fn send_partly(&mut self, bytes: &[u8], accepted: usize) -> &mut Segment {
        self.transfer(Direction::Send, bytes, accepted)
    }

    /// The process reads bytes that are written as several records; the first one is given back.
    pub fn receive_in_blocks(&mut self, bytes: &[u8], block: usize) -> &mut Segment {
        self.in_blocks(Direction::Receive, bytes, block)
    }

    /// The process sends bytes that are written as several records; the first one is given back.
    pub fn send_in_blocks(&mut self, bytes: &[u8], block: usize) -> &mut Segment {
        self.in_blocks(Direction::Send, bytes, block)
    }

    /// The process sends bytes of which these ranges are written, each as a record; the first one is given back.
    pub fn send_ranges(&mut self, bytes: &[u8], ranges: &[Range<usize>]) -> &mut Segment {
        self.in_ranges(Direction::Send, bytes, ranges)
    }

    /// The process reads bytes of which these ranges are written, each as a record; the first one is given back.
    pub fn receive_ranges(&mut self, bytes: &[u8], ranges: &[Range<usize>]) -> &mut Segment {
        self.in_ranges(Direction::Receive, bytes, ranges)
    }

    fn in_blocks(&mut self, direction: Direction, bytes: &[u8], block: usize) -> &mut Segment {
        let ranges: Vec<_> = (0..bytes.len())
            .step_by(block)
            .map(|from| from..bytes.len().min(from + block))
            .collect();
        self.in_ranges(direction, bytes, &ranges)
    }

    fn in_ranges(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        ranges: &[Range<usize>],
    ) -> &mut Segment {
        let first = self.records.len();
        let segment = *self.transfer(direction, bytes, bytes.len());
        self.records.truncate(first);
        for (n, range) in ranges.iter().enumerate() {
            // Each speaks of what lies before the next one.
            let end = ranges.get(n + 1).map_or(bytes.len(), |next| next.start);
            let mut next = segment;
            next.header.position += range.start as u64;
            next.length = (end - range.start) as u32;
            next.captured = range.len() as u32;
            self.records.push(Record {
                fixed: Fixed::Segment(next),
                payload: bytes[range.clone()].to_vec(),
            });
        }
        self.records[first].segment_mut()
    }

    /// Bytes pass of which no record is written: in the middle of a body. `last` are the last of them.
    pub fn pass(&mut self, direction: Direction, length: u64, last: &[u8]) {
        self.advance(direction, length, last);
        self.now_ns += MILLISECOND;
    }

    /// Bytes pass of a chunked body whose lines the kernel follows: no record is written, and the last bytes are not told.
    pub fn pass_followed(&mut self, direction: Direction, length: u64) {
        self.pass(direction, length, &[0xff; 16]);
    }

    /// Whole messages pass that the kernel hides: the next record of this direction says so, and nothing else does.
    pub fn hide(&mut self, direction: Direction, length: u64) {
        self.hidden[direction as usize] += length;
        self.now_ns += MILLISECOND;
    }

    /// The last record is lost to a full ring buffer.
    pub fn lose(&mut self) {
        self.records.pop();
        self.dropped += 1;
    }

    /// A decision about the message at `position`, as a record of its own.
    pub fn decide(&mut self, decision: Decision) {
        let record = DecisionRecord {
            header: self.header(Kind::Decision, decision.position, 0),
            pid_tgid: self.pid_tgid(),
            process_start_ns: self.process.start_ns,
            decision,
        };
        self.push(Fixed::Decision(record), &[]);
    }

    /// The kernel found where the chunked message that begins at `start` ends, and how much of it is body.
    pub fn message_end(&mut self, direction: Direction, start: u64, end: u64, body: u64) {
        let record = MessageEnd {
            header: self.header(Kind::MessageEnd, start, 0),
            end,
            body,
            direction: direction as u8,
            reserved: [0; 7],
        };
        self.push(Fixed::MessageEnd(record), &[]);
    }

    /// TCP sends the bytes before `end` again.
    pub fn resend(&mut self, end: u64, length: u32) {
        let record = Retransmit {
            header: self.header(Kind::Retransmit, end, 0),
            length,
            reserved: [0; 4],
        };
        self.push(Fixed::Retransmit(record), &[]);
    }

    /// The connection ends with this errno, 0 for a close in order.
    pub fn close(&mut self, error: u32) {
        self.end(error, 0);
    }

    /// The end of the connection, which the process closed at `closed_ns`.
    pub fn close_begun(&mut self, closed_ns: u64) {
        self.end(0, closed_ns);
    }

    fn end(&mut self, error: u32, closed_ns: u64) {
        let [received, sent] = self.states;
        let mut close = Close::new_zeroed();
        close.header = self.header(Kind::Close, 0, 0);
        close.sent = sent;
        close.received = received;
        close.error = error;
        close.closed_ns = closed_ns;
        close.dropped = self.dropped;
        close.reason = if error == 0 {
            CloseReason::Closed
        } else {
            CloseReason::Error
        } as u8;
        self.push(Fixed::Close(close), &[]);
    }

    /// What the program `live_positions` would answer now.
    #[must_use]
    pub fn live(&self) -> LiveRequest {
        let [received, sent] = self.states;
        LiveRequest {
            socket: self.id << 8,
            connection: self.id,
            found: 1,
            sent,
            received,
        }
    }

    /// Where a direction stands.
    #[must_use]
    pub fn position(&self, direction: Direction) -> u64 {
        self.states[direction as usize].position
    }

    fn transfer(&mut self, direction: Direction, bytes: &[u8], accepted: usize) -> &mut Segment {
        let own = self.states[direction as usize];
        let hidden = std::mem::take(&mut self.hidden[direction as usize]);
        let captured = bytes.len().min(self.capture_limit);
        let mut segment = Segment::new_zeroed();
        segment.header = self.header(Kind::Segment, own.position + hidden, 0);
        if hidden > 0 {
            segment.header.flags = segment_flags::HIDDEN_BEFORE | segment_flags::MESSAGE_START;
        }
        segment.pid_tgid = self.pid_tgid();
        segment.process_start_ns = self.process.start_ns;
        segment.length = bytes.len() as u32;
        segment.captured = captured as u32;
        segment.dropped = self.dropped;
        segment.direction = direction as u8;
        segment.policy = PolicyKind::Heads as u8;
        segment.own = own;
        segment.peer = self.states[direction.opposite() as usize];
        segment.header.length += captured as u32;
        self.states[direction as usize].position += hidden;
        self.advance(direction, accepted as u64, &bytes[..accepted]);
        self.push(Fixed::Segment(segment), &bytes[..captured]);
        match self.records.last_mut().map(|record| &mut record.fixed) {
            Some(Fixed::Segment(segment)) => segment,
            _ => unreachable!("a segment was pushed"),
        }
    }

    fn advance(&mut self, direction: Direction, length: u64, last: &[u8]) {
        let state = &mut self.states[direction as usize];
        if length == 0 {
            return;
        }
        state.position += length;
        state.last_time_ns = self.now_ns;
        let mut tail = state.tail.to_vec();
        tail.extend_from_slice(last);
        state.tail.copy_from_slice(&tail[tail.len() - 16..]);
    }

    fn header(&self, kind: Kind, position: u64, flags: u32) -> Header {
        let length = match kind {
            Kind::Segment => size_of::<Segment>(),
            Kind::Decision => size_of::<DecisionRecord>(),
            Kind::Open => size_of::<Open>(),
            Kind::MessageEnd => size_of::<MessageEnd>(),
            Kind::Retransmit => size_of::<Retransmit>(),
            _ => size_of::<Close>(),
        };
        Header {
            kind: kind as u16,
            version: ABI_VERSION,
            length: length as u32,
            time_ns: self.now_ns,
            connection: self.id,
            position,
            cpu: 0,
            flags,
        }
    }

    fn pid_tgid(&self) -> u64 {
        u64::from(self.process.tgid) << 32 | 1
    }

    fn push(&mut self, fixed: Fixed, payload: &[u8]) {
        self.records.push(Record {
            fixed,
            payload: payload.to_vec(),
        });
        self.now_ns += MILLISECOND;
    }

    /// Role of the process on this connection.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }
}
