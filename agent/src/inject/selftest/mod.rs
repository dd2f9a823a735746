//! Proofs that a socket in the sockhash behaves as one outside of it, and that what is written into its bytes is exactly what was asked.
//!
//! Input: a [`Bench`]. Output: nothing, or the first [`Failure`]. Sockets are the agent's own: on loopback, and between two network namespaces that
//! nobody else sees ([`veth`]); IPv4 and IPv6. Every wait is bounded.

mod crowd;
mod ends;
pub mod option;
mod reading;
mod state;
mod transfer;
mod veth;
mod waiting;
mod writing;

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::maps::MapError;

use crate::{kernel::features::own_thread, probe::inject::Bench};

/// How long a proof waits for bytes that are on their way.
const PATIENCE: Duration = Duration::from_secs(2);

/// Key in the sockhash of the one pair that is looked at by itself; those of a crowd come behind it.
const ONE: u64 = 1;

/// What did not behave.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// FIONREAD tells another number than there are unread bytes.
    #[error(
        "FIONREAD says {said} where {there} bytes are unread ({when}): applications that size their reads by it would stall"
    )]
    Fionread {
        /// What the ioctl said.
        said: u64,
        /// What is there.
        there: u64,
        /// In which situation.
        when: &'static str,
    },
    /// Other bytes arrived than were due.
    #[error("bytes differ: {when}")]
    Bytes {
        /// In which situation.
        when: &'static str,
    },
    /// A readiness event was lost or came without a reason.
    #[error("epoll is wrong: {when}")]
    Readiness {
        /// In which situation.
        when: &'static str,
    },
    /// The kernel did not take a socket, or let go of it.
    #[error("sockhash: {when}")]
    Map {
        /// What was tried.
        when: &'static str,
        /// What the system said.
        #[source]
        source: MapError,
    },
    /// A call failed or waited too long.
    #[error("{when} failed ({source})")]
    Call {
        /// Which one.
        when: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What a proof needs could not be had: a connection, a thread.
    #[error("{what} failed ({source})")]
    Setup {
        /// What was wanted.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An option arrived that should not, or did not arrive.
    #[error("not as it should be: {what}")]
    Option {
        /// Which one.
        what: &'static str,
    },
    /// The kernel is known for a defect.
    #[error("{0}")]
    Known(&'static str),
    /// The thread that looked has ended.
    #[error("the self-test was given up")]
    GivenUp,
    /// A test asked for it.
    #[error("made to fail")]
    Forced,
}

impl Failure {
    /// Whether a call of the proof's own failed, which may be for want of a descriptor or of memory.
    #[must_use]
    pub const fn is_call(&self) -> bool {
        matches!(
            self,
            Self::Call { .. } | Self::Map { .. } | Self::Setup { .. }
        )
    }

    /// Whether it says that the kernel does harm: something was seen to behave otherwise, or bytes did not come, or a connection broke.
    #[must_use]
    pub fn is_proof(&self) -> bool {
        match self {
            Self::Call { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::WriteZero
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
            ),
            other => !other.is_call(),
        }
    }

    fn setup<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Setup {
            what,
            source: error.into(),
        }
    }
}

/// Calls until no signal interrupts it.
fn uninterrupted<T, E: Into<io::Error>>(mut call: impl FnMut() -> Result<T, E>) -> io::Result<T> {
    loop {
        let result: io::Result<T> = call().map_err(Into::into);
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Gives the situation to a system call's error.
trait When<T> {
    fn when(self, when: &'static str) -> Result<T, Failure>;
}

impl<T> When<T> for io::Result<T> {
    fn when(self, when: &'static str) -> Result<T, Failure> {
        self.map_err(|source| Failure::Call { when, source })
    }
}

impl<T> When<T> for rustix::io::Result<T> {
    fn when(self, when: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Call {
            when,
            source: error.into(),
        })
    }
}

impl<T> When<T> for Result<T, MapError> {
    fn when(self, when: &'static str) -> Result<T, Failure> {
        self.map_err(|source| Failure::Map { when, source })
    }
}

/// A self-test that was passed.
#[derive(Clone, Debug)]
pub struct Passed {
    /// How long it took.
    pub took: Duration,
    /// Why nothing was tried between two network namespaces; none where it was.
    pub without_veth: Option<String>,
}

/// Runs every proof; `proc` is where the host's `/proc` is mounted.
///
/// # Errors
/// The first proof that failed.
pub fn run(bench: &mut Bench, proc: &Path) -> Result<Passed, Failure> {
    let start = Instant::now();
    for listener in loopback()? {
        prove(bench, &listener, proc)?;
    }
    // On a thread of its own, which takes its namespaces with it.
    let without_veth = thread::scope(|scope| {
        let thread = spawn(scope, || prove_apart(bench, proc))?;
        thread.join().unwrap_or(Err(Failure::GivenUp))
    })?;
    Ok(Passed {
        took: start.elapsed(),
        without_veth,
    })
}

/// The proofs that one pair on loopback can make: what is looked at again and again while headers are written.
///
/// # Errors
/// The first proof that failed.
pub fn repeat(bench: &mut Bench, proc: &Path) -> Result<(), Failure> {
    loopback()?
        .first()
        .map_or(Ok(()), |listener| one_pair(bench, listener, proc))
}

/// A thread of the scope.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<thread::ScopedJoinHandle<'scope, T>, Failure> {
    let named = thread::Builder::new().name("self-test".to_owned());
    named
        .spawn_scoped(scope, work)
        .map_err(Failure::setup("starting a thread"))
}

/// A listener for each family that the machine has, at least one: one without IPv6 has nothing to prove there.
fn loopback() -> Result<Vec<TcpListener>, Failure> {
    listeners([
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
    ])
}

fn listeners(addresses: impl IntoIterator<Item = SocketAddr>) -> Result<Vec<TcpListener>, Failure> {
    let refused = Failure::setup("listening on loopback");
    let mut listeners = Vec::new();
    for address in addresses {
        match TcpListener::bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    if listeners.is_empty() {
        return Err(refused(io::ErrorKind::AddrNotAvailable.into()));
    }
    Ok(listeners)
}

/// Whether the machine has no such address, or no such family.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// The same between two network namespaces; or why there are none.
fn prove_apart(bench: &mut Bench, proc: &Path) -> Result<Option<String>, Failure> {
    match veth::listeners(proc) {
        Ok(listeners) => {
            for listener in listeners {
                prove(bench, &listener, proc)?;
            }
            Ok(None)
        }
        Err(error) => Ok(Some(error.to_string())),
    }
}

fn prove(bench: &mut Bench, listener: &TcpListener, proc: &Path) -> Result<(), Failure> {
    one_pair(bench, listener, proc)?;
    crowd::crowd(listener, |number, client| {
        bench.enrol(ONE + 1 + number, client).when("enrolment")
    })
}

fn one_pair(bench: &mut Bench, listener: &TcpListener, proc: &Path) -> Result<(), Failure> {
    // Where the kernel knows it by another name, what is written is not what was asked, and the proof fails.
    let thread = own_thread(proc).unwrap_or_default();
    let mut pair = Pair::connect(listener)?;
    pair.unread_at_enrolment(bench, ONE)?;
    pair.fionread()?;
    pair.peek()?;
    pair.readiness()?;
    pair.urgent()?;
    pair.sendfile()?;
    pair.splice()?;
    pair.transfers()?;
    pair.insertions(bench, thread)?;
    pair.states(bench, thread)?;
    pair.one_piece(bench, thread)?;
    pair.rewriting(bench, thread)?;
    pair.large_transfer()?;
    pair.let_go(bench, ONE)?;
    let mut pair = Pair::connect(listener)?;
    bench.enrol(ONE, &pair.client).when("enrolment")?;
    pair.half_close()
}

/// Both ends of a connection; only the client's is enrolled.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn connect(listener: &TcpListener) -> Result<Self, Failure> {
        let refused = Failure::setup("connecting to oneself");
        let address = listener.local_addr().map_err(&refused)?;
        let client = TcpStream::connect_timeout(&address, PATIENCE).map_err(&refused)?;
        let server = accept(listener, client.local_addr().map_err(&refused)?);
        let server = server.map_err(Failure::setup("accepting the own connection"))?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).when("setsockopt")?;
            end.set_write_timeout(Some(PATIENCE)).when("setsockopt")?;
            end.set_nodelay(true).when("setsockopt")?;
        }
        Ok(Self { client, server })
    }
}

/// The other end of the connection that was made from this address. Anybody can connect to a listener; others are turned away.
fn accept(listener: &TcpListener, client: SocketAddr) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            // It waits, whatever the listener does (accept(2)).
            Ok((server, peer)) if peer == client => return Ok(server),
            Ok(_) => {}
            // Somebody who has left again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

fn receive(from: &mut TcpStream, expected: &[u8], when: &'static str) -> Result<(), Failure> {
    let mut bytes = vec![0; expected.len()];
    from.read_exact(&mut bytes).when(when)?;
    same(&bytes, expected, when)
}

fn same(bytes: &[u8], expected: &[u8], when: &'static str) -> Result<(), Failure> {
    if bytes == expected {
        Ok(())
    } else {
        Err(Failure::Bytes { when })
    }
}

/// Bytes of which no two neighbourhoods are alike, and no line end among them.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| b'0' + ((at * 31 + at / 251) % 64) as u8)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_passes_that_is_in_no_sockhash() {
        for listener in loopback().expect("the machine has loopback") {
            let mut pair = Pair::connect(&listener).expect("it connects");
            pair.fionread().expect("it counts");
            pair.peek().expect("it looks");
            pair.readiness().expect("it tells");
            pair.urgent().expect("it is urgent");
            pair.sendfile().expect("it sends a file");
            pair.splice().expect("it moves pages");
            pair.transfers().expect("it sends");
            pair.large_transfer().expect("it sends much");
            pair.half_close().expect("it closes by halves");
            crowd::crowd(&listener, |_, _| Ok(())).expect("many send at once");
        }
    }

    #[test]
    fn no_listener_is_no_proof() {
        // An address for documentation (RFC 5737), which no machine has.
        let absent = SocketAddr::from(([192, 0, 2, 1], 0));
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let some = listeners([absent, loopback]).expect("one of them is there");
        assert_eq!(some.len(), 1);
        for none in [&[absent][..], &[]] {
            let failure = listeners(none.iter().copied()).expect_err("none is there");
            assert!(matches!(failure, Failure::Setup { .. }), "{failure}");
        }
        // What is taken is not absent.
        let taken = some[0].local_addr().expect("it is bound");
        listeners([taken, loopback]).expect_err("somebody listens there");
    }

    #[test]
    fn strangers_are_turned_away() {
        let listener = &loopback().expect("the machine has loopback")[0];
        let address = listener.local_addr().expect("it is bound");
        let mut stranger = TcpStream::connect(address).expect("it listens");
        let mut pair = Pair::connect(listener).expect("it finds itself");
        let ends = |socket: &TcpStream| (socket.local_addr().ok(), socket.peer_addr().ok());
        let (local, peer) = ends(&pair.client);
        assert_eq!(ends(&pair.server), (peer, local));
        pair.transfers().expect("it is a connection");
        assert_eq!(stranger.read(&mut [0]).expect("it is closed"), 0);
        let nobody = SocketAddr::from(([192, 0, 2, 1], 1));
        let waited = accept(listener, nobody).expect_err("nobody comes from there");
        assert_eq!(waited.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_signal_ends_no_call() {
        let mut left = 3;
        let result = uninterrupted(|| {
            left -= 1;
            match left {
                0 => Ok(7),
                1 => Err(io::Error::from(rustix::io::Errno::INTR)),
                _ => Err(io::ErrorKind::Interrupted.into()),
            }
        });
        assert!(matches!(result, Ok(7)), "{result:?}");
        let other: io::Result<()> = uninterrupted(|| Err(rustix::io::Errno::NOMEM));
        assert!(other.is_err());
    }

    #[test]
    fn tells_a_failed_call_from_a_failed_proof() {
        use rustix::io::Errno;
        let call = |error: Errno| Failure::Call {
            when: "receive",
            source: error.into(),
        };
        for error in [Errno::MFILE, Errno::NOMEM, Errno::PERM, Errno::NOBUFS] {
            assert!(call(error).is_call() && !call(error).is_proof(), "{error}");
        }
        // Bytes that do not come: SO_RCVTIMEO, socket(7).
        for error in [Errno::AGAIN, Errno::CONNRESET, Errno::PIPE] {
            assert!(call(error).is_call() && call(error).is_proof(), "{error}");
        }
        let setup: Failure = Failure::setup("starting a thread")(Errno::AGAIN);
        assert!(setup.is_call() && !setup.is_proof());
        for failure in [Failure::Bytes { when: "a look" }, Failure::GivenUp] {
            assert!(!failure.is_call() && failure.is_proof(), "{failure}");
        }
    }
}
