//! Names of the kernel that come round: a process id and a socket address that somebody else has had before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::Setup,
    assert_text,
    collector::Collector,
    http::Connection,
    process::{Program, terminate},
    service,
    trace::Span,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("identity_reused_process_id", reused_process_id),
    Scenario::full("identity_reused_process_id_selected_by_id", |context| {
        selected_once(context, By::Id)
    }),
    Scenario::full(
        "identity_reused_process_id_selected_by_program",
        |context| selected_once(context, By::Program),
    ),
    Scenario::full(
        "identity_reused_process_id_without_a_program",
        reused_by_a_copy,
    ),
    Scenario::full("context_reused_address", reused_address),
];

const REQUESTS: usize = 3;

/// Requests with distinct paths on a connection of their own.
fn ask(port: u16) -> Result<()> {
    let mut connection = Connection::open(port)?;
    for n in 0..REQUESTS {
        assert_eq!(connection.get(&format!("/r/{n}"))?.status, 200);
    }
    Ok(())
}

/// A script under a process id that somebody has had before; checked, because the rest means nothing without it.
fn successor(
    context: &Context,
    pid: u32,
    interpreter: &str,
    script: &str,
    port: u16,
) -> Result<Program> {
    let parent = service::script_with_pid(context, pid, interpreter, script, port)?;
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    assert!(arguments.contains(script), "{arguments:?}");
    Ok(parent)
}

/// Ends the process with this id, and waits until the id is free again.
fn end(pid: u32, mut parent: Program) -> Result<()> {
    terminate(pid)?;
    parent.wait(PATIENCE)?;
    Ok(())
}

/// A Python service ends, and a Node service gets its process id: each span says who served it.
fn reused_process_id(context: &mut Context) -> Result<()> {
    let (old_port, new_port) = (context.port(), context.port());
    let old = service::python_in(
        context,
        None,
        "threads.py",
        old_port,
        &[],
        &[
            ("OTEL_SERVICE_NAME", "predecessor"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team=blue"),
        ],
    )?;
    let pid = old.pid();
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .port(old_port)
        .port(new_port)
        .start(context)?;
    ask(old_port)?;
    collector.wait_for_spans(2 * REQUESTS, PATIENCE)?;
    drop(old);
    let _new = successor(context, pid, "node", "calls.js", new_port)?;
    ask(new_port)?;
    collector.wait_for_spans(4 * REQUESTS, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 4 * REQUESTS, "{}", spans.render());
    let mut instances = BTreeSet::new();
    for (port, name, program, team) in [
        (old_port, "predecessor", "python3", Some("blue")),
        (new_port, "calls", "node", None),
    ] {
        let served = spans
            .servers()
            .filter(|span| span.get("server.port") == port.to_string());
        assert_eq!(served.len(), REQUESTS, "{}", spans.render());
        let executable = fs::canonicalize(service::program(program)?)?;
        for span in &served.0 {
            let resource = &span.resource;
            assert_eq!(span.service(), name, "{resource:?}");
            assert_eq!(resource["process.pid"], pid.to_string());
            assert_eq!(
                resource["process.executable.path"],
                executable.to_string_lossy()
            );
            assert_eq!(resource.get("team").map(String::as_str), team);
        }
        let own: BTreeSet<_> = served
            .0
            .iter()
            .map(|span| span.resource["service.instance.id"].clone())
            .collect();
        assert_eq!(own.len(), 1, "one process is one instance");
        instances.extend(own);
    }
    assert_eq!(instances.len(), 2, "{instances:?}");
    Ok(())
}

/// How a service is selected.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Id,
    Program,
}

/// A selected service ends, and one of another program gets its process id, and then one of the same program: the first of them is not traced, and
/// the second one only where the program was asked for. What was selected beside it is traced throughout.
fn selected_once(context: &Context, by: By) -> Result<()> {
    let ports = [(); 4].map(|()| context.port());
    let first = service::python(context, "threads.py", ports[0], &[])?;
    let beside = service::python(context, "threads.py", ports[3], &[])?;
    let pid = first.pid();
    let collector = Collector::start()?;
    let setup = match by {
        By::Id => Setup::grpc(&collector)
            .arg("--pid")
            .arg(format!("{pid},{}", beside.pid())),
        By::Program => Setup::grpc(&collector).arg("--exe").arg("python3*"),
    };
    let agent = setup.start(context)?;
    ask(ports[0])?;
    drop(first);
    let second = successor(context, pid, "node", "calls.js", ports[1])?;
    ask(ports[1])?;
    end(pid, second)?;
    let _third = successor(context, pid, "python3", "threads.py", ports[2])?;
    ask(ports[2])?;
    ask(ports[3])?;
    let traced: Vec<u16> = match by {
        By::Id => vec![ports[0], ports[3]],
        By::Program => vec![ports[0], ports[2], ports[3]],
    };
    collector.wait_for_spans(traced.len() * REQUESTS, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let mut seen: Vec<_> = spans
        .0
        .iter()
        .map(|span| span.get("server.port").to_owned())
        .collect();
    seen.sort();
    let wanted: Vec<_> = traced
        .iter()
        .flat_map(|port| vec![port.to_string(); REQUESTS])
        .collect();
    assert_eq!(seen, wanted, "{}", spans.render());
    for span in &spans.0 {
        assert!(span.is_server(), "{}", span.line());
        assert_eq!(span.service(), "threads");
        let expected = if span.get("server.port") == ports[3].to_string() {
            beside.pid()
        } else {
            pid
        };
        assert_eq!(span.resource["process.pid"], expected.to_string());
    }
    if by == By::Id {
        // Of the others not even a connection was followed. (A Python that starts may look for a name server.)
        assert_eq!(statistics.get("connections"), 2, "{statistics}");
    }
    Ok(())
}

/// The first of three process ids that nobody has, whose verdicts share a word of the kernel's map.
fn three_free_ids() -> Result<u32> {
    const VERDICTS_IN_WORD: usize = 32;
    let is_free = |id: u32| !Path::new(&format!("/proc/{id}")).exists();
    (20_000..30_000)
        .step_by(VERDICTS_IN_WORD)
        .find(|first| (*first..first + 3).all(is_free))
        .context("no three process ids are free")
}

/// A selected service ends, and its process id goes to the copy of a process that is not selected, which serves without running a program: not even
/// what it serves before the agent hears of it is traced, and the processes whose ids are beside that one are traced throughout.
fn reused_by_a_copy(context: &mut Context) -> Result<()> {
    let ports = [(); 4].map(|()| context.port());
    let first = three_free_ids()?;
    let [left, pid, right] = [first, first + 1, first + 2];
    let service = |pid, port| service::script_with_pid(context, pid, "python3", "threads.py", port);
    let _left = service(left, ports[0])?;
    let former = service(pid, ports[1])?;
    let _right = service(right, ports[2])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--pid")
        .arg(format!("{left},{pid},{right}"))
        .start(context)?;
    for port in &ports[..3] {
        ask(*port)?;
    }
    collector.wait_for_spans(3 * REQUESTS, PATIENCE)?;
    end(pid, former)?;
    agent.freeze()?;
    let _copy = service::copy_with_pid(context, pid, "threads.py", ports[3])?;
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    assert!(arguments.contains("--copy"), "{arguments:?}");
    ask(ports[3])?;
    ask(ports[0])?;
    ask(ports[2])?;
    agent.thaw()?;
    collector.wait_for_spans(5 * REQUESTS, PATIENCE)?;
    // The agent has heard of the copy now.
    ask(ports[3])?;
    ask(ports[0])?;
    collector.wait_for_spans(6 * REQUESTS, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let mut served: BTreeMap<(String, String), usize> = BTreeMap::new();
    for span in &spans.0 {
        assert!(span.is_server(), "{}", span.line());
        let process = span.resource["process.pid"].clone();
        let count = served.entry((span.get("server.port").to_owned(), process));
        *count.or_default() += 1;
    }
    let wanted =
        [(0, left, 3), (1, pid, 1), (2, right, 2)].map(|(port, pid, times): (usize, _, _)| {
            ((ports[port].to_string(), pid.to_string()), times * REQUESTS)
        });
    assert_eq!(served, BTreeMap::from(wanted), "{}", spans.render());
    assert_eq!(statistics.get("connections"), 6, "{statistics}");
    Ok(())
}

/// A connection is reset in the midst of a head that carries a context, and another one begins at the very addresses of it, and in what memory the
/// kernel gives it: it has nothing of the first one.
fn reused_address(context: &mut Context) -> Result<()> {
    const ROUNDS: usize = 8;
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";
    let (port, own) = (context.port(), context.port());
    let _python = service::python(context, "threads.py", port, &[])?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let header = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n");
    for round in 0..ROUNDS {
        let mut first = Connection::open_from(own, port)?;
        let response = first.get_with(&format!("/first/{round}"), &header)?;
        assert_eq!(response.status, 200);
        let head = format!("GET /cut/{round} HTTP/1.1\r\nHost: shop.test\r\n{header}");
        // In the midst of the parent's id.
        first.send(&head.as_bytes()[..head.len() - 10])?;
        first.wait_until_read(port)?;
        first.reset()?;
        let mut second = Connection::open_from(own, port)?;
        assert_eq!(second.get(&format!("/second/{round}"))?.status, 200);
        second.reset()?;
    }
    collector.wait_for_spans(4 * ROUNDS, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let pair = |path: &str, blanks: &str| -> String {
        (0..ROUNDS)
            .map(|round| {
                let before = if blanks.is_empty() { "" } else { "(absent)\n" };
                format!(
                    "{before}{blanks}CLIENT scenarios GET /{path}/{round} 200\n\
                     {blanks}  SERVER threads GET /{path}/{round} 200\n"
                )
            })
            .collect()
    };
    assert_text(
        "the traces",
        &spans.render(),
        &(pair("first", "  ") + &pair("second", "")),
    );
    for span in &spans.0 {
        let brought_one = span.path().starts_with("/first/");
        assert_eq!(span.trace_id() == TRACE, brought_one, "{}", span.line());
        assert_eq!(span.get("client.port"), own.to_string(), "{}", span.line());
    }
    let traces: BTreeSet<_> = spans.0.iter().map(Span::trace_id).collect();
    assert_eq!(traces.len(), 1 + ROUNDS, "{}", spans.render());
    // Both ends of each.
    assert_eq!(
        statistics.get("connections"),
        4 * ROUNDS as u64,
        "{statistics}"
    );
    Ok(())
}
