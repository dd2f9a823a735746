//! What a person reads when something is wrong: one clear sentence, the next step, an exit code that says whose turn it is.

use std::fs;

use anyhow::{Context as _, Result};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{self, Ended, Setup, run_to_end, run_to_end_as},
    http::Connection,
    service, wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("safety_bad_input_is_refused_in_one_sentence", refused),
    Scenario::core(
        "safety_bad_input_is_named_while_tracing",
        named_while_tracing,
    ),
];

/// The command line or the configuration is to be changed.
const USAGE: i32 = 2;
/// The machine or the rights are to be changed.
const CANNOT_RUN_HERE: i32 = 3;

fn refused(context: &mut Context) -> Result<()> {
    let of_user = run_to_end(&[], &["run", "--prot", "80"])?;
    assert_eq!(of_user.code, Some(USAGE), "{of_user:?}");
    assert!(
        of_user.errors.contains("'--prot'") && of_user.errors.contains("'--port'"),
        "{of_user:?}"
    );

    let path = context.folder().join("undertrace.yaml");
    fs::write(&path, "port: [80]\nexe:\n  - nginx\n - node\n")?;
    let path = path.to_str().context("a UTF-8 path")?;
    assert_sentence(
        &run_to_end(&[], &["run", "--config", path])?,
        USAGE,
        &format!("{path}:4:2: "),
    );
    fs::write(path, "port: [80]\nprot: [81]\n")?;
    assert_sentence(
        &run_to_end(&[], &["run", "--config", path])?,
        USAGE,
        &format!("{path}:2:1: unknown field `prot`, "),
    );
    let missing = format!("{path}.missing");
    assert_sentence(
        &run_to_end(&[], &["run", "--config", &missing])?,
        USAGE,
        &format!("cannot read {missing}, named by --config: "),
    );

    let hidden = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    assert_sentence(
        &run_to_end(&["unshare", "--mount", "sh", "-c", hidden, "sh"], &["run"])?,
        CANNOT_RUN_HERE,
        "BTF is absent: ",
    );
    // Linux 2.6 is what it then tells this process.
    assert_sentence(
        &run_to_end(&["setarch", "--uname-2.6"], &["run"])?,
        CANNOT_RUN_HERE,
        "kernel is 2.6.",
    );
    // Where everybody may run it.
    let copy = context.folder().join("undertrace");
    fs::copy(agent::binary()?, &copy)?;
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let as_nobody = run_to_end_as(&copy, &nobody, &["run"])?;
    assert_sentence(&as_nobody, CANNOT_RUN_HERE, "CAP_BPF is missing: ");
    assert!(
        as_nobody.errors.contains("run as root, or grant it with"),
        "{as_nobody:?}"
    );
    Ok(())
}

#[track_caller]
fn assert_sentence(ended: &Ended, code: i32, beginning: &str) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let sentence = ended
        .errors
        .strip_prefix("undertrace: ")
        .unwrap_or_default();
    assert!(sentence.starts_with(beginning), "{ended:?}");
    assert!(
        sentence.len() > beginning.len() + 10,
        "the next step is said: {ended:?}"
    );
    assert_eq!(ended.errors.lines().count(), 1, "{ended:?}");
    assert_eq!(ended.output, "", "{ended:?}");
}

/// A selector that fits nobody and a collector that is not there do not end the agent; each is said once, with what was looked for.
fn named_while_tracing(context: &mut Context) -> Result<()> {
    let (port, nobody) = (context.port(), context.port());
    let _python = service::python(context, "threads.py", port, &[])?;
    let agent = Setup::to(&format!("http://127.0.0.1:{nobody}"), "grpc")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .arg("--exe")
        .arg("/no/such/*,python3*")
        .arg("--pid")
        .arg("4194000")
        .start(context)?;
    let said = |word: &str| {
        let output = agent.output();
        output
            .lines()
            .filter(|line| line.contains("WARN") && line.contains(word))
            .count()
    };
    for selector in ["--exe /no/such/*", "--pid 4194000"] {
        assert_eq!(said(selector), 1, "{}", agent.output());
    }
    assert_eq!(said("--exe python3*"), 0, "{}", agent.output());
    let mut asked = 0;
    wait_for(
        || format!("a word on the collector:\n{}", agent.output()),
        PATIENCE,
        || {
            asked += 1;
            let response = Connection::open(port).ok()?.get("/hello").ok()?;
            assert_eq!(response.status, 200);
            (said(&format!("127.0.0.1:{nobody}")) >= 1).then_some(())
        },
    )?;
    let statistics = agent.stop()?;
    assert_eq!(statistics.get("spans_exported"), 0, "{statistics}");
    assert!(asked > 0);
    Ok(())
}
