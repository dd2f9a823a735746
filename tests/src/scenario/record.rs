//! Recordings: the same spans again, without root and without a kernel.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{self, Setup},
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

/// The user id of nobody.
const NOBODY: u32 = 65_534;

/// A recording gives the spans that the live agent gave, and the same bytes on every replay.
fn replay_identical(context: &mut Context) -> Result<()> {
    let recording = context.folder().join("recording");
    let live = context.folder().join("live.jsonl");
    let missed = record(context, &recording, &[], Some(&live))?;
    let mode = fs::metadata(&recording)?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "a recording holds bytes of users");
    let one = replay(context, &recording, "one.jsonl")?;
    let two = replay(context, &recording, "two.jsonl")?;
    assert!(one == two, "two replays differ");
    let live = Spans::of_json_lines(&fs::read_to_string(live)?)?;
    let again = Spans::of_json_lines(&one)?;
    // A kernel that preempts tasks inside programs keeps some from the agent, and counts them.
    if missed == 0 {
        assert_eq!(live.len(), 41 * 4);
    }
    assert!(live.len() > 41 * 2, "{}", live.render());
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

/// With `--strip-payload` no byte of a user is in the file.
fn strips_payload(context: &mut Context) -> Result<()> {
    let recording = context.folder().join("recording");
    record(context, &recording, &["--strip-payload"], None)?;
    let bytes = fs::read(&recording)?;
    assert!(!bytes.is_empty());
    for secret in [&b"/f/"[..], b"shop.test", b"HTTP/1.1"] {
        assert!(
            !bytes.windows(secret.len()).any(|window| window == secret),
            "{:?} is in the file",
            String::from_utf8_lossy(secret)
        );
    }
    replay(context, &recording, "stripped.jsonl")?;
    Ok(())
}

/// Records 41 requests to a Python service that calls another one: four spans each. Gives the number of program runs that the kernel skipped.
fn record(
    context: &Context,
    recording: &Path,
    arguments: &[&str],
    live: Option<&Path>,
) -> Result<u64> {
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
    if let Some(live) = live {
        setup = setup.arg("--file").arg(live.to_string_lossy());
    }
    let agent = setup.start(context)?;
    load::numbered(front, "/f", 40, 4)?;
    assert_eq!(
        Connection::open(front)?
            .get("/f/41")
            .map(|response| response.status)?,
        200
    );
    if let Some(live) = live {
        let count = || {
            fs::read_to_string(live)
                .unwrap_or_default()
                .matches("\"spanId\"")
                .count()
        };
        wait_for_quiet(count, 164, PATIENCE / 3);
    }
    Ok(agent.stop()?.get("programs_missed"))
}

/// Replays as an ordinary user; gives the JSON lines.
fn replay(context: &Context, recording: &Path, name: &str) -> Result<String> {
    // A folder where nobody may write, and a copy of the recording that nobody may read.
    let folder = context.folder().join(format!("{name}.d"));
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    fs::set_permissions(context.folder(), fs::Permissions::from_mode(0o755))?;
    let copy = folder.join("recording");
    fs::copy(recording, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))?;
    let out = folder.join(name);
    let output = Command::new(agent::binary()?)
        .arg("replay")
        .arg(&copy)
        .arg("--file")
        .arg(&out)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .context("cannot start the replay")?;
    ensure!(
        output.status.success(),
        "the replay failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::read_to_string(&out).context("the replay wrote no spans")
}
