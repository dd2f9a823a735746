//! The report as a person reads it: aligned, what is wrong with its reason and its next step, the verdict last.
//!
//! Input: a [`Report`]. Output: text of at most 100 columns, without colours.

use std::io::{self, Write};

use super::{Cost, FeatureReport, HeaderReport, HookReport, OptionReport, Report};
use crate::{kernel::features::Severity, probe::plan::State};

/// Columns before the second column of a table.
pub(super) const LABEL: usize = 22;
/// Columns before running text: margin, mark and label.
pub(super) const INDENT: usize = 2 + 8 + 1 + LABEL + 1;
/// Columns of running text.
const WIDTH: usize = 100;

pub(super) fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "undertrace {} doctor", report.version)?;
    machine(report, out)?;
    if !report.features.is_empty() {
        features(report, out)?;
    }
    if report.headers.is_some() || report.option.is_some() {
        writeln!(out, "\nTrace context between hosts")?;
    }
    if let Some(headers) = &report.headers {
        write_headers(headers, out)?;
    }
    if let Some(option) = &report.option {
        write_option(option, out)?;
    }
    if let Some(cost) = &report.cost {
        write_cost(cost, report.map_bytes, out)?;
    }
    if let Some(error) = &report.cost_error {
        writeln!(out, "\nThe cost of a call could not be measured: {error}")?;
    }
    verdict(report, out)
}

fn machine(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nThis machine")?;
    for finding in &report.machine {
        let mark = match finding.severity {
            Severity::Fine => "ok",
            Severity::Limited => "limited",
            Severity::Blocking => "MISSING",
        };
        writeln!(
            out,
            "  {mark:<8} {:<LABEL$} {}",
            finding.subject, finding.value
        )?;
        if !finding.advice.is_empty() {
            indented(finding.advice, out)?;
        }
    }
    Ok(())
}

fn features(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let heading = if report.tried {
        "What is used (every program was loaded and attached for a moment)"
    } else {
        "What this kernel promises (nothing could be loaded)"
    };
    writeln!(out, "\n{heading}")?;
    for feature in &report.features {
        let mark = match (feature.works, report.tried) {
            (true, true) => "on",
            (true, false) => "fits",
            (false, _) => "OFF",
        };
        let text = if feature.works {
            used(feature, &report.hooks)
        } else {
            feature.loss.unwrap_or_default().to_owned()
        };
        let mut lines = wrapped(&text).into_iter();
        let first = lines.next().unwrap_or_default();
        writeln!(out, "  {mark:<8} {:<LABEL$} {first}", feature.title)?;
        for line in lines {
            writeln!(out, "{:INDENT$}{line}", "")?;
        }
        if let Some(reason) = &feature.reason {
            indented(reason, out)?;
        }
    }
    Ok(())
}

/// How context gets from one host to another, inside the stream.
fn write_headers(headers: &HeaderReport, out: &mut impl Write) -> io::Result<()> {
    const LABEL_TEXT: &str = "HTTP headers";
    if let Some(reason) = &headers.reason {
        writeln!(
            out,
            "  REFUSED  {LABEL_TEXT:<LABEL$} `run --inject` writes none here"
        )?;
        return indented(reason, out);
    }
    writeln!(
        out,
        "  fit      {LABEL_TEXT:<LABEL$} written into HTTP/1.1 requests by `run --inject`"
    )?;
    let milliseconds = headers.milliseconds.unwrap_or_default();
    let proven = match &headers.without_veth {
        None => format!(
            "self-test passed in {milliseconds} ms, on loopback and between network namespaces"
        ),
        Some(reason) => {
            format!("self-test passed in {milliseconds} ms, on loopback alone: {reason}")
        }
    };
    indented(&proven, out)?;
    let older = match headers.older {
        0 => return Ok(()),
        1 => "1 connection is there already, and gets".to_owned(),
        many => format!("{many} connections are there already, and get"),
    };
    indented(&format!("{older} none without `--inject-existing`"), out)
}

/// And beside it.
fn write_option(option: &OptionReport, out: &mut impl Write) -> io::Result<()> {
    const LABEL_TEXT: &str = "TCP option";
    if let Some(reason) = &option.reason {
        writeln!(
            out,
            "  REFUSED  {LABEL_TEXT:<LABEL$} `run --tcp-option` carries none here"
        )?;
        return indented(reason, out);
    }
    writeln!(
        out,
        "  fit      {LABEL_TEXT:<LABEL$} carried where both hosts have `run --tcp-option`"
    )?;
    let milliseconds = option.milliseconds.unwrap_or_default();
    let proven = format!("self-test passed in {milliseconds} ms, on loopback");
    indented(&proven, out)
}

/// `fentry inet_sendmsg, fexit inet_recvmsg`.
fn used(feature: &FeatureReport, hooks: &[HookReport]) -> String {
    let hooks = hooks
        .iter()
        .filter(|hook| hook.feature == feature.feature && hook.state == State::Chosen);
    let places: Vec<String> = hooks.map(|hook| hook.attach.to_string()).collect();
    places.join(", ")
}

fn write_cost(cost: &Cost, map_bytes: u64, out: &mut impl Write) -> io::Result<()> {
    let row = |name: &str, of: fn(&super::Calls) -> u64| {
        let [detached, not_traced, traced] =
            [&cost.detached, &cost.not_traced, &cost.traced].map(of);
        format!(
            "  {name:<8} {:>14} {:>14} {:>14} {:>14}",
            nanoseconds(detached),
            nanoseconds(not_traced),
            nanoseconds(traced),
            difference(detached, traced),
        )
    };
    writeln!(
        out,
        "\nCost of one call (median of {} on loopback, an HTTP request and its response)",
        cost.calls
    )?;
    writeln!(
        out,
        "  {:<8} {:>14} {:>14} {:>14} {:>14}",
        "", "detached", "not traced", "traced", "traced adds"
    )?;
    writeln!(out, "{}", row("send", |calls| calls.send_ns))?;
    writeln!(out, "{}", row("receive", |calls| calls.receive_ns))?;
    let megabytes = map_bytes as f64 / f64::from(1 << 20);
    writeln!(out, "  Memory of all maps: {megabytes:.1} MiB")
}

fn verdict(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if let Some(error) = &report.error {
        return writeln!(out, "\nundertrace cannot trace here: {error}");
    }
    let off = report.features.iter().filter(|feature| !feature.works);
    let limits = report
        .machine
        .iter()
        .filter(|finding| finding.severity != Severity::Fine);
    let (off, limits, features) = (off.count(), limits.count(), report.features.len());
    let limited = match limits {
        0 => String::new(),
        1 => ", with the limit named above".to_owned(),
        many => format!(", with the {many} limits named above"),
    };
    match off {
        0 if limits == 0 => writeln!(out, "\nEverything works here."),
        0 => writeln!(out, "\nEvery feature works here{limited}."),
        off => writeln!(
            out,
            "\nundertrace works here, without {off} of {features} features{limited}."
        ),
    }
}

/// Running text under the second column.
fn indented(text: &str, out: &mut impl Write) -> io::Result<()> {
    for line in wrapped(text) {
        writeln!(out, "{:INDENT$}{line}", "")?;
    }
    Ok(())
}

/// Lines that fit behind the second column.
pub(super) fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if INDENT + line.len() + 1 + word.len() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `12,345 ns`.
fn nanoseconds(time: u64) -> String {
    let digits = time.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + " ns"
}

fn difference(before: u64, after: u64) -> String {
    let sign = if after < before { "-" } else { "+" };
    format!("{sign}{}", nanoseconds(before.abs_diff(after)))
}

#[cfg(test)]
mod tests {
    use super::{super::Calls, *};
    use crate::{
        kernel::features::Finding,
        probe::{
            hooks::{Attach, Feature},
            plan::Reason,
        },
    };

    fn report() -> Report {
        let reason = Reason::NoFunction {
            function: "unix_stream_sendmsg".to_owned(),
        };
        let hook = |attach, state| HookReport {
            program: "p",
            attach,
            feature: Feature::Inet,
            state,
        };
        Report {
            version: "1.2.3",
            works: true,
            error: None,
            machine: vec![
                Finding {
                    subject: "BTF",
                    value: "present".to_owned(),
                    severity: Severity::Fine,
                    advice: "",
                },
                Finding {
                    subject: "CAP_SYS_PTRACE",
                    value: "missing".to_owned(),
                    severity: Severity::Limited,
                    advice: "run as root",
                },
            ],
            tried: true,
            features: vec![
                FeatureReport {
                    feature: Feature::Inet,
                    title: "TCP over IPv4",
                    works: true,
                    loss: None,
                    reason: None,
                },
                FeatureReport {
                    feature: Feature::Unix,
                    title: "unix stream sockets",
                    works: false,
                    loss: Some("requests over unix sockets are not traced"),
                    reason: Some(format!("unix_stream_sendmsg_enter: {reason}")),
                },
            ],
            hooks: vec![
                hook(Attach::Entry("inet_sendmsg"), State::Chosen),
                hook(Attach::Exit("inet_recvmsg"), State::Chosen),
                hook(Attach::Exit("other"), State::Off { reason }),
            ],
            headers: None,
            option: None,
            absent_members: Vec::new(),
            map_bytes: 5 << 19,
            cost: Some(Cost {
                calls: 2000,
                detached: Calls {
                    send_ns: 1234,
                    receive_ns: 400,
                },
                not_traced: Calls {
                    send_ns: 1300,
                    receive_ns: 410,
                },
                traced: Calls {
                    send_ns: 2234,
                    receive_ns: 399,
                },
            }),
            cost_error: None,
        }
    }

    #[test]
    fn says_whether_headers_can_be_written() {
        let mut report = report();
        assert!(!written(&report).contains("between hosts"));
        let passed = HeaderReport {
            works: true,
            reason: None,
            milliseconds: Some(321),
            without_veth: None,
            older: 0,
        };
        report.headers = Some(passed.clone());
        let expected = "
Trace context between hosts
  fit      HTTP headers           written into HTTP/1.1 requests by `run --inject`
                                  self-test passed in 321 ms, on loopback and between network
                                  namespaces

Cost";
        let text = written(&report);
        assert!(text.contains(expected), "{text}");
        report.headers = Some(HeaderReport {
            without_veth: Some("no namespaces".to_owned()),
            older: 1,
            ..passed.clone()
        });
        let expected = "requests by `run --inject`
                                  self-test passed in 321 ms, on loopback alone: no namespaces
                                  1 connection is there already, and gets none without
                                  `--inject-existing`
";
        let text = written(&report);
        assert!(text.contains(expected), "{text}");
        report.headers = Some(HeaderReport {
            works: false,
            reason: Some("self-test: FIONREAD says 0".to_owned()),
            milliseconds: None,
            ..passed
        });
        let text = written(&report);
        assert!(text.contains("  REFUSED  HTTP headers"));
        assert!(text.contains("self-test: FIONREAD says 0"));
    }

    #[test]
    fn says_whether_an_option_can_be_carried() {
        let mut report = report();
        report.option = Some(OptionReport {
            works: true,
            reason: None,
            milliseconds: Some(12),
        });
        let expected = "
Trace context between hosts
  fit      TCP option             carried where both hosts have `run --tcp-option`
                                  self-test passed in 12 ms, on loopback

Cost";
        let text = written(&report);
        assert!(text.contains(expected), "{text}");
        report.option = Some(OptionReport {
            works: false,
            reason: Some("no cgroup2 tree is mounted".to_owned()),
            milliseconds: None,
        });
        let expected = "
  REFUSED  TCP option             `run --tcp-option` carries none here
                                  no cgroup2 tree is mounted
";
        let text = written(&report);
        assert!(text.contains(expected), "{text}");
    }

    fn written(report: &Report) -> String {
        let mut out = Vec::new();
        write(report, &mut out).expect("a Vec takes all");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn lines_up_and_gives_reasons() {
        let expected = "\
undertrace 1.2.3 doctor

This machine
  ok       BTF                    present
  limited  CAP_SYS_PTRACE         missing
                                  run as root

What is used (every program was loaded and attached for a moment)
  on       TCP over IPv4          fentry inet_sendmsg, fexit inet_recvmsg
  OFF      unix stream sockets    requests over unix sockets are not traced
                                  unix_stream_sendmsg_enter: this kernel has no function
                                  unix_stream_sendmsg

Cost of one call (median of 2000 on loopback, an HTTP request and its response)
                 detached     not traced         traced    traced adds
  send           1,234 ns       1,300 ns       2,234 ns      +1,000 ns
  receive          400 ns         410 ns         399 ns          -1 ns
  Memory of all maps: 2.5 MiB

undertrace works here, without 1 of 2 features, with the limit named above.
";
        assert_eq!(written(&report()), expected);
    }

    #[test]
    fn does_not_call_a_limited_machine_everything() {
        let mut report = report();
        report.features.truncate(1);
        let last = |report: &Report| written(report).lines().last().map(str::to_owned);
        let limited = "Every feature works here, with the limit named above.";
        assert_eq!(last(&report).as_deref(), Some(limited));
        report.machine.truncate(1);
        assert_eq!(last(&report).as_deref(), Some("Everything works here."));
    }

    #[test]
    fn breaks_long_lists_of_hooks() {
        let mut report = report();
        let hook = report.hooks[0].clone();
        report.hooks.extend(vec![hook; 9]);
        let text = written(&report);
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn ends_with_the_reason_when_nothing_works() {
        let mut report = report();
        report.error = Some("CAP_BPF is missing: run as root".to_owned());
        report.tried = false;
        let text = written(&report);
        assert!(
            text.contains("What this kernel promises (nothing could be loaded)\n  fits     TCP")
        );
        let last = text.lines().last();
        assert_eq!(
            last,
            Some("undertrace cannot trace here: CAP_BPF is missing: run as root")
        );
    }

    #[test]
    fn groups_digits() {
        assert_eq!(nanoseconds(0), "0 ns");
        assert_eq!(nanoseconds(999), "999 ns");
        assert_eq!(nanoseconds(1_000), "1,000 ns");
        assert_eq!(nanoseconds(12_345_678), "12,345,678 ns");
    }
}
