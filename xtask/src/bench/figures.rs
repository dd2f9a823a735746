//! From segments to figures: differences, medians, and how far the rounds lie apart.

use anyhow::{Context as _, Result};

use super::segments::{Segment, Setting};

/// Guest nanoseconds per guest instruction (`-icount shift=1`).
const NS_PER_INSTRUCTION: f64 = 2.0;

/// The median of the rounds, and the distance between the least and the most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Median {
    pub(super) value: f64,
    pub(super) spread: f64,
}

impl Median {
    /// Of some values; `None` when there are none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (first, last) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let value = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self {
            value,
            spread: last - first,
        })
    }
}

/// What was found for one service. Instructions and counts are per request, or per second for a service without any.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// The service.
    pub(super) service: String,
    /// Instructions without anything attached: service, load generator and kernel.
    pub(super) bare: Option<Median>,
    /// Instructions that the empty pair adds.
    pub(super) empty: Option<Median>,
    /// Requests a second with the agent over those without.
    pub(super) ratio: Option<Median>,
    /// Instructions that the agent adds where no trace is kept.
    pub(super) unsampled: Option<Median>,
    /// Instructions that the agent adds where it writes headers; none where this kernel's self-test refuses to.
    pub(super) injecting: Option<Median>,
    /// Figures of the agent, when it was measured.
    pub(super) agent: Option<AgentFigures>,
}

/// What the agent adds and takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct AgentFigures {
    /// Instructions added in all. For a service without requests: those of the agent's process.
    pub(super) added: Median,
    /// Of these in kernel programs.
    pub(super) in_programs: f64,
    /// Of these in the agent's process.
    pub(super) in_agent: Median,
    /// Runs of kernel programs.
    pub(super) runs: f64,
    /// Those of them that belong to a send or a receive: the others depend on how much a service finds to do each time it wakes.
    pub(super) data_runs: f64,
    /// Ring-buffer records.
    pub(super) records: f64,
    /// Spans received.
    pub(super) spans: u64,
    /// Spans that the served requests are.
    pub(super) spans_expected: u64,
    /// The agent's share of the processor, percent.
    pub(super) cpu_percent: Median,
    /// Resident memory without maps, KiB, the most of all rounds.
    pub(super) resident_kib: u64,
    /// Kernel memory of all maps, bytes.
    pub(super) map_bytes: u64,
    /// Kernel memory of all programs, bytes.
    pub(super) program_bytes: u64,
    /// Kernel programs, the dearest first: name, runs, instructions per run.
    pub(super) programs: Vec<(String, f64, f64)>,
}

impl Figures {
    /// Figures of every service, in the order in which they were measured.
    ///
    /// # Errors
    /// When a service lacks a setting that its figures need.
    pub(super) fn of_all(segments: &[Segment]) -> Result<Vec<Self>> {
        let mut services: Vec<&str> = segments
            .iter()
            .map(|segment| segment.service.as_str())
            .collect();
        services.dedup();
        services
            .into_iter()
            .map(|service| Self::of(service, segments))
            .collect()
    }

    fn of(service: &str, segments: &[Segment]) -> Result<Self> {
        let of_setting = |setting| -> Vec<&Segment> {
            segments
                .iter()
                .filter(|segment| segment.service == service && segment.setting == setting)
                .collect()
        };
        let [bare, empty, agent, unsampled, injecting] = [
            Setting::Bare,
            Setting::Empty,
            Setting::Agent,
            Setting::Unsampled,
            Setting::Injecting,
        ]
        .map(of_setting);
        let counted = |segment: &&Segment, name| {
            let counters = segment.agent.as_ref().map(|agent| &agent.counters);
            counters.and_then(|counters| counters.get(name).copied())
        };
        let writes =
            |segment: &&Segment| counted(segment, "kernel.inject_inserted").is_some_and(|n| n > 0);
        let writes = injecting.iter().all(writes);
        let added = |with: &[&Segment]| {
            Median::of(
                with.iter()
                    .zip(&bare)
                    .map(|(with, bare)| with.cost() - bare.cost()),
            )
        };
        let ratio = agent
            .iter()
            .zip(&bare)
            .map(|(with, bare)| bare.ns_each() / with.ns_each());
        let mut figures = Self {
            service: service.to_owned(),
            bare: Median::of(bare.iter().map(|segment| segment.cost())),
            empty: added(&empty),
            ratio: Median::of(ratio),
            unsampled: added(&unsampled),
            injecting: added(&injecting).filter(|_| writes),
            agent: None,
        };
        if agent.is_empty() {
            return Ok(figures);
        }
        let in_agent = Median::of(agent.iter().map(|segment| segment.agent_cost()));
        let in_agent = in_agent.expect("there is a segment with the agent");
        let with_runs = of_setting(Setting::AgentCounted);
        let with_runs = with_runs
            .first()
            .with_context(|| format!("no counted segment of {service}"))?;
        let programs = programs(with_runs, counting_ns(segments));
        let figure = |pick: fn(&super::segments::Agent) -> u64| {
            agent
                .iter()
                .filter_map(move |segment| Some(pick(segment.agent.as_ref()?)))
        };
        let records =
            |segment: &&Segment| counted(segment, "records").map(|n| n as f64 / segment.units());
        figures.agent = Some(AgentFigures {
            added: added(&agent).unwrap_or(in_agent),
            in_programs: programs.iter().map(|(_, runs, each)| runs * each).sum(),
            in_agent,
            runs: programs.iter().map(|(_, runs, _)| runs).sum(),
            data_runs: programs
                .iter()
                .filter(|(name, ..)| name.contains("sendmsg") || name.contains("recvmsg"))
                .map(|(_, runs, _)| runs)
                .sum(),
            records: Median::of(agent.iter().filter_map(records))
                .unwrap_or_default()
                .value,
            spans: figure(|agent| agent.spans).sum(),
            spans_expected: agent.iter().map(|segment| segment.spans_expected).sum(),
            cpu_percent: Median::of(agent.iter().map(|segment| segment.cpu_percent()))
                .unwrap_or_default(),
            resident_kib: figure(|agent| agent.resident_kib).max().unwrap_or_default(),
            map_bytes: figure(|agent| agent.map_bytes).max().unwrap_or_default(),
            program_bytes: figure(|agent| agent.program_bytes)
                .max()
                .unwrap_or_default(),
            programs,
        });
        Ok(figures)
    }

    /// What is wrong whatever the baseline says: spans that are not exact.
    pub(super) fn faults(&self) -> Vec<String> {
        let agent = self
            .agent
            .as_ref()
            .filter(|agent| agent.spans != agent.spans_expected);
        agent
            .map(|agent| {
                format!(
                    "{}: {} spans for {} requests served",
                    self.service, agent.spans, agent.spans_expected
                )
            })
            .into_iter()
            .collect()
    }
}

impl Segment {
    /// What figures are divided by: requests served, or seconds where there are none.
    fn units(&self) -> f64 {
        if self.requests == 0 {
            self.elapsed_ns as f64 / 1e9
        } else {
            self.served as f64
        }
    }

    fn ns_each(&self) -> f64 {
        self.elapsed_ns as f64 / self.units()
    }

    /// Instructions per request of everything that ran, and of what the agent still had to do afterwards. The receiver
    /// of the agent's exports does not count.
    fn cost(&self) -> f64 {
        let afterwards = self
            .agent
            .as_ref()
            .map_or(0.0, |agent| agent.rest_ns as f64 - agent.sink_ns as f64);
        (self.elapsed_ns as f64 + afterwards) / self.units() / NS_PER_INSTRUCTION
    }

    /// Instructions per unit in the agent's process.
    fn agent_cost(&self) -> f64 {
        self.agent.as_ref().map_or(0.0, |agent| {
            let rest = if self.requests == 0 { 0 } else { agent.rest_ns };
            (agent.cpu_ns + rest) as f64 / self.units() / NS_PER_INSTRUCTION
        })
    }

    fn cpu_percent(&self) -> f64 {
        self.agent.as_ref().map_or(0.0, |agent| {
            agent.cpu_ns as f64 / self.elapsed_ns as f64 * 100.0
        })
    }
}

/// What counting adds to the run time of a program that does nothing, nanoseconds per run.
fn counting_ns(segments: &[Segment]) -> f64 {
    let empty = segments
        .iter()
        .filter(|segment| segment.setting == Setting::EmptyCounted);
    let (runs, time_ns) = empty
        .flat_map(|segment| &segment.programs)
        .fold((0, 0), |(runs, time_ns), program| {
            (runs + program.runs, time_ns + program.time_ns)
        });
    if runs == 0 {
        0.0
    } else {
        time_ns as f64 / runs as f64
    }
}

/// Name, runs per unit and instructions per run of each program, the dearest first.
fn programs(counted: &Segment, counting_ns: f64) -> Vec<(String, f64, f64)> {
    let mut programs: Vec<_> = counted
        .programs
        .iter()
        .map(|program| {
            let each =
                (program.time_ns as f64 / program.runs as f64 - counting_ns) / NS_PER_INSTRUCTION;
            (
                program.name.clone(),
                program.runs as f64 / counted.units(),
                each.max(0.0),
            )
        })
        .collect();
    programs.sort_by(|a, b| (b.1 * b.2).total_cmp(&(a.1 * a.2)));
    programs
}

#[cfg(test)]
mod tests {
    use super::{super::segments, *};

    /// Two rounds of 1,000 requests: 40,000 instructions each, 41,000 with the empty pair, 48,000 and 50,000 with the agent.
    pub(in super::super) fn example() -> Vec<Segment> {
        let line = |setting: &str, instructions: u64, programs: &str, agent: &str| {
            format!(
                r#"{{"service":"nginx","setting":"{setting}","round":1,"requests":998,"served":1000,"spans_expected":1000,
                "elapsed_ns":{},"programs":[{programs}]{agent}}}"#,
                instructions * 2 * 1000
            )
            .replace('\n', "")
        };
        let agent = r#","agent":{"cpu_ns":4000000,"rest_ns":2000000,"idle_ns_per_second":5,"sink_ns":1000000,"resident_kib":9000,
            "map_bytes":1000000,"program_bytes":50000,"spans":1000,"export_bytes":1,"counters":{"records":2004}}"#;
        let agent = agent.replace('\n', "");
        let empty = r#"{"name":"empty_send","runs":2000,"time_ns":200000}"#;
        let programs = r#"{"name":"inet_sendmsg_en","runs":2000,"time_ns":2200000},{"name":"do_epoll_wait_e","runs":2000,"time_ns":4200000}"#;
        let lines = [
            line("bare", 40_000, "", ""),
            line("empty", 41_000, "", ""),
            line("agent", 48_000, "", &agent),
            line("empty_counted", 43_000, empty, ""),
            line("agent_counted", 55_000, programs, &agent),
            line("bare", 40_000, "", ""),
            line("empty", 41_000, "", ""),
            line("agent", 50_000, "", &agent),
            line("unsampled", 41_500, "", &agent),
            line(
                "injecting",
                52_500,
                "",
                &agent.replace("\"records\"", "\"kernel.inject_inserted\":999,\"records\""),
            ),
        ];
        segments::parse(&lines.join("\n")).expect("the lines are well formed")
    }

    #[test]
    fn differences_are_taken_round_by_round() {
        let figures = Figures::of_all(&example()).expect("complete");
        let [figures] = figures.as_slice() else {
            panic!("one service: {figures:?}")
        };
        let agent = figures.agent.as_ref().expect("the agent was measured");
        assert_eq!(
            figures.bare,
            Some(Median {
                value: 40_000.0,
                spread: 0.0
            })
        );
        assert_eq!(
            figures.empty,
            Some(Median {
                value: 1_000.0,
                spread: 0.0
            })
        );
        // What was left to do afterwards is 1,000 instructions per request, the receiver's part 500.
        assert_eq!(
            agent.added,
            Median {
                value: 9_500.0,
                spread: 2_000.0
            }
        );
        assert_eq!(figures.unsampled.map(|added| added.value), Some(2_000.0));
        assert_eq!(figures.injecting.map(|added| added.value), Some(13_000.0));
        assert_eq!(agent.in_agent.value, 3_000.0);
        assert_eq!(
            (agent.runs, agent.data_runs, agent.records),
            (4.0, 2.0, 2.004)
        );
        // A run of an empty program takes 100 ns with counting, which the others do not owe.
        assert_eq!(
            agent.programs,
            [
                ("do_epoll_wait_e".to_owned(), 2.0, 1_000.0),
                ("inet_sendmsg_en".to_owned(), 2.0, 500.0)
            ]
        );
        assert_eq!(agent.in_programs, 3_000.0);
        assert!(figures.faults().is_empty());
    }

    #[test]
    fn a_kernel_that_writes_no_header_has_no_figure_for_it() {
        let mut segments = example();
        for segment in &mut segments {
            if let Some(agent) = &mut segment.agent {
                agent.counters.remove("kernel.inject_inserted");
            }
        }
        let figures = Figures::of_all(&segments).expect("complete");
        assert_eq!(figures[0].injecting, None);
    }

    #[test]
    fn a_missing_span_is_a_fault() {
        let mut segments = example();
        segments[2].agent.as_mut().expect("it has the agent").spans -= 1;
        let figures = Figures::of_all(&segments).expect("complete");
        assert_eq!(
            figures[0].faults(),
            ["nginx: 1999 spans for 2000 requests served"]
        );
    }

    #[test]
    fn median_of_an_even_number_lies_between() {
        assert_eq!(
            Median::of([3.0, 1.0]),
            Some(Median {
                value: 2.0,
                spread: 2.0
            })
        );
        assert_eq!(
            Median::of([5.0, 1.0, 2.0]),
            Some(Median {
                value: 2.0,
                spread: 4.0
            })
        );
        assert_eq!(Median::of([]), None);
    }
}
