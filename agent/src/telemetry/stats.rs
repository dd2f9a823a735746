//! All counters at one moment, and whether the books balance.

use std::{collections::BTreeMap, io, path::Path};

use serde::Serialize;

/// Everything that is counted, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Counters of the kernel programs, in the order of the ABI.
    pub kernel: Vec<(&'static str, u64)>,
    /// Counters of the daemon, in the order of the pipeline.
    pub agent: Vec<(&'static str, u64)>,
    /// Values that go up and down.
    pub gauges: Vec<(&'static str, u64)>,
    /// Sums within the pipeline that do not hold, one sentence each.
    pub discrepancies: Vec<String>,
    /// Nothing is under way any more, so that all sums must hold.
    pub at_rest: bool,
}

/// One equation that must hold when everything has come to rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// What came in.
    pub what: &'static str,
    /// How much came in.
    pub made: u64,
    /// How much of it is accounted for.
    pub accounted: u64,
    /// The terms of `accounted`.
    pub terms: Vec<(&'static str, u64)>,
}

impl Balance {
    /// Whether nothing is missing and nothing was counted twice.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.made == self.accounted
    }
}

/// The equations: what is made, and where it can end. A term is a counter of the daemon or a gauge; `kernel.NAME` is one of the kernel programs, and an
/// equation with one holds where there are programs.
const EQUATIONS: &[(&str, &str, &[&str])] = &[
    ("segments", "kernel.segments", &["segments_read"]),
    ("decisions", "kernel.decisions", &["decisions_read"]),
    (
        "spans",
        "spans",
        &[
            "spans_unsampled",
            "spans_exported",
            "spans_rejected_partial",
            "spans_dropped_queue",
            "spans_dropped_export",
            "spans_pending",
        ],
    ),
];

/// Before the name of a counter of the kernel programs.
const OF_KERNEL: &str = "kernel.";

impl Snapshot {
    /// The value of a counter or gauge; 0 for names that are not there. `kernel.NAME` is a counter of the kernel programs, also where the daemon has
    /// one of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        let find = |known: &[(&str, u64)], name: &str| {
            let mut known = known.iter();
            known.find(|(other, _)| *other == name).map(|pair| pair.1)
        };
        if let Some(name) = name.strip_prefix(OF_KERNEL) {
            return find(&self.kernel, name).unwrap_or(0);
        }
        find(&self.agent, name)
            .or_else(|| find(&self.gauges, name))
            .or_else(|| find(&self.kernel, name))
            .unwrap_or(0)
    }

    /// All equations with the values of this moment.
    #[must_use]
    pub fn balances(&self) -> Vec<Balance> {
        EQUATIONS
            .iter()
            .filter(|(_, made, _)| !made.starts_with(OF_KERNEL) || !self.kernel.is_empty())
            .map(|&(what, made, terms)| {
                let terms: Vec<_> = terms.iter().map(|&term| (term, self.get(term))).collect();
                Balance {
                    what,
                    made: self.get(made),
                    accounted: terms.iter().map(|(_, value)| value).sum(),
                    terms,
                }
            })
            .collect()
    }

    /// JSON: objects `kernel`, `agent` and `gauges` by name, the list `balance` (its last entry stands for the pipeline's own sums), and the
    /// list `discrepancies`.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Json<'a> {
            kernel: BTreeMap<&'a str, u64>,
            agent: BTreeMap<&'a str, u64>,
            gauges: BTreeMap<&'a str, u64>,
            balance: Vec<Equation<'a>>,
            discrepancies: &'a [String],
        }
        #[derive(Serialize)]
        struct Equation<'a> {
            what: &'a str,
            made: u64,
            accounted: u64,
            holds: bool,
            terms: BTreeMap<&'a str, u64>,
        }
        let pipeline = Equation {
            what: "pipeline",
            made: 0,
            accounted: 0,
            holds: self.discrepancies.is_empty(),
            terms: BTreeMap::new(),
        };
        let json = Json {
            kernel: self.kernel.iter().copied().collect(),
            agent: self.agent.iter().copied().collect(),
            gauges: self.gauges.iter().copied().collect(),
            balance: self
                .balances()
                .into_iter()
                .map(|balance| Equation {
                    what: balance.what,
                    made: balance.made,
                    accounted: balance.accounted,
                    holds: balance.holds(),
                    terms: balance.terms.into_iter().collect(),
                })
                .chain([pipeline])
                .collect(),
            discrepancies: &self.discrepancies,
        };
        let mut text =
            serde_json::to_string_pretty(&json).expect("names and numbers are always JSON");
        text.push('\n');
        text
    }

    /// Writes [`Snapshot::to_json`] so that a reader sees the old file or the new one, never a part.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_json(&self, path: &Path) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = path.with_file_name(name);
        std::fs::write(&part, self.to_json())?;
        std::fs::rename(&part, path)
    }
}

/// Resident memory of this process in bytes, from /proc/self/status; 0 where that cannot be read.
#[must_use]
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use agent_common::abi::Counter;

    use super::*;
    use crate::telemetry::Counters;

    fn snapshot(counters: &Counters) -> Snapshot {
        Snapshot {
            agent: counters.snapshot(),
            gauges: vec![("spans_pending", 2)],
            ..Snapshot::default()
        }
    }

    #[test]
    fn books_balance_only_when_every_span_is_accounted_for() {
        let counters = Counters::default();
        counters.spans.add(10);
        counters.spans_exported.add(5);
        counters.spans_unsampled.add(2);
        counters.spans_dropped_queue.add(1);
        let holds = |counters| {
            let balances = snapshot(counters).balances();
            balances.iter().all(Balance::holds)
        };
        assert!(holds(&counters));
        counters.spans.increment();
        assert!(!holds(&counters));
    }

    #[test]
    fn what_the_programs_wrote_is_what_was_read() {
        let counters = Counters::default();
        counters.segments_read.add(7);
        counters.decisions.add(3);
        counters.decisions_read.add(4);
        let holds = |kernel: &[(&'static str, u64)]| {
            let snapshot = Snapshot {
                agent: counters.snapshot(),
                kernel: kernel.to_vec(),
                ..Snapshot::default()
            };
            snapshot.balances().iter().all(Balance::holds)
        };
        assert!(holds(&[("segments", 7), ("decisions", 4)]));
        assert!(!holds(&[("segments", 8), ("decisions", 4)]));
        assert!(!holds(&[("segments", 7), ("decisions", 3)]));
        // A replay has no programs.
        assert!(holds(&[]));
    }

    #[test]
    fn every_term_of_the_equations_exists() {
        let snapshot = snapshot(&Counters::default());
        let exists = |name: &str| {
            if let Some(name) = name.strip_prefix(OF_KERNEL) {
                return Counter::ALL.iter().any(|counter| counter.name() == name);
            }
            let mut known = snapshot.agent.iter().chain(&snapshot.gauges);
            known.any(|(known, _)| *known == name)
        };
        for (_, made, terms) in EQUATIONS {
            assert!(exists(made), "{made}");
            for term in *terms {
                assert!(exists(term), "{term}");
            }
        }
    }

    #[test]
    fn json_names_every_counter_and_the_balance() {
        let counters = Counters::default();
        counters.spans.add(3);
        let json: serde_json::Value =
            serde_json::from_str(&snapshot(&counters).to_json()).expect("JSON");
        assert_eq!(json["agent"]["spans"], 3);
        assert_eq!(json["gauges"]["spans_pending"], 2);
        assert_eq!(json["balance"][0]["holds"], false);
        let named = json["agent"].as_object().map(serde_json::Map::len);
        assert_eq!(named, Some(counters.snapshot().len()));
    }

    #[test]
    fn knows_its_own_memory() {
        // A test binary holds more than a page and less than a machine.
        assert!((1 << 16..1 << 40).contains(&resident_bytes()));
    }
}
