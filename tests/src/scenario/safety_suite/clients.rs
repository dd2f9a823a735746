//! What HTTP clients of several languages send and are told, with the agent and without it.
//!
//! All do the same plan: sizes from nothing to a megabyte, bodies of each framing, heads up to 15 KiB, connections kept and closed.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{Run, same_with_and_without};
use crate::harness::{
    Context, Skip, assert_text,
    origin::{Reads, Recorder, answer, checksum, pattern},
    requests::{Found, next},
    service,
};

/// One request of a plan.
#[derive(Clone, Copy, Debug)]
struct Step {
    method: &'static str,
    path: &'static str,
    /// Bytes of its body.
    body: usize,
    /// `none`, `length` or `chunked`.
    framing: &'static str,
    /// Bytes of a header of its own.
    padding: usize,
    /// It is the last request of its connection.
    closes: bool,
}

const fn get(path: &'static str) -> Step {
    Step {
        method: "GET",
        path,
        body: 0,
        framing: "none",
        padding: 0,
        closes: false,
    }
}

const fn post(path: &'static str, body: usize, framing: &'static str) -> Step {
    Step {
        method: "POST",
        body,
        framing,
        ..get(path)
    }
}

const fn padded(step: Step, padding: usize) -> Step {
    Step { padding, ..step }
}

const fn closing(step: Step) -> Step {
    Step {
        closes: true,
        ..step
    }
}

/// Without a request that closes a connection, for clients that cannot ask for it.
const KEPT: &[Step] = &[
    get("/size/1"),
    get("/size/0"),
    padded(get("/size/1000?traceparent=none"), 60),
    padded(get("/size/70000"), 3_000),
    get("/chunked/25000"),
    Step {
        method: "HEAD",
        ..get("/size/100")
    },
    post("/one", 1, "length"),
    post("/packets", 70_000, "length"),
    post("/many", 300_000, "length"),
    post("/chunks", 50_000, "chunked"),
    Step {
        method: "PUT",
        ..padded(post("/put", 2_000, "chunked"), 900)
    },
    Step {
        method: "DELETE",
        ..get("/delete")
    },
    padded(get("/padded/8"), 8_000),
    padded(get("/padded/15"), 15_000),
    get("/size/1000000"),
];

const ENDS: &[Step] = &[
    closing(get("/size/20000")),
    closing(get("/size/3")),
    get("/chunked/1"),
    closing(post("/last", 3_000, "length")),
];

fn plan() -> Vec<Step> {
    [KEPT, ENDS].concat()
}

/// The plan as clients read it.
fn write_plan(context: &Context, steps: &[Step]) -> Result<PathBuf> {
    let mut text = String::new();
    for step in steps {
        let connection = if step.closes { "close" } else { "keep" };
        writeln!(
            text,
            "{} {} {} {} {} {connection}",
            step.method, step.path, step.body, step.framing, step.padding
        )?;
    }
    let file = context.folder().join("plan");
    fs::write(&file, text)?;
    Ok(file)
}

/// What a client that does the plan prints.
fn expected(steps: &[Step]) -> String {
    let line = |step: &Step| {
        let body = match step.method {
            "HEAD" => Vec::new(),
            _ => answer(step.path, &pattern(step.body)),
        };
        format!("200 {} {}\n", body.len(), checksum(&body))
    };
    steps.iter().map(line).collect()
}

/// Runs a command to its end, and gives what it printed.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let name = format!("{:?}", command.get_program());
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    ensure!(
        output.status.success(),
        "{name} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The folder of the clients' sources.
fn sources() -> PathBuf {
    service::workloads().join("clients")
}

/// A client: its command, which gets the server's address and a plan as its next words and then the word `mode`, and how many connections do
/// the plan at one time.
#[derive(Clone, Debug)]
struct Client {
    words: Vec<PathBuf>,
    mode: &'static str,
    connections: usize,
    /// How often it does the plan, in ways of its own.
    repeats: usize,
    /// It spreads its requests over connections by time.
    spreads: bool,
}

impl Client {
    fn new(words: Vec<PathBuf>, mode: &'static str) -> Self {
        Self {
            words,
            mode,
            connections: 1,
            repeats: 1,
            spreads: false,
        }
    }

    /// Does a plan.
    fn run(&self, context: &Context, steps: &[Step], origin: &Recorder) -> Result<Run> {
        let mut command = Command::new(&self.words[0]);
        command
            .args(&self.words[1..])
            .arg(format!("127.0.0.1:{}", origin.port()))
            .arg(write_plan(context, steps)?)
            .arg(self.mode);
        let told = output(&mut command)?;
        let expected = expected(steps).repeat(self.connections * self.repeats);
        assert_text("what the client was told", &told, &expected);
        let mut received = origin.ended()?;
        let connections = received.len();
        if self.spreads {
            received = received.iter().flat_map(|one| requests(one)).collect();
        }
        if self.spreads || self.connections != 1 {
            // The first lines differ.
            received.sort();
        }
        Ok(Run {
            received,
            told,
            connections,
        })
    }
}

/// The requests of a connection, and what is left of it.
fn requests(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Found::Whole(request) = next(bytes, at) {
        all.push(bytes[at..request.end].to_vec());
        at = request.end;
    }
    if at != bytes.len() {
        all.push(bytes[at..].to_vec());
    }
    all
}

/// Does a plan with each of these clients, one after the other.
fn by_plan(context: &Context, steps: &[Step], reads: Reads, clients: &[Client]) -> Result<()> {
    let origin = Recorder::origin(context, reads)?;
    same_with_and_without(context, origin.port(), || {
        let mut all = Run::default();
        for client in clients {
            let run = client.run(context, steps, &origin)?;
            all.received.extend(run.received);
            all.connections += run.connections;
            all.told.push_str(&run.told);
        }
        Ok(all)
    })
}

fn python_client(mode: &'static str) -> Result<Client> {
    let words = vec![service::program("python3")?, sources().join("client.py")];
    Ok(Client::new(words, mode))
}

fn node_client(mode: &'static str) -> Result<Client> {
    let words = vec![service::program("node")?, sources().join("client.js")];
    Ok(Client::new(words, mode))
}

fn fetch_client() -> Result<Client> {
    Ok(Client {
        spreads: true,
        ..node_client("fetch")?
    })
}

/// Sixteen connections that do the plan at one time.
fn edge_client() -> Result<Client> {
    Ok(Client {
        connections: 16,
        ..python_client("edge")?
    })
}

/// Requests, and streams of asyncio.
pub(super) fn python(context: &mut Context) -> Result<()> {
    let python = service::program("python3")?;
    let has_requests = Command::new(python)
        .args(["-c", "import requests"])
        .stderr(std::process::Stdio::null())
        .status()?
        .success();
    if !has_requests {
        return Err(Skip("Python's package requests is not installed".into()).into());
    }
    let clients = [python_client("requests")?, python_client("asyncio")?];
    by_plan(context, &plan(), Reads::Any, &clients)
}

/// A client and a server whose reads are as large as FIONREAD says.
pub(super) fn fionread(context: &mut Context) -> Result<()> {
    let client = python_client("fionread")?;
    by_plan(context, &plan(), Reads::Available, &[client])
}

/// Connections that are told each event once.
pub(super) fn edge_triggered(context: &mut Context) -> Result<()> {
    by_plan(context, &single(), Reads::Any, &[edge_client()?])
}

/// The plan for connections that are told apart by what stands behind the path.
fn single() -> Vec<Step> {
    let plain = |step: &&Step| !step.path.contains('?');
    KEPT.iter().filter(plain).copied().collect()
}

/// Node's http with a keep-alive agent, and its fetch.
pub(super) fn node(context: &mut Context) -> Result<()> {
    by_plan(context, &plan(), Reads::Any, &[node_client("agent")?])?;
    let second = Context::new("fetch")?;
    by_plan(&second, KEPT, Reads::Any, &[fetch_client()?])
}

/// A file that was compiled from the sources of the clients.
fn compiled(name: &str, language: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("UNDERTRACE_WORKLOADS") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/workloads"),
    };
    let file = folder.join(name);
    if !file.exists() {
        return Err(Skip(format!("the {language} client was not compiled")).into());
    }
    Ok(file)
}

fn go_client() -> Result<Client> {
    Ok(Client::new(vec![compiled("client-go", "Go")?], "client"))
}

/// Go's net/http.
pub(super) fn go(context: &mut Context) -> Result<()> {
    by_plan(context, &plan(), Reads::Any, &[go_client()?])
}

/// One process for all ways: a JVM takes long to start.
fn java_client() -> Result<Client> {
    let class = compiled("Client.class", "Java")?;
    let folder = class.parent().context("a file lies in a folder")?;
    let words = vec![
        service::program("java")?,
        "-XX:TieredStopAtLevel=1".into(),
        "-Djdk.httpclient.allowRestrictedHeaders=connection".into(),
        "-cp".into(),
        folder.to_owned(),
        "Client".into(),
    ];
    Ok(Client {
        repeats: 3,
        ..Client::new(words, "http1,http2,url")
    })
}

/// The JDK's HttpClient, held to HTTP/1.1 and as it is, and HttpURLConnection.
pub(super) fn java(context: &mut Context) -> Result<()> {
    by_plan(context, &plan(), Reads::Any, &[java_client()?])
}

/// curl: one call for all requests that it can do one behind the other, uploads, and the whole URI in the first line, as proxies are asked.
pub(super) fn curl(context: &mut Context) -> Result<()> {
    let curl = service::program("curl")?;
    let origin = Recorder::origin(context, Reads::Any)?;
    let large = context.folder().join("large");
    // Above a megabyte it waits for a 100 before it sends the body.
    fs::write(&large, pattern(1_500_000))?;
    let base = format!("http://127.0.0.1:{}", origin.port());
    let proxy = format!("127.0.0.1:{}", origin.port());
    let posted = format!("@{}", large.display());
    let padding = format!("X-Padding: {}", "p".repeat(12_000));
    let url = |path: &str| format!("{base}{path}");
    let calls: Vec<(Vec<String>, Vec<Vec<u8>>)> = vec![
        (
            words(&[
                "-s",
                "-S",
                "-f",
                &url("/size/1"),
                &url("/size/70000"),
                &url("/chunked/9000"),
            ]),
            vec![pattern(1), pattern(70_000), pattern(9_000)],
        ),
        (
            words(&[
                "-sSf",
                "-H",
                &padding,
                "-H",
                "Connection: close",
                &url("/size/10"),
            ]),
            vec![pattern(10)],
        ),
        (
            words(&[
                "-sSf",
                "-d",
                "name=value",
                &url("/form"),
                "--next",
                "-sSf",
                "-X",
                "DELETE",
                &url("/delete"),
            ]),
            vec![answer("/form", b"name=value"), answer("/delete", b"")],
        ),
        (
            words(&["-sSf", "--data-binary", &posted, &url("/large")]),
            vec![answer("/large", &pattern(1_500_000))],
        ),
        (
            words(&[
                "-sSf",
                "-H",
                "Transfer-Encoding: chunked",
                "-T",
                &large.display().to_string(),
                &url("/upload"),
            ]),
            vec![answer("/upload", &pattern(1_500_000))],
        ),
        (
            words(&[
                "-sSf",
                "-x",
                &proxy,
                "http://shop.test/size/300",
                "http://other.test/size/5",
            ]),
            vec![pattern(300), pattern(5)],
        ),
        (words(&["-sSf", "-0", &url("/size/44")]), vec![pattern(44)]),
    ];
    same_with_and_without(context, origin.port(), || {
        let mut run = Run::default();
        for (arguments, answers) in &calls {
            let ended = Command::new(&curl)
                .args(["-m", "60"])
                .args(arguments)
                .output()?;
            ensure!(
                ended.status.success(),
                "curl: {}",
                String::from_utf8_lossy(&ended.stderr)
            );
            ensure!(
                ended.stdout == answers.concat(),
                "curl {arguments:?} was told something else"
            );
            writeln!(run.told, "{}", checksum(&ended.stdout))?;
            run.add(origin.ended()?);
        }
        Ok(run)
    })
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As far as they are on this machine.
    #[test]
    fn clients_do_the_plan_without_an_agent() {
        let context = Context::new("plan").expect("the temporary folder is writable");
        let plain = |client: Result<Client>| (client, Reads::Any, plan(), 3);
        let mut done = 0;
        for (client, reads, steps, connections) in [
            plain(python_client("asyncio")),
            (python_client("fionread"), Reads::Available, plan(), 3),
            (edge_client(), Reads::Any, single(), 16),
            plain(node_client("agent")),
            (fetch_client(), Reads::Any, KEPT.to_vec(), KEPT.len()),
            plain(go_client()),
            (java_client(), Reads::Any, plan(), 9),
        ] {
            let Ok(client) = client else {
                continue;
            };
            let origin = Recorder::origin(&context, reads).expect("a port is free");
            let run = client.run(&context, &steps, &origin);
            let run = run.expect("it does the plan");
            assert_eq!(run.received.len(), connections, "{client:?}");
            done += 1;
        }
        assert!(done > 0, "no client is here");
    }
}
