//! Proofs that a socket in the sockhash behaves as one outside of it, and that what is written into its bytes is exactly what was asked.
//!
//! Input: a [`Bench`]. Output: nothing, or the first [`Failure`]. Sockets are the agent's own: on loopback, and between two network namespaces that
//! nobody else sees ([`veth`]); IPv4 and IPv6. Every wait is bounded.

mod crowd;
mod ends;
mod reading;
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

use self::transfer::{FEW, TEN_MEGABYTES};
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
    let mut blocks = TEN_MEGABYTES;
    for listener in loopback() {
        prove(bench, &listener, proc, blocks)?;
        blocks = FEW;
    }
    // On a thread of its own, which takes its namespaces with it.
    let apart = thread::scope(|scope| scope.spawn(|| prove_apart(bench, proc)).join());
    let without_veth = apart.unwrap_or(Err(Failure::GivenUp))?;
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
    let listener = loopback().next();
    let listener = listener.ok_or(io::Error::from(io::ErrorKind::AddrNotAvailable));
    let listener = listener.when("listening on loopback")?;
    one_pair(bench, &listener, proc, TEN_MEGABYTES)
}

/// A listener for each family that the machine has: one without IPv6 has nothing to prove there.
fn loopback() -> impl Iterator<Item = TcpListener> {
    let addresses = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
    ];
    addresses
        .into_iter()
        .filter_map(|address| TcpListener::bind(address).ok())
}

/// The same between two network namespaces; or why there are none.
fn prove_apart(bench: &mut Bench, proc: &Path) -> Result<Option<String>, Failure> {
    match veth::listeners(proc) {
        Ok(listeners) => {
            for listener in listeners {
                prove(bench, &listener, proc, FEW)?;
            }
            Ok(None)
        }
        Err(error) => Ok(Some(error.to_string())),
    }
}

fn prove(
    bench: &mut Bench,
    listener: &TcpListener,
    proc: &Path,
    blocks: usize,
) -> Result<(), Failure> {
    one_pair(bench, listener, proc, blocks)?;
    crowd::crowd(listener, |number, client| {
        bench.enrol(ONE + 1 + number, client).when("enrolment")
    })
}

fn one_pair(
    bench: &mut Bench,
    listener: &TcpListener,
    proc: &Path,
    blocks: usize,
) -> Result<(), Failure> {
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
    pair.one_piece(bench, thread)?;
    pair.rewriting(bench, thread)?;
    pair.large_transfer(blocks)?;
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
        let address = listener.local_addr().when("getsockname")?;
        let client = TcpStream::connect_timeout(&address, PATIENCE).when("connect")?;
        let (server, _) = listener.accept().when("accept")?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).when("setsockopt")?;
            end.set_write_timeout(Some(PATIENCE)).when("setsockopt")?;
            end.set_nodelay(true).when("setsockopt")?;
        }
        Ok(Self { client, server })
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
        for listener in loopback() {
            let mut pair = Pair::connect(&listener).expect("it connects");
            pair.fionread().expect("it counts");
            pair.peek().expect("it looks");
            pair.readiness().expect("it tells");
            pair.urgent().expect("it is urgent");
            pair.sendfile().expect("it sends a file");
            pair.splice().expect("it moves pages");
            pair.transfers().expect("it sends");
            pair.large_transfer(FEW).expect("it sends much");
            pair.half_close().expect("it closes by halves");
            crowd::crowd(&listener, |_, _| Ok(())).expect("many send at once");
        }
    }
}
