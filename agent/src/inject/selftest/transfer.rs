//! What nothing is written into arrives as it is: small and large, from memory and from a file, in both directions at once.
//!
//! Input: a [`Pair`]. Output: nothing, or that bytes differ or do not come.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::MemfdFlags,
    io::ioctl_fionread,
    pipe::{PipeFlags, SpliceFlags},
};

use super::{Failure, PATIENCE, Pair, When as _, pattern, receive, same};

/// What a large transfer consists of, over and over, bytes.
const BLOCK: usize = (256 << 10) + 1;

/// Blocks of a transfer of 10 MB, and of one on a machine of which one was proven.
pub(super) const TEN_MEGABYTES: usize = 40;
pub(super) const FEW: usize = 6;

const WHEN: &str = "a large transfer";

impl Pair {
    pub(super) fn sendfile(&mut self) -> Result<(), Failure> {
        let content = pattern(60_000);
        let memory =
            rustix::fs::memfd_create("undertrace", MemfdFlags::CLOEXEC).when("memfd_create")?;
        let mut file = File::from(memory);
        file.write_all(&content).when("write")?;
        file.rewind().when("lseek")?;
        let mut sent = 0;
        let mut received = Vec::new();
        while sent < content.len() {
            let count = rustix::fs::sendfile(&self.client, &file, None, content.len() - sent)
                .when("sendfile")?;
            sent += count;
            let mut part = vec![0; count];
            self.server.read_exact(&mut part).when("receive")?;
            received.extend(part);
        }
        same(&received, &content, "sendfile")
    }

    /// Sends without an instruction arrive as they are, whatever their size.
    pub(super) fn transfers(&mut self) -> Result<(), Failure> {
        for length in [1, 2, 70, 4095, 4096, 20_000] {
            self.client.write_all(&pattern(length)).when("send")?;
            receive(
                &mut self.server,
                &pattern(length),
                "a send that nothing is written into",
            )?;
        }
        Ok(())
    }

    /// Pages that go from a pipe into the socket, and from the socket into a pipe.
    pub(super) fn splice(&mut self) -> Result<(), Failure> {
        // Less than a pipe holds.
        let content = pattern(60_000);
        let (out, into) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).when("pipe")?;
        let (mut out, mut into) = (File::from(out), File::from(into));
        into.write_all(&content).when("write")?;
        let mut moved = 0;
        while moved < content.len() {
            let left = content.len() - moved;
            let flags = SpliceFlags::empty();
            let count =
                rustix::pipe::splice(&out, None, &self.client, None, left, flags).when("splice")?;
            let part = &content[moved..moved + count];
            receive(&mut self.server, part, "pages spliced into the socket")?;
            moved += count;
        }
        self.server.write_all(&content).when("send")?;
        let mut received = Vec::new();
        while received.len() < content.len() {
            let left = content.len() - received.len();
            let flags = SpliceFlags::empty();
            let count = rustix::pipe::splice(&self.client, None, &into, None, left, flags)
                .when("splice")?;
            let mut part = vec![0; count];
            if count == 0 {
                break;
            }
            out.read_exact(&mut part).when("read")?;
            received.extend(part);
        }
        same(&received, &content, "pages spliced out of the socket")
    }

    /// Both directions at once, so many blocks towards the reader that is enrolled, which sizes its reads by FIONREAD.
    pub(super) fn large_transfer(&mut self, blocks: usize) -> Result<(), Failure> {
        let block = pattern(BLOCK);
        let mut server = self.server.try_clone().when("dup")?;
        let mut sender = self.client.try_clone().when("dup")?;
        let mut back = self.server.try_clone().when("dup")?;
        thread::scope(|scope| {
            let answering = scope.spawn(|| send_large(&mut back, &block, blocks));
            let sending = scope.spawn(|| send_large(&mut sender, &block, FEW));
            let reading = scope.spawn(|| {
                let mut expected = Repeated::new(&block, FEW);
                let mut part = vec![0; 64 << 10];
                while expected.left() != 0 {
                    let count = server.read(&mut part).when("receive")?;
                    expected.go_on(&part[..count])?;
                }
                expected.end()
            });
            let by_count = self.read_by_count(&mut Repeated::new(&block, blocks));
            if by_count.is_err() {
                // Whoever still sends to it or waits for it is let off.
                let _ = self.client.shutdown(Shutdown::Both);
            }
            let joined = |thread: thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
                thread.join().unwrap_or(Err(Failure::GivenUp))
            };
            let others = [joined(answering), joined(sending), joined(reading)];
            by_count?;
            others.into_iter().collect()
        })
    }

    /// Reads all of it, each time as much as FIONREAD says is there.
    fn read_by_count(&mut self, expected: &mut Repeated<'_>) -> Result<(), Failure> {
        let mut part = Vec::new();
        let mut moved_at = Instant::now();
        while expected.left() != 0 {
            let said = ioctl_fionread(&self.client).when("FIONREAD")?;
            if said == 0 {
                if moved_at.elapsed() > PATIENCE {
                    return Err(Failure::Fionread {
                        said,
                        there: expected.left() as u64,
                        when: "during a large transfer",
                    });
                }
                thread::sleep(Duration::from_micros(200));
                continue;
            }
            part.resize(usize::try_from(said).unwrap_or(BLOCK).min(BLOCK), 0);
            self.client.read_exact(&mut part).when("receive")?;
            expected.go_on(&part)?;
            moved_at = Instant::now();
        }
        expected.end()
    }
}

fn send_large(to: &mut TcpStream, block: &[u8], blocks: usize) -> Result<(), Failure> {
    (0..blocks).try_for_each(|_| to.write_all(block).when("large send"))
}

/// A block over and over, as far as it has come.
struct Repeated<'a> {
    block: &'a [u8],
    at: usize,
    length: usize,
}

impl<'a> Repeated<'a> {
    const fn new(block: &'a [u8], blocks: usize) -> Self {
        Self {
            block,
            at: 0,
            length: blocks * block.len(),
        }
    }

    /// Bytes that are still to come.
    const fn left(&self) -> usize {
        self.length.saturating_sub(self.at)
    }

    /// Checks what comes next.
    fn go_on(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Err(Failure::Bytes { when: WHEN });
        }
        while !bytes.is_empty() {
            let due = &self.block[self.at % self.block.len()..];
            let (now, later) = bytes.split_at(due.len().min(bytes.len()));
            same(now, &due[..now.len()], WHEN)?;
            self.at += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Checks that it was all, and no more.
    fn end(&self) -> Result<(), Failure> {
        if self.at == self.length {
            Ok(())
        } else {
            Err(Failure::Bytes { when: WHEN })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_byte_that_is_changed_missing_or_twice() {
        let block = pattern(1000);
        let sent = block.repeat(3);
        let check = |bytes: &[u8]| {
            let mut expected = Repeated::new(&block, 3);
            bytes
                .chunks(333)
                .try_for_each(|part| expected.go_on(part))?;
            expected.end()
        };
        assert!(check(&sent).is_ok());
        let mut changed = sent.clone();
        changed[2500] ^= 1;
        let (mut missing, mut twice) = (sent.clone(), sent.clone());
        missing.remove(1999);
        twice.insert(1000, sent[999]);
        let (short, long) = (sent[..2999].to_vec(), [&sent[..], &sent[..1]].concat());
        for wrong in [changed, missing, twice, short, long] {
            assert!(matches!(check(&wrong), Err(Failure::Bytes { .. })));
        }
        assert!(Repeated::new(&block, 3).go_on(&[]).is_err());
    }
}
