//! The agent in namespaces of its own, as a container runtime starts it.

use anyhow::{Context as _, Result};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{Setup, run_to_end},
    collector::Collector,
    http::Connection,
    refusal::CANNOT_RUN_HERE,
    service,
    trace::Spans,
    wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("identity_from_inside_a_container", from_inside_a_container),
    Scenario::full("identity_through_the_hosts_proc", through_the_hosts_proc),
    Scenario::core(
        "safety_refuses_ids_of_a_container",
        refuses_ids_of_a_container,
    ),
    Scenario::full(
        "safety_refuses_without_a_capability_of_the_manifest",
        refuses_without_a_capability,
    ),
];

/// What is given to Kubernetes.
const MANIFEST: &str = include_str!("../../../dist/daemonset.yaml");

/// The capabilities that the manifest grants.
fn granted() -> Vec<&'static str> {
    granted_by(MANIFEST)
}

/// The capabilities that a manifest grants, as it names them: `BPF`, `PERFMON` ...
pub(super) fn granted_by(manifest: &'static str) -> Vec<&'static str> {
    manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| !line.starts_with("add:"))
        .skip(1)
        .map_while(|line| line.strip_prefix("- ")?.split_whitespace().next())
        .collect()
}

/// The words of setpriv(1) with which a program gets these capabilities and no other, and none later.
pub(super) fn confined_to(capabilities: &[&str]) -> String {
    let names = capabilities.iter().map(|name| name.to_ascii_lowercase());
    let set: String = names.map(|name| format!(",+{name}")).collect();
    format!("--no-new-privs --bounding-set=-all{set}")
}

/// Paths that are asked for, each once.
const REQUESTS: usize = 5;

/// Everything of its own but the process ids, with the manifest's capabilities: spans are whole and carry the host's names.
fn from_inside_a_container(context: &mut Context) -> Result<()> {
    let port = context.port();
    let python = named_service(context, port)?;
    let file = context.folder().join("spans.jsonl");
    let script = format!(
        "hostname agent-pod && exec {setpriv} {confined} \"$@\"",
        setpriv = service::program("setpriv")?.display(),
        confined = confined_to(&granted()),
    );
    let unshare = service::program("unshare")?;
    let unshare = unshare.to_str().context("a UTF-8 path")?;
    let namespaces = ["--mount", "--uts", "--ipc", "--net", "--cgroup"];
    let within = [&[unshare], &namespaces[..], &["sh", "-c", &script, "sh"]].concat();
    let agent = Setup::bare()
        .within(&within)
        .port(port)
        .arg("--pid")
        .arg(python.pid().to_string())
        .arg("--file")
        .arg(file.to_string_lossy())
        .start(context)?;
    assert_holds_no_more(agent.pid(), granted().len())?;
    ask(port)?;
    let read = || -> Result<Spans> {
        let text = std::fs::read_to_string(&file)?;
        // The last line may still be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Spans::of_json_lines(whole)
    };
    wait_for(
        || format!("{REQUESTS} spans; {:?}", read().map(|spans| spans.render())),
        PATIENCE,
        || read().ok().filter(|spans| spans.len() >= REQUESTS),
    )?;
    agent.stop()?;
    // What this process is called would be the agent's own host name.
    let host = std::fs::read_to_string("/etc/hostname").context("the machine has a name")?;
    assert_whole(&read()?, python.pid(), host.trim());
    Ok(())
}

/// Process ids of its own too: the host's are found where they are mounted, its own among them, so that its export is not traced.
fn through_the_hosts_proc(context: &mut Context) -> Result<()> {
    let port = context.port();
    let python = named_service(context, port)?;
    let host = context.folder().join("host-proc");
    std::fs::create_dir_all(&host)?;
    let host = host.to_str().context("a UTF-8 path")?;
    let script =
        format!("mount --bind /proc {host} && exec unshare --pid --fork --mount-proc \"$@\"");
    let within = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let collector = Collector::start()?;
    // Without selectors: an export that is traced would come back as spans of its own.
    let agent = Setup::http(&collector)
        .within(&within)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .arg("--proc-root")
        .arg(host)
        .start(context)?;
    for _ in 0..3 {
        let before = collector.deliveries().len();
        ask(port)?;
        wait_for(
            || "one more delivery".into(),
            PATIENCE,
            || (collector.deliveries().len() > before).then_some(()),
        )?;
    }
    collector.wait_for_spans(3 * 2 * REQUESTS, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 3 * 2 * REQUESTS, "{}", spans.render());
    assert_eq!(
        statistics.get("spans_exported"),
        3 * 2 * REQUESTS as u64,
        "{statistics}"
    );
    let of_service = spans.servers();
    for path in (0..REQUESTS).map(|n| format!("/r/{n}")) {
        assert_eq!(of_service.filter(|span| span.path() == path).len(), 3);
    }
    for span in &of_service.0 {
        assert_eq!(span.service(), "shop");
        assert_eq!(span.resource["process.pid"], python.pid().to_string());
    }
    Ok(())
}

/// Only a container's processes are seen: it does not trace under wrong names, it says what is missing, and so does the doctor.
fn refuses_ids_of_a_container(_context: &mut Context) -> Result<()> {
    let within = ["unshare", "--pid", "--fork", "--mount-proc"];
    let sentence = "process list is only a container's: the kernel names processes by the host's ids, which mean nothing here: \
                    run with the host's pid namespace (hostPID: true, docker run --pid=host), or mount the host's /proc and name \
                    the place with --proc-root";
    run_to_end(&within, &["run"])?.assert_refused(
        CANNOT_RUN_HERE,
        sentence,
        "mount the host's /proc and name the place with --proc-root",
    );
    let report = run_to_end(&within, &["doctor", "--json"])?;
    assert_eq!(report.code, Some(CANNOT_RUN_HERE), "{}", report.errors);
    let report: serde_json::Value = serde_json::from_str(&report.output)?;
    assert_eq!(report["works"], false);
    assert_eq!(report["error"], sentence);

    run_to_end(&[], &["run", "--proc-root", "/no/such/proc"])?.assert_refused(
        CANNOT_RUN_HERE,
        "process list is not readable: nothing tells which process is which: mount /proc, or name with --proc-root where it \
         is mounted",
        "mount /proc, or name with --proc-root",
    );
    Ok(())
}

/// With one capability less than the manifest grants it does not trace, and says which one is missing and what to do.
fn refuses_without_a_capability(_context: &mut Context) -> Result<()> {
    let setpriv = service::program("setpriv")?;
    let setpriv = setpriv.to_str().context("a UTF-8 path")?;
    for (missing, purpose) in [
        ("BPF", "load programs"),
        ("PERFMON", "attach to kernel functions"),
    ] {
        let mut capabilities = granted();
        capabilities.retain(|name| *name != missing);
        assert_eq!(capabilities.len() + 1, granted().len(), "{missing}");
        let confined = confined_to(&capabilities);
        let within: Vec<&str> = std::iter::once(setpriv)
            .chain(confined.split(' '))
            .collect();
        let refused = run_to_end(&within, &["run"])?;
        let sentence = format!(
            "undertrace: CAP_{missing} is missing: needs CAP_{missing} to {purpose}: run as root, or grant it with \
             `setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search+ep undertrace`\n"
        );
        assert_eq!(
            (
                refused.code,
                refused.errors.as_str(),
                refused.output.as_str()
            ),
            (Some(3), sentence.as_str(), "")
        );
    }
    Ok(())
}

/// The process has exactly so many capabilities, and can never get another (capabilities(7), proc(5)).
pub(super) fn assert_holds_no_more(pid: u32, count: usize) -> Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        let hex = status.lines().find_map(|line| line.strip_prefix(set));
        let bits = u64::from_str_radix(hex.context("a process has capabilities")?.trim(), 16)?;
        assert_eq!(bits.count_ones() as usize, count, "{set} {bits:x}");
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    Ok(())
}

fn named_service(context: &Context, port: u16) -> Result<crate::harness::process::Program> {
    service::python_in(
        context,
        None,
        "threads.py",
        port,
        &[],
        &[("OTEL_SERVICE_NAME", "shop")],
    )
}

fn ask(port: u16) -> Result<()> {
    for n in 0..REQUESTS {
        let response = Connection::open(port)?.get(&format!("/r/{n}"))?;
        assert_eq!(response.status, 200);
    }
    Ok(())
}

/// One span for each request, of the service with this process id, on the machine of this name.
fn assert_whole(spans: &Spans, pid: u32, host: &str) {
    assert_eq!(spans.len(), REQUESTS, "{}", spans.render());
    for n in 0..REQUESTS {
        let path = format!("/r/{n}");
        let span = spans.filter(|span| span.path() == path && span.is_server());
        let resource = &span.only().resource;
        assert_eq!(resource["service.name"], "shop");
        assert_eq!(resource["process.pid"], pid.to_string());
        assert_eq!(resource["host.name"], host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_manifest() {
        let granted = granted();
        assert!(granted.contains(&"BPF") && granted.contains(&"PERFMON"));
        assert!(
            granted.iter().all(|name| name
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'_')),
            "{granted:?}"
        );
        let all = MANIFEST
            .split("add:")
            .nth(1)
            .and_then(|rest| rest.split("seccompProfile").next());
        let lines = all.map_or(0, |text| text.matches("- ").count());
        assert_eq!(granted.len(), lines, "none is left out");
        assert_eq!(
            confined_to(&["BPF", "SYS_PTRACE"]),
            "--no-new-privs --bounding-set=-all,+bpf,+sys_ptrace"
        );
    }
}
