//! What is due at which turn of the main loop.
//!
//! Input: time, and whether the ring buffer was emptied. Output: what to do. It does nothing itself.

use super::TICK;

/// When the next ticks are due.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    guard_ns: u64,
    pipeline_ns: u64,
}

/// What is due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The limit of sampling, and proofs that headers may be written.
    pub(super) guard: bool,
    /// The pipeline's tick.
    pub(super) pipeline: bool,
}

impl Ticks {
    /// One turn, at which the ring buffer was emptied or not. The pipeline takes a tick for the news that everything older was pushed, so it waits for an
    /// emptied one; what guards others waits for nothing.
    pub(super) fn due(&mut self, now_ns: u64, emptied: bool) -> Due {
        let next_ns = now_ns + TICK.as_nanos() as u64;
        let guard = now_ns >= self.guard_ns;
        if guard {
            self.guard_ns = next_ns;
        }
        let pipeline = emptied && now_ns >= self.pipeline_ns;
        if pipeline {
            self.pipeline_ns = next_ns;
        }
        Due { guard, pipeline }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_NS: u64 = 100_000_000;

    #[test]
    fn guards_while_the_ring_buffer_never_empties() {
        let mut ticks = Ticks::default();
        let mut counts = (0, 0);
        for turn in 0..1_000 {
            let due = ticks.due(7 + turn * TICK_NS / 10, false);
            counts.0 += u32::from(due.guard);
            counts.1 += u32::from(due.pipeline);
        }
        assert_eq!(counts, (100, 0));
        // The pipeline's comes as soon as it may.
        let now_ns = 8 + 999 * TICK_NS / 10;
        let due = |guard, pipeline| Due { guard, pipeline };
        assert_eq!(ticks.due(now_ns, true), due(false, true));
        assert_eq!(ticks.due(now_ns + TICK_NS - 1, true), due(true, false));
        assert_eq!(ticks.due(now_ns + TICK_NS, true), due(false, true));
    }
}
