//! One mapping from monotonic to real time per trace, so that no child starts before its parent because the clock was set in between.

use std::collections::hash_map::Entry;

use crate::{conn::IdMap, event::ClockPair};

/// How long a trace keeps its mapping after its last span.
const REMEMBERED_NS: u64 = 60_000_000_000;

/// Traces remembered for one period; beyond that, new ones take the newest mapping.
const LIMIT: usize = 1 << 18;

/// Mappings by trace, in two generations: what was not used in the last period is forgotten with the older one.
#[derive(Debug, Default)]
pub struct Clocks {
    pairs: Vec<ClockPair>,
    current: IdMap<u64, u32>,
    previous: IdMap<u64, u32>,
    period_from_ns: u64,
}

impl Clocks {
    /// A new mapping, for traces that begin now.
    pub fn set(&mut self, pair: ClockPair) {
        if self.pairs.last() != Some(&pair) {
            self.pairs.push(pair);
        }
    }

    /// The newest mapping; before the first one, monotonic time stands for real time.
    #[must_use]
    pub fn newest(&self) -> ClockPair {
        self.pairs.last().copied().unwrap_or(ClockPair {
            monotonic_ns: 0,
            unix_ns: 0,
        })
    }

    /// The mapping of a trace.
    pub fn of(&mut self, trace_id: &[u8; 16]) -> ClockPair {
        let [_, _, _, _, _, _, _, _, low @ ..] = *trace_id;
        let key = u64::from_be_bytes(low);
        let newest = u32::try_from(self.pairs.len().saturating_sub(1)).unwrap_or(0);
        let has_room = self.current.len() < LIMIT;
        let index = match self.current.entry(key) {
            Entry::Occupied(index) => *index.get(),
            Entry::Vacant(place) => {
                let index = self.previous.get(&key).copied().unwrap_or(newest);
                if has_room {
                    place.insert(index);
                }
                index
            }
        };
        let pair = self.pairs.get(index as usize).copied();
        pair.unwrap_or_else(|| self.newest())
    }

    /// Time passed.
    pub fn tick(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.period_from_ns) < REMEMBERED_NS {
            return;
        }
        self.period_from_ns = now_ns;
        std::mem::swap(&mut self.current, &mut self.previous);
        self.current.clear();
        if self.previous.is_empty() && self.pairs.len() > 1 {
            self.pairs.drain(..self.pairs.len() - 1);
        }
        self.forget_unused();
    }

    /// Drops mappings that no trace uses any more, so that a clock set for years stays small.
    fn forget_unused(&mut self) {
        const KEPT: usize = 64;
        if self.pairs.len() <= KEPT {
            return;
        }
        let Some(oldest) = self.previous.values().min().copied() else {
            return;
        };
        let oldest = oldest.min(u32::try_from(self.pairs.len() - 1).unwrap_or(0));
        self.pairs.drain(..oldest as usize);
        for index in self.previous.values_mut() {
            *index -= oldest.min(*index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(unix_ns: u64) -> ClockPair {
        ClockPair {
            monotonic_ns: 0,
            unix_ns,
        }
    }

    #[test]
    fn keeps_a_trace_on_the_mapping_it_began_with() {
        let mut clocks = Clocks::default();
        clocks.set(pair(1));
        assert_eq!(clocks.of(&[1; 16]), pair(1));
        clocks.set(pair(2));
        clocks.tick(REMEMBERED_NS);
        assert_eq!(clocks.of(&[1; 16]), pair(1));
        assert_eq!(clocks.of(&[2; 16]), pair(2));
        clocks.tick(2 * REMEMBERED_NS);
        clocks.tick(3 * REMEMBERED_NS);
        assert_eq!(clocks.of(&[1; 16]), pair(2));
    }

    #[test]
    fn stays_small_when_the_clock_is_set_often() {
        let mut clocks = Clocks::default();
        for index in 0..1000 {
            clocks.set(pair(index));
            let id = (u128::from(index) + 1).to_be_bytes();
            assert_eq!(clocks.of(&id), pair(index));
            clocks.tick(index * REMEMBERED_NS);
        }
        assert!(clocks.pairs.len() <= 65);
    }
}
