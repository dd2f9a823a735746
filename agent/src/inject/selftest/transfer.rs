//! What nothing is written into arrives as it is: small and large, from memory and from a file, in both directions at once.
//!
//! Input: a [`Pair`]. Output: nothing, or that bytes differ or do not come.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use rustix::{fs::MemfdFlags, io::ioctl_fionread};

use super::{Failure, PATIENCE, Pair, When as _, pattern, receive, same};

/// Bytes of the large transfers.
const LARGE: usize = 1 << 20;

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

    /// Both directions at once; the reader that is enrolled sizes its reads by FIONREAD.
    pub(super) fn large_transfer(&mut self) -> Result<(), Failure> {
        let mut server = self.server.try_clone().when("dup")?;
        let mut sender = self.client.try_clone().when("dup")?;
        let mut back = self.server.try_clone().when("dup")?;
        thread::scope(|scope| {
            let answering = scope.spawn(move || back.write_all(&pattern(LARGE)).when("large send"));
            let sending = scope.spawn(move || sender.write_all(&pattern(LARGE)).when("large send"));
            let reading =
                scope.spawn(move || receive(&mut server, &pattern(LARGE), "a large transfer"));
            let mut received = Vec::with_capacity(LARGE);
            let deadline = Instant::now() + 5 * PATIENCE;
            while received.len() < LARGE {
                if Instant::now() > deadline {
                    return Err(Failure::Fionread {
                        said: 0,
                        there: (LARGE - received.len()) as u64,
                        when: "during a large transfer",
                    });
                }
                let said = ioctl_fionread(&self.client).when("FIONREAD")?;
                if said == 0 {
                    thread::sleep(Duration::from_micros(200));
                    continue;
                }
                let mut part = vec![0; usize::try_from(said).unwrap_or(LARGE)];
                self.client.read_exact(&mut part).when("receive")?;
                received.extend(part);
            }
            let joined = |thread: thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
                thread.join().unwrap_or(Err(Failure::Bytes {
                    when: "a large transfer was given up",
                }))
            };
            joined(answering)?;
            joined(sending)?;
            joined(reading)?;
            same(&received, &pattern(LARGE), "a large transfer")
        })
    }
}
