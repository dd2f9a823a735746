//! What hooks are for: the features of the agent, as a person reads them.

use serde::Serialize;

/// What a group of hooks is for. All of a feature's hooks work, or the feature is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Sends and receives on IPv4 sockets, and the end of every internet socket.
    Inet,
    /// Sends and receives on IPv6 sockets.
    Inet6,
    /// Sends and receives on unix stream sockets.
    Unix,
    /// What sendfile and splice put into unix stream sockets.
    UnixFiles,
    /// connect() of unix stream sockets: where their streams begin.
    UnixConnects,
    /// connect(): who is the client, failed connects, connection times.
    Connects,
    /// accept(): who is the server.
    Accepts,
    /// Birth, change and death of processes.
    Processes,
    /// When a thread goes back to wait for work.
    Waits,
    /// Positions of idle connections.
    LivePositions,
    /// What TCP sends again.
    Retransmissions,
    /// Calls of TLS libraries.
    Tls,
    /// Programs that stand in where the kernel skips those of sends and receives; only for kernels that preempt. Each is of use without the others.
    Spares,
}

impl Feature {
    /// All features, in the order in which a person reads them.
    pub const ALL: &'static [Self] = &[
        Self::Inet,
        Self::Inet6,
        Self::Unix,
        Self::UnixFiles,
        Self::UnixConnects,
        Self::Connects,
        Self::Accepts,
        Self::Processes,
        Self::Waits,
        Self::LivePositions,
        Self::Retransmissions,
        Self::Tls,
        Self::Spares,
    ];

    /// Whether one of its hooks is of use without the others.
    #[must_use]
    pub const fn is_separable(self) -> bool {
        matches!(self, Self::Spares)
    }

    /// Whether the agent is of no use without it.
    #[must_use]
    pub const fn is_required(self) -> bool {
        matches!(self, Self::Inet)
    }

    /// What it is called on the console.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Inet => "TCP over IPv4",
            Self::Inet6 => "TCP over IPv6",
            Self::Unix => "unix stream sockets",
            Self::UnixFiles => "files on unix sockets",
            Self::UnixConnects => "unix connections",
            Self::Connects => "outgoing connections",
            Self::Accepts => "accepted connections",
            Self::Processes => "process life",
            Self::Waits => "event-loop rules",
            Self::LivePositions => "idle connections",
            Self::Retransmissions => "retransmissions",
            Self::Tls => "TLS libraries",
            Self::Spares => "preempted programs",
        }
    }

    /// What a user loses without it.
    #[must_use]
    pub const fn loss(self) -> &'static str {
        match self {
            Self::Inet => "nothing can be traced",
            Self::Inet6 => "requests over IPv6 are not traced",
            Self::Unix => "requests over unix sockets are not traced",
            Self::UnixFiles => {
                "after a sendfile or splice into a unix socket, its connection is not traced any more"
            }
            Self::UnixConnects => "the two ends of a unix socket are not joined to one trace",
            Self::Connects => {
                "failed connects are not reported, and calls of event loops have no parent on new connections"
            }
            Self::Accepts => {
                "the server's side of a connection is known only from its first request"
            }
            Self::Processes => "programs started after the agent are named late or not at all",
            Self::Waits => "fewer calls made by event loops (nginx, Node) have a parent",
            Self::LivePositions => {
                "a span whose end follows no other traffic is complete only with the connection's next request"
            }
            Self::Tls => "requests over TLS are not traced",
            Self::Retransmissions => "spans do not tell what TCP had to send again",
            Self::Spares => {
                "sends and receives are missed while another thread is preempted inside a program"
            }
        }
    }
}
