//! Who a span belongs to.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::Setup, collector::Collector, http::Connection, process::Program,
    service, wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("identity_names", names),
    Scenario::full("identity_short_lived_processes", short_lived_processes),
    Scenario::full("identity_without_its_first_thread", without_first_thread),
    Scenario::full(
        "identity_selectors_bound_what_is_exported",
        selectors_bound_what_is_exported,
    ),
];

/// The environment's name before the script's, the script's before the interpreter's; older than the agent and just started.
fn names(context: &mut Context) -> Result<()> {
    let ports: Vec<u16> = (0..5).map(|_| context.port()).collect();
    let script = |port, environment: &[(&str, &str)]| {
        service::python_in(context, None, "threads.py", port, &[], environment)
    };
    let resource = "service.name=from-resource,service.version=7,team=blue%20sky";
    let _nginx = service::static_nginx(context, ports[0])?;
    let _plain = script(ports[1], &[])?;
    let _named = script(
        ports[2],
        &[
            ("OTEL_SERVICE_NAME", "from-name"),
            ("OTEL_RESOURCE_ATTRIBUTES", resource),
        ],
    )?;
    let collector = Collector::start()?;
    let mut setup = Setup::http(&collector);
    for port in &ports {
        setup = setup.port(*port);
    }
    let agent = setup.start(context)?;
    let _late = script(ports[3], &[("OTEL_RESOURCE_ATTRIBUTES", resource)])?;
    let late_plain = script(ports[4], &[])?;
    for port in &ports {
        assert_eq!(Connection::open(*port)?.get("/hello")?.text(), "hello\n");
    }
    collector.wait_for_spans(10, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans().servers();
    let server = |port: u16| {
        spans
            .filter(|span| span.get("server.port") == port.to_string())
            .only()
            .clone()
    };
    let services: Vec<_> = ports
        .iter()
        .map(|port| server(*port).service().to_owned())
        .collect();
    assert_eq!(
        services,
        ["nginx", "threads", "from-name", "from-resource", "threads"]
    );
    let late = server(ports[3]);
    assert_eq!(
        (
            late.resource["service.version"].as_str(),
            late.resource["team"].as_str()
        ),
        ("7", "blue sky")
    );
    let plain = server(ports[4]);
    assert_eq!(plain.resource["process.pid"], late_plain.pid().to_string());
    assert!(
        plain.resource["process.executable.path"].contains("python3"),
        "{:?}",
        plain.resource
    );
    let instances: std::collections::BTreeSet<_> = ports
        .iter()
        .map(|port| server(*port).resource["service.instance.id"].clone())
        .collect();
    assert_eq!(
        instances.len(),
        5,
        "every process is an instance of its own"
    );
    assert!(
        plain.resource.contains_key("host.name"),
        "{:?}",
        plain.resource
    );
    Ok(())
}

/// Clients that live for one request: each has its span, with its own name, though it is gone when the span is made.
fn short_lived_processes(context: &mut Context) -> Result<()> {
    const COUNT: usize = 15;
    let port = context.port();
    let _nginx = service::static_nginx(context, port)?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector).port(port).start(context)?;
    let curl = service::program("curl")?;
    for n in 0..COUNT {
        let mut command = Command::new(&curl);
        command
            .args(["-s", &format!("http://127.0.0.1:{port}/once/{n}")])
            .env("OTEL_SERVICE_NAME", format!("client-{n}"));
        assert!(
            Program::start(context, "curl", &mut command)?
                .wait(PATIENCE)?
                .success()
        );
    }
    collector.wait_for_spans(2 * COUNT, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    assert_eq!(
        (spans.clients().len(), spans.servers().len()),
        (COUNT, COUNT),
        "{}",
        spans.render()
    );
    for span in &spans.clients().0 {
        let n = span.path().rsplit('/').next().unwrap_or_default();
        assert_eq!(span.service(), format!("client-{n}"));
        assert!(span.get("user_agent.original").starts_with("curl/"));
    }
    Ok(())
}

/// Three servers, each selector in turn: nothing but what is selected leaves the agent.
fn selectors_bound_what_is_exported(context: &mut Context) -> Result<()> {
    let (one, two, three) = (context.port(), context.port(), context.port());
    let nginx = service::static_nginx(context, one)?;
    let python = service::python(context, "threads.py", two, &[])?;
    let _other = service::python(context, "threads.py", three, &[])?;
    let worker = crate::harness::process::children_of(nginx.pid())
        .first()
        .copied()
        .unwrap_or_default();
    let cases: [(&[String], &str, &[u16]); 3] = [
        (&["--pid".into(), python.pid().to_string()], "pid", &[two]),
        (
            &[
                "--pid".into(),
                worker.to_string(),
                "--port".into(),
                one.to_string(),
            ],
            "pid and port",
            &[one],
        ),
        (&["--exe".into(), "python3*".into()], "exe", &[two, three]),
    ];
    for (arguments, what, selected) in cases {
        let collector = Collector::start()?;
        let mut setup = Setup::grpc(&collector);
        for argument in arguments {
            setup = setup.arg(argument.as_str());
        }
        let agent = setup.start(context)?;
        for round in 0..3 {
            for port in [one, two, three] {
                assert_eq!(
                    Connection::open(port)?
                        .get(&format!("/{what}/{round}").replace(' ', "-"))?
                        .status,
                    200
                );
            }
        }
        collector.wait_for_spans(3 * selected.len(), PATIENCE)?;
        agent.stop()?;
        let mut ports: Vec<_> = collector
            .spans()
            .0
            .iter()
            .map(|span| span.get("server.port").to_owned())
            .collect();
        ports.sort();
        let wanted: Vec<_> = selected
            .iter()
            .flat_map(|port| vec![port.to_string(); 3])
            .collect();
        assert_eq!(ports, wanted, "selected by {what}");
    }
    Ok(())
}

/// A process whose first thread has ended goes on under its name, though `/proc` tells no more of it.
fn without_first_thread(context: &mut Context) -> Result<()> {
    // Longer than an ended process is remembered.
    const PERIOD: Duration = Duration::from_secs(7);
    let port = context.port();
    let python = service::python(context, "first_thread.py", port, &[])?;
    let executable = fs::read_link(format!("/proc/{}/exe", python.pid()))?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--pid")
        .arg(python.pid().to_string())
        .start(context)?;
    let mut connection = Connection::open(port)?;
    assert_eq!(connection.get("/before")?.text(), "hello\n");
    assert_eq!(connection.get("/end")?.text(), "hello\n");
    let state = || fs::read_to_string(format!("/proc/{}/stat", python.pid()));
    let has_ended = || state().ok()?.contains(") Z ").then_some(());
    wait_for(|| format!("{:?}", state()), PATIENCE, has_ended)?;
    let begin = Instant::now();
    let mut later = 0;
    while begin.elapsed() < PERIOD {
        let path = format!("/later/{later}");
        assert_eq!(connection.get(&path)?.text(), "hello\n");
        later += 1;
        collector.wait_for_spans(2 + later, PATIENCE)?;
    }
    // A connection of its own, which nothing is known of.
    assert_eq!(Connection::open(port)?.get("/new")?.text(), "hello\n");
    collector.wait_for_spans(3 + later, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 3 + later, "{}", spans.render());
    let first = &spans
        .filter(|span| span.path() == "/before")
        .only()
        .resource
        .clone();
    assert_eq!(first["service.name"], "first_thread");
    assert_eq!(
        first["process.executable.path"],
        executable.to_string_lossy()
    );
    for span in &spans.0 {
        assert_eq!(&span.resource, first, "{}", span.line());
    }
    Ok(())
}
