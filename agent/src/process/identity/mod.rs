//! Makes a Resource of what was read of a process: which service it is, and which instance of it.
//!
//! Input: [`RawProcess`], [`Host`], what its image told. Output: [`Resource`]. It reads nothing and knows only what it is
//! given; names and precedence follow the OpenTelemetry resource conventions.
//!
//! `service.name` is the first of: `OTEL_SERVICE_NAME`; `service.name` in `OTEL_RESOURCE_ATTRIBUTES`; in a pod, its
//! controller, then its container; the systemd unit; the program (script, module or jar behind an interpreter).

use std::{borrow::Cow, path::Path};

use crate::process::{
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
mod tests;
