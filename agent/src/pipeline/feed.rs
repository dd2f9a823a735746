//! What reads a connection's streams: judges the protocol by the first bytes, and then hands everything to its parser.

use agent_common::abi::{Direction, Role};

use crate::{
    conn::Reader,
    process::ProcessKey,
    protocol::{Item, Mark, Parser, ParserConfig, Side, registry},
    telemetry::Counters,
};

/// Whose bytes nobody looks at.
const NOBODY: ProcessKey = ProcessKey {
    tgid: 0,
    start_ns: 0,
};

/// The protocol of a connection.
pub(super) enum Speech {
    /// Nobody has judged it.
    Unjudged,
    /// This parser follows it; requests go in this direction.
    Parsed(Box<dyn Parser>, Direction),
    /// No protocol that is known, or not any more.
    Unknown,
}

/// Reads one stream of a connection for its parser.
pub(super) struct Feed<'a> {
    pub(super) speech: &'a mut Speech,
    pub(super) role: &'a mut Role,
    pub(super) direction: Direction,
    /// Nothing has been read of either stream, and both are followed from their beginning.
    pub(super) untouched: bool,
    /// Where the first message begins of which anything is told.
    pub(super) begins: u64,
    pub(super) starting: Option<bool>,
    pub(super) items: &'a mut Vec<Item>,
    pub(super) parsers: &'a ParserConfig,
    pub(super) counters: &'a Counters,
}

impl Feed<'_> {
    /// Judges the first bytes of a message on a connection that nobody follows.
    fn judge(&mut self, mark: Mark, bytes: &[u8]) {
        let first = self.untouched && mark.position == self.begins;
        if !first && self.starting.is_none() {
            return;
        }
        let judged = registry::recognise(bytes).and_then(|(protocol, side)| {
            let requests = match side {
                Side::Request => self.direction,
                Side::Response => self.direction.opposite(),
            };
            let expected = match *self.role {
                Role::Unknown => requests,
                Role::Client => Direction::Send,
                Role::Server => Direction::Receive,
            };
            (expected == requests).then_some((protocol, side, requests))
        });
        let Some((protocol, side, requests)) = judged else {
            *self.speech = Speech::Unknown;
            return;
        };
        *self.role = match requests {
            Direction::Send => Role::Client,
            Direction::Receive => Role::Server,
        };
        let mut parser = protocol.parser(first, self.parsers);
        parser.start(side, mark, self.starting.unwrap_or(true), self.items);
        parser.bytes(side, mark, bytes, self.items);
        *self.speech = Speech::Parsed(parser, requests);
    }
}

pub(super) fn side_of(direction: Direction, requests: Direction) -> Side {
    if direction == requests {
        Side::Request
    } else {
        Side::Response
    }
}

impl Reader for Feed<'_> {
    fn start(&mut self, position: u64, time_ns: u64, process: ProcessKey, turn: bool) {
        let mark = Mark {
            position,
            time_ns,
            process,
        };
        match self.speech {
            Speech::Parsed(parser, requests) => {
                let side = side_of(self.direction, *requests);
                parser.start(side, mark, turn, self.items);
            }
            Speech::Unjudged | Speech::Unknown => self.starting = Some(turn),
        }
    }

    fn bytes(&mut self, position: u64, time_ns: u64, process: ProcessKey, bytes: &[u8]) {
        self.counters.stream_bytes.add(bytes.len() as u64);
        let mark = Mark {
            position,
            time_ns,
            process,
        };
        match self.speech {
            Speech::Parsed(parser, requests) => {
                let side = side_of(self.direction, *requests);
                parser.bytes(side, mark, bytes, self.items);
            }
            Speech::Unjudged | Speech::Unknown => self.judge(mark, bytes),
        }
        self.starting = None;
    }

    fn skip(&mut self, position: u64, length: u64, time_ns: u64) {
        if self.tolerates(position.saturating_add(length)) {
            self.counters.stream_passed_bytes.add(length);
        } else {
            self.counters.stream_gap_bytes.add(length);
        }
        if let Speech::Parsed(parser, requests) = self.speech {
            let side = side_of(self.direction, *requests);
            let mark = Mark {
                position,
                time_ns,
                process: NOBODY,
            };
            parser.skip(side, mark, length, self.items);
        }
    }

    fn hide(&mut self, position: u64, length: u64, time_ns: u64) {
        self.counters.stream_hidden_bytes.add(length);
        if position == self.begins {
            self.begins = position.saturating_add(length);
        }
        if let Speech::Parsed(parser, requests) = self.speech {
            let side = side_of(self.direction, *requests);
            let mark = Mark {
                position,
                time_ns,
                process: NOBODY,
            };
            parser.hide(side, mark, length, self.items);
        }
    }

    fn tolerates(&self, to: u64) -> bool {
        match &*self.speech {
            Speech::Parsed(parser, requests) => {
                parser.tolerates(side_of(self.direction, *requests), to)
            }
            // The first bytes tell the protocol.
            Speech::Unjudged => !self.untouched,
            Speech::Unknown => true,
        }
    }
}
