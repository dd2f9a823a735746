//! Tests of the process table on folders shaped like `/proc`.

use std::sync::Arc;

use agent_common::abi::Verdict;
use proptest::prelude::*;

use super::{GRACE_NS, MAX_PROCESSES, ProcessChange, ProcessTable};
use crate::{
    process::{
        cgroup::Place,
        fixture::ProcFolder,
        host::Host,
        identity::IdentityOptions,
        resource::{ProcessFacts, ProcessKey, Resource},
        selection::{Selection, Selectors},
        source::{NoProc, Proc, ProcSource, RawProcess, Stat},
    },
    telemetry::Counters,
};

const OWN: u32 = 4_000_000;

fn key(tgid: u32, ticks: u64) -> ProcessKey {
    // The kernel states nanoseconds, /proc hundredths of a second: the last digits are the kernel's alone.
    ProcessKey {
        tgid,
        start_ns: ticks * 10_000_000 + 1_234_567,
    }
}

fn table_of<S: ProcSource>(source: S, selectors: Selectors) -> (ProcessTable<S>, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    let host = Host {
        name: "host".into(),
        ..Host::default()
    };
    let selection = Selection::new(selectors, OWN);
    (
        ProcessTable::new(
            source,
            host,
            IdentityOptions::default(),
            selection,
            Arc::clone(&counters),
        ),
        counters,
    )
}

fn table(proc: &ProcFolder) -> (ProcessTable<Proc>, Arc<Counters>) {
    table_of(proc.source(), Selectors::default())
}

fn name(facts: Option<ProcessFacts>) -> Option<String> {
    facts.map(|facts| facts.resource.service_name().to_owned())
}

#[test]
fn looks_at_a_process_once_and_under_the_key_of_the_kernel() {
    let proc = ProcFolder::new();
    proc.add(41, 500, "/usr/bin/python3.11", &["python3", "cart.py"]);
    let (mut table, counters) = table(&proc);
    let first = table.facts(key(41, 500)).expect("the process is there");
    assert_eq!(
        (first.key, first.resource.service_name()),
        (key(41, 500), "cart")
    );
    proc.remove(41);
    let second = table
        .facts(key(41, 500))
        .expect("it was looked at before it went");
    assert_eq!(second.resource.handle(), first.resource.handle());
    assert_eq!(counters.processes.get(), 1);
}

#[test]
fn names_the_services_that_exist_without_keeping_them() {
    let proc = ProcFolder::new();
    proc.add(41, 500, "/usr/bin/python3.11", &["python3", "cart.py"]);
    proc.add(42, 501, "/usr/sbin/nginx", &["nginx"]);
    let (table, counters) = table(&proc);
    let mut services = table.scan_services();
    services.sort();
    let expected = [(41, "cart".to_owned()), (42, "nginx".to_owned())];
    assert_eq!(services, expected);
    assert_eq!((table.len(), counters.processes.get()), (0, 0));
}

#[test]
fn does_not_let_a_reused_id_inherit() {
    let proc = ProcFolder::new();
    proc.add(41, 500, "/usr/bin/python3.11", &["python3", "cart.py"]);
    let (mut table, counters) = table(&proc);
    assert_eq!(name(table.facts(key(41, 500))).as_deref(), Some("cart"));
    proc.add(41, 900, "/usr/sbin/nginx", &["nginx"]);
    assert_eq!(name(table.facts(key(41, 900))).as_deref(), Some("nginx"));
    assert_eq!(
        name(table.facts(key(41, 500))).as_deref(),
        Some("cart"),
        "its last spans are still on the way"
    );
    assert_eq!(
        name(table.facts(key(41, 700))),
        None,
        "one in between, that nobody saw"
    );
    assert_eq!(counters.processes_vanished.get(), 1);
}

#[test]
fn asks_the_file_system_once_for_a_process_that_is_gone() {
    let proc = ProcFolder::new();
    let (mut table, counters) = table(&proc);
    assert_eq!(table.facts(key(41, 500)), None);
    proc.add(41, 500, "/bin/late", &["late"]);
    assert_eq!(table.facts(key(41, 500)), None);
    assert_eq!(counters.processes_vanished.get(), 1);
}

#[test]
fn looks_at_a_new_program_immediately() {
    let proc = ProcFolder::new();
    proc.add(41, 500, "/bin/bash", &["bash", "run.sh"]);
    let (mut table, _) = table(&proc);
    assert_eq!(name(table.facts(key(41, 500))).as_deref(), Some("run"));
    proc.add(41, 500, "/usr/bin/curl", &["curl", "localhost"]);
    assert_eq!(
        table.change(ProcessChange::Exec { key: key(41, 500) }),
        None,
        "everything is selected anyway"
    );
    proc.remove(41);
    assert_eq!(name(table.facts(key(41, 500))).as_deref(), Some("curl"));
}

#[test]
fn names_a_short_lived_copy_after_its_original() {
    let proc = ProcFolder::new();
    proc.add(41, 500, "/usr/sbin/apache2", &["apache2"]);
    let (mut table, counters) = table(&proc);
    let original = table.facts(key(41, 500)).expect("the process is there");
    table.change(ProcessChange::Fork {
        key: key(42, 600),
        parent_tgid: 41,
    });
    let copy = table
        .facts(key(42, 600))
        .expect("it is a copy of a process that is known");
    assert_eq!(
        (
            copy.resource.service_name(),
            copy.resource.get("process.pid")
        ),
        ("apache2", Some("42"))
    );
    assert_ne!(
        copy.resource.get("service.instance.id"),
        original.resource.get("service.instance.id")
    );
    assert_eq!(counters.processes_vanished.get(), 0);
}

#[test]
fn does_not_name_a_copy_after_what_its_original_runs_now() {
    let proc = ProcFolder::new();
    proc.add(41, 500, "/bin/bash", &["bash", "run.sh"]);
    let (mut table, _) = table(&proc);
    assert!(table.facts(key(41, 500)).is_some());
    table.change(ProcessChange::Fork {
        key: key(42, 600),
        parent_tgid: 41,
    });
    table.change(ProcessChange::Fork {
        key: key(43, 600),
        parent_tgid: 41,
    });
    proc.add(41, 500, "/usr/sbin/nginx", &["nginx"]);
    table.change(ProcessChange::Exec { key: key(41, 500) });
    assert_eq!(
        table.facts(key(42, 600)),
        None,
        "the original has gone on to another program"
    );
    table.change(ProcessChange::Exec { key: key(43, 600) });
    assert_eq!(
        table.facts(key(43, 600)),
        None,
        "the copy has gone on to another program"
    );
}

#[test]
fn keeps_an_ended_process_for_a_while() {
    let proc = ProcFolder::new();
    proc.add(41, 500, "/usr/bin/curl", &["curl"]);
    let (mut table, _) = table(&proc);
    table.change(ProcessChange::Exec { key: key(41, 500) });
    proc.remove(41);
    table.change(ProcessChange::Exit {
        key: key(41, 500),
        time_ns: 1_000,
    });
    table.change(ProcessChange::Exit {
        key: key(41, 500),
        time_ns: 2_000,
    });
    table.expire(999 + GRACE_NS);
    assert_eq!(name(table.facts(key(41, 500))).as_deref(), Some("curl"));
    table.expire(1_000 + GRACE_NS);
    assert!(table.is_empty());
}

#[test]
fn gives_verdicts_when_some_processes_are_left_out() {
    let proc = ProcFolder::new();
    proc.add(40, 100, "/usr/sbin/nginx", &["nginx"]);
    proc.add(41, 200, "/usr/bin/curl", &["curl"]);
    proc.add(OWN, 300, "/usr/bin/undertrace", &["undertrace"]);
    proc.write(
        2,
        "stat",
        ProcFolder::stat(2, "kthreadd", 0x0020_8040, 0).as_bytes(),
    );
    let selectors = Selectors {
        exe: vec!["nginx".parse().expect("a valid pattern")],
        ..Selectors::default()
    };
    let (mut table, _) = table_of(proc.source(), selectors);
    let expected = [
        (2, Verdict::Ignored),
        (40, Verdict::Selected),
        (41, Verdict::Ignored),
        (OWN, Verdict::Own),
    ];
    assert_eq!(table.scan(), expected);
    assert_eq!(table.len(), 3, "threads of the kernel are no services");
    proc.add(41, 200, "/usr/sbin/nginx", &["nginx"]);
    let verdict = table.change(ProcessChange::Exec { key: key(41, 200) });
    assert_eq!(verdict, Some((41, Verdict::Selected)));
    assert!(table.selection().unmatched().is_empty());
    let verdict = table.change(ProcessChange::Fork {
        key: key(42, 300),
        parent_tgid: 41,
    });
    assert_eq!(
        verdict,
        Some((42, Verdict::Selected)),
        "workers are what their parent is"
    );
}

/// Makes a process of the folder a child of another one.
fn adopt(proc: &ProcFolder, tgid: u32, ticks: u64, parent: u32) {
    let stat = ProcFolder::stat(tgid, "nginx", 0x40_0100, ticks);
    let stat = stat.replace(" S 1 ", &format!(" S {parent} "));
    proc.write(tgid, "stat", stat.as_bytes());
}

#[test]
fn does_not_select_the_children_of_who_has_the_id_of_an_ended_process() {
    const NGINX: &str = "/usr/sbin/nginx";
    let selectors = || Selectors {
        pids: vec![40],
        ..Selectors::default()
    };
    // The end of 40 and the start of its successor are told only in the first round.
    for told in [true, false] {
        let proc = ProcFolder::new();
        proc.add(40, 100, NGINX, &["nginx"]);
        let (mut table, _) = table_of(proc.source(), selectors());
        assert_eq!(table.scan(), [(40, Verdict::Selected)]);
        let child = |table: &mut ProcessTable<Proc>, tgid: u32, ticks: u64| {
            let forked = table.change(ProcessChange::Fork {
                key: key(tgid, ticks),
                parent_tgid: 40,
            });
            proc.add(tgid, ticks, NGINX, &["nginx"]);
            adopt(&proc, tgid, ticks, 40);
            let run = table.change(ProcessChange::Exec {
                key: key(tgid, ticks),
            });
            (forked, run)
        };
        let selected = Some((41, Verdict::Selected));
        assert_eq!(child(&mut table, 41, 150), (selected, selected));
        proc.add(40, 200, NGINX, &["nginx"]);
        if told {
            table.change(ProcessChange::Exit {
                key: key(40, 100),
                time_ns: 0,
            });
            table.change(ProcessChange::Fork {
                key: key(40, 200),
                parent_tgid: 1,
            });
        }
        assert_eq!(
            child(&mut table, 42, 250),
            (None, Some((42, Verdict::Ignored))),
            "told: {told}"
        );
    }
}

#[test]
fn reads_no_process_at_start_when_all_are_selected() {
    let proc = ProcFolder::new();
    proc.add(40, 100, "/usr/sbin/nginx", &["nginx"]);
    let (mut table, counters) = table(&proc);
    assert_eq!(table.scan(), [(OWN, Verdict::Own)]);
    assert_eq!((table.len(), counters.processes.get()), (0, 0));
}

#[test]
fn answers_from_a_recording_without_a_proc() {
    let (mut table, counters) = table_of(NoProc, Selectors::default());
    let resource = Resource::new(vec![("service.name".into(), "shop".into())]);
    table.insert(ProcessFacts {
        key: key(41, 500),
        resource,
    });
    assert_eq!(name(table.facts(key(41, 500))).as_deref(), Some("shop"));
    assert_eq!(name(table.facts(key(42, 500))), None);
    assert_eq!(counters.processes.get(), 0);
}

#[test]
fn stays_bounded_and_counts_what_it_gave_up() {
    let (mut table, counters) = table_of(NoProc, Selectors::default());
    let resource = Resource::new(vec![("service.name".into(), "shop".into())]);
    let extra = 50;
    for tgid in 0..MAX_PROCESSES as u32 + extra {
        let key = key(tgid + 1, 500);
        table.insert(ProcessFacts {
            key,
            resource: resource.clone(),
        });
        table.change(ProcessChange::Exit { key, time_ns: 0 });
    }
    assert_eq!(table.len(), MAX_PROCESSES);
    assert_eq!(counters.processes_over_limit.get(), u64::from(extra));
    assert_eq!(
        name(table.facts(key(1, 500))),
        None,
        "the first to end was the first to go"
    );
    assert_eq!(
        name(table.facts(key(MAX_PROCESSES as u32, 500))).as_deref(),
        Some("shop")
    );
}

#[test]
fn gives_up_processes_whose_end_nobody_told_before_it_refuses_new_ones() {
    let (mut table, counters) = table_of(NoProc, Selectors::default());
    for tgid in 0..=MAX_PROCESSES as u32 {
        assert_eq!(table.facts(key(tgid + 1, 500)), None);
    }
    assert_eq!(table.len(), 1, "none of them exists any more");
    assert_eq!(counters.processes_over_limit.get(), 0);
}

/// A machine on which every process exists, all begun in the same tick.
struct Crowd;

impl ProcSource for Crowd {
    fn tgids(&self) -> Vec<u32> {
        Vec::new()
    }

    fn stat(&self, tgid: u32) -> Option<Stat> {
        Stat::parse(&ProcFolder::stat(tgid, "worker", 0, 500))
    }

    fn process(&self, tgid: u32) -> Option<RawProcess> {
        Some(RawProcess {
            tgid,
            stat: self.stat(tgid)?,
            exe: None,
            args: Vec::new(),
            variables: Vec::new(),
            place: Place::default(),
            container_name: None,
        })
    }

    fn image(&self, _tgid: u32) -> Option<std::fs::File> {
        None
    }

    fn open(&self, _tgid: u32, _name: &str) -> Option<std::fs::File> {
        None
    }
}

#[test]
fn answers_for_a_process_that_it_has_no_room_for() {
    let (mut table, counters) = table_of(Crowd, Selectors::default());
    for tgid in 0..=MAX_PROCESSES as u32 {
        let facts = table.facts(key(tgid + 1, 500));
        assert_eq!(name(facts).as_deref(), Some("worker"));
    }
    assert_eq!(table.len(), MAX_PROCESSES, "all of them exist");
    assert_eq!(counters.processes_over_limit.get(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn never_mixes_processes_up(
        changes in prop::collection::vec((0..4_u8, 1..4_u32, 1..4_u64), 0..40),
    ) {
        let proc = ProcFolder::new();
        let (mut table, _) = table(&proc);
        for (kind, tgid, ticks) in changes {
            let key = key(tgid, ticks);
            match kind {
                0 => {
                    // The process says who it is: its script is called after its id and start.
                    let script = format!("p{tgid}-{ticks}.py");
                    proc.add(tgid, ticks, "/usr/bin/python3", &["python3", &script]);
                    table.change(ProcessChange::Exec { key });
                }
                1 => drop(table.change(ProcessChange::Exec { key })),
                2 => drop(table.change(ProcessChange::Exit { key, time_ns: 0 })),
                _ => {}
            }
            if let Some(facts) = table.facts(key) {
                prop_assert_eq!(facts.resource.service_name(), format!("p{tgid}-{ticks}"));
            }
        }
    }
}
