//! Tests of the Resource made of a process.

use proptest::prelude::*;

use super::*;
use crate::process::{cgroup::Place, source::Stat};

fn host() -> Host {
    Host {
        name: "node-1".into(),
        id: Some("0123456789abcdef0123456789abcdef".into()),
        arch: "amd64".into(),
        boot_id: "1c3ce837-da1c-433f-bc32-868e6cc1d02b".into(),
    }
}

fn python(cgroup: &str, variables: &[(&'static str, &str)]) -> RawProcess {
    RawProcess {
        tgid: 41,
        stat: Stat {
            comm: "python3".into(),
            parent: 1,
            kernel_thread: false,
            start: StartTicks::of_ns(5_000_000_000),
        },
        exe: Some("/usr/bin/python3.11".into()),
        args: vec!["python3".into(), "cart.py".into(), "--token=x".into()],
        variables: variables
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        place: Place::parse(cgroup),
        container_name: None,
    }
}

fn resource(process: &RawProcess) -> Resource {
    identify(process, &host(), Runtime::Other, IdentityOptions::default())
}

const POD: &str = "0::/kubepods.slice/kubepods-pod0f3c8e1a_77d2_4b4e_9c55_1d2e3f405162.slice/\
                   cri-containerd-4a6f1e9b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7.scope";
const UNIT: &str = "0::/system.slice/shop.service";

#[test]
fn takes_the_name_that_comes_first_in_precedence() {
    let name = |process: RawProcess| resource(&process).service_name().to_owned();
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=attr");
    assert_eq!(
        name(python(UNIT, &[("OTEL_SERVICE_NAME", "own"), attributes])),
        "own"
    );
    assert_eq!(
        name(python(UNIT, &[("OTEL_SERVICE_NAME", ""), attributes])),
        "attr"
    );
    assert_eq!(name(python(POD, &[attributes])), "attr");
    assert_eq!(
        name(python(POD, &[("HOSTNAME", "shop-7d4b9c6f5d-x2x9z")])),
        "shop"
    );
    assert_eq!(
        name(RawProcess {
            container_name: Some("web".into()),
            ..python(POD, &[])
        }),
        "web"
    );
    assert_eq!(
        name(python(UNIT, &[("HOSTNAME", "shop-7d4b9c6f5d-x2x9z")])),
        "shop"
    );
    assert_eq!(name(python(UNIT, &[])), "shop");
    assert_eq!(name(python("0::/user.slice/session-3.scope", &[])), "cart");
    assert_eq!(name(python(POD, &[])), "cart");
}

#[test]
fn describes_process_container_pod_and_host() {
    let resource = resource(&python(POD, &[("HOSTNAME", "shop-7d4b9c6f5d-x2x9z")]));
    let expected = [
        ("process.pid", "41"),
        ("process.executable.name", "python3.11"),
        ("process.executable.path", "/usr/bin/python3.11"),
        ("process.runtime.name", "cpython"),
        ("telemetry.sdk.name", "undertrace"),
        ("telemetry.sdk.language", "python"),
        (
            "container.id",
            "4a6f1e9b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7",
        ),
        ("k8s.pod.uid", "0f3c8e1a-77d2-4b4e-9c55-1d2e3f405162"),
        ("k8s.pod.name", "shop-7d4b9c6f5d-x2x9z"),
        ("host.name", "node-1"),
        ("host.id", "0123456789abcdef0123456789abcdef"),
        ("host.arch", "amd64"),
        ("os.type", "linux"),
    ];
    for (name, value) in expected {
        assert_eq!(resource.get(name), Some(value), "{name}");
    }
    assert_eq!(
        resource.attributes().first().map(|(name, _)| name.as_ref()),
        Some("service.name")
    );
}

#[test]
fn keeps_arguments_at_home_unless_asked() {
    let process = python(UNIT, &[]);
    assert_eq!(resource(&process).get("process.command_line"), None);
    let asked = identify(
        &process,
        &host(),
        Runtime::Other,
        IdentityOptions { command_line: true },
    );
    assert_eq!(
        asked.get("process.command_line"),
        Some("python3 cart.py --token=x")
    );
}

#[test]
fn gives_an_instance_one_id_and_each_instance_another() {
    let id = |process: &RawProcess| {
        resource(process)
            .get("service.instance.id")
            .map(str::to_owned)
            .unwrap_or_default()
    };
    let process = python(UNIT, &[]);
    let first = id(&process);
    assert_eq!(
        first,
        id(&python(POD, &[("OTEL_SERVICE_NAME", "other")])),
        "whatever it is called"
    );
    assert_eq!(
        (first.len(), first.as_bytes()[14], first.split('-').count()),
        (36, b'8', 5)
    );
    assert!(
        matches!(first.as_bytes()[19], b'8' | b'9' | b'a' | b'b'),
        "{first}"
    );
    let mut reused = process.clone();
    reused.stat.start = StartTicks::of_ns(6_000_000_000);
    assert_ne!(first, id(&reused), "a reused process id");
    let own = python(
        UNIT,
        &[("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=i-1")],
    );
    assert_eq!(id(&own), "i-1");
}

#[test]
fn gives_a_copy_everything_but_its_id() {
    let process = python(UNIT, &[]);
    let original = resource(&process);
    let copy = inherit(
        &original,
        process.key(),
        ProcessKey {
            tgid: 42,
            start_ns: 6_000_000_000,
        },
        &host(),
    );
    let mut looked_at = process.clone();
    looked_at.tgid = 42;
    looked_at.stat.start = StartTicks::of_ns(6_000_000_000);
    assert_eq!(
        copy,
        resource(&looked_at),
        "the same as if it had been seen"
    );
    let given = python(
        UNIT,
        &[("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=i-1")],
    );
    let copy = inherit(
        &resource(&given),
        given.key(),
        ProcessKey {
            tgid: 42,
            start_ns: 0,
        },
        &host(),
    );
    assert_eq!(copy.get("service.instance.id"), Some("i-1"));
}

#[test]
fn lets_the_process_speak_for_itself_but_not_for_its_process() {
    let text = "deployment.environment.name=prod,host.name=web%2D7,team=caf%C3%A9, service.version=1.2 ,process.pid=1,telemetry.sdk.name=x,service.name=shop";
    let resource = resource(&python(UNIT, &[("OTEL_RESOURCE_ATTRIBUTES", text)]));
    assert_eq!(resource.get("deployment.environment.name"), Some("prod"));
    assert_eq!(resource.get("host.name"), Some("web-7"));
    assert_eq!(resource.get("team"), Some("café"));
    assert_eq!(resource.get("service.version"), Some("1.2"));
    assert_eq!(resource.get("process.pid"), Some("41"));
    assert_eq!(resource.get("telemetry.sdk.name"), Some("undertrace"));
    assert_eq!(
        resource
            .attributes()
            .iter()
            .filter(|(name, _)| name == "service.name")
            .count(),
        1
    );
}

#[test]
fn drops_attributes_that_are_malformed_as_a_whole() {
    for text in [
        "service.name=a,novalue",
        "service.name=a,=b",
        "service.name=%zz",
        "service.name=%f",
        "service.name=%ff",
        "service.name=%+f",
    ] {
        assert_eq!(
            resource(&python("0::/", &[("OTEL_RESOURCE_ATTRIBUTES", text)])).service_name(),
            "cart",
            "{text}"
        );
    }
    assert_eq!(
        own_attributes("a=1,,b=,"),
        Some(vec![("a".into(), "1".into()), ("b".into(), String::new())])
    );
}

#[test]
fn does_not_take_the_hosts_name_for_the_pods() {
    let process = python(POD, &[("HOSTNAME", "node-1")]);
    assert_eq!(resource(&process).get("k8s.pod.name"), None);
    assert_eq!(resource(&process).service_name(), "cart");
}

proptest! {
    #[test]
    fn never_panics_and_always_names_the_service(
        attributes in "([a-z.]{0,6}=(%[0-9a-f]{0,2}|é|[a-z]){0,4},?){0,5}",
        comm in ".{0,15}",
        exe in prop::option::of(".{0,20}"),
    ) {
        let mut process = python("0::/", &[("OTEL_RESOURCE_ATTRIBUTES", attributes.as_str())]);
        process.stat.comm = comm;
        process.exe = exe.map(Into::into);
        let resource = resource(&process);
        prop_assert_ne!(resource.service_name(), "");
        let mut names: Vec<_> = resource.attributes().iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        prop_assert_eq!(names.len(), resource.attributes().len(), "no name stands there twice");
    }

    #[test]
    fn cuts_long_values_between_characters(value in "é{0,3000}") {
        prop_assert!(cut(value).len() <= MAX_VALUE_BYTES);
    }
}
