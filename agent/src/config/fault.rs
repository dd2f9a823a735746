//! Losses that can be forced, so that tests see each of them counted. Not for users: the flag is hidden.

use std::{fmt, str::FromStr};

use serde::Deserialize;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)+) => {
        /// A loss or a broken feature, on request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        #[serde(try_from = "String")]
        pub enum Fault { $($(#[doc = $doc])+ $variant,)+ }

        impl Fault {
            /// Names of all faults.
            pub const NAMES: &[&str] = &[$($name,)+];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }

        impl FromStr for Fault {
            type Err = UnknownFault;

            fn from_str(name: &str) -> Result<Self, UnknownFault> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(UnknownFault(name.to_owned())),
                }
            }
        }
    };
}

faults! {
    /// The ring buffer has room for one page only.
    RingFull = "ring-full";
    /// `SOCKETS` has room for one connection.
    SocketsFull = "sockets-full";
    /// `THREADS` has room for one thread.
    ThreadsFull = "threads-full";
    /// `HEADS` has room for one cut head.
    HeadsFull = "heads-full";
    /// `HANDOVERS` has room for one record.
    HandoversFull = "handovers-full";
    /// `FORWARDS` has no room.
    ForwardsFull = "forwards-full";
    /// No program finds scratch to work in.
    ScratchBusy = "scratch-busy";
    /// No program finds what it goes on with.
    BodiesMissing = "bodies-missing";
    /// No byte of a process can be read.
    Unreadable = "unreadable";
    /// Where several requests could be the parent, the one read last is taken.
    WrongLink = "wrong-link";
    /// Same-kernel records are neither stored nor found.
    NoHandover = "no-handover";
    /// Outgoing requests get no parent.
    NoCausality = "no-causality";
    /// The reader sleeps for longer than the ring buffer holds out.
    SlowReader = "slow-reader";
    /// The export queue has room for one span.
    QueueFull = "queue-full";
    /// Connections are not followed beyond the first.
    ConnectionsOverLimit = "connections-over-limit";
    /// Processes are gone when they are examined.
    ProcessesVanish = "processes-vanish";
    /// The self-test of header injection fails.
    SelfTestFails = "self-test-fails";
    /// The self-test is repeated whenever the counters are asked for.
    ProofOnReport = "proof-on-report";
    /// When the self-test is repeated, what it tries writes one byte late.
    RepetitionBroken = "repetition-broken";
    /// Headers are written twice.
    InjectTwice = "inject-twice";
    /// Headers are written one byte late.
    InjectLate = "inject-late";
    /// Requests with a header lose a byte.
    InjectLoss = "inject-loss";
    /// What to write into a request is meant for another send.
    InjectStale = "inject-stale";
    /// On connections older than the agent, whatever looks like a request gets a header.
    InjectEagerly = "inject-eagerly";
    /// Of the connections older than the agent none is remembered beyond the first.
    InjectOlderOverLimit = "inject-older-over-limit";
    /// `RULES` has room for one process.
    RulesFull = "rules-full";
    /// Messages of unsampled traces are shipped like others.
    NothingHidden = "nothing-hidden";
    /// `INJECTIONS` has room for one connection.
    InjectionsFull = "injections-full";
    /// `STATES` has room for one request.
    StatesFull = "states-full";
    /// What is kept in `STATES` is gone when it is looked for.
    StatesVanish = "states-vanish";
    /// A `tracestate` that is about to be written is replaced.
    InjectStateReplaced = "inject-state-replaced";
    /// Whether it was is not looked after.
    InjectStateUnchecked = "inject-state-unchecked";
    /// `OFFERS` has room for one connection.
    OffersFull = "offers-full";
    /// `BROUGHT` has room for one connection.
    BroughtFull = "brought-full";
    /// TCP options are written with a span id that is none.
    OptionMalformed = "option-malformed";
    /// No segment has room for a TCP option.
    OptionNoRoom = "option-no-room";
    /// Segments that are sent again carry no TCP option.
    OptionOnce = "option-once";
    /// Where TCP options do not arrive, they are tried again after two seconds.
    OptionShortPause = "option-short-pause";
    /// The sockhash has room for one connection.
    SockhashFull = "sockhash-full";
    /// The kernel's types do not tell where a packet's sequence number is.
    PacketsOpaque = "packets-opaque";
    /// Two come to close each request at one time, and each leaves it to the other.
    CloseContended = "close-contended";
    /// Requests are given up after two seconds.
    ShortRequests = "short-requests";
    /// `CALLS` has no room.
    TlsCallsFull = "tls-calls-full";
    /// `SESSIONS` has no room.
    TlsSessionsFull = "tls-sessions-full";
    /// The agent is traced by itself.
    TraceOwn = "trace-own";
}

/// No fault has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFault(String);

impl fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Fault::NAMES.join(", ");
        write!(f, "no fault is called {:?}; known are {known}", self.0)
    }
}

impl std::error::Error for UnknownFault {}

impl TryFrom<String> for Fault {
    type Error = UnknownFault;

    fn try_from(name: String) -> Result<Self, UnknownFault> {
        name.parse()
    }
}
