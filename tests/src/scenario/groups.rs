//! Control groups: what their names tell of a service, and selection by them.

use anyhow::Result;

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::Setup, collector::Collector, group::Group, http::Connection, service,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::full("identity_container_and_pod", container_and_pod),
    Scenario::full("identity_selected_by_control_group", selected_by_group),
];

/// A service in a pod that is older than the agent, one in a container that starts later, and one in neither: the names of their groups are
/// those that containerd with Kubernetes, and Docker, give under systemd.
fn container_and_pod(context: &mut Context) -> Result<()> {
    let (first, second) = ("4a6f1e9b2c3d4e5f".repeat(4), "60718293a4b5c6d7".repeat(4));
    let uid = "0f3c8e1a-77d2-4b4e-9c55-1d2e3f405162";
    let pod = Group::make(&format!(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-{first}.scope",
        uid.replace('-', "_")
    ))?;
    let container = Group::make(&format!("/system.slice/docker-{second}.scope"))?;
    let ports = [context.port(), context.port(), context.port()];
    let older = service::python(context, "threads.py", ports[0], &[])?;
    pod.take(older.pid())?;
    let _plain = service::python(context, "threads.py", ports[2], &[])?;
    let collector = Collector::start()?;
    let mut setup = Setup::grpc(&collector);
    for port in ports {
        setup = setup.port(port);
    }
    let agent = setup.start(context)?;
    let _later = service::python_within(context, &container, "threads.py", ports[1])?;
    for port in ports {
        assert_eq!(Connection::open(port)?.get("/hello")?.status, 200);
    }
    collector.wait_for_spans(6, PATIENCE)?;
    agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len(), 6, "{}", spans.render());
    let wanted = [
        (Some(first.as_str()), Some(uid)),
        (Some(second.as_str()), None),
        (None, None),
    ];
    for (port, wanted) in ports.into_iter().zip(wanted) {
        let of_port = spans.filter(|span| span.get("server.port") == port.to_string());
        let told = |name: &str, resource: &std::collections::BTreeMap<String, String>| {
            resource.get(name).cloned()
        };
        let server = of_port.servers();
        let resource = &server.only().resource;
        let got = ["container.id", "k8s.pod.uid"].map(|name| told(name, resource));
        assert_eq!(
            (got[0].as_deref(), got[1].as_deref()),
            wanted,
            "{resource:?}"
        );
        // This process is in none of them.
        let client = of_port.clients();
        let resource = &client.only().resource;
        for name in ["container.id", "k8s.pod.uid"] {
            assert_eq!(told(name, resource), None, "{resource:?}");
        }
    }
    Ok(())
}

/// Two services, one of them below the group that is selected: of the other one and of the client nothing is read.
fn selected_by_group(context: &mut Context) -> Result<()> {
    const CONNECTIONS: u64 = 3;
    const REQUESTS: u64 = 4;
    let outer = format!("/shop{}", std::process::id());
    let inner = Group::make(&format!("{outer}/one"))?;
    let other = Group::make(&format!("{outer}-not"))?;
    let (selected, left_out) = (context.port(), context.port());
    let one = service::python(context, "threads.py", selected, &[])?;
    inner.take(one.pid())?;
    let two = service::python(context, "threads.py", left_out, &[])?;
    other.take(two.pid())?;
    let collector = Collector::start()?;
    let agent = Setup::grpc(&collector)
        .arg("--cgroup")
        .arg(outer.as_str())
        .arg("--cgroup")
        .arg("/no/such/group")
        .start(context)?;
    let warnings: Vec<_> = agent
        .output()
        .lines()
        .filter(|line| line.contains("WARN") && line.contains("--cgroup"))
        .map(str::to_owned)
        .collect();
    assert_eq!(warnings.len(), 1, "{}", agent.output());
    assert!(
        warnings[0].contains("--cgroup /no/such/group"),
        "{warnings:?}"
    );
    for _ in 0..CONNECTIONS {
        let mut connections = [Connection::open(selected)?, Connection::open(left_out)?];
        for n in 0..REQUESTS {
            for connection in &mut connections {
                assert_eq!(connection.get(&format!("/r/{n}"))?.status, 200);
            }
        }
    }
    let all = CONNECTIONS * REQUESTS;
    collector.wait_for_spans(usize::try_from(all)?, PATIENCE)?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    assert_eq!(spans.len() as u64, all, "{}", spans.render());
    for span in &spans.0 {
        assert!(span.is_server(), "{}", span.line());
        assert_eq!(span.get("server.port"), selected.to_string());
        assert_eq!(span.resource["process.pid"], one.pid().to_string());
    }
    // A record for each receive of a request and for each send of a response: the server makes one call for each.
    let counts = [
        "connections",
        "segments",
        "server_decisions",
        "client_decisions",
    ]
    .map(|name| statistics.get(name));
    assert_eq!(counts, [CONNECTIONS, 2 * all, all, 0], "{statistics}");
    Ok(())
}
