//! One connection on its way through the stages: streams, parser, exchanges, decisions.
//!
//! Input: its records. Output: bytes for the parser, each once and in order. What the parser makes of them, and what time and the end of the
//! connection do, has files of its own.

mod endings;
mod messages;

use agent_common::abi::{
    Direction, LiveRequest, MessageEnd, Open, Role, Segment, StreamState, segment_flags,
};

use super::{
    core::Core,
    extents::Extents,
    feed::{Feed, Speech, side_of},
    retransmissions::Retransmissions,
};
use crate::{
    conn::{Connection, Hold, Piece, Reader as _, Start, Stream, process_key},
    correlate::Decisions,
    exchange::Exchanges,
    process::ProcessKey,
    protocol::Extent,
    span::http::Common,
};

/// A connection and all that is known of its messages.
pub(super) struct Tracked {
    connection: Connection,
    speech: Speech,
    exchanges: Exchanges,
    decisions: Decisions,
    hold: Hold,
    /// Ends of messages that came before the protocol was known.
    extents: Extents,
    resent: Retransmissions,
    /// Of its spans, while it is in use.
    common: Common,
    /// Positions read since the last record: they hold if no record comes before the next tick.
    live: Option<Box<[StreamState; 2]>>,
    /// Ticks for which a stream has been ahead of its reader.
    lag_ticks: u8,
    /// Ticks since the kernel did not know it any more; 0 while it does.
    gone_ticks: u8,
    /// Its bytes in [`Core::buffered`].
    buffered: usize,
    /// A request was given up: the kernel shall not count it any more.
    overdue: bool,
    /// A request is open in the kernel, which wants to be asked until it is not.
    pub(super) awaits_end: bool,
    /// It stands in the list of active connections.
    pub(super) listed: bool,
    /// Its process is gone, or it is asked for now and then.
    pub(super) suspected: bool,
}

impl std::fmt::Debug for Tracked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracked")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

/// The reader of one direction, beside the streams themselves.
macro_rules! feed {
    ($tracked:expr, $direction:expr, $core:expr) => {
        Feed {
            untouched: !matches!($tracked.speech, Speech::Parsed(..))
                && $tracked.connection.from_start
                && $tracked
                    .connection
                    .streams
                    .iter()
                    .all(|stream| stream.next() == 0),
            begins: 0,
            speech: &mut $tracked.speech,
            role: &mut $tracked.connection.role,
            direction: $direction,
            starting: None,
            items: &mut $core.items,
            parsers: &$core.config.parsers,
            counters: &$core.counters,
        }
    };
}
use feed;

impl Tracked {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            speech: Speech::Unjudged,
            exchanges: Exchanges::default(),
            decisions: Decisions::default(),
            hold: Hold::default(),
            extents: Extents::default(),
            resent: Retransmissions::default(),
            common: Common::default(),
            live: None,
            lag_ticks: 0,
            gone_ticks: 0,
            buffered: 0,
            overdue: false,
            listed: false,
            suspected: false,
            awaits_end: false,
        }
    }

    pub(super) const fn id(&self) -> u64 {
        self.connection.id
    }

    pub(super) const fn socket(&self) -> u64 {
        self.connection.socket
    }

    /// Whether a process may have read requests from it, and the kernel can be asked.
    pub(super) fn may_serve(&self) -> bool {
        self.connection.socket != 0 && self.connection.role != Role::Client
    }

    pub(super) const fn process(&self) -> ProcessKey {
        self.connection.process
    }

    pub(super) fn open_exchanges(&self) -> usize {
        self.exchanges.open()
    }

    pub(super) fn open_decisions(&self) -> usize {
        self.decisions.len()
    }

    pub(super) const fn open_retransmissions(&self) -> usize {
        self.resent.len()
    }

    /// Bytes that passed, in both directions.
    pub(super) fn distance(&self) -> u64 {
        let [received, sent] = self.connection.streams.each_ref().map(Stream::distance);
        received.wrapping_add(sent)
    }

    /// Of those, the ones of which no parser was told yet.
    pub(super) fn lag(&self) -> u64 {
        let lag = |stream: &Stream| stream.known().position.saturating_sub(stream.next());
        let [received, sent] = self.connection.streams.each_ref().map(lag);
        received.wrapping_add(sent)
    }

    /// Whether time alone can change something here.
    pub(super) fn is_active(&self) -> bool {
        self.suspected
            || self.gone_ticks > 0
            || self.live.is_some()
            || !self.hold.is_empty()
            || !self.resent.is_empty()
            || !self.exchanges.is_empty()
            || !self.decisions.is_empty()
            || self.wants_position()
    }

    /// What a question for its position says: [`LiveRequest::GIVEN_UP`] or 0.
    pub(super) const fn given_up(&self) -> u64 {
        if self.overdue {
            LiveRequest::GIVEN_UP
        } else {
            0
        }
    }

    /// Whether the position of the socket could end a message.
    pub(super) fn wants_position(&self) -> bool {
        let streams = &self.connection.streams;
        let awaits = match &self.speech {
            Speech::Parsed(parser, _) => parser.awaits_end(),
            Speech::Unjudged | Speech::Unknown => false,
        };
        self.connection.socket != 0
            && (awaits
                || self.suspected
                || self.awaits_end
                || self.overdue
                || streams.iter().any(|s| s.is_pending() || s.lags()))
    }

    /// Its `Open` came late.
    pub(super) fn open(&mut self, open: &Open) {
        self.connection.open(open);
        self.common = Common::default();
    }

    /// Takes a record of a send or receive.
    pub(super) fn segment(&mut self, segment: &Segment, payload: &[u8], core: &mut Core) {
        self.live = None;
        self.gone_ticks = 0;
        self.connection.process = process_key(segment.pid_tgid, segment.process_start_ns);
        let starts = segment.header.flags & segment_flags::MESSAGE_START != 0;
        if starts && self.connection.streams[Direction::Send as usize].is_pending() {
            // What was offered here before was not accepted, if anything was.
            let direction = Direction::from_u8(segment.direction);
            self.extent(direction, &Extent::unknown(segment.header.position), core);
        }
        if self.process_segment(segment, payload, false, core) {
            if !self.hold.is_empty() {
                self.retry_held(false, core);
            }
        } else if !self.hold.push(segment, payload) {
            self.retry_held(true, core);
        }
        self.account(core);
    }

    /// Takes what the kernel found of the end of a message, which may not have been read yet.
    pub(super) fn message_end(&mut self, end: &MessageEnd, core: &mut Core) {
        let extent = Extent {
            start: end.header.position,
            end: end.end,
            body: end.body,
        };
        self.extent(Direction::from_u8(end.direction), &extent, core);
    }

    fn extent(&mut self, direction: Direction, extent: &Extent, core: &mut Core) {
        if self.extents.is_empty()
            && let Speech::Parsed(parser, requests) = &mut self.speech
        {
            parser.extent(side_of(direction, *requests), extent, &mut core.items);
            self.note(core);
            return;
        }
        self.extents.push(direction, *extent);
        self.pass_extents(core);
    }

    /// Hands the ends of messages to the parser, when there is one.
    #[inline]
    fn pass_extents(&mut self, core: &mut Core) {
        if !self.extents.is_empty() {
            self.pass_waiting_extents(core);
        }
    }

    fn pass_waiting_extents(&mut self, core: &mut Core) {
        if let Speech::Parsed(parser, requests) = &mut self.speech {
            for (direction, extent) in self.extents.take() {
                let side = side_of(direction, *requests);
                parser.extent(side, &extent, &mut core.items);
            }
            self.note(core);
        }
    }

    /// Puts records that wait through again, earliest first; what still has a gap before it waits on, unless `force`.
    fn retry_held(&mut self, force: bool, core: &mut Core) {
        for held in self.hold.take() {
            let blocked = !self.hold.is_empty();
            let done = !blocked && self.process_segment(&held.segment, &held.payload, force, core);
            if !done {
                self.hold.push(&held.segment, &held.payload);
            }
        }
    }

    /// False when an earlier record seems to be under way still and this one should wait for it.
    fn process_segment(
        &mut self,
        segment: &Segment,
        payload: &[u8],
        force: bool,
        core: &mut Core,
    ) -> bool {
        let direction = Direction::from_u8(segment.direction);
        let opposite = direction.opposite();
        let flags = segment.header.flags;
        let force = force || segment.dropped > self.connection.dropped;
        self.connection.dropped = self.connection.dropped.max(segment.dropped);

        // What was sent first: it may tell the protocol, and what was received is judged by that.
        let (sent, received) = match direction {
            Direction::Send => (&segment.own, &segment.peer),
            Direction::Receive => (&segment.peer, &segment.own),
        };
        self.observe(Direction::Send, sent, core);
        self.observe(Direction::Receive, received, core);
        self.note(core);
        self.pass_extents(core);
        if flags & segment_flags::HIDING_LOST != 0
            && let Speech::Parsed(parser, _) = &mut self.speech
        {
            parser.unpair(&mut core.items);
            self.note(core);
            // Nothing more will come of what passed before: nobody waits for it.
            self.tell(Direction::Send, sent.position, core);
            self.tell(Direction::Receive, received.position, core);
            self.note(core);
        }
        let behind_hidden =
            (flags & segment_flags::HIDDEN_BEFORE != 0).then_some(segment.own.last_time_ns);
        // From there to its own place, only records of the same send or receive can have been made, and those come in order.
        if !self.fill(opposite, segment.peer.position, force, core)
            || !self.fill(direction, segment.own.position, force, core)
        {
            return false;
        }

        let starts = flags & segment_flags::MESSAGE_START != 0;
        // Where more of the other side was passed over already, the answer to this message may be among it.
        let turn = flags & segment_flags::UNPAIRED == 0
            && segment.peer.last_time_ns >= segment.own.last_time_ns
            && self.connection.streams[opposite as usize].next() <= segment.peer.position;
        if starts {
            self.rest(opposite, &segment.peer, true, core);
        }
        self.imply_request(direction, core);
        let captured = usize::try_from(segment.captured).unwrap_or(usize::MAX);
        let piece = Piece {
            position: segment.header.position,
            length: u64::from(segment.length),
            payload: payload.get(..captured).unwrap_or(payload),
            time_ns: segment.header.time_ns,
            process: process_key(segment.pid_tgid, segment.process_start_ns),
            starts: if starts {
                Start::Proven { turn }
            } else {
                Start::Unproven
            },
            behind_hidden,
        };
        let mut feed = feed!(self, direction, core);
        let stream = &mut self.connection.streams[direction as usize];
        // Records of one read have one time. The first one may hold what the next ones tell as well.
        let same_read =
            stream.known().last_time_ns == piece.time_ns && piece.position > segment.own.position;
        let fresh = match direction {
            Direction::Receive => stream.receive(&piece, &mut feed),
            Direction::Send => stream.send(&piece, &mut core.buffers, &mut feed),
        };
        if !fresh && piece.length > 0 && !same_read {
            core.counters.segments_stale.increment();
        }
        self.note(core);
        true
    }

    #[inline]
    fn observe(&mut self, direction: Direction, state: &StreamState, core: &mut Core) {
        if self.connection.streams[direction as usize].learn(state) {
            self.tell(direction, state.position, core);
        }
    }

    /// Tells the reader what follows of a state that was learned.
    fn tell(&mut self, direction: Direction, position: u64, core: &mut Core) {
        let mut feed = feed!(self, direction, core);
        let stream = &mut self.connection.streams[direction as usize];
        stream.tell(position, &mut core.buffers, &mut feed);
    }

    /// Whether the stream is complete up to `position`; when `force`, what is missing is given up instead.
    #[inline]
    fn fill(&mut self, direction: Direction, position: u64, force: bool, core: &mut Core) -> bool {
        !self.connection.streams[direction as usize].leaves_out(position)
            || self.fill_gap(direction, position, force, core)
    }

    fn fill_gap(
        &mut self,
        direction: Direction,
        position: u64,
        force: bool,
        core: &mut Core,
    ) -> bool {
        let mut feed = feed!(self, direction, core);
        let stream = &mut self.connection.streams[direction as usize];
        if feed.tolerates(position) {
            return true;
        }
        if force {
            stream.give_up(position, &mut feed);
            self.note(core);
        }
        force
    }

    /// A response proves that its request was accepted, even where the kernel's count is not there yet.
    fn imply_request(&mut self, direction: Direction, core: &mut Core) {
        let Speech::Parsed(_, requests) = self.speech else {
            return;
        };
        let stream = &self.connection.streams[requests as usize];
        if requests != direction && stream.is_pending() && !self.exchanges.awaits_response() {
            let mut feed = feed!(self, requests, core);
            self.connection.streams[requests as usize].imply(&mut core.buffers, &mut feed);
            self.note(core);
        }
    }

    fn rest(&mut self, direction: Direction, state: &StreamState, turn: bool, core: &mut Core) {
        self.pass_extents(core);
        if let Speech::Parsed(parser, requests) = &mut self.speech {
            let side = side_of(direction, *requests);
            parser.rest(side, state, turn, &mut core.items);
            self.note(core);
        }
    }

    /// Keeps the sum of buffered bytes; a connection that takes it beyond the limit loses its own.
    fn account(&mut self, core: &mut Core) {
        let parser = match &self.speech {
            Speech::Parsed(parser, _) => parser.buffered(),
            Speech::Unjudged | Speech::Unknown => 0,
        };
        let [received, sent] = &self.connection.streams;
        let records = received.buffered() + sent.buffered() + self.hold.buffered();
        let buffered = parser + records + self.exchanges.footprint();
        core.buffered = core.buffered - self.buffered + buffered;
        self.buffered = buffered;
        if core.buffered <= core.config.buffered_bytes || parser + records == 0 {
            return;
        }
        core.counters.messages_over_limit.increment();
        if let Speech::Parsed(parser, _) = &mut self.speech {
            parser.abandon();
        }
        let _ = self.hold.take();
        for stream in &mut self.connection.streams {
            stream.drop_pending(&mut core.buffers);
        }
        let left = self.exchanges.footprint();
        core.buffered = core.buffered - self.buffered + left;
        self.buffered = left;
    }
}
