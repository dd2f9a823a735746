//! Connections: their ends, their owner, and the two streams with explicit gaps.
//!
//! Input: [`Open`] records, segments, states. Output: stream chunks in order ([`Reader`]). It does not know protocols.

mod hold;
mod stream;
mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::abi::{Open, Origin, Role};

pub use self::{
    hold::{Held, Hold},
    stream::{Buffers, Piece, Reader, Start, Stream},
    table::{IdHasher, IdMap, IdSet, Table},
};
use crate::{config::Network, process::ProcessKey};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, and Multipath TCP.
    Tcp,
    /// Unix stream socket.
    Unix,
}

impl Transport {
    /// Value of `network.transport`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        }
    }
}

/// The two ends of a connection; addresses are made text once per connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// How bytes travel.
    pub transport: Transport,
    /// Address of the traced process's end; empty for unix sockets.
    pub local_address: String,
    /// Its port, 0 for unix sockets.
    pub local_port: u16,
    /// Address of the other end.
    pub peer_address: String,
    /// Its port.
    pub peer_port: u16,
    /// Whether what travels is what passes a TLS library.
    pub tls: bool,
}

impl Endpoints {
    /// Whether the other end is in one of these networks; that of a unix socket is in all of them.
    #[must_use]
    pub fn has_peer_in(&self, networks: &[Network]) -> bool {
        self.peer_address
            .parse()
            .map_or(true, |peer| networks.iter().any(|one| one.contains(peer)))
    }

    /// The ends that a record names.
    #[must_use]
    pub fn new(open: &Open) -> Self {
        let unix = open.family == AF_UNIX;
        Self {
            transport: if unix {
                Transport::Unix
            } else {
                Transport::Tcp
            },
            local_address: address(open.family, &open.local_address),
            local_port: open.local_port,
            peer_address: address(open.family, &open.peer_address),
            peer_port: open.peer_port,
            tls: open.tls != 0,
        }
    }
}

/// Addresses mapped from IPv4 are written as IPv4, as the other end knows them.
fn address(family: u16, bytes: &[u8; 16]) -> String {
    match family {
        AF_UNIX => String::new(),
        AF_INET => {
            let [a, b, c, d, ..] = *bytes;
            Ipv4Addr::new(a, b, c, d).to_string()
        }
        _ => IpAddr::V6(Ipv6Addr::from(*bytes))
            .to_canonical()
            .to_string(),
    }
}

/// The process of a record.
#[must_use]
pub const fn process_key(pid_tgid: u64, process_start_ns: u64) -> ProcessKey {
    ProcessKey {
        tgid: (pid_tgid >> 32) as u32,
        start_ns: process_start_ns,
    }
}

/// A connection, apart from what its protocol makes of it.
#[derive(Debug)]
pub struct Connection {
    /// Its id.
    pub id: u64,
    /// Key of the kernel's state, 0 when its `Open` was not seen.
    pub socket: u64,
    /// Which end the process is.
    pub role: Role,
    /// Its ends; none when its `Open` was not seen.
    pub endpoints: Option<Box<Endpoints>>,
    /// Who opened it, or was first seen with it.
    pub process: ProcessKey,
    /// Streams by [`agent_common::abi::Direction`].
    pub streams: [Stream; 2],
    /// Records lost so far, as the last record said.
    pub dropped: u32,
    /// Both streams are followed from their first byte.
    pub from_start: bool,
}

impl Connection {
    /// A connection whose `Open` is here.
    #[must_use]
    pub fn opened(open: &Open) -> Self {
        let process = process_key(open.pid_tgid, open.process_start_ns);
        let mut connection = Self::unopened(open.header.connection, process);
        connection.open(open);
        if open.origin != Origin::FirstSeen as u8 {
            connection.from_start = true;
            connection.streams = [Stream::starting_at(0), Stream::starting_at(0)];
        }
        connection
    }

    /// A connection whose `Open` was lost.
    #[must_use]
    pub fn unopened(id: u64, process: ProcessKey) -> Self {
        Self {
            id,
            socket: 0,
            role: Role::Unknown,
            endpoints: None,
            process,
            streams: [Stream::default(), Stream::default()],
            dropped: 0,
            from_start: false,
        }
    }

    /// Takes the facts of an `Open`; one that comes late says nothing of where the streams begin.
    pub fn open(&mut self, open: &Open) {
        self.socket = open.socket;
        self.endpoints = Some(Box::new(Endpoints::new(open)));
        if self.role == Role::Unknown {
            self.role = Role::from_u8(open.role);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_addresses_as_people_do() {
        let mut mapped = [0; 16];
        mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 1, 2, 3]);
        assert_eq!(address(10, &mapped), "10.1.2.3");
        let mut loopback = [0; 16];
        loopback[15] = 1;
        assert_eq!(address(10, &loopback), "::1");
        let mut four = [0; 16];
        four[..4].copy_from_slice(&[127, 0, 0, 1]);
        assert_eq!(address(2, &four), "127.0.0.1");
        assert_eq!(address(1, &four), "");
    }
}
