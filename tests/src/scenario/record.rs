//! Recordings: the same spans again, without root and without a kernel.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{self, Setup, Statistics},
    assert_text,
    http::Connection,
    load, service,
    trace::Spans,
    wait_for_quiet,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("record_replay_identical", replay_identical),
    Scenario::full("record_strips_payload", strips_payload),
];

/// How many requests are recorded: 40 over four connections, and one more.
const REQUESTS: usize = 41;

/// The user id of nobody.
const NOBODY: u32 = 65_534;

/// A recording gives the spans that the live agent gave, and the same bytes on every replay.
fn replay_identical(context: &mut Context) -> Result<()> {
    let recording = context.folder().join("recording");
    let live = context.folder().join("live.jsonl");
    let recorded = record(context, &recording, &[], &live)?;
    let mode = fs::metadata(&recording)?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "a recording holds bytes of users");
    let (one, _) = replay(context, &recording, "one.jsonl")?;
    let (two, _) = replay(context, &recording, "two.jsonl")?;
    assert!(one == two, "two replays differ");
    let live = Spans::of_json_lines(&fs::read_to_string(live)?)?;
    let again = Spans::of_json_lines(&one)?;
    if recorded.misses_nothing() {
        assert_eq!(live.len(), REQUESTS * 4);
    }
    assert!(live.len() > REQUESTS * 2, "{}", live.render());
    assert_text("the traces of the replay", &again.render(), &live.render());
    let facts = |spans: &Spans| {
        let mut facts: Vec<_> = spans
            .0
            .iter()
            .map(|span| {
                format!(
                    "{:?} {:?} {:?}",
                    span.otlp.span_id, span.attributes, span.otlp.start_time_unix_nano
                )
            })
            .collect();
        facts.sort();
        facts.join("\n")
    };
    assert_text("the spans of the replay", &facts(&again), &facts(&live));
    Ok(())
}

/// With `--strip-payload` no byte of a user is in the file. Lengths are: a replay knows how much passed, and each call that the kernel told its
/// receiver of by its ids and ends, but not what it was.
fn strips_payload(context: &mut Context) -> Result<()> {
    let recording = context.folder().join("recording");
    let live = context.folder().join("live.jsonl");
    let recorded = record(context, &recording, &["--strip-payload"], &live)?;
    let bytes = fs::read(&recording)?;
    assert!(!bytes.is_empty());
    for secret in [&b"/f/"[..], b"shop.test", b"HTTP/1.1"] {
        assert!(
            !bytes.windows(secret.len()).any(|window| window == secret),
            "{:?} is in the file",
            String::from_utf8_lossy(secret)
        );
    }
    let (text, statistics) = replay(context, &recording, "stripped.jsonl")?;
    for secret in ["/f/", "/b/", "shop.test", "HTTP/1.1"] {
        assert!(!text.contains(secret), "{secret} is in a span");
    }
    let (live, again) = (
        Spans::of_json_lines(&fs::read_to_string(live)?)?,
        Spans::of_json_lines(&text)?,
    );
    assert!(!again.is_empty());
    for span in &again.0 {
        assert!(span.is_client() && span.is_error(), "{}", span.line());
        assert_eq!(span.get("error.type"), "unobserved");
        let mut names = span.attributes.keys();
        assert!(
            !names.any(|name| name.starts_with("http.") || name.starts_with("url.")),
            "{:?}",
            span.attributes
        );
    }
    let facts = |spans: &Spans| -> BTreeSet<String> {
        let clients = spans.clients();
        let facts = clients.0.iter().map(|span| {
            format!(
                "{} {} {} {} {} {}-{}",
                span.trace_id(),
                span.span_id(),
                span.parent_id(),
                span.service(),
                span.resource["process.pid"],
                span.get("client.port"),
                span.get("network.peer.port")
            )
        });
        facts.collect()
    };
    let (known, told) = (facts(&live), facts(&again));
    let invented: Vec<_> = told.difference(&known).collect();
    assert!(invented.is_empty(), "{invented:?}");
    assert_eq!(told.len(), again.len(), "none is there twice");
    assert_eq!(
        statistics.get("messages_request"),
        0,
        "a request was read of blanks: {statistics}"
    );
    assert_eq!(passed(&statistics), passed(&recorded.statistics));
    if recorded.misses_nothing() {
        assert_eq!(told, known);
        // Both the clients' and what the front calls; the servers' ids were told to nobody in this way.
        let counts = ["decisions", "decisions_unobserved", "spans_exported"]
            .map(|name| statistics.get(name));
        let requests = REQUESTS as u64;
        assert_eq!(
            counts,
            [4 * requests, 4 * requests, 2 * requests],
            "{statistics}"
        );
        assert_eq!(passed(&statistics), recorded.bytes, "{statistics}");
    }
    Ok(())
}

/// Bytes that passed on all connections: those that were read, passed over, and missed.
fn passed(statistics: &Statistics) -> u64 {
    let parts = ["stream_bytes", "stream_passed_bytes", "stream_gap_bytes"];
    parts.iter().map(|name| statistics.get(name)).sum()
}

/// What was recorded.
struct Recorded {
    /// What the live agent counted.
    statistics: Statistics,
    /// Bytes that the services and their clients exchanged, each counted at both ends.
    bytes: u64,
}

impl Recorded {
    /// A kernel that preempts tasks inside programs keeps some from the agent, and counts them.
    fn misses_nothing(&self) -> bool {
        self.statistics.get("programs_missed") == 0
    }
}

/// Records 41 requests to a Python service that calls another one: four spans each.
fn record(
    context: &Context,
    recording: &Path,
    arguments: &[&str],
    live: &Path,
) -> Result<Recorded> {
    let (front, back) = (context.port(), context.port());
    let _back = service::python(context, "threads.py", back, &[])?;
    let _front = service::python(
        context,
        "threads.py",
        front,
        &["--backend", &format!("127.0.0.1:{back}")],
    )?;
    let mut setup = Setup::bare().recording_to(recording).port(front).port(back);
    for argument in arguments {
        setup = setup.arg(*argument);
    }
    let agent = setup
        .arg("--file")
        .arg(live.to_string_lossy())
        .start(context)?;
    load::numbered(front, "/f", 40, 4)?;
    let last = Connection::open(front)?.get(&format!("/f/{REQUESTS}"))?;
    assert_eq!(last.status, 200);
    let count = || {
        fs::read_to_string(live)
            .unwrap_or_default()
            .matches("\"spanId\"")
            .count()
    };
    wait_for_quiet(count, 4 * REQUESTS, PATIENCE / 3);
    let longest = last.head_wire_bytes + last.body_wire_bytes;
    let bytes: usize = (1..=REQUESTS)
        .map(|id| {
            let request = format!("GET /f/{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
            // As Python's http.client writes it.
            let call = format!(
                "GET /b/{id}/1 HTTP/1.1\r\nHost: 127.0.0.1:{back}\r\nAccept-Encoding: identity\r\n\r\n"
            );
            // Both services answer with the same head and the id.
            let response = longest - (REQUESTS.to_string().len() - id.to_string().len());
            2 * (request.len() + call.len() + 2 * response)
        })
        .sum();
    Ok(Recorded {
        statistics: agent.stop()?,
        bytes: bytes as u64,
    })
}

/// Replays as an ordinary user; gives the JSON lines, and what was counted.
fn replay(context: &Context, recording: &Path, name: &str) -> Result<(String, Statistics)> {
    // A folder where nobody may write, and a copy of the recording that nobody may read.
    let folder = context.folder().join(format!("{name}.d"));
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    fs::set_permissions(context.folder(), fs::Permissions::from_mode(0o755))?;
    let copy = folder.join("recording");
    fs::copy(recording, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))?;
    let (out, stats) = (folder.join(name), folder.join("stats.json"));
    let output = Command::new(agent::binary()?)
        .arg("replay")
        .arg(&copy)
        .arg("--file")
        .arg(&out)
        .arg("--stats-json")
        .arg(&stats)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .context("cannot start the replay")?;
    ensure!(
        output.status.success(),
        "the replay failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let spans = fs::read_to_string(&out).context("the replay wrote no spans")?;
    Ok((spans, Statistics::read(&stats)?))
}
