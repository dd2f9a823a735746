//! What `undertrace doctor` tells of a machine on which all is well, and of one that lacks something.

use std::{
    net::{TcpListener, TcpStream},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::run_to_end, kernel_has, process::Program, service, wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("safety_doctor_tries_everything", tries_everything),
    Scenario::core("safety_doctor_says_what_is_missing", says_what_is_missing),
    Scenario::core("safety_doctor_finds_tls_libraries", finds_tls_libraries),
    Scenario::full(
        "safety_doctor_counts_older_connections",
        counts_older_connections,
    ),
];

/// What all kernels of the matrix have; those that preempt have spare programs too.
const FEATURES: [&str; 10] = [
    "inet",
    "inet6",
    "unix",
    "unix_connects",
    "connects",
    "accepts",
    "processes",
    "waits",
    "live_positions",
    "retransmissions",
];

/// Every feature works, without a reason why not, and by a hook that is in use; a call costs something.
fn tries_everything(_context: &mut Context) -> Result<()> {
    let text = run_to_end(&[], &["doctor"])?;
    assert_eq!((text.code, text.errors.as_str()), (Some(0), ""), "{text:?}");
    let ended = run_to_end(&[], &["doctor", "--json"])?;
    assert_eq!(
        (ended.code, ended.errors.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    let report: Value = serde_json::from_str(&ended.output)?;
    assert_eq!(
        (&report["works"], &report["tried"]),
        (&true.into(), &true.into()),
        "{report:#}"
    );
    assert_eq!(report["error"], Value::Null);
    let features = list(&report, "features")?;
    let names: Vec<&Value> = features.iter().map(|feature| &feature["feature"]).collect();
    let preempts = names.last().is_some_and(|name| **name == "spares");
    // From Linux 6.5 on files come by the hook of all sends.
    let sendpage = kernel_has("unix_stream_sendpage")?;
    let (files, common): (Vec<&Value>, Vec<&Value>) = names[..names.len() - usize::from(preempts)]
        .iter()
        .partition(|name| **name == "unix_files");
    assert_eq!(files.len(), usize::from(sendpage), "{report:#}");
    assert_eq!(common, FEATURES, "{report:#}");
    let model = std::fs::read_to_string("/sys/kernel/debug/sched/preempt").unwrap_or_default();
    let says_so = model.contains("(full)") || model.contains("(lazy)");
    assert_eq!(preempts, says_so, "{model}: {report:#}");
    for feature in features {
        let nothing = Value::Null;
        assert_eq!(
            (&feature["works"], &feature["reason"], &feature["loss"]),
            (&true.into(), &nothing, &nothing),
            "{feature:#}"
        );
        let title = feature["title"].as_str().context("a feature has a name")?;
        assert!(text.output.contains(title), "{title}: {}", text.output);
        let mut hooks = list(&report, "hooks")?.iter();
        let used =
            hooks.any(|hook| hook["feature"] == feature["feature"] && hook["state"] == "chosen");
        assert!(used, "{report:#}");
    }
    for hook in list(&report, "hooks")? {
        let chosen = hook["state"] == "chosen";
        let there = sendpage || hook["target"] != "unix_stream_sendpage";
        let needed = there && (preempts || hook["feature"] != "spares");
        assert_eq!(chosen, needed, "{hook:#}");
        assert!(hook["program"].is_string(), "{hook:#}");
        assert_eq!(hook["reason"].is_null(), chosen, "{hook:#}");
    }
    for state in ["detached", "not_traced", "traced"] {
        for call in ["send_ns", "receive_ns"] {
            let cost = report["cost"][state][call].as_u64();
            assert!(cost.is_some_and(|ns| ns > 0), "{state} {call}: {report:#}");
        }
    }
    let headers = &report["headers"];
    let took = headers["milliseconds"].as_u64().is_some_and(|ms| ms > 0);
    assert_eq!(Value::Bool(took), headers["works"], "{headers:#}");
    // The virtual machines have namespaces and interfaces for it.
    assert_eq!(headers["without_veth"], Value::Null, "{headers:#}");
    let option = &report["option"];
    assert_eq!(option["works"], Value::Bool(true), "{option:#}");
    assert!(option["milliseconds"].is_u64(), "{option:#}");
    assert!(
        report["map_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 1 << 20),
        "{report:#}"
    );
    for finding in list(&report, "machine")? {
        let fine = finding["severity"] == "fine";
        assert_eq!(finding["advice"] == "", fine, "{finding:#}");
    }
    Ok(())
}

/// Without type information nothing is tried, and it says what to do.
fn says_what_is_missing(_context: &mut Context) -> Result<()> {
    let hidden = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    let ended = run_to_end(
        &["unshare", "--mount", "sh", "-c", hidden, "sh"],
        &["doctor", "--json"],
    )?;
    assert_eq!(
        (ended.code, ended.errors.as_str()),
        (Some(3), ""),
        "{ended:?}"
    );
    let report: Value = serde_json::from_str(&ended.output)?;
    assert_eq!(
        (&report["works"], &report["tried"], &report["cost"]),
        (&false.into(), &false.into(), &Value::Null),
        "{report:#}"
    );
    let error = report["error"].as_str().context("it says why")?;
    assert!(error.starts_with("BTF is absent: "), "{error}");
    let mut machine = list(&report, "machine")?.iter();
    let finding = machine.find(|finding| finding["subject"] == "BTF");
    let finding = finding.context("BTF is looked for")?;
    assert_eq!(finding["severity"], "blocking");
    assert_ne!(finding["advice"], "");
    Ok(())
}

/// Connections that processes made before, and not their other ends.
fn counts_older_connections(_context: &mut Context) -> Result<()> {
    let older = || -> Result<u64> {
        let ended = run_to_end(&[], &["doctor", "--json"])?;
        let report: Value = serde_json::from_str(&ended.output)?;
        let older = report["headers"]["older"].as_u64();
        older.with_context(|| format!("no count in {report:#}"))
    };
    let before = older()?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push((TcpStream::connect(address)?, listener.accept()?));
    }
    assert_eq!(older()?, before + 3);
    Ok(())
}

/// OpenSSL as nginx has it, and a copy of the same file that only one process can see, and that was deleted when it had loaded it.
fn finds_tls_libraries(context: &mut Context) -> Result<()> {
    const COPY: &str = "import ctypes, os, ssl
with open('/proc/self/maps') as maps:
    library = next(line.split()[-1] for line in maps if 'libssl' in line)
os.system(f'cp {library} /mnt/renamed.so')
ctypes.CDLL('/mnt/renamed.so')
os.remove('/mnt/renamed.so')
print('version', ssl.OPENSSL_VERSION.split()[1], flush=True)
input()";
    let port = context.port();
    let nginx = service::static_nginx(context, port)?;
    let mut alone = Command::new(service::program("unshare")?);
    let script = "mount -t tmpfs none /mnt && sleep 1000 | python3 -c \"$0\"";
    alone.args(["--mount", "sh", "-c", script, COPY]);
    let alone = Program::start(context, "alone", &mut alone)?;
    let version = wait_for(
        || format!("the library to be loaded; {}", alone.output()),
        PATIENCE,
        || {
            let output = alone.output();
            let version = output
                .lines()
                .find_map(|line| line.strip_prefix("version "));
            version.map(str::to_owned)
        },
    )?;

    let ended = run_to_end(&[], &["doctor", "--processes", "--json"])?;
    let whole = (Some(0), "");
    assert_eq!((ended.code, ended.errors.as_str()), whole, "{ended:?}");
    let report: Value = serde_json::from_str(&ended.output)?;
    let processes = list(&report, "processes")?;
    let openssl = |wanted: &dyn Fn(&Value) -> bool, file: &str| -> Result<Value> {
        let mut all = processes.iter().filter(|process| wanted(process));
        let mut libraries = all.find_map(|process| list(process, "libraries").ok());
        let mut libraries = libraries.iter_mut().flat_map(|libraries| libraries.iter());
        let path = |library: &Value| library["path"].as_str().map(|path| path.contains(file));
        let found = libraries.find(|library| path(library) == Some(true));
        let found = found.with_context(|| format!("no {file} in {report:#}"))?;
        assert_eq!(found["library"], "OpenSSL", "{found:#}");
        assert_eq!(found["reason"], Value::Null, "{found:#}");
        assert_eq!(found["built_in"], false, "{found:#}");
        Ok(found.clone())
    };
    let of_nginx = openssl(&|process| process["pid"] == nginx.pid(), "/libssl.so")?;
    assert_eq!(of_nginx["version"], version.as_str(), "{of_nginx:#}");
    let names = list(&of_nginx, "probes")?
        .iter()
        .map(|probe| &probe["function"]);
    let names: Vec<&Value> = names.collect();
    for name in ["SSL_read", "SSL_write", "SSL_free"] {
        assert!(names.contains(&&Value::from(name)), "{of_nginx:#}");
    }
    let is_alone = |process: &Value| {
        let libraries = process["libraries"].as_array();
        libraries.is_some_and(|all| {
            all.iter()
                .any(|library| library["path"] == "/mnt/renamed.so")
        })
    };
    let copied = openssl(&is_alone, "/mnt/renamed.so")?;
    assert_eq!(copied["probes"], of_nginx["probes"], "it is the same file");

    // What speaks no TLS has none.
    let sleeps = |process: &&Value| process["name"] == "sleep";
    let mut asleep = processes.iter().filter(sleeps).peekable();
    ensure!(asleep.peek().is_some(), "no sleep in {report:#}");
    assert!(asleep.all(|process| process["libraries"] == Value::Array(Vec::new())));

    let text = run_to_end(&[], &["doctor", "--processes"])?;
    assert_eq!((text.code, text.errors.as_str()), whole, "{text:?}");
    let line = format!("OpenSSL {version}, in ");
    let of_nginx = |said: &str| said.contains("found    nginx ") && said.contains(&line);
    assert!(text.output.lines().any(of_nginx), "{}", text.output);
    Ok(())
}

fn list<'a>(report: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    let list = report[name]
        .as_array()
        .with_context(|| format!("no {name}"))?;
    ensure!(!list.is_empty(), "{name} is empty");
    Ok(list)
}
