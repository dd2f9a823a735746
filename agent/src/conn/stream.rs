//! One direction of a connection: what passed, in order of position, each byte once.
//!
//! Input: segments and the states that later records tell. Output: calls on a [`Reader`], which together cover the stream. A send states what was
//! asked, so its bytes wait until a later state confirms them: a retry at the same position replaces them, and nothing is read twice.
//! It does not know what the bytes mean.

use agent_common::abi::StreamState;

use crate::process::ProcessKey;

/// Bytes kept of a send that waits for confirmation: a head of 16 KiB and what one record may carry beyond.
const PENDING_LIMIT: usize = 20 * 1024;

/// What reads a stream.
pub trait Reader {
    /// A message begins at `position`, as the kernel proved; `turn`: the last byte before it went the other way.
    fn start(&mut self, position: u64, time_ns: u64, process: ProcessKey, turn: bool);

    /// The next bytes.
    fn bytes(&mut self, position: u64, time_ns: u64, process: ProcessKey, bytes: &[u8]);

    /// The next `length` bytes passed unseen, the last of them at `time_ns`.
    fn skip(&mut self, position: u64, length: u64, time_ns: u64);

    /// The next `length` bytes are the rest of a message, where one is under way, and whole messages of which nothing is told; before them a byte
    /// passed at `time_ns`.
    fn hide(&mut self, position: u64, length: u64, time_ns: u64);

    /// Whether bytes up to `to` may be skipped without losing anything.
    fn tolerates(&self, to: u64) -> bool;
}

/// One send or receive, as far as a stream needs it.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Position of its first byte.
    pub position: u64,
    /// Bytes asked or read of which it speaks, captured or not.
    pub length: u64,
    /// The captured prefix.
    pub payload: &'a [u8],
    /// CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    /// Who sent or received.
    pub process: ProcessKey,
    /// Whether a message begins at `position`.
    pub starts: Start,
    /// What no record covered before it are hidden messages; the time of the byte before them.
    pub behind_hidden: Option<u64>,
}

/// Whether the kernel proved that a message begins with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It did not.
    Unproven,
    /// It did. `turn`: the last byte before it, on the whole connection, went the other way.
    Proven {
        /// See above.
        turn: bool,
    },
}

impl Piece<'_> {
    /// Position behind its last byte.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.position.saturating_add(self.length)
    }
}

/// A send that nobody has confirmed yet, with all records of it.
#[derive(Debug)]
struct Pending {
    /// Behind the last byte that was offered.
    end: u64,
    time_ns: u64,
    process: ProcessKey,
    payload: Vec<u8>,
    blocks: Vec<Block>,
}

/// Captured bytes of a pending send.
#[derive(Clone, Copy, Debug)]
struct Block {
    position: u64,
    starts: Start,
    behind_hidden: Option<u64>,
    /// Where in the payload they begin.
    from: usize,
    to: usize,
}

/// Buffers of confirmed sends, for the next ones.
#[derive(Debug, Default)]
pub struct Buffers(Vec<(Vec<u8>, Vec<Block>)>);

impl Buffers {
    const KEPT: usize = 64;

    fn take(&mut self) -> (Vec<u8>, Vec<Block>) {
        self.0.pop().unwrap_or_default()
    }

    fn give(&mut self, mut payload: Vec<u8>, mut blocks: Vec<Block>) {
        if self.0.len() < Self::KEPT {
            payload.clear();
            blocks.clear();
            self.0.push((payload, blocks));
        }
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Stream {
    /// A position was seen: the ones below are valid.
    seen: bool,
    /// Where it was first seen.
    origin: u64,
    /// First byte that no reader was told of.
    next: u64,
    /// Behind the last byte of the last segment: a gap below it is no matter of order.
    reached: u64,
    /// What has certainly passed, and when.
    known: StreamState,
    pending: Option<Pending>,
}

impl Stream {
    /// A stream that begins at `position`.
    #[must_use]
    pub fn starting_at(position: u64) -> Self {
        Self {
            seen: true,
            origin: position,
            next: position,
            reached: position,
            known: StreamState {
                position,
                ..StreamState::default()
            },
            pending: None,
        }
    }

    /// What has certainly passed.
    #[must_use]
    pub const fn known(&self) -> &StreamState {
        &self.known
    }

    /// First position of which no reader was told.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Bytes from where it was first seen to where it certainly is.
    #[must_use]
    pub fn distance(&self) -> u64 {
        self.next.max(self.known.position) - self.origin
    }

    /// Whether a send waits to be confirmed.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether bytes passed of which no reader was told yet.
    #[must_use]
    pub const fn lags(&self) -> bool {
        self.known.position > self.next
    }

    /// Bytes held.
    #[must_use]
    #[inline]
    pub fn buffered(&self) -> usize {
        self.pending
            .as_ref()
            .map_or(0, |pending| pending.payload.capacity())
    }

    /// Whether a piece at `position` leaves bytes out that no earlier segment covered. That is a gap if the reader needs them.
    #[must_use]
    #[inline]
    pub const fn leaves_out(&self, position: u64) -> bool {
        self.seen && position > self.next && position > self.reached
    }

    /// A receive; false when all of it was known.
    pub fn receive(&mut self, piece: &Piece<'_>, reader: &mut impl Reader) -> bool {
        self.begin(piece.position);
        self.reached = self.reached.max(piece.end());
        if let Some(time_ns) = piece.behind_hidden {
            self.pass_hidden(piece.position, time_ns, reader);
        }
        let fresh = self.read(
            piece.position,
            piece.payload,
            piece.time_ns,
            piece.process,
            piece.starts,
            reader,
        );
        if piece.end() > self.known.position {
            self.known = StreamState {
                position: piece.end(),
                last_time_ns: piece.time_ns,
                tail: [0; 16],
            };
        }
        let fresh = fresh || piece.end() > self.next;
        self.settle(piece.end(), reader);
        fresh
    }

    /// A send, of which nothing is known yet but that it was asked; false when all of it was known. The state before it must have been
    /// observed.
    pub fn send(
        &mut self,
        piece: &Piece<'_>,
        buffers: &mut Buffers,
        reader: &mut impl Reader,
    ) -> bool {
        self.begin(piece.position);
        if piece.end() < self.next {
            return false;
        }
        self.reached = self.reached.max(piece.end());
        // Records of one send have one time; another send offers anew whatever was not accepted.
        let same = |pending: &Pending| pending.time_ns == piece.time_ns;
        let mut behind_hidden = piece.behind_hidden;
        if !self.pending.as_ref().is_some_and(same) {
            // What was hidden before it is told once.
            behind_hidden = behind_hidden.or_else(|| self.hidden_before(piece.position));
            self.drop_pending(buffers);
        }
        let pending = self.pending.get_or_insert_with(|| {
            let (payload, blocks) = buffers.take();
            Pending {
                end: piece.end(),
                time_ns: piece.time_ns,
                process: piece.process,
                payload,
                blocks,
            }
        });
        let from = pending.payload.len();
        let room = PENDING_LIMIT.saturating_sub(from);
        let bytes = piece.payload.get(..room).unwrap_or(piece.payload);
        pending.payload.extend_from_slice(bytes);
        pending.blocks.push(Block {
            position: piece.position,
            starts: piece.starts,
            behind_hidden,
            from,
            to: pending.payload.len(),
        });
        pending.end = pending.end.max(piece.end());
        if self.known.position > piece.position {
            // It came late: what followed it has told already how much of it was accepted.
            self.confirm(self.known.position, buffers, reader);
            self.settle(piece.end(), reader);
        }
        true
    }

    /// Whether what waits at `position` stands behind hidden messages, and the time of the byte before those.
    fn hidden_before(&self, position: u64) -> Option<u64> {
        let blocks = &self.pending.as_ref()?.blocks;
        let block = blocks.iter().find(|block| block.position == position)?;
        block.behind_hidden
    }

    /// A record tells what had passed; whether the reader is to be told something ([`Stream::tell`]).
    #[must_use]
    #[inline]
    pub fn learn(&mut self, state: &StreamState) -> bool {
        self.begin(state.position);
        if state.position >= self.known.position && state.last_time_ns >= self.known.last_time_ns {
            self.known = *state;
        }
        self.is_answered(self.known.position) || state.position.min(self.known.position) > self.next
    }

    /// Tells the reader what is known now; `position` is that of the state that was learned.
    pub fn tell(&mut self, position: u64, buffers: &mut Buffers, reader: &mut impl Reader) {
        self.confirm(self.known.position, buffers, reader);
        self.settle(position, reader);
    }

    /// The other side answers to what was offered here: it has been accepted, whatever the states say yet.
    pub fn imply(&mut self, buffers: &mut Buffers, reader: &mut impl Reader) {
        let captured = self.pending.as_ref().and_then(|pending| {
            let last = pending.blocks.last()?;
            Some(last.position + (last.to - last.from) as u64)
        });
        if let Some(captured) = captured {
            self.confirm(captured.max(self.known.position), buffers, reader);
        }
    }

    /// Tells the reader of bytes that passed unseen below `position`, where it tolerates that. Not further: a record that waits may have told
    /// of more already.
    fn settle(&mut self, position: u64, reader: &mut impl Reader) {
        let to = position.min(self.known.position);
        if to > self.next && reader.tolerates(to) {
            self.give_up(to, reader);
        }
    }

    /// Tells the reader that nothing will come of the bytes below `position`, all of which have passed.
    pub fn give_up(&mut self, position: u64, reader: &mut impl Reader) {
        let to = position.min(self.known.position);
        if to > self.next {
            reader.skip(self.next, to - self.next, self.known.last_time_ns);
            self.next = to;
        }
    }

    /// Forgets what waits.
    pub fn drop_pending(&mut self, buffers: &mut Buffers) {
        if let Some(pending) = self.pending.take() {
            buffers.give(pending.payload, pending.blocks);
        }
    }

    fn begin(&mut self, position: u64) {
        if !self.seen {
            *self = Self::starting_at(position);
        }
    }

    /// Reads what was accepted of the send that waits.
    #[inline]
    fn confirm(&mut self, accepted: u64, buffers: &mut Buffers, reader: &mut impl Reader) {
        if self.is_answered(accepted) {
            self.confirm_blocks(accepted, buffers, reader);
        }
    }

    /// Whether it says something of the send that waits that so much was accepted.
    #[inline]
    fn is_answered(&self, accepted: u64) -> bool {
        self.pending.as_ref().is_some_and(|pending| {
            let first = pending.blocks.first();
            accepted >= pending.end || first.is_some_and(|block| accepted > block.position)
        })
    }

    fn confirm_blocks(&mut self, accepted: u64, buffers: &mut Buffers, reader: &mut impl Reader) {
        let Some(mut pending) = self.pending.take() else {
            return;
        };
        for block in &mut pending.blocks {
            if accepted <= block.position {
                break;
            }
            let bytes = pending
                .payload
                .get(block.from..block.to)
                .unwrap_or_default();
            let count = usize::try_from(accepted - block.position).unwrap_or(usize::MAX);
            let bytes = bytes.get(..count).unwrap_or(bytes);
            let (time_ns, process) = (pending.time_ns, pending.process);
            if let Some(time_ns) = block.behind_hidden {
                self.pass_hidden(block.position, time_ns, reader);
            }
            self.read(
                block.position,
                bytes,
                time_ns,
                process,
                block.starts,
                reader,
            );
            block.starts = Start::Unproven;
        }
        if accepted >= pending.end {
            buffers.give(pending.payload, pending.blocks);
        } else {
            self.pending = Some(pending);
        }
    }

    /// Passes the hidden messages before `position`, of which nothing but that is known.
    fn pass_hidden(&mut self, position: u64, time_ns: u64, reader: &mut impl Reader) {
        if position > self.next {
            reader.hide(self.next, position - self.next, time_ns);
            self.next = position;
        }
    }

    /// Hands bytes over from `position` on, leaving out what was read before; false when that is all of them.
    fn read(
        &mut self,
        position: u64,
        bytes: &[u8],
        time_ns: u64,
        process: ProcessKey,
        starts: Start,
        reader: &mut impl Reader,
    ) -> bool {
        if position > self.next {
            reader.skip(self.next, position - self.next, time_ns);
            self.next = position;
        }
        if let Start::Proven { turn } = starts
            && position == self.next
        {
            reader.start(position, time_ns, process, turn);
        }
        let known = usize::try_from(self.next.saturating_sub(position)).unwrap_or(usize::MAX);
        match bytes.get(known..) {
            Some(fresh) if !fresh.is_empty() => {
                reader.bytes(self.next, time_ns, process, fresh);
                self.next += fresh.len() as u64;
                true
            }
            _ => false,
        }
    }
}
