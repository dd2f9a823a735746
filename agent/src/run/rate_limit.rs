//! How many traces begin per second: a loop that holds the number of those that are kept below a limit.
//!
//! Input: how many began, by rule, and how many of them were kept, read at each tick, with the time. Output: the threshold below which no rule may
//! keep a trace. It reads no clock and writes no map.

use std::collections::VecDeque;

use agent_common::wire::sampling;

/// Time over which rates are taken.
const WINDOW_NS: u64 = 2_000_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// Traces that may be kept in one second beyond the limit, where that is small: counts of few traces vary.
const SMALL_BURST: u64 = 10;

/// What had happened at one moment, since the programs were loaded.
struct Look {
    time_ns: u64,
    /// Roots, by rule.
    roots: Vec<u64>,
    /// Of all of them, those that were kept.
    kept: u64,
}

/// The loop. A burst is noticed a tick after it began; within a second that has kept twice as many as it may, nothing more is kept.
pub(super) struct RateLimit {
    per_second: u64,
    /// Share that each rule keeps by itself.
    ratios: Vec<f64>,
    /// Looks of the window, oldest first, and one from before it.
    looks: VecDeque<Look>,
}

impl RateLimit {
    /// Keeps about `per_second` at most, of rules with these thresholds.
    pub(super) fn new(per_second: u32, thresholds: &[u64]) -> Self {
        let ratio = |threshold: &u64| (sampling::NEVER - threshold) as f64 / sampling::NEVER as f64;
        Self {
            per_second: u64::from(per_second),
            ratios: thresholds.iter().map(ratio).collect(),
            looks: VecDeque::new(),
        }
    }

    /// Takes what has been counted until now; gives the least threshold from now on.
    pub(super) fn look(&mut self, time_ns: u64, roots: Vec<u64>, kept: u64) -> u64 {
        self.looks.push_back(Look {
            time_ns,
            roots,
            kept,
        });
        let begin_ns = time_ns.saturating_sub(WINDOW_NS);
        while self
            .looks
            .get(1)
            .is_some_and(|look| look.time_ns <= begin_ns)
        {
            self.looks.pop_front();
        }
        let (Some(first), Some(last)) = (self.looks.front(), self.looks.back()) else {
            return 0;
        };
        let elapsed_ns = last.time_ns.saturating_sub(first.time_ns);
        if elapsed_ns == 0 {
            return 0;
        }
        if self.kept_within_a_second(last) >= self.per_second + self.per_second.max(SMALL_BURST) {
            return sampling::NEVER;
        }
        let seconds = elapsed_ns as f64 / SECOND_NS as f64;
        let rates = last.roots.iter().zip(&first.roots);
        let rates = rates.map(|(last, first)| last.saturating_sub(*first) as f64 / seconds);
        let shares: Vec<_> = self.ratios.iter().copied().zip(rates).collect();
        sampling::threshold(level(shares, self.per_second as f64))
    }

    /// How many were kept within the last second; where the last look before it is older, as many of those since then as come to one second.
    fn kept_within_a_second(&self, last: &Look) -> u64 {
        let begin_ns = last.time_ns.saturating_sub(SECOND_NS);
        let mut newest_first = self.looks.iter().rev();
        let before = newest_first.find(|look| look.time_ns <= begin_ns);
        let Some(before) = before.or(self.looks.front()) else {
            return 0;
        };
        let kept = u128::from(last.kept.saturating_sub(before.kept));
        let elapsed_ns = last.time_ns.saturating_sub(before.time_ns).max(SECOND_NS);
        (kept * u128::from(SECOND_NS) / u128::from(elapsed_ns)) as u64
    }
}

/// The largest ratio that, as an upper bound for the ratio of each rule, keeps no more than `limit` of what begins. Of each rule its ratio, and how
/// much begins under it.
fn level(mut shares: Vec<(f64, f64)>, limit: f64) -> f64 {
    shares.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut left = limit;
    let mut rate: f64 = shares.iter().map(|(_, rate)| rate).sum();
    for (ratio, own) in shares {
        // All rules that are left keep more than this one.
        if rate * ratio > left {
            return left / rate;
        }
        left -= own * ratio;
        rate -= own;
    }
    1.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK_NS: u64 = 100_000_000;

    /// Roots that come evenly, judged by evenly spread ids, at so many per second for each rule.
    struct World {
        limit: RateLimit,
        ratios: Vec<f64>,
        time_ns: u64,
        threshold: u64,
        roots: Vec<u64>,
        kept_by_rule: Vec<f64>,
        kept: f64,
    }

    impl World {
        fn new(per_second: u32, ratios: &[f64]) -> Self {
            let thresholds: Vec<u64> = ratios
                .iter()
                .map(|ratio| sampling::threshold(*ratio))
                .collect();
            Self {
                limit: RateLimit::new(per_second, &thresholds),
                ratios: ratios.to_vec(),
                time_ns: 5,
                threshold: 0,
                roots: vec![0; ratios.len()],
                kept_by_rule: vec![0.0; ratios.len()],
                kept: 0.0,
            }
        }

        /// How many of each rule were kept within these seconds.
        fn run(&mut self, seconds: u64, rates: &[u64]) -> Vec<f64> {
            let before = self.kept_by_rule.clone();
            for _ in 0..seconds * 10 {
                let bound = (sampling::NEVER - self.threshold) as f64 / sampling::NEVER as f64;
                for (rule, rate) in rates.iter().enumerate() {
                    self.roots[rule] += rate / 10;
                    let kept = (rate / 10) as f64 * self.ratios[rule].min(bound);
                    self.kept_by_rule[rule] += kept;
                    self.kept += kept;
                }
                self.time_ns += TICK_NS;
                let roots = self.roots.clone();
                self.threshold = self.limit.look(self.time_ns, roots, self.kept as u64);
            }
            let after = self.kept_by_rule.iter().zip(before);
            after.map(|(after, before)| after - before).collect()
        }

        fn total(&mut self, seconds: u64, rates: &[u64]) -> f64 {
            self.run(seconds, rates).iter().sum()
        }
    }

    #[track_caller]
    fn assert_near(value: f64, expected: f64) {
        assert!(
            (value - expected).abs() <= expected * 0.02 + 0.001,
            "{value} is not {expected}"
        );
    }

    #[test]
    fn keeps_all_below_the_limit() {
        let mut world = World::new(100, &[1.0]);
        assert_near(world.total(10, &[100]), 1000.0);
        assert_eq!(world.threshold, 0);
        let mut halved = World::new(100, &[0.5]);
        assert_near(halved.total(10, &[200]), 1000.0);
    }

    #[test]
    fn keeps_the_limit_of_a_steady_stream() {
        let mut world = World::new(100, &[1.0]);
        world.run(3, &[5_000]);
        assert_near(world.total(10, &[5_000]), 1000.0);
    }

    #[test]
    fn bounds_a_burst_by_what_comes_in_one_tick() {
        let mut world = World::new(100, &[1.0]);
        world.run(10, &[10]);
        // The first tenth of a second is not known yet; then nothing for the rest of it, and then the limit.
        let first = world.total(1, &[10_000]);
        assert!((1000.0..=1001.0).contains(&first), "{first}");
        world.run(2, &[10_000]);
        assert_near(world.total(10, &[10_000]), 1000.0);
        // A smaller one: no second keeps more than twice the limit and what comes within a tick.
        let mut world = World::new(100, &[1.0]);
        world.run(10, &[10]);
        let first = world.total(1, &[500]);
        assert!(first <= 2.0 * 100.0 + 50.0, "{first}");
    }

    /// Nobody looks for a while, in which ten thousand are kept each second.
    #[test]
    fn a_stall_hides_no_burst() {
        for stall_ns in [SECOND_NS + 1, 3 * SECOND_NS, 30 * SECOND_NS] {
            let mut world = World::new(100, &[1.0]);
            world.run(10, &[10]);
            let kept = world.kept as u64 + 10_000 * stall_ns / SECOND_NS;
            let roots = vec![kept];
            let threshold = world.limit.look(world.time_ns + stall_ns, roots, kept);
            assert_eq!(threshold, sampling::NEVER, "after {stall_ns} ns");
        }
        // What is below the limit stays so, however long nobody looks.
        let mut world = World::new(100, &[1.0]);
        world.run(10, &[10]);
        let kept = world.kept as u64 + 90 * 30;
        let threshold = world
            .limit
            .look(world.time_ns + 30 * SECOND_NS, vec![kept], kept);
        assert_eq!(threshold, 0);
    }

    #[test]
    fn goes_back_when_the_stream_ends() {
        let mut world = World::new(100, &[1.0]);
        world.run(10, &[10_000]);
        world.run(3, &[50]);
        assert_near(world.total(10, &[50]), 500.0);
    }

    /// What is over the limit is taken from those that keep most.
    #[test]
    fn leaves_rules_alone_that_keep_little() {
        let mut world = World::new(150, &[0.01, 1.0]);
        world.run(5, &[10_000, 1_000]);
        let kept = world.run(10, &[10_000, 1_000]);
        assert_near(kept[0], 1000.0);
        assert_near(kept[1], 500.0);
        let mut never = World::new(150, &[0.0, 1.0]);
        never.run(5, &[10_000, 1_000]);
        assert_near(never.total(10, &[10_000, 1_000]), 1500.0);
    }

    #[test]
    fn small_limits_bear_counts_that_vary() {
        let mut world = World::new(1, &[1.0]);
        world.run(4, &[10]);
        assert_near(world.total(20, &[10]), 20.0);
    }

    #[test]
    fn a_clock_that_stands_still_changes_nothing() {
        let mut limit = RateLimit::new(1, &[0]);
        assert_eq!(limit.look(7, vec![0], 0), 0);
        assert_eq!(limit.look(7, vec![1_000], 1_000), 0);
    }

    proptest! {
        #[test]
        fn the_level_uses_the_limit_and_no_more(
            shares in proptest::collection::vec((0.0..=1.0_f64, 0.0..1e5_f64), 0..8), limit in 1.0..1e4_f64
        ) {
            let level = level(shares.clone(), limit);
            prop_assert!((0.0..=1.0).contains(&level), "{level}");
            let kept: f64 = shares.iter().map(|(ratio, rate)| rate * ratio.min(level)).sum();
            let wanted: f64 = shares.iter().map(|(ratio, rate)| rate * ratio).sum();
            let expected = wanted.min(limit);
            prop_assert!((kept - expected).abs() <= 1e-6 * (1.0 + expected), "{kept} is not {expected}");
        }
    }
}
