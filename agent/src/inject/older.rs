//! Connections that are older than the agent: which make requests, and when one may be tried to be put into the sockhash.
//!
//! Input: events of connections, time, what became of tries. Output: one connection at a time that is to be tried. It touches no socket.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use agent_common::abi::{Direction, Open, Origin, SlotKind};

use crate::{
    config::Network, event::Event, probe::existing::Name, process::connections::Connection,
};

/// Connections that are remembered; beyond it new ones are turned away.
pub const LIMIT: usize = 32_768;

/// Time until a connection that was not idle is tried again; doubled after each try.
const FIRST_WAIT_NS: u64 = 1_000_000_000;
/// The longest such time.
const LAST_WAIT_NS: u64 = 60_000_000_000;

/// Waiting connections that are looked at in one call.
const LOOKS: usize = 64;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;

/// A connection that is to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What the kernel programs call it.
    pub name: Name,
    /// A process that has it.
    pub tgid: u32,
    /// Its ends.
    pub ends: Connection,
    /// Inode of the network namespace, 0 when unknown.
    pub namespace: u32,
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was put in.
    Enrolled,
    /// It was not idle.
    Busy,
    /// It was not put in, and never will be.
    Refused,
}

/// What is to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// A connection older than the agent made its first request.
    Asks,
    /// A connection older than the agent is not remembered: there are too many.
    TurnedAway,
}

/// What is remembered.
#[derive(Debug)]
pub struct Older {
    networks: Vec<Network>,
    /// Whether any is to be tried.
    tries: bool,
    /// How many are remembered.
    limit: usize,
    known: HashMap<u64, Known>,
    /// Connections that made requests and were not put in.
    waiting: VecDeque<u64>,
    /// The one under way.
    trying: Option<u64>,
}

#[derive(Debug)]
struct Known {
    candidate: Candidate,
    /// It has made a request.
    asks: bool,
    /// The newest request has no answer.
    unanswered: bool,
    /// When it may be tried, and how long after that.
    due: (u64, u64),
}

impl Older {
    /// Looks at connections towards these networks, and remembers up to `limit` of them; they are only noticed where none is to be tried.
    #[must_use]
    pub fn new(networks: Vec<Network>, tries: bool, limit: usize) -> Self {
        Self {
            networks,
            tries,
            limit,
            known: HashMap::new(),
            waiting: VecDeque::new(),
            trying: None,
        }
    }

    /// Something happened.
    pub fn follow(&mut self, event: &Event<'_>) -> Option<Noticed> {
        match *event {
            Event::Open(open) => return self.open(open),
            Event::Close(close) => self.forget(close.header.connection),
            Event::Release(header) => self.forget(header.connection),
            Event::Segment(segment, _) if !self.known.is_empty() => {
                let sends = Direction::from_u8(segment.direction) == Direction::Send;
                let decided = segment.slot == SlotKind::Decision as u8;
                let asks = self.passed(segment.header.connection, sends, decided);
                return asks.then_some(Noticed::Asks);
            }
            Event::Decision(record) if !self.known.is_empty() => {
                let sends = Direction::from_u8(record.decision.direction) == Direction::Send;
                let asks = self.passed(record.header.connection, sends, true);
                return asks.then_some(Noticed::Asks);
            }
            _ => {}
        }
        None
    }

    fn open(&mut self, open: &Open) -> Option<Noticed> {
        if open.origin != Origin::FirstSeen as u8 || open.protocol != IPPROTO_TCP {
            return None;
        }
        let address = |bytes: [u8; 16]| match open.family {
            AF_INET => {
                let [a, b, c, d, ..] = bytes;
                Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
            }
            AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(bytes))),
            _ => None,
        };
        let (local, peer) = (address(open.local_address)?, address(open.peer_address)?);
        if !self.networks.iter().any(|network| network.contains(peer)) {
            return None;
        }
        if self.known.len() >= self.limit {
            return Some(Noticed::TurnedAway);
        }
        let connection = open.header.connection;
        let candidate = Candidate {
            name: Name {
                connection,
                socket: open.socket,
            },
            tgid: (open.pid_tgid >> 32) as u32,
            ends: Connection::new(
                SocketAddr::new(local, open.local_port),
                SocketAddr::new(peer, open.peer_port),
            ),
            namespace: open.network_namespace,
        };
        let known = Known {
            candidate,
            asks: false,
            unanswered: false,
            due: (0, FIRST_WAIT_NS),
        };
        self.known.insert(connection, known);
        None
    }

    fn forget(&mut self, connection: u64) {
        self.known.remove(&connection);
    }

    /// Whether that was the connection's first request.
    fn passed(&mut self, connection: u64, sends: bool, decided: bool) -> bool {
        let Some(known) = self.known.get_mut(&connection) else {
            return false;
        };
        if !sends {
            known.unanswered = false;
            return false;
        }
        if !decided {
            return false;
        }
        known.unanswered = true;
        if known.asks {
            return false;
        }
        known.asks = true;
        if self.tries {
            self.waiting.push_back(connection);
        }
        true
    }

    /// The next connection to try, when none is under way: one that has made a request and waits for no answer.
    pub fn next(&mut self, now_ns: u64) -> Option<Candidate> {
        if self.trying.is_some() {
            return None;
        }
        for _ in 0..self.waiting.len().min(LOOKS) {
            let connection = self.waiting.pop_front()?;
            let Some(known) = self.known.get(&connection) else {
                continue;
            };
            if known.unanswered || known.due.0 > now_ns {
                self.waiting.push_back(connection);
                continue;
            }
            self.trying = Some(connection);
            return Some(known.candidate);
        }
        None
    }

    /// What became of the one under way. One that was put in, and ended or turned out to be no HTTP meanwhile, is to be taken out again.
    pub fn tried(&mut self, outcome: Outcome, now_ns: u64) -> Option<u64> {
        let connection = self.trying.take()?;
        if outcome != Outcome::Busy {
            let is_known = self.known.remove(&connection).is_some();
            return (outcome == Outcome::Enrolled && !is_known).then_some(connection);
        }
        if let Some(known) = self.known.get_mut(&connection) {
            let (_, wait_ns) = known.due;
            known.due = (now_ns + wait_ns, LAST_WAIT_NS.min(2 * wait_ns));
            self.waiting.push_back(connection);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use agent_common::abi::{Decision, Role};
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::testing::{SegmentExt as _, Socket};

    const NOW_NS: u64 = 1_000;

    fn older() -> Older {
        let networks = vec!["10.0.0.0/8".parse().expect("a network")];
        Older::new(networks, true, LIMIT)
    }

    /// Follows what was recorded since the last call; how many first requests there were among it.
    fn follow(older: &mut Older, socket: &mut Socket) -> usize {
        let records = std::mem::take(&mut socket.records);
        let first = records
            .iter()
            .filter(|record| older.follow(&record.event()) == Some(Noticed::Asks));
        first.count()
    }

    fn request(socket: &mut Socket) {
        let request = socket.send(b"GET / HTTP/1.1\r\n\r\n");
        request.decided(Decision::new_zeroed());
    }

    fn name(next: Option<Candidate>) -> Option<u64> {
        next.map(|candidate| candidate.name.connection)
    }

    #[test]
    fn is_tried_when_its_request_was_answered() {
        let (mut older, mut socket) = (older(), Socket::open(7, Role::Unknown));
        assert_eq!(follow(&mut older, &mut socket), 0);
        assert_eq!(older.next(NOW_NS), None, "it has asked for nothing");
        request(&mut socket);
        assert_eq!(follow(&mut older, &mut socket), 1);
        assert_eq!(older.next(NOW_NS), None, "it waits");
        socket.receive(b"HTTP/1.1 204 No Content\r\n\r\n");
        follow(&mut older, &mut socket);
        let expected = Candidate {
            name: Name {
                connection: 7,
                socket: 7 << 8,
            },
            tgid: 42,
            ends: Connection::new(
                "10.0.0.2:40000".parse().expect("an end"),
                "10.0.0.1:8080".parse().expect("an end"),
            ),
            namespace: 0,
        };
        assert_eq!(older.next(NOW_NS), Some(expected));
        // Once for each connection.
        request(&mut socket);
        assert_eq!(follow(&mut older, &mut socket), 0);
    }

    #[test]
    fn one_at_a_time_and_busy_ones_again_later() {
        let mut older = older();
        for id in [1, 2] {
            let mut socket = Socket::open(id, Role::Unknown);
            request(&mut socket);
            socket.receive(b"HTTP/1.1 204 No Content\r\n\r\n");
            assert_eq!(follow(&mut older, &mut socket), 1);
        }
        assert_eq!(name(older.next(NOW_NS)), Some(1));
        assert_eq!(older.next(NOW_NS), None, "one is under way");
        assert_eq!(older.tried(Outcome::Busy, NOW_NS), None);
        assert_eq!(name(older.next(NOW_NS)), Some(2));
        assert_eq!(older.tried(Outcome::Enrolled, NOW_NS), None);
        assert_eq!(older.next(NOW_NS + FIRST_WAIT_NS - 1), None);
        assert_eq!(name(older.next(NOW_NS + FIRST_WAIT_NS)), Some(1));
        let mut now_ns = NOW_NS + FIRST_WAIT_NS;
        for _ in 0..20 {
            assert_eq!(older.tried(Outcome::Busy, now_ns), None);
            now_ns += LAST_WAIT_NS;
            assert_eq!(name(older.next(now_ns)), Some(1));
        }
        assert_eq!(older.tried(Outcome::Refused, now_ns), None);
        assert_eq!(older.next(now_ns + LAST_WAIT_NS), None);
        assert!(older.known.is_empty());
    }

    #[test]
    fn is_taken_out_again_when_it_ended_meanwhile() {
        for (outcome, unwanted) in [(Outcome::Enrolled, Some(1)), (Outcome::Refused, None)] {
            let mut older = older();
            let mut socket = Socket::open(1, Role::Unknown);
            request(&mut socket);
            socket.receive(b"HTTP/1.1 204 No Content\r\n\r\n");
            follow(&mut older, &mut socket);
            assert_eq!(name(older.next(NOW_NS)), Some(1));
            socket.close(0);
            follow(&mut older, &mut socket);
            assert_eq!(older.tried(outcome, NOW_NS), unwanted);
        }
    }

    #[test]
    fn turns_new_ones_away_when_there_are_too_many() {
        let mut older = older();
        let open = |older: &mut Older, id: u64| {
            let socket = Socket::open(id, Role::Unknown);
            older.follow(&socket.records[0].event())
        };
        let mut first = Socket::open(1, Role::Unknown);
        assert_eq!(follow(&mut older, &mut first), 0);
        for id in 2..=LIMIT as u64 {
            assert_eq!(open(&mut older, id), None);
        }
        let beyond = LIMIT as u64 + 1;
        assert_eq!(open(&mut older, beyond), Some(Noticed::TurnedAway));
        // Those that were there first stay.
        request(&mut first);
        assert_eq!(follow(&mut older, &mut first), 1);
        // There is room again.
        first.close(0);
        follow(&mut older, &mut first);
        assert_eq!(open(&mut older, beyond), None);
    }

    #[test]
    fn others_are_left_alone() {
        let mut older = older();
        // It began when the agent was there; it is a server's; it leads elsewhere; it is over.
        let mut young = Socket::open(1, Role::Client);
        request(&mut young);
        let mut server = Socket::open(2, Role::Unknown);
        let asked = server.receive(b"GET / HTTP/1.1\r\n\r\n");
        asked.decided(Decision::new_zeroed());
        server.send(b"HTTP/1.1 204 No Content\r\n\r\n");
        let mut over = Socket::open(3, Role::Unknown);
        request(&mut over);
        over.receive(b"HTTP/1.1 204 No Content\r\n\r\n");
        over.close(0);
        for (socket, expected) in [(&mut young, 0), (&mut server, 0), (&mut over, 1)] {
            assert_eq!(follow(&mut older, socket), expected);
        }
        assert_eq!(older.next(NOW_NS), None);
        let network = |text: &str| vec![text.parse().expect("a network")];
        let mut socket = Socket::open(4, Role::Unknown);
        request(&mut socket);
        let mut elsewhere = Older::new(network("10.9.0.0/16"), true, LIMIT);
        assert_eq!(follow(&mut elsewhere, &mut socket.clone()), 0);
        let mut only_noticed = Older::new(network("10.0.0.1"), false, LIMIT);
        socket.receive(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(follow(&mut only_noticed, &mut socket), 1);
        assert_eq!(only_noticed.next(NOW_NS), None);
    }
}
