//! What every program costs the verifier on this kernel.
//!
//! Input: the objects in this binary. Output: one [`Verified`] per program, as a line of JSON each, as soon as it is known. The loading library
//! makes the maps and prepares the instructions as in earnest, but the system call is our own: the library throws the verifier's statistics
//! away when all is well, and kernels before 5.16 tell them nowhere else. Nothing is attached.

mod statistics;
mod syscall;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Write,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    path::Path,
};

use agent_common::wire::propagator::Table;
use aya::{Btf, Ebpf, Endianness};
use aya_obj::{
    Object,
    btf::BtfKind,
    generated::{bpf_attach_type, bpf_prog_type},
};
use serde::Serialize;

use self::{statistics::Statistics, syscall::Request};
use super::{
    bodies::BODIES,
    error::ProbeError,
    examine::{Kernel, raise_memlock},
    hooks::{Attach, Feature, HOOKS, Hook},
    inject, loader,
    objects::{self, OBJECTS},
    option,
    plan::{Reason, State},
    settings::{Settings, Value},
    stats,
};
use crate::config::propagator::{self, Propagator};

/// What one program cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Name of the object.
    pub object: String,
    /// Name of the program.
    pub program: String,
    /// Instructions that the verifier walked, on all paths; the kernel's limit is one million.
    pub processed: Option<u64>,
    /// Bytes of stack in the deepest chain of calls; the kernel's limit is 512.
    pub stack_bytes: Option<u64>,
    /// Bytes of the program after the kernel's own changes.
    pub xlated_bytes: Option<u64>,
    /// Why it does not load, in one line; none when it does.
    pub error: Option<String>,
    /// Why it is not meant for this kernel; none when it is.
    pub skipped: Option<String>,
}

/// Loads every program of every object and writes a line of JSON for each. `Ok(false)` when one did not load that this kernel should take.
///
/// # Errors
/// When nothing can be loaded at all, or the output cannot be written.
pub fn run(out: &mut impl Write) -> Result<bool, VerifyError> {
    if OBJECTS.is_empty() {
        return Err(ProbeError::NoObject.into());
    }
    let kernel = Kernel::examine(Path::new("/proc"), &[])?;
    raise_memlock();
    // With everything that can be switched on, and the spare programs wherever they are needed.
    let everything = Settings::default()
        .with("PREEMPTIBLE", Value::U32(1))
        .with("INJECT", Value::U32(1))
        .with("INJECT_EXISTING", Value::U32(1))
        .with("TCP_OPTION", Value::U32(1))
        .with("TLS", Value::U32(1))
        .with("SAMPLE_BY_PROCESS", Value::U32(1))
        .with("SAMPLE_LIMITED", Value::U32(1))
        .with("HIDE_UNSAMPLED", Value::U32(1))
        .with("PAGES_SEEN", Value::U32(0))
        .with("PROPAGATORS", Value::U32(1));
    let everything = Settings {
        propagators: every_propagator(),
        ..everything
    };
    let settings = kernel.complete(&everything);
    let mut all_load = true;
    for object in OBJECTS {
        verify(object, &kernel, &settings, |verified| {
            all_load &= verified.error.is_none();
            let line = serde_json::to_string(&verified).map_err(std::io::Error::other)?;
            writeln!(out, "{line}")?;
            out.flush()
        })?;
    }
    Ok(all_load)
}

/// Why verifying stopped.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The kernel programs cannot be used at all.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The object cannot be prepared for the statistics.
    #[error("object {object} cannot be prepared for the verifier")]
    Object {
        /// Name of the object.
        object: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The output cannot be written.
    #[error("cannot write the results")]
    Output(#[from] std::io::Error),
}

/// As many headers of propagators as there may be.
fn every_propagator() -> Option<Table> {
    let pair = |number| {
        Propagator::Pair(
            format!("x-trace-id-{number}"),
            format!("x-span-id-{number}"),
        )
    };
    let all = [Propagator::B3, Propagator::B3Multi, Propagator::Jaeger];
    let all: Vec<_> = all.into_iter().chain((0..3).map(pair)).collect();
    propagator::resolve(&all).ok().flatten()
}

fn verify(
    object: &'static objects::Object,
    kernel: &Kernel,
    settings: &Settings,
    mut tell: impl FnMut(Verified) -> std::io::Result<()>,
) -> Result<(), VerifyError> {
    let btf =
        Btf::parse(&kernel.btf_bytes, Endianness::default()).map_err(ProbeError::BtfForLoading)?;
    let ebpf = loader::loader(&btf, settings)
        .load(object.bytes)
        .map_err(ProbeError::Object)?;
    let unprepared = |source| VerifyError::Object {
        object: object.name,
        source,
    };
    let prepared = Prepared::new(object.bytes, settings, &ebpf).map_err(unprepared)?;
    // Sorted, so that two runs can be compared.
    let programs: BTreeMap<_, _> = prepared.object.programs.iter().collect();
    for (name, program) in programs {
        let mut verified = Verified {
            object: object.name.to_owned(),
            program: name.clone(),
            ..Verified::default()
        };
        let body = BODIES.iter().find(|body| body.program == name);
        // A body is tried wherever its hooks are.
        let hook = HOOKS.iter().find(|hook| match body {
            Some(body) => hook.goes_on_in == Some(body.array) && hook.feature != Feature::Spares,
            None => hook.program == name,
        });
        let types = match hook {
            None => inject::program_types(name)
                .or_else(|| option::program_types(name))
                .ok_or_else(|| "no hook is written down for it".to_owned()),
            Some(hook) => {
                if let Some(reason) = unsuitable(kernel, hook) {
                    verified.skipped = Some(reason.to_string());
                    tell(verified)?;
                    continue;
                }
                request_types(hook, &btf).map_err(|error| error.to_string())
            }
        };
        match types {
            Ok(types) => measure(&mut verified, types, &prepared, program),
            Err(error) => verified.error = Some(error),
        }
        tell(verified)?;
    }
    Ok(())
}

/// Why this kernel does not take the program; one that is only closed because another program is unsuitable, or not needed, gets tried.
fn unsuitable<'a>(kernel: &'a Kernel, hook: &Hook) -> Option<&'a Reason> {
    let mut entries = kernel.plan.entries.iter();
    let entry = entries.find(|entry| entry.hook.program == hook.program)?;
    match &entry.state {
        State::Off {
            reason: Reason::Incomplete { .. } | Reason::NotNeeded,
        }
        | State::Chosen => None,
        State::Off { reason } => Some(reason),
    }
}

fn measure(
    verified: &mut Verified,
    (program_type, attach_type, attach_btf_id): (u32, u32, u32),
    prepared: &Prepared,
    program: &aya_obj::Program,
) {
    let Some(function) = prepared.object.functions.get(&program.function_key()) else {
        verified.error = Some("it has no instructions".to_owned());
        return;
    };
    let answer = syscall::load(&Request {
        function,
        license: &program.license,
        btf: prepared.btf.as_ref(),
        program_type,
        attach_type,
        attach_btf_id,
    });
    let statistics = Statistics::of(&answer.log, &function.instructions);
    verified.processed = statistics.processed;
    verified.stack_bytes = statistics.stack_bytes;
    match answer.translated_bytes {
        Ok(bytes) => verified.xlated_bytes = Some(u64::from(bytes)),
        // All lines that were kept, since nobody is there to ask again.
        Err(error) => {
            let log = loader::last_lines(&answer.log).join(" | ");
            verified.error = Some(format!("{error}: {log}"));
        }
    }
}

/// Program type, attach type and number of the BTF type it attaches to, 0 for none.
fn request_types(hook: &Hook, btf: &Btf) -> Result<(u32, u32, u32), aya::BtfError> {
    let tracing = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
    let function = |name| btf.id_by_type_name_kind(name, BtfKind::Func);
    Ok(match hook.attach {
        Attach::Entry(name) => (
            tracing,
            bpf_attach_type::BPF_TRACE_FENTRY as u32,
            function(name)?,
        ),
        Attach::Exit(name) => (
            tracing,
            bpf_attach_type::BPF_TRACE_FEXIT as u32,
            function(name)?,
        ),
        Attach::Tracepoint(name) => (
            tracing,
            bpf_attach_type::BPF_TRACE_RAW_TP as u32,
            btf.id_by_type_name_kind(&format!("btf_trace_{name}"), BtfKind::Typedef)?,
        ),
        Attach::Run => (bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT as u32, 0, 0),
        Attach::Library => (bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32, 0, 0),
    })
}

/// The object with globals, maps and calls in place, as the loading library makes it; the maps are those that it created.
struct Prepared {
    object: Object,
    /// The object's own types in the kernel, where it takes them.
    btf: Option<OwnedFd>,
}

impl Prepared {
    fn new(
        bytes: &[u8],
        settings: &Settings,
        ebpf: &Ebpf,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut object = Object::parse(bytes)?;
        let values = settings.globals.iter();
        let values: Vec<(&str, Vec<u8>)> = values
            .map(|(name, value)| (*name, value_bytes(*value)))
            .collect();
        let globals: HashMap<&str, (&[u8], bool)> = values
            .iter()
            .map(|(name, bytes)| (*name, (bytes.as_slice(), false)))
            .collect();
        object.patch_map_data(globals)?;
        let features = aya::features();
        let types = match features.btf() {
            Some(features) => object.fixup_and_sanitize_btf(features)?,
            None => None,
        };
        let btf = match types {
            Some(types) => Some(syscall::load_btf(&types.to_bytes())?),
            None => None,
        };
        let sections: HashSet<usize> = object.functions.keys().map(|key| key.0).collect();
        let descriptors: HashMap<&str, RawFd> = ebpf
            .maps()
            .filter_map(|(name, map)| Some((name, stats::data(map)?.fd().as_fd().as_raw_fd())))
            .collect();
        let maps = std::mem::take(&mut object.maps);
        let located = maps.iter().filter_map(|(name, map)| {
            let fd = descriptors.get(name.as_str())?;
            Some((name.as_str(), *fd, map))
        });
        object.relocate_maps(located, &sections)?;
        object.relocate_calls(&sections)?;
        object.sanitize_functions(features);
        Ok(Self { object, btf })
    }
}

fn value_bytes(value: Value) -> Vec<u8> {
    match value {
        Value::U32(value) => value.to_ne_bytes().to_vec(),
        Value::U64(value) => value.to_ne_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_one_flat_object_per_program() {
        let verified = Verified {
            object: "capture".to_owned(),
            program: "p".to_owned(),
            processed: Some(1),
            stack_bytes: Some(2),
            xlated_bytes: Some(3),
            error: None,
            skipped: None,
        };
        assert_eq!(
            serde_json::to_string(&verified).ok().as_deref(),
            Some(
                r#"{"object":"capture","program":"p","processed":1,"stack_bytes":2,"xlated_bytes":3,"error":null,"skipped":null}"#
            )
        );
    }
}
