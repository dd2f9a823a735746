//! Birth and death of connections.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Header, StreamState};

/// Which end of the connection the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Not known: the connection is older than the agent and nothing has told yet.
    Unknown = 0,
    /// It called connect(), or it sent the first request.
    Client = 1,
    /// It accepted, or it read the first request.
    Server = 2,
}

impl Role {
    /// The role with this number; unknown numbers are [`Role::Unknown`].
    #[must_use]
    pub const fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Client,
            2 => Self::Server,
            _ => Self::Unknown,
        }
    }
}

/// How the agent came to know a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Origin {
    /// connect() succeeded.
    Connect = 0,
    /// accept() returned it.
    Accept = 1,
    /// A send or receive on a connection that is older than the agent, or whose start was not seen.
    FirstSeen = 2,
}

/// A connection exists. [`Header::time_ns`] is when it was established, accepted or first seen.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Open {
    /// Kind [`Kind::Open`](super::Kind::Open); position and flags are 0.
    pub header: Header,
    /// Thread group id << 32 | thread id that connected, accepted or was first seen.
    pub pid_tgid: u64,
    /// Start time of that thread group, nanoseconds since boot.
    pub process_start_ns: u64,
    /// When connect() was called, CLOCK_MONOTONIC nanoseconds; 0 for accepted and first-seen connections.
    pub connect_start_ns: u64,
    /// Local address: IPv4 in the first four bytes, IPv6 in all, network byte order; zero for unix sockets.
    pub local_address: [u8; 16],
    /// Peer address, likewise.
    pub peer_address: [u8; 16],
    /// Local port, host byte order.
    pub local_port: u16,
    /// Peer port, host byte order.
    pub peer_port: u16,
    /// Address family: AF_INET 2, AF_INET6 10, AF_UNIX 1.
    pub family: u16,
    /// IPPROTO_TCP 6, IPPROTO_MPTCP 262, 0 for unix sockets.
    pub protocol: u16,
    /// Inode number of the network namespace, 0 when unknown.
    pub network_namespace: u32,
    /// A [`Role`].
    pub role: u8,
    /// An [`Origin`].
    pub origin: u8,
    /// 1: the streams are what passes a TLS library; what its socket carries was another connection, which ended for [`CloseReason::Encrypted`].
    pub tls: u8,
    #[doc(hidden)]
    pub reserved: u8,
    /// TCP sequence number of stream position 0 of what this end sends, 0 where positions are counted.
    pub send_base: u32,
    /// TCP sequence number of stream position 0 of what this end receives.
    pub receive_base: u32,
    /// The `sock` pointer: key of the connection's kernel state, an opaque number for user space.
    pub socket: u64,
}

const _: () = assert!(size_of::<Open>() == 128);

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// The socket was closed in order.
    Closed = 0,
    /// A reset or another socket error; [`Close::error`] tells which.
    Error = 1,
    /// connect() failed; [`Close::error`] tells why.
    ConnectFailed = 2,
    /// Its bytes are those of TLS: the plaintext is a connection of its own ([`Open::tls`]).
    Encrypted = 3,
}

impl CloseReason {
    /// The reason with this number; unknown numbers are [`CloseReason::Closed`].
    #[must_use]
    pub const fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Error,
            2 => Self::ConnectFailed,
            3 => Self::Encrypted,
            _ => Self::Closed,
        }
    }
}

/// A connection is over for its process, which has closed it or shut both directions with nothing left to read, or TCP has ended it. For a failed connect,
/// addresses are those of [`Open`], which was sent just before.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Close {
    /// Kind [`Kind::Close`](super::Kind::Close).
    pub header: Header,
    /// Final state of what the process sent.
    pub sent: StreamState,
    /// Final state of what the process received.
    pub received: StreamState,
    /// When the process closed its end in both directions with nothing left to read; 0 when it did not.
    pub closed_ns: u64,
    /// errno of the socket (`sk_err`), 0 for none.
    pub error: u32,
    /// Records of this connection that were lost to a full ring buffer (cumulative).
    pub dropped: u32,
    /// A [`CloseReason`].
    pub reason: u8,
    #[doc(hidden)]
    pub reserved: [u8; 7],
}

const _: () = assert!(size_of::<Close>() == 128);
