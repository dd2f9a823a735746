//! The demonstration: a small shop of unmodified services, the agent, a handful of requests.
//!
//! Output: the agent's own console, a short introduction, what to do next; the spans as OTLP JSON lines in a file.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};

use crate::harness::{Context, PATIENCE, agent::Setup, process::Program, service, wait_for};

/// What the demonstration asks the shop for: a method, a path, a body, the status that comes, how many spans it makes, and what to see.
struct Visit {
    method: &'static str,
    path: &'static str,
    body: &'static str,
    status: u16,
    spans: usize,
    note: &'static str,
}

/// Every request passes curl, nginx (two spans) and storefront; each call below it has two spans more.
const VISITS: [Visit; 4] = [
    Visit {
        method: "GET",
        path: "/",
        body: "",
        status: 200,
        spans: 6,
        note: "the list of products: one call to the catalog",
    },
    Visit {
        method: "GET",
        path: "/product/chair",
        body: "",
        status: 200,
        spans: 8,
        note: "one product: the catalog, then its price",
    },
    Visit {
        method: "POST",
        path: "/order",
        body: r#"{"items":["chair","table","chair"]}"#,
        status: 201,
        spans: 10,
        note: "an order: one price after the other, the same one twice",
    },
    Visit {
        method: "GET",
        path: "/product/lamp",
        body: "",
        status: 500,
        spans: 8,
        note: "a failure: whose is it?",
    },
];

/// Runs the demonstration and writes the spans as OTLP JSON lines.
///
/// # Errors
/// When a service or the agent does not start, or a trace does not come.
pub(crate) fn run(spans: Option<&Path>) -> Result<ExitCode> {
    let context = Context::new("demo")?;
    let file = context.folder().join("spans.jsonl");
    let kernel = crate::harness::kernel_release();
    say(&format!(
        "\nA shop of four services that know nothing of tracing, on Linux {kernel}:\n\n  \
         curl -> nginx -> storefront (Python) -> catalog (Node)\n                                      -> pricing (Python)\n"
    ))?;
    say("Opening the shop ...")?;
    let (shop, port) = open_shop(&context)?;
    say(
        "Starting `undertrace run`: it attaches to the kernel, the services run on undisturbed ...",
    )?;
    let mut setup = Setup::bare()
        .arg("--console")
        .arg("--file")
        .arg(file.to_string_lossy());
    for (_, port) in &shop {
        setup = setup.port(*port);
    }
    let agent = setup.start(&context)?;
    let mut printed = agent.output().len();
    for visit in &VISITS {
        say(&format!(
            "\n{} {}   {}",
            visit.method, visit.path, visit.note
        ))?;
        let before = count_spans(&file);
        let status = visitor(&context, port, visit)?;
        ensure!(
            status == visit.status,
            "the shop answered {status} to {}",
            visit.path
        );
        let wanted = before + visit.spans;
        wait_for(
            || format!("{wanted} spans; {} came", count_spans(&file)),
            PATIENCE,
            || (count_spans(&file) >= wanted).then_some(()),
        )?;
        let text = wait_for(
            || "the console".into(),
            PATIENCE,
            || complete(&agent.output(), printed),
        )?;
        printed += text.len();
        say(text.trim_end())?;
    }
    // Stopping fails where the books do not balance; that nothing at all is missing is said only when it is so.
    let statistics = agent.stop()?;
    let wanted: usize = VISITS.iter().map(|visit| visit.spans).sum();
    let made = statistics.get("spans");
    ensure!(
        made == wanted as u64,
        "{made} spans instead of {wanted}:\n{statistics}"
    );
    if let Some(path) = spans {
        fs::copy(&file, path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    say(&format!(
        "\n{} requests, {} spans, none lost. No service was changed, restarted or told.\n",
        VISITS.len(),
        made
    ))?;
    if let Some(path) = spans {
        say(&format!(
            "The same spans as OTLP JSON lines: {}",
            path.display()
        ))?;
    }
    say(
        "Next: `sudo undertrace run` traces every service of a host and prints waterfalls like these;\n      \
         set OTEL_EXPORTER_OTLP_ENDPOINT to send the spans to a collector instead;\n      \
         `sudo undertrace doctor` tells what a kernel offers.",
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The four services, each with its port, and the port of the door.
fn open_shop(context: &Context) -> Result<(Vec<(Program, u16)>, u16)> {
    let (door, storefront, catalog, pricing) = (
        context.port(),
        context.port(),
        context.port(),
        context.port(),
    );
    let address = |port: u16| format!("127.0.0.1:{port}");
    let shop = vec![
        (
            service::node(context, "shop/catalog.js", catalog, &[])?,
            catalog,
        ),
        (
            service::python(context, "shop/pricing.py", pricing, &[])?,
            pricing,
        ),
        (
            service::python(
                context,
                "shop/storefront.py",
                storefront,
                &[
                    "--catalog",
                    &address(catalog),
                    "--pricing",
                    &address(pricing),
                ],
            )?,
            storefront,
        ),
        (
            service::nginx(
                context,
                "../shop/nginx.conf",
                door,
                &[("STOREFRONT", &address(storefront))],
            )?,
            door,
        ),
    ];
    Ok((shop, door))
}

/// Lets curl make the request; gives the status of the answer.
fn visitor(context: &Context, port: u16, visit: &Visit) -> Result<u16> {
    let mut command = Command::new(service::program("curl")?);
    command.args([
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-X",
        visit.method,
    ]);
    if !visit.body.is_empty() {
        command.args(["-H", "Content-Type: application/json", "-d", visit.body]);
    }
    let mut curl = Program::start(
        context,
        "curl",
        command.arg(format!("http://127.0.0.1:{port}{}", visit.path)),
    )?;
    ensure!(
        curl.wait(PATIENCE)?.success(),
        "curl failed: {}",
        curl.output()
    );
    Ok(curl.output().trim().parse()?)
}

/// How many spans the file holds.
fn count_spans(file: &Path) -> usize {
    fs::read_to_string(file)
        .unwrap_or_default()
        .matches("\"spanId\"")
        .count()
}

/// What the console has printed after the first `from` bytes, when it is more than one line.
fn complete(output: &str, from: usize) -> Option<String> {
    let text = output.get(from..)?;
    (text.trim().lines().count() > 1 && text.ends_with('\n')).then(|| text.to_owned())
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}
