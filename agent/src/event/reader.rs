//! Takes records out of the ring buffer.
//!
//! Input: the map `EVENTS`. Output: raw records, in the order of the ring, which is not the order of time between CPUs. Programs commit
//! without waking anybody: a wake-up costs the traced process more than fifty records do. So the reader looks on a short timer, and is woken
//! early only when a program forces it because the buffer fills.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};

/// Time between two looks while records come.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// Time between two looks after a while without records.
pub const IDLE_INTERVAL: Duration = Duration::from_millis(40);

/// Looks without a record after which the longer interval is taken.
const IDLE_AFTER: u32 = 20;

/// Most records taken at once, so that ticks and signals are not held up by a flood.
const BATCH: usize = 16_384;

/// Reads the ring buffer.
pub struct Reader {
    ring: RingBuf<MapData>,
    epoll: OwnedFd,
    pace: Pace,
    largest_batch_bytes: u64,
}

/// What one look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Records handed out.
    pub records: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the ring was empty at the end; otherwise look again without waiting.
    pub emptied: bool,
}

impl Reader {
    /// A reader of the ring buffer.
    ///
    /// # Errors
    /// When the system has no file descriptor left.
    pub fn new(ring: RingBuf<MapData>) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Edge-triggered: only a forced wake-up ends the wait, not the mere presence of records.
        let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, ring.as_fd(), epoll::EventData::new_u64(0), events)?;
        Ok(Self {
            ring,
            epoll,
            pace: Pace::default(),
            largest_batch_bytes: 0,
        })
    }

    /// Waits until the next look is due or a program forces it, but no longer than `at_most`; a signal ends it too.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn wait(&mut self, at_most: Duration) -> std::io::Result<()> {
        let timeout = Timespec::try_from(self.pace.interval().min(at_most)).ok();
        let mut event = [std::mem::MaybeUninit::uninit()];
        match epoll::wait(&self.epoll, &mut event[..], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands out what is there. Each record begins at a multiple of eight bytes and is gone from the ring when `each` returns.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) -> Drained {
        let mut drained = Drained::default();
        while drained.records < BATCH {
            let Some(record) = self.ring.next() else {
                drained.emptied = true;
                break;
            };
            each(&record);
            drained.records += 1;
            drained.bytes += record.len() as u64;
        }
        self.pace.note(drained);
        self.largest_batch_bytes = self.largest_batch_bytes.max(drained.bytes);
        drained
    }

    /// The most bytes that one look found: how full the ring has been, at least.
    #[must_use]
    pub fn largest_batch_bytes(&self) -> u64 {
        self.largest_batch_bytes
    }
}

/// How long to wait before the next look.
#[derive(Debug, Default)]
struct Pace {
    empty_looks: u32,
    more: bool,
}

impl Pace {
    fn note(&mut self, drained: Drained) {
        self.more = !drained.emptied;
        self.empty_looks = if drained.records == 0 {
            self.empty_looks.saturating_add(1)
        } else {
            0
        };
    }

    fn interval(&self) -> Duration {
        if self.more {
            Duration::ZERO
        } else if self.empty_looks < IDLE_AFTER {
            INTERVAL
        } else {
            IDLE_INTERVAL
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_less_often_while_nothing_happens() {
        let mut pace = Pace::default();
        let found = |records, emptied| Drained {
            records,
            bytes: 0,
            emptied,
        };
        assert_eq!(pace.interval(), INTERVAL);
        for _ in 0..IDLE_AFTER {
            assert_eq!(pace.interval(), INTERVAL);
            pace.note(found(0, true));
        }
        assert_eq!(pace.interval(), IDLE_INTERVAL);
        pace.note(found(1, true));
        assert_eq!(pace.interval(), INTERVAL);
        pace.note(found(BATCH, false));
        assert_eq!(pace.interval(), Duration::ZERO);
    }
}
