//! Many sockets at once.
//!
//! Input: a listener, and what to do with each client before it sends. Output: nothing, or that bytes of one connection differ, stop coming, or go to another.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{Failure, PATIENCE, Pair, When as _, pattern};

/// Connections.
const PAIRS: usize = 64;

/// Bytes that pass each of them in either direction.
const EACH: usize = 64 << 10;

/// Each connection's bytes begin so much later in the pattern.
const STEP: usize = 977;

const WHEN: &str = "a large transfer on 64 sockets at once";

/// All send in both directions at once, as much as the kernel takes of each in turn.
pub(super) fn crowd(
    listener: &TcpListener,
    mut enrol: impl FnMut(u64, &TcpStream) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut pairs = Vec::with_capacity(PAIRS);
    for number in 0..PAIRS {
        let pair = Pair::connect(listener)?;
        enrol(number as u64, &pair.client)?;
        for end in [&pair.client, &pair.server] {
            end.set_nonblocking(true).when("fcntl")?;
        }
        pairs.push((pair, [Flow::default(); 2]));
    }
    let all = pattern(EACH + PAIRS * STEP);
    let mut buffer = vec![0; 64 << 10];
    let mut moved_at = Instant::now();
    loop {
        let (mut moved, mut left) = (0, 0);
        for (number, (pair, [there, back])) in pairs.iter_mut().enumerate() {
            let bytes = &all[number * STEP..][..EACH];
            let Pair { client, server } = pair;
            moved += there.go_on(client, server, bytes, &mut buffer)?;
            moved += back.go_on(server, client, bytes, &mut buffer)?;
            left += 2 * EACH - there.received - back.received;
        }
        if left == 0 {
            return Ok(());
        }
        if moved != 0 {
            moved_at = Instant::now();
        } else if moved_at.elapsed() > PATIENCE {
            return Err(io::Error::from(io::ErrorKind::TimedOut)).when(WHEN);
        } else {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One direction of a connection, bytes so far.
#[derive(Clone, Copy, Default)]
struct Flow {
    sent: usize,
    received: usize,
}

impl Flow {
    /// Sends and receives once. Gives how many bytes moved.
    fn go_on(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        bytes: &[u8],
        buffer: &mut [u8],
    ) -> Result<usize, Failure> {
        let mut moved = 0;
        if self.sent < bytes.len() {
            let sent = if_any(from.write(&bytes[self.sent..]))?;
            self.sent += sent;
            moved += sent;
        }
        if self.received < bytes.len() {
            let received = match to.read(buffer) {
                Ok(0) => return Err(Failure::Bytes { when: WHEN }),
                other => if_any(other)?,
            };
            let expected = bytes.get(self.received..self.received + received);
            if expected != Some(&buffer[..received]) {
                return Err(Failure::Bytes { when: WHEN });
            }
            self.received += received;
            moved += received;
        }
        Ok(moved)
    }
}

/// Bytes that a call moved which does not wait.
fn if_any(result: io::Result<usize>) -> Result<usize, Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other.when(WHEN),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// What comes of a connection on which `sent` arrives and `expected` was due, and that ends then.
    fn outcome(sent: &[u8], expected: &[u8]) -> Result<usize, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let Pair {
            mut client,
            mut server,
        } = Pair::connect(&listener)?;
        client.write_all(sent).when("send")?;
        client
            .shutdown(std::net::Shutdown::Write)
            .when("shutdown")?;
        let mut flow = Flow {
            sent: expected.len(),
            received: 0,
        };
        while flow.received < expected.len() {
            flow.go_on(&mut client, &mut server, expected, &mut [0; 700])?;
        }
        Ok(flow.received)
    }

    #[test]
    fn sees_bytes_that_are_changed_missing_or_anothers() {
        let all = pattern(3000 + STEP);
        let due = &all[..3000];
        assert!(matches!(outcome(due, due), Ok(3000)));
        let mut changed = due.to_vec();
        changed[2999] ^= 1;
        for wrong in [&changed, &due[..2999], &all[STEP..][..3000]] {
            let outcome = outcome(wrong, due);
            assert!(matches!(outcome, Err(Failure::Bytes { .. })), "{outcome:?}");
        }
    }

    #[test]
    fn no_two_connections_send_the_same() {
        let all = pattern(EACH + PAIRS * STEP);
        let mut beginnings: Vec<_> = (0..PAIRS).map(|n| &all[n * STEP..][..300]).collect();
        beginnings.sort_unstable();
        beginnings.dedup();
        assert_eq!(beginnings.len(), PAIRS);
    }
}
