//! The scenarios, one file per area; their names begin with the area.
//!
//! Each asserts what its workload did: exact counts, trees, attributes and sizes, and that the agent's books balance. None takes an
//! expected value from what the agent prints.

mod accounting;
mod bad_input;
mod causality;
mod causality_descendants;
mod causality_files;
mod causality_forwarded;
mod causality_left;
mod causality_unseen;
mod configuration;
mod context;
mod doctor;
mod export;
mod groups;
mod http1;
mod http1_bodies;
mod http1_bytes;
mod http1_chunked;
mod http1_ends;
mod http1_limits;
mod http1_loss;
mod http1_sockets;
mod identity;
mod identity_reuse;
mod inject;
mod links;
mod losses;
mod machines;
mod namespaces;
mod option;
mod own_metrics;
mod propagators;
mod record;
mod safety;
mod safety_suite;
mod sampling;
mod sampling_hidden;
mod tls;
mod tls_libraries;
mod translation;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::json;

use crate::harness::{self, machines::First};

/// Which runs a scenario belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Tier {
    /// Every run.
    Core,
    /// Only full runs. As a wish: everything.
    Full,
}

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// `area_promise`.
    pub(crate) name: &'static str,
    /// Where it runs.
    pub(crate) tier: Tier,
    /// Virtual CPUs it needs.
    pub(crate) cpus: u32,
    /// What a second machine does meanwhile, for those that need one.
    pub(crate) other_machine: Option<fn(&harness::Context, &mut First) -> Result<()>>,
    /// Kernels of the matrix it is meant for; all when absent.
    pub(crate) kernels: Option<&'static [&'static str]>,
    /// What it needs on the kernel's command line.
    pub(crate) append: Option<&'static str>,
    /// It is ended after this time.
    pub(crate) deadline_seconds: u64,
    /// The scenario.
    pub(crate) run: fn(&mut harness::Context) -> Result<()>,
}

impl Scenario {
    const fn core(name: &'static str, run: fn(&mut harness::Context) -> Result<()>) -> Self {
        Self {
            name,
            tier: Tier::Core,
            cpus: 1,
            other_machine: None,
            kernels: None,
            append: None,
            deadline_seconds: 240,
            run,
        }
    }

    const fn full(name: &'static str, run: fn(&mut harness::Context) -> Result<()>) -> Self {
        Self {
            tier: Tier::Full,
            ..Self::core(name, run)
        }
    }

    const fn cpus(self, cpus: u32) -> Self {
        Self { cpus, ..self }
    }

    /// With a second machine that does this.
    const fn beside(self, other: fn(&harness::Context, &mut First) -> Result<()>) -> Self {
        Self {
            other_machine: Some(other),
            ..self
        }
    }

    /// With this much time.
    const fn within(self, deadline_seconds: u64) -> Self {
        Self {
            deadline_seconds,
            ..self
        }
    }

    /// Only on these kernels, with these words on their command line.
    const fn booted(self, kernels: &'static [&'static str], append: &'static str) -> Self {
        Self {
            kernels: Some(kernels),
            append: Some(append),
            ..self
        }
    }
}

/// All scenarios, by area.
pub(crate) fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        http1::SCENARIOS,
        http1_bodies::SCENARIOS,
        http1_chunked::SCENARIOS,
        http1_bytes::SCENARIOS,
        http1_ends::SCENARIOS,
        http1_limits::SCENARIOS,
        http1_loss::SCENARIOS,
        http1_sockets::SCENARIOS,
        context::SCENARIOS,
        translation::SCENARIOS,
        propagators::SCENARIOS,
        sampling::SCENARIOS,
        sampling_hidden::SCENARIOS,
        inject::SCENARIOS,
        inject::existing::SCENARIOS,
        inject::limits::SCENARIOS,
        inject::proofs::SCENARIOS,
        inject::rights::SCENARIOS,
        inject::state::SCENARIOS,
        option::SCENARIOS,
        causality::SCENARIOS,
        causality_files::SCENARIOS,
        causality_unseen::SCENARIOS,
        causality_descendants::SCENARIOS,
        causality_forwarded::SCENARIOS,
        causality_left::SCENARIOS,
        identity::SCENARIOS,
        identity_reuse::SCENARIOS,
        configuration::SCENARIOS,
        groups::SCENARIOS,
        namespaces::SCENARIOS,
        export::SCENARIOS,
        tls::SCENARIOS,
        tls_libraries::SCENARIOS,
        own_metrics::SCENARIOS,
        safety::SCENARIOS,
        bad_input::SCENARIOS,
        doctor::SCENARIOS,
        accounting::SCENARIOS,
        losses::SCENARIOS,
        machines::SCENARIOS,
        record::SCENARIOS,
        safety_suite::SCENARIOS,
    ]
    .into_iter()
    .flatten()
}

/// The scenario of this name.
///
/// # Errors
/// When there is none.
pub(crate) fn find(name: &str) -> Result<&'static Scenario> {
    all()
        .find(|scenario| scenario.name == name)
        .with_context(|| format!("no scenario {name}; see --list"))
}

/// Prints the scenarios of a tier, one per line.
///
/// # Errors
/// When a line cannot be made.
pub(crate) fn list(tier: Tier, as_json: bool) -> Result<()> {
    for scenario in all().filter(|scenario| scenario.tier <= tier) {
        if as_json {
            let tier = if scenario.tier == Tier::Core {
                "core"
            } else {
                "full"
            };
            let line = json!({
                "name": scenario.name, "tier": tier, "cpus": scenario.cpus,
                "machines": 1 + u32::from(scenario.other_machine.is_some()),
                "kernels": scenario.kernels, "append": scenario.append,
            });
            println!("{line}");
        } else {
            println!("{}", scenario.name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_begin_with_their_area() {
        let areas = [
            "http1",
            "context",
            "causality",
            "identity",
            "export",
            "safety",
            "accounting",
            "record",
            "tls",
        ];
        let mut seen = HashSet::new();
        for scenario in all() {
            assert!(seen.insert(scenario.name), "{} twice", scenario.name);
            let area = scenario.name.split('_').next().unwrap_or_default();
            assert!(
                areas.contains(&area),
                "{} begins with no area",
                scenario.name
            );
        }
    }
}
