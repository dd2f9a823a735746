//! The thresholds of roots, as the kernel has them.
//!
//! Input: the configuration, and at each tick what the kernel has counted. Output: entries of `THRESHOLDS`. They move only where the number of traces
//! per second is limited; [`RateLimit`] says how.

use aya::maps::MapError;
use tracing::warn;

use super::rate_limit::RateLimit;
use crate::{
    config::Config,
    probe::maps::{Roots, Thresholds},
};

/// Keeps the thresholds where a limit wants them.
pub(super) struct SampleLimit {
    thresholds: Thresholds,
    roots: Roots,
    /// What the sampler and the rules say by themselves.
    own: Vec<u64>,
    limit: Option<RateLimit>,
    /// The least threshold that was written.
    least: u64,
}

impl SampleLimit {
    /// Writes the thresholds, before anything is attached.
    ///
    /// # Errors
    /// When a system call fails.
    pub(super) fn new(
        thresholds: Thresholds,
        roots: Roots,
        config: &Config,
    ) -> Result<Self, MapError> {
        let sampler = [config.sampler.threshold()].into_iter();
        let own: Vec<u64> = sampler.chain(config.service_rules.thresholds()).collect();
        let per_second = config.sample_rate;
        let mut limit = Self {
            thresholds,
            roots,
            limit: per_second.map(|number| RateLimit::new(number.get(), &own)),
            own,
            least: 0,
        };
        limit.write(0)?;
        Ok(limit)
    }

    /// Whether there is a limit.
    pub(super) const fn is_wanted(&self) -> bool {
        self.limit.is_some()
    }

    /// Time passed, and so many traces were kept since the programs were loaded.
    pub(super) fn tick(&mut self, now_ns: u64, kept: u64) {
        if let Err(error) = self.follow(now_ns, kept) {
            warn!(%error, "cannot move the thresholds of sampling; more traces than wanted may be kept");
        }
    }

    fn follow(&mut self, now_ns: u64, kept: u64) -> Result<(), MapError> {
        let Some(limit) = &mut self.limit else {
            return Ok(());
        };
        let roots = self.roots.read(self.own.len())?;
        let least = limit.look(now_ns, roots, kept);
        if least == self.least {
            return Ok(());
        }
        self.write(least)?;
        // Not before: what could not be written is tried again at the next tick.
        self.least = least;
        Ok(())
    }

    /// Traces that began, where they are counted.
    pub(super) fn roots(&self) -> u64 {
        if !self.is_wanted() {
            return 0;
        }
        let roots = self.roots.read(self.own.len());
        roots.map_or(0, |roots| roots.iter().sum())
    }

    fn write(&mut self, least: u64) -> Result<(), MapError> {
        for (rule, own) in (0..).zip(&self.own) {
            self.thresholds.set(rule, least.max(*own))?;
        }
        Ok(())
    }
}
