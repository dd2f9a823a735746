//! Makes a Resource of what was read of a process: which service it is, and which instance of it.
//!
//! Input: [`RawProcess`], [`Host`], what its image told. Output: [`Resource`]. It reads nothing and knows only what it is
//! given; names and precedence follow the OpenTelemetry resource conventions.
//!
//! `service.name` is the first of: `OTEL_SERVICE_NAME`; `service.name` in `OTEL_RESOURCE_ATTRIBUTES`; in a pod, its
//! controller, then its container; the systemd unit; the program (script, module or jar behind an interpreter).

use std::{borrow::Cow, path::Path};

use super::{
    host::Host,
    kubernetes::controller_of,
    program::{Interpreter, Program},
    resource::{ProcessKey, Resource},
    runtime::Runtime,
    source::{RawProcess, StartTicks},
};

/// Attributes taken from one `OTEL_RESOURCE_ATTRIBUTES`; further ones are left out.
const MAX_OWN_ATTRIBUTES: usize = 64;
/// Bytes of one attribute's value; longer ones are cut.
const MAX_VALUE_BYTES: usize = 4096;

/// What may leave the machine about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IdentityOptions {
    /// Also `process.command_line`; arguments hold secrets often enough that it is off by default.
    pub command_line: bool,
}

/// Attributes being collected: the first value of a name stays.
#[derive(Default)]
struct Attributes(Vec<(Cow<'static, str>, String)>);

impl Attributes {
    fn add(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        if !value.is_empty() && !self.0.iter().any(|(other, _)| *other == name) {
            self.0.push((name, cut(value)));
        }
    }

    fn add_some(&mut self, name: &'static str, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }
}

/// The Resource of a process on `host`; `runtime` is what its image told, where it was looked at.
#[must_use]
pub fn identify(
    process: &RawProcess,
    host: &Host,
    runtime: Runtime,
    options: IdentityOptions,
) -> Resource {
    let own = process
        .variable("OTEL_RESOURCE_ATTRIBUTES")
        .and_then(own_attributes)
        .unwrap_or_default();
    let own = |name: &str| {
        own.iter()
            .filter(move |(other, _)| other == name)
            .map(|(_, value)| value.clone())
            .next_back()
    };
    let program = Program::of(&process.exe_name(), &process.args, &process.stat.comm);
    let pod = Pod::of(process, host);
    let place = &process.place;

    let mut to = Attributes::default();
    to.add_some("service.name", process.variable("OTEL_SERVICE_NAME"));
    to.add_some("service.name", own("service.name"));
    to.add_some(
        "service.name",
        pod.as_ref()
            .and_then(|pod| pod.controller.or(pod.container)),
    );
    to.add_some("service.name", place.unit.as_deref());
    to.add("service.name", program.name);
    to.add_some("service.namespace", own("service.namespace"));
    to.add_some("service.version", own("service.version"));
    to.add_some("service.instance.id", own("service.instance.id"));
    to.add("service.instance.id", instance_id(host, process.key()));

    to.add("telemetry.sdk.name", "undertrace");
    to.add("telemetry.sdk.version", env!("CARGO_PKG_VERSION"));
    let interpreter = program.interpreter;
    to.add_some(
        "telemetry.sdk.language",
        interpreter
            .and_then(Interpreter::language)
            .or(runtime.language()),
    );

    to.add("process.pid", process.tgid.to_string());
    to.add("process.executable.name", executable_name(process));
    to.add_some(
        "process.executable.path",
        process.exe.as_deref().map(Path::to_string_lossy),
    );
    to.add_some(
        "process.runtime.name",
        interpreter
            .and_then(Interpreter::runtime_name)
            .or(runtime.name()),
    );
    if options.command_line {
        to.add("process.command_line", process.args.join(" "));
    }
    to.add_some("container.id", place.container_id.as_deref());
    if let Some(pod) = &pod {
        to.add("k8s.pod.uid", pod.uid);
        to.add_some("k8s.pod.name", pod.name);
        to.add_some("k8s.container.name", pod.container);
    }
    to.add("host.name", host.name.as_str());
    to.add_some("host.id", host.id.as_deref());
    to.add("host.arch", host.arch.as_str());
    to.add("os.type", "linux");
    finish(to, process)
}

/// The Resource of a process that is a copy (fork) of another and was gone before it could be looked at: that of the
/// original, under its own id.
#[must_use]
pub fn inherit(
    original: &Resource,
    original_key: ProcessKey,
    copy: ProcessKey,
    host: &Host,
) -> Resource {
    let concluded = instance_id(host, original_key);
    let attributes = original.attributes().iter().map(|(name, value)| {
        let value = match name.as_ref() {
            "process.pid" => copy.tgid.to_string(),
            // An id that the process was given stays: it was given to the copy too.
            "service.instance.id" if *value == concluded => instance_id(host, copy),
            _ => value.clone(),
        };
        (name.clone(), value)
    });
    Resource::new(attributes.collect())
}

/// Lets the process's own attributes replace those that were concluded, and appends the others. What it says about the
/// process itself and about telemetry is not taken: parents hand their environment down, and this is not its SDK.
fn finish(mut to: Attributes, process: &RawProcess) -> Resource {
    let own = process
        .variable("OTEL_RESOURCE_ATTRIBUTES")
        .and_then(own_attributes)
        .unwrap_or_default();
    for (name, value) in own {
        let fixed = name.starts_with("process.")
            || name.starts_with("telemetry.sdk.")
            || name.starts_with("service.");
        match to.0.iter_mut().find(|(other, _)| *other == name) {
            Some(_) if fixed => {}
            Some((_, concluded)) => *concluded = cut(value),
            None if name.starts_with("process.") || name.starts_with("telemetry.sdk.") => {}
            None => to.add(name, value),
        }
    }
    Resource::new(to.0)
}

/// What is known of the pod that a process runs in.
struct Pod<'a> {
    uid: &'a str,
    name: Option<&'a str>,
    controller: Option<&'a str>,
    container: Option<&'a str>,
}

impl<'a> Pod<'a> {
    fn of(process: &'a RawProcess, host: &Host) -> Option<Self> {
        let uid = process.place.pod_uid.as_deref()?;
        // A pod's host name is its name, unless it uses the host's network: then it is the host's.
        let name = process
            .variable("HOSTNAME")
            .filter(|name| *name != host.name);
        let controller = name.and_then(controller_of);
        let name = name.filter(|_| controller.is_some());
        Some(Self {
            uid,
            name,
            controller,
            container: process.container_name.as_deref(),
        })
    }
}

fn executable_name(process: &RawProcess) -> String {
    let name = process.exe_name();
    if name.is_empty() {
        process.stat.comm.clone()
    } else {
        name
    }
}

/// A UUID that is the same each time the same process is looked at, and for no other process: version 8 (RFC 9562,
/// section 5.8) of boot id, process id and start.
fn instance_id(host: &Host, key: ProcessKey) -> String {
    // The precision of /proc, so that it makes no difference who stated the start.
    let start = StartTicks::of_ns(key.start_ns).ns().to_le_bytes();
    let tgid = key.tgid.to_le_bytes();
    let seed = host.boot_id.bytes().chain(tgid).chain(start);
    // FNV-1a, 128 bits: the seed holds 122 random bits, the hash has only to keep processes apart.
    let hash = seed.fold(
        0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128,
        |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        },
    );
    let id = hash & !(0xf << 76) & !(0x3 << 62) | 0x8 << 76 | 0x2 << 62;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        id >> 96,
        id >> 80 & 0xffff,
        id >> 64 & 0xffff,
        id >> 48 & 0xffff,
        id & 0xffff_ffff_ffff
    )
}

/// `key=value,key=value` with values percent-encoded (OpenTelemetry resource SDK specification). One malformed pair
/// makes the whole variable count as not set, as the specification asks.
fn own_attributes(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = text
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), decoded(value.trim())?);
        (!name.is_empty()).then(|| (name.to_owned(), value))
    });
    pairs.take(MAX_OWN_ATTRIBUTES).collect()
}

/// Undoes percent-encoding; `None` for digits that are none and for bytes that are no text.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| plain)?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

/// Cuts a value to [`MAX_VALUE_BYTES`], between characters.
fn cut(mut value: String) -> String {
    value.truncate(value.floor_char_boundary(MAX_VALUE_BYTES));
    value
}

#[cfg(test)]
mod tests {
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
}
