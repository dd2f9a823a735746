//! Records that came before the ones they follow: kept for a moment, so that what is only late does not count as lost.

use agent_common::abi::Segment;

/// A record that waits, with its payload.
#[derive(Debug)]
pub struct Held {
    /// The record.
    pub segment: Segment,
    /// Its captured bytes.
    pub payload: Vec<u8>,
}

/// Records of one connection that wait for an earlier one.
#[derive(Debug, Default)]
pub struct Hold {
    records: Vec<Held>,
    /// Ticks since the first came.
    pub ticks: u32,
}

impl Hold {
    /// Records that wait at most: beyond that, the missing one counts as lost.
    pub const LIMIT: usize = 8;

    /// Ticks that a record waits at most.
    pub const TICKS: u32 = 2;

    /// Keeps a record; false when there are too many.
    pub fn push(&mut self, segment: &Segment, payload: &[u8]) -> bool {
        let at = self
            .records
            .partition_point(|held| held.segment.header.time_ns <= segment.header.time_ns);
        let held = Held {
            segment: *segment,
            payload: payload.to_vec(),
        };
        self.records.insert(at, held);
        self.records.len() <= Self::LIMIT
    }

    /// The records, earliest first; nothing waits then.
    #[must_use]
    pub fn take(&mut self) -> Vec<Held> {
        self.ticks = 0;
        std::mem::take(&mut self.records)
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes held.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.records
            .iter()
            .map(|held| held.payload.len() + size_of::<Held>())
            .sum()
    }
}
