//! Pairs of monotonic and real time.
//!
//! Input: the two clocks. Output: a [`ClockPair`] when a new one is due. Which pair a trace uses is decided where traces are known.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::ClockPair;

/// A pair older than this is replaced: CLOCK_MONOTONIC stands still while the machine sleeps, and real time is stepped and slewed.
const RENEW_AFTER_NS: u64 = 1_000_000_000;

/// Readings of which the one with the least time around it is taken: the thread may be preempted between two clocks.
const READINGS: usize = 4;

/// Gives a new pair once a second.
#[derive(Debug, Default)]
pub struct Clock {
    last_ns: Option<u64>,
}

impl Clock {
    /// A pair when none was given yet or the last one is a second old; `now_ns` is [`monotonic_ns`].
    pub fn due(&mut self, now_ns: u64) -> Option<ClockPair> {
        self.due_with(now_ns, read)
    }

    fn due_with(&mut self, now_ns: u64, read: impl FnOnce() -> ClockPair) -> Option<ClockPair> {
        let fresh = self
            .last_ns
            .is_some_and(|last| now_ns.saturating_sub(last) < RENEW_AFTER_NS);
        if fresh {
            return None;
        }
        self.last_ns = Some(now_ns);
        Some(read())
    }
}

/// CLOCK_MONOTONIC now, nanoseconds: the clock of all records.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Both clocks now; the error is at most half the time between the two monotonic readings around the real one.
#[must_use]
pub fn read() -> ClockPair {
    let reading = || {
        let before = nanoseconds(ClockId::Monotonic);
        let unix_ns = nanoseconds(ClockId::Realtime);
        let around = nanoseconds(ClockId::Monotonic).saturating_sub(before);
        let pair = ClockPair {
            monotonic_ns: before + around / 2,
            unix_ns,
        };
        (around, pair)
    };
    let first = reading();
    let best =
        (1..READINGS).map(|_| reading()).fold(
            first,
            |best, next| {
                if next.0 < best.0 { next } else { best }
            },
        );
    best.1
}

/// A time before the epoch of its clock counts as the epoch.
fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let time = Duration::try_from(time).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_lie_between_readings_of_both_clocks() {
        let monotonic = monotonic_ns();
        let pair = read();
        assert!((monotonic..=monotonic_ns()).contains(&pair.monotonic_ns));
        // 2020-09-13: any machine that builds this is later.
        assert!(pair.unix_ns > 1_600_000_000_000_000_000);
    }

    #[test]
    fn gives_a_pair_at_once_and_then_each_second() {
        let mut clock = Clock::default();
        let mut due = |now_ns| {
            clock
                .due_with(now_ns, || ClockPair {
                    monotonic_ns: now_ns,
                    unix_ns: 0,
                })
                .map(|pair| pair.monotonic_ns)
        };
        assert_eq!(due(5), Some(5));
        assert_eq!(due(1_000_000_004), None);
        assert_eq!(due(1_000_000_005), Some(1_000_000_005));
        assert_eq!(due(1_000_000_006), None);
        assert_eq!(due(9_000_000_000), Some(9_000_000_000));
    }

    #[test]
    fn maps_times_on_both_sides_of_a_pair() {
        let pair = ClockPair {
            monotonic_ns: 100,
            unix_ns: 1_000,
        };
        assert_eq!(pair.to_unix_ns(150), 1_050);
        assert_eq!(pair.to_unix_ns(40), 940);
        assert_eq!(pair.to_unix_ns(u64::MAX), u64::MAX);
    }
}
