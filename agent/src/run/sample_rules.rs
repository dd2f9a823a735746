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
        if !self.are_wanted() {
            return;
        }
        match self.rules.find(service) {
            Some(rule) => {
                let rule = rule as u32 + 1;
                self.known.insert(tgid, rule);
                // Also where it is known: the kernel may have forgotten it in an exec that nobody told of.
                self.write(tgid, rule);
            }
            None => self.forget(tgid),
        }
    }

    /// A process was copied; the kernel gave the copy its rule, and may have taken that back since.
    pub(super) fn forked(&mut self, parent: u32, child: u32) {
        match self.known.get(&parent).copied() {
            Some(rule) => self.known.insert(child, rule),
            None => self.known.remove(&child),
        };
    }

    /// A process has ended, or runs another program.
    pub(super) fn forget(&mut self, tgid: u32) {
        if self.known.remove(&tgid).is_some() {
            self.write(tgid, 0);
        }
    }

    fn write(&mut self, tgid: u32, rule: u32) {
        if let Err(error) = self.map.set(tgid, rule) {
            warn!(tgid, %error, "cannot tell the kernel which ratio holds for a process; its traces are sampled as those of other services");
        }
    }
}
