//! Proofs that a socket in the sockhash behaves as one outside of it, and that what is written into its bytes is exactly what was asked.
//!
//! Input: a [`Bench`]. Output: nothing, or the first [`Failure`]. Sockets are the agent's own, on loopback, IPv4 and IPv6; every wait is bounded.

mod ends;
mod reading;
mod state;
mod transfer;
mod waiting;
mod writing;

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use aya::maps::MapError;

use crate::probe::inject::Bench;

/// How long a proof waits for bytes that are on their way.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// Runs every proof. To be called on the process's first thread; `own` is the id by which the kernel knows the process.
///
/// # Errors
/// The first proof that failed.
pub fn run(bench: &mut Bench, own: u32) -> Result<(), Failure> {
    let thread = u64::from(own) << 32 | u64::from(own);
    for (number, address) in (1..).zip([
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
    ]) {
        // A machine without IPv6 has nothing to prove there.
        let Ok(listener) = TcpListener::bind(address) else {
            continue;
        };
        let mut pair = Pair::connect(&listener)?;
        pair.unread_at_enrolment(bench, number)?;
        pair.fionread()?;
        pair.peek()?;
        pair.readiness()?;
        pair.urgent()?;
        pair.sendfile()?;
        pair.transfers()?;
        pair.insertions(bench, thread)?;
        pair.states(bench, thread)?;
        pair.one_piece(bench, thread)?;
        pair.rewriting(bench, thread)?;
        pair.large_transfer()?;
        pair.let_go(bench, number)?;
        let mut pair = Pair::connect(&listener)?;
        bench.enrol(number, &pair.client).when("enrolment")?;
        pair.half_close()?;
    }
    Ok(())
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
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let mut pair = Pair::connect(&listener).expect("it connects");
        pair.fionread().expect("it counts");
        pair.peek().expect("it looks");
        pair.readiness().expect("it tells");
        pair.urgent().expect("it is urgent");
        pair.sendfile().expect("it sends a file");
        pair.transfers().expect("it sends");
        pair.large_transfer().expect("it sends much");
        pair.half_close().expect("it closes by halves");
    }
}
