//! Where configuration may stand: in a YAML file, in variables of the environment, on the command line; and which of them counts.

use std::fs;

use anyhow::{Context as _, Result};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::Setup, collector::Collector, http::Connection, process::Program,
    service, trace::Spans,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("identity_selected_by_a_file", by_a_file),
    Scenario::full("identity_selected_by_variables", by_variables),
    // Four times it starts.
    Scenario::full("identity_flags_over_variables_over_file", precedence).within(420),
];

const REQUESTS: usize = 3;

/// A service on a port of its own.
struct Served {
    program: Program,
    port: u16,
}

fn serve<const N: usize>(context: &Context) -> Result<[Served; N]> {
    let ports = [(); N].map(|()| context.port());
    let served = ports.map(|port| -> Result<Served> {
        let program = service::python(context, "threads.py", port, &[])?;
        Ok(Served { program, port })
    });
    let served: Vec<Served> = served.into_iter().collect::<Result<_>>()?;
    served
        .try_into()
        .ok()
        .context("there are as many as were asked for")
}

/// The file with this text; its path.
fn file(context: &Context, text: &str) -> Result<String> {
    let path = context.folder().join("undertrace.yaml");
    fs::write(&path, text)?;
    Ok(path.to_str().context("a UTF-8 path")?.to_owned())
}

/// Runs the agent while every service is asked as often, the selected ones last, so that what else there is would have come before; gives the
/// spans, of which each selected service has `each`.
fn run(
    context: &Context,
    setup: Setup,
    collector: &Collector,
    left_out: &[&Served],
    selected: &Served,
    each: usize,
) -> Result<Spans> {
    let agent = setup.start(context)?;
    for served in left_out.iter().copied().chain([selected]) {
        let mut connection = Connection::open(served.port)?;
        for n in 0..REQUESTS {
            let response = connection.get(&format!("/r/{n}?word=value"))?;
            assert_eq!(response.status, 200);
        }
    }
    collector.wait_for_spans(each, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), each, "{}", spans.render());
    assert_eq!(
        statistics.get("spans_exported"),
        each as u64,
        "{statistics}"
    );
    let port = selected.port.to_string();
    for span in &spans.0 {
        assert_eq!(span.get("server.port"), port, "{}", span.line());
    }
    let served = spans.servers();
    for n in 0..REQUESTS {
        let path = format!("/r/{n}");
        let request = served.filter(|span| span.path() == path);
        let process = selected.program.pid().to_string();
        assert_eq!(request.only().resource["process.pid"], process);
    }
    Ok(spans)
}

/// Every query of a server's span.
fn queries(spans: &Spans) -> Vec<String> {
    let servers = spans.servers();
    let queries = servers.0.iter().map(|span| span.get("url.query"));
    queries.map(str::to_owned).collect()
}

/// A file says everything: which process, where to, and that queries are wanted.
fn by_a_file(context: &mut Context) -> Result<()> {
    let [one, other] = serve(context)?;
    let collector = Collector::start()?;
    let path = file(
        context,
        &format!(
            "# What is traced.\n\
             pid: [{}]\n\
             query: true\n\
             # Where spans go.\n\
             otlp:\n\
             \x20 endpoint: {}\n\
             \x20 protocol: grpc\n",
            one.program.pid(),
            collector.grpc_endpoint()
        ),
    )?;
    let setup = Setup::bare().arg("--config").arg(path);
    let spans = run(context, setup, &collector, &[&other], &one, REQUESTS)?;
    assert_eq!(queries(&spans), ["word=value"; REQUESTS]);
    assert!(collector.deliveries().iter().all(|d| d.protocol == "grpc"));
    Ok(())
}

/// The environment says everything.
fn by_variables(context: &mut Context) -> Result<()> {
    let [one, other] = serve(context)?;
    let collector = Collector::start()?;
    let ports = format!("{},{}-{}", one.port, one.port, one.port);
    let setup = Setup::http(&collector)
        .env("UNDERTRACE_EXE", "/no/such/program,python3*")
        .env("UNDERTRACE_PORT", &ports)
        .env("UNDERTRACE_QUERY", "true");
    let spans = run(context, setup, &collector, &[&other], &one, REQUESTS)?;
    assert_eq!(queries(&spans), ["word=value"; REQUESTS]);
    assert!(collector.deliveries().iter().all(|d| d.protocol == "http"));
    Ok(())
}

/// Each of the three names another port: a flag counts before a variable, and a variable before the file, which is named by a variable. Lists replace
/// each other; what only the file says holds throughout.
fn precedence(context: &mut Context) -> Result<()> {
    let [flag, variable, in_file] = serve(context)?;
    let path = file(context, &format!("port: [{}]\nquery: true\n", in_file.port))?;
    let by_file = |collector: &Collector| Setup::grpc(collector).env("UNDERTRACE_CONFIG", &path);
    let by_variable = |collector: &Collector| {
        by_file(collector).env("UNDERTRACE_PORT", &variable.port.to_string())
    };
    let by_flag = |collector: &Collector| by_variable(collector).port(flag.port);
    let setups: [&dyn Fn(&Collector) -> Setup; 3] = [&by_flag, &by_variable, &by_file];
    let cases = [
        ([&variable, &in_file], &flag),
        ([&flag, &in_file], &variable),
        ([&flag, &variable], &in_file),
    ];
    for (setup, (left_out, selected)) in setups.into_iter().zip(cases) {
        let collector = Collector::start()?;
        // A port stands for both ends.
        let spans = run(
            context,
            setup(&collector),
            &collector,
            &left_out,
            selected,
            2 * REQUESTS,
        )?;
        assert_eq!(spans.clients().len(), REQUESTS, "{}", spans.render());
        assert_eq!(queries(&spans), ["word=value"; REQUESTS]);
    }
    // A flag says no to what the file wants.
    let collector = Collector::start()?;
    let setup = by_file(&collector).arg("--query=false");
    let left_out = [&flag, &variable];
    let spans = run(
        context,
        setup,
        &collector,
        &left_out,
        &in_file,
        2 * REQUESTS,
    )?;
    assert_eq!(queries(&spans), [""; REQUESTS]);
    Ok(())
}
