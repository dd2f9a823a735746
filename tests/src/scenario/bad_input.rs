//! What a person reads when something is wrong: one clear sentence, the next step, an exit code that says whose turn it is.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{self, Setup, run_to_end, run_to_end_as},
    http::Connection,
    refusal::{CANNOT_RUN_HERE, USAGE},
    service, wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("safety_bad_input_is_refused_in_one_sentence", refused),
    Scenario::core(
        "safety_bad_input_is_named_while_tracing",
        named_while_tracing,
    ),
];

fn refused(context: &mut Context) -> Result<()> {
    let of_user = run_to_end(&[], &["run", "--prot", "80"])?;
    let said = (
        of_user.code,
        of_user.output.as_str(),
        of_user.errors.as_str(),
    );
    let usage = "error: unexpected argument '--prot' found\n\n  tip: a similar argument exists: '--port'\n\n\
                 Usage: undertrace run --port <PORT>\n\nFor more information, try '--help'.\n";
    assert_eq!(said, (Some(USAGE), "", usage));

    let path = context.folder().join("undertrace.yaml");
    let name = path.to_str().context("a UTF-8 path")?;
    // The line and the column, both counted from 1, are what to look at next.
    for (text, place, reason) in [
        (
            "port: [80]\nexe:\n  - nginx\n - node\n",
            "4:2",
            "while parsing a block mapping, did not find expected key",
        ),
        (
            "port: [80\nexe: x\n",
            "2:4",
            "illegal placement of ':' indicator",
        ),
        (
            "port:\n  - 80\n  - 70000\n",
            "3:5",
            "`70000` is no port (1 to 65535) and no range such as 8000-8099",
        ),
        (
            "port: [80]\nprot: [81]\n",
            "2:1",
            "unknown field `prot`, expected one of port, exe, pid, cgroup, query, otlp_exports, tls, inject, inject_to, \
             inject_existing, tcp_option, trust_context, propagators, console, file, sampler, sampler_arg, sample, sample_rate, otlp, proc_root, stats_json, ready_file, fault",
        ),
    ] {
        fs::write(&path, text)?;
        run_to_end(&[], &["run", "--config", name])?.assert_refused(
            USAGE,
            &format!("{name}:{place}: {reason}"),
            &format!("{name}:{place}: "),
        );
    }
    let missing = format!("{name}.missing");
    run_to_end(&[], &["run", "--config", &missing])?.assert_refused(
        USAGE,
        &format!(
            "cannot read {missing}, named by --config: No such file or directory (os error 2)"
        ),
        "named by --config",
    );

    let hidden = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    run_to_end(&["unshare", "--mount", "sh", "-c", hidden, "sh"], &["run"])?.assert_refused(
        CANNOT_RUN_HERE,
        "BTF is absent: without its type information nothing can be read from the kernel: use a kernel built with \
         CONFIG_DEBUG_INFO_BTF, and in a container mount /sys",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF",
    );
    // Linux 2.6 is what it then tells this process.
    let told = Command::new("setarch")
        .args(["--uname-2.6", "uname", "-r", "-m"])
        .output()?;
    let told = String::from_utf8(told.stdout)?;
    assert!(told.starts_with("2.6."), "{told}");
    run_to_end(&["setarch", "--uname-2.6"], &["run"])?.assert_refused(
        CANNOT_RUN_HERE,
        &format!(
            "kernel is {}: kernels before 5.10 are not supported: use a newer kernel",
            told.trim_end()
        ),
        "use a newer kernel",
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
    run_to_end_as(&copy, &nobody, &["run"])?.assert_refused(
        CANNOT_RUN_HERE,
        "CAP_BPF is missing: needs CAP_BPF to load programs: run as root, or grant it with \
         `setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search+ep undertrace`",
        "run as root, or grant it with `setcap ",
    );
    Ok(())
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
