//! Tests of selectors and verdicts.

use super::*;
use crate::process::{
    cgroup::Place,
    source::{StartTicks, Stat},
};

fn process(tgid: u32, parent: u32, exe: &str, cgroup: &str) -> RawProcess {
    RawProcess {
        tgid,
        stat: Stat {
            comm: "x".into(),
            parent,
            kernel_thread: false,
            start: StartTicks::of_ns(0),
        },
        exe: Some(exe.into()),
        args: Vec::new(),
        variables: Vec::new(),
        place: Place::parse(&format!("0::{cgroup}\n")),
        container_name: None,
    }
}

/// Who began at the start of the machine, as all parents here have.
fn choose(selection: &mut Selection, process: &RawProcess) -> Choice {
    selection.choose(process, |_| Some(StartTicks::of_ns(0)))
}

fn globs(texts: &[&str]) -> Vec<Glob> {
    texts
        .iter()
        .map(|text| text.parse().expect("a valid pattern"))
        .collect()
}

fn ports(texts: &[&str]) -> Vec<PortRange> {
    texts
        .iter()
        .map(|text| text.parse().expect("a valid range"))
        .collect()
}

#[test]
fn selects_everything_but_itself_and_the_kernel_when_nothing_is_asked() {
    let mut selection = Selection::new(Selectors::default(), 9);
    assert_eq!(
        choose(&mut selection, &process(1, 0, "/bin/a", "/")),
        Choice::Selected
    );
    assert_eq!(
        choose(&mut selection, &process(9, 0, "/bin/undertrace", "/")),
        Choice::Own
    );
    let mut thread = process(2, 0, "", "/");
    thread.stat.kernel_thread = true;
    assert_eq!(choose(&mut selection, &thread), Choice::NotSelected);
    assert!(selection.unmatched().is_empty());
}

#[test]
fn takes_process_selectors_as_alternatives() {
    let selectors = Selectors {
        exe: globs(&["nginx"]),
        pids: vec![7],
        cgroups: globs(&["/system.slice/shop.service"]),
        ..Selectors::default()
    };
    let mut selection = Selection::new(selectors, 9);
    assert_eq!(
        choose(&mut selection, &process(1, 0, "/usr/sbin/nginx", "/")),
        Choice::Selected
    );
    assert_eq!(
        choose(&mut selection, &process(7, 0, "/bin/a", "/")),
        Choice::Selected
    );
    assert_eq!(
        choose(
            &mut selection,
            &process(3, 0, "/bin/a", "/system.slice/shop.service/workers")
        ),
        Choice::Selected
    );
    assert_eq!(
        choose(
            &mut selection,
            &process(4, 0, "/bin/a", "/system.slice/shop.service2")
        ),
        Choice::NotSelected
    );
    assert!(selection.unmatched().is_empty());
}

#[test]
fn narrows_the_selected_processes_to_ports() {
    let only_ports = Selectors {
        ports: ports(&["80", "8000-8099"]),
        ..Selectors::default()
    };
    let mut selection = Selection::new(only_ports.clone(), 9);
    assert_eq!(
        choose(&mut selection, &process(1, 0, "/bin/a", "/")),
        Choice::ByPort
    );
    let mut both = Selection::new(
        Selectors {
            exe: globs(&["nginx"]),
            ..only_ports.clone()
        },
        9,
    );
    assert_eq!(
        choose(&mut both, &process(1, 0, "/bin/a", "/")),
        Choice::NotSelected
    );
    assert_eq!(
        choose(&mut both, &process(1, 0, "/usr/sbin/nginx", "/")),
        Choice::ByPort
    );
    let bits = only_ports.port_bits().expect("there are ports");
    let set = |port: u16| bits[usize::from(port / 64)] >> (port % 64) & 1 == 1;
    assert!(set(80) && set(8000) && set(8099) && !set(8100) && !set(79));
    assert_eq!(bits.iter().map(|word| word.count_ones()).sum::<u32>(), 101);
    assert_eq!(Selectors::default().port_bits(), None);
}

#[test]
fn follows_a_process_id_to_its_workers_and_no_further() {
    let mut selection = Selection::new(
        Selectors {
            pids: vec![7],
            ..Selectors::default()
        },
        9,
    );
    assert_eq!(
        choose(&mut selection, &process(7, 1, "/usr/sbin/nginx", "/")),
        Choice::Selected
    );
    assert_eq!(
        choose(&mut selection, &process(8, 7, "/usr/sbin/nginx", "/")),
        Choice::Selected
    );
    assert_eq!(
        choose(&mut selection, &process(8, 7, "/bin/logrotate", "/")),
        Choice::NotSelected,
        "it ran something else"
    );
    assert_eq!(
        choose(&mut selection, &process(10, 8, "/bin/logrotate", "/")),
        Choice::NotSelected
    );
    selection.forget(7);
    assert_eq!(
        choose(&mut selection, &process(11, 7, "/usr/sbin/nginx", "/")),
        Choice::NotSelected,
        "7 is somebody else now"
    );
}

#[test]
fn a_process_id_stands_for_one_process_and_not_for_who_has_it_later() {
    let mut selection = Selection::new(
        Selectors {
            pids: vec![7],
            ..Selectors::default()
        },
        9,
    );
    let started = |ticks: u64, exe: &str| {
        let mut process = process(7, 1, exe, "/");
        process.stat.start = StartTicks::of_ns(ticks * 10_000_000);
        process
    };
    assert_eq!(selection.unmatched(), ["--pid 7"]);
    for exe in ["/bin/sh", "/usr/sbin/nginx"] {
        assert_eq!(
            choose(&mut selection, &started(100, exe)),
            Choice::Selected,
            "it may run another program"
        );
    }
    selection.forget(7);
    for exe in ["/bin/cat", "/usr/sbin/nginx"] {
        assert_eq!(
            choose(&mut selection, &started(200, exe)),
            Choice::NotSelected,
            "{exe}"
        );
    }
    let mut child = process(8, 7, "/usr/sbin/nginx", "/");
    child.stat.start = StartTicks::of_ns(3_000_000_000);
    assert_eq!(choose(&mut selection, &child), Choice::NotSelected);
    assert!(selection.unmatched().is_empty());
}

#[test]
fn a_child_is_selected_with_its_parent_and_not_with_who_had_the_parents_id() {
    const NGINX: &str = "/usr/sbin/nginx";
    let mut selection = Selection::new(
        Selectors {
            pids: vec![7],
            ..Selectors::default()
        },
        9,
    );
    let started = |tgid: u32, parent: u32, ticks: u64| {
        let mut process = process(tgid, parent, NGINX, "/");
        process.stat.start = StartTicks::of_ns(ticks * 10_000_000);
        process
    };
    let begun = |ticks: u64| move |_| Some(StartTicks::of_ns(ticks * 10_000_000));
    assert_eq!(
        selection.choose(&started(7, 1, 100), begun(1)),
        Choice::Selected
    );
    assert_eq!(
        selection.choose(&started(8, 7, 110), begun(100)),
        Choice::Selected
    );
    assert_eq!(
        selection.choose(&started(20, 8, 120), begun(110)),
        Choice::Selected,
        "a worker's worker"
    );
    // Nobody told that 7 and 8 ended, and others have their ids.
    for (tgid, parent, parent_ticks) in [(10, 7, 200), (11, 8, 210)] {
        assert_eq!(
            selection.choose(&started(tgid, parent, 220), begun(parent_ticks)),
            Choice::NotSelected,
            "{tgid} is a child of who has id {parent} now"
        );
    }
    assert_eq!(
        selection.choose(&started(12, 7, 230), |_| None),
        Choice::NotSelected,
        "whose child it is cannot be told any more"
    );
    assert_eq!(
        selection.choose(&started(13, 10, 230), begun(220)),
        Choice::NotSelected
    );
    // The parent that was selected still has its other children.
    assert_eq!(
        selection.choose(&started(14, 20, 240), begun(120)),
        Choice::Selected
    );
}

#[test]
fn asks_when_a_parent_began_only_where_one_with_its_id_was_selected() {
    let mut selection = Selection::new(
        Selectors {
            pids: vec![7],
            ..Selectors::default()
        },
        9,
    );
    for (tgid, parent, exe) in [
        (7, 1, "/usr/sbin/nginx"),
        (8, 1, "/usr/sbin/nginx"),
        (10, 7, "/bin/logrotate"),
    ] {
        selection.choose(&process(tgid, parent, exe, "/"), |_| {
            panic!("nobody has to know")
        });
    }
}

#[test]
fn tells_which_selectors_matched_nothing() {
    let selectors = Selectors {
        ports: ports(&["80", "8000-8099"]),
        exe: globs(&["nginx", "ngnix"]),
        pids: vec![7],
        cgroups: globs(&["/shop/*"]),
    };
    let mut selection = Selection::new(selectors, 9);
    choose(
        &mut selection,
        &process(1, 0, "/usr/sbin/nginx", "/shop/cart"),
    );
    selection.note_ports([41_000, 80]);
    assert_eq!(
        selection.unmatched(),
        ["--exe ngnix", "--pid 7", "--port 8000-8099"]
    );
}

#[test]
fn takes_control_groups_with_and_without_slashes() {
    let fits =
        |pattern: &str, path: &str| in_group(&pattern.parse().expect("a valid pattern"), path);
    for pattern in ["/a/b", "a/b", "a/b/", "/a/*", "a", "/a/**", "**"] {
        assert!(fits(pattern, "/a/b"), "{pattern}");
    }
    for pattern in ["b", "/b", "/a/b/c", "ab"] {
        assert!(!fits(pattern, "/a/b"), "{pattern}");
    }
    assert!(fits("/", "/") && !fits("a", "/"));
}

#[test]
fn reads_ports_and_ranges() {
    assert_eq!(
        "80".parse(),
        Ok(PortRange {
            first: 80,
            last: 80
        })
    );
    assert_eq!(
        "8000-8099".parse(),
        Ok(PortRange {
            first: 8000,
            last: 8099
        })
    );
    assert_eq!(
        "8000-8099"
            .parse::<PortRange>()
            .map(|range| range.to_string())
            .as_deref(),
        Ok("8000-8099")
    );
    for text in ["", "0", "65536", "90-80", "http", "80-", "-80", "80,81"] {
        assert_eq!(
            text.parse::<PortRange>(),
            Err(PortError { text: text.into() })
        );
    }
}
