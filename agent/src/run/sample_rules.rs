//! What the kernel is told of services with ratios of their own.
//!
//! Input: names of services of processes, forks and ends. Output: entries of `RULES`. The kernel copies a process's rule to its children and forgets
//! it where another program begins; until the new one was looked at, the sampler's rule holds.

use std::collections::HashMap;

use tracing::warn;

use crate::{config::ServiceRules, probe::maps::Rules};

/// Processes with rules of their own, as the kernel knows them.
pub(super) struct SampleRules {
    map: Rules,
    rules: ServiceRules,
    known: HashMap<u32, u32>,
}

impl SampleRules {
    pub(super) fn new(map: Rules, rules: ServiceRules) -> Self {
        Self {
            map,
            rules,
            known: HashMap::new(),
        }
    }

    /// Whether services matter at all.
    pub(super) fn are_wanted(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Notes which service a process is.
    pub(super) fn note(&mut self, tgid: u32, service: &str) {
        if self.are_wanted() {
            let rule = self.rules.find(service);
            self.set(tgid, rule.map_or(0, |rule| rule as u32 + 1));
        }
    }

    /// A process was copied.
    pub(super) fn forked(&mut self, parent: u32, child: u32) {
        if let Some(rule) = self.known.get(&parent) {
            self.set(child, *rule);
        }
    }

    /// A process has ended, or runs another program.
    pub(super) fn forget(&mut self, tgid: u32) {
        self.set(tgid, 0);
    }

    fn set(&mut self, tgid: u32, rule: u32) {
        let before = match rule {
            0 => self.known.remove(&tgid),
            _ => self.known.insert(tgid, rule),
        };
        if before.unwrap_or(0) == rule {
            return;
        }
        if let Err(error) = self.map.set(tgid, rule) {
            warn!(tgid, %error, "cannot tell the kernel which ratio holds for a process; its traces are sampled as those of other services");
        }
    }
}
