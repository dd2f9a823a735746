//! Puts the programs of an object into the kernel, one by one.
//!
//! Input: the object's bytes, a [`Plan`], values of globals, sizes of maps. Output: [`Loaded`] programs, and the plan with what the verifier
//! said. Nothing runs yet.

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness, VerifierLogLevel,
    programs::{Program, ProgramError},
};
use zerocopy::IntoBytes as _;

use super::{
    bodies::Bodies,
    error::ProbeError,
    hooks::{Attach, Hook},
    inject::SharedMaps,
    plan::{Plan, Reason},
    settings::{Settings, Value},
    stats,
};

/// Lines of the verifier's log that are kept; the last ones say what is wrong.
const LOG_LINES: usize = 6;

/// Programs and maps that are in the kernel and attached nowhere.
#[derive(Debug)]
pub struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) map_memory_bytes: u64,
    /// What is used, after the verifier has spoken.
    pub plan: Plan,
}

/// Loads what the plan has chosen from `object`. A refused program turns its feature off and nothing else; whether what is left is enough
/// is asked when it is attached.
///
/// # Errors
/// When maps cannot be created.
pub fn load(
    object: &[u8],
    kernel_btf: &[u8],
    mut plan: Plan,
    settings: &Settings,
    shared: Option<&SharedMaps>,
) -> Result<Loaded, ProbeError> {
    let btf = Btf::parse(kernel_btf, Endianness::default()).map_err(ProbeError::BtfForLoading)?;
    let mut loader = loader(&btf, settings);
    if let Some(shared) = shared {
        shared.apply(&mut loader);
    }
    let mut ebpf = loader.load(object).map_err(ProbeError::Object)?;
    let mut loaded: Vec<&'static str> = Vec::new();
    let mut bodies = Bodies::default();
    // A refusal may bring a replacement into the plan, so ask again after each program.
    while let Some(hook) = next_to_load(&plan, &loaded) {
        let result = load_program(&mut ebpf, hook.program, hook.attach, &btf)
            .and_then(|()| bodies.provide(&mut ebpf, hook.goes_on_in, &btf));
        match result {
            Ok(()) => loaded.push(hook.program),
            Err(reason) => {
                unload(&mut ebpf, hook.program);
                tracing::debug!(program = hook.program, %reason, "program not loaded");
                plan.turn_off(hook.program, reason);
            }
        }
    }
    let chosen = plan.chosen();
    for program in loaded {
        if !chosen.iter().any(|hook| hook.program == program) {
            unload(&mut ebpf, program);
        }
    }
    Ok(Loaded {
        map_memory_bytes: stats::map_memory_bytes(&ebpf),
        ebpf,
        plan,
    })
}

/// Fails when a required feature is off.
pub(super) fn check_required(plan: &Plan) -> Result<(), ProbeError> {
    let Some(feature) = plan.required_but_off() else {
        return Ok(());
    };
    let Some((program, reason)) = plan.why_off(feature) else {
        return Ok(());
    };
    Err(ProbeError::Required {
        feature,
        program,
        reason: reason.clone(),
    })
}

/// The loading library with all settings in place.
pub(super) fn loader<'a>(btf: &'a Btf, settings: &'a Settings) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    // A log of every instruction takes seconds to make on a refusal; the reason is in the short one too.
    let level = if tracing::enabled!(tracing::Level::DEBUG) {
        VerifierLogLevel::DEBUG | VerifierLogLevel::STATS
    } else {
        VerifierLogLevel::STATS
    };
    loader.btf(Some(btf)).verifier_log_level(level);
    for (name, value) in &settings.globals {
        match value {
            Value::U32(value) => loader.override_global(name, value, false),
            Value::U64(value) => loader.override_global(name, value, false),
        };
    }
    if let Some(fields) = &settings.propagators {
        loader.override_global("PROPAGATOR_FIELDS", fields.as_bytes(), false);
    }
    for (name, size) in &settings.map_sizes {
        loader.map_max_entries(name, *size);
    }
    loader
}

fn next_to_load(plan: &Plan, loaded: &[&str]) -> Option<Hook> {
    let mut chosen = plan.chosen().into_iter();
    chosen.find(|hook| !loaded.contains(&hook.program))
}

pub(super) fn load_program(
    ebpf: &mut Ebpf,
    program: &str,
    attach: Attach,
    btf: &Btf,
) -> Result<(), Reason> {
    let program = ebpf.program_mut(program).ok_or(Reason::NotInObject)?;
    match (program, attach) {
        (Program::FEntry(program), Attach::Entry(function)) => program.load(function, btf),
        (Program::FExit(program), Attach::Exit(function)) => program.load(function, btf),
        (Program::BtfTracePoint(program), Attach::Tracepoint(name)) => program.load(name, btf),
        (Program::RawTracePoint(program), Attach::Run) => program.load(),
        (Program::UProbe(program), Attach::Library) => program.load(),
        _ => return Err(Reason::NotInObject),
    }
    .map_err(refused)
}

pub(super) fn unload(ebpf: &mut Ebpf, program: &str) {
    let unloaded = match ebpf.program_mut(program) {
        Some(Program::FEntry(program)) => program.unload(),
        Some(Program::FExit(program)) => program.unload(),
        Some(Program::BtfTracePoint(program)) => program.unload(),
        Some(Program::RawTracePoint(program)) => program.unload(),
        Some(Program::UProbe(program)) => program.unload(),
        _ => Ok(()),
    };
    if let Err(error) = unloaded {
        tracing::debug!(program, %error, "program not unloaded");
    }
}

pub(super) fn refused(error: ProgramError) -> Reason {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => Reason::Refused {
            error: io_error.to_string(),
            log: last_lines(&verifier_log.to_string()),
        },
        ProgramError::Btf(error) => Reason::Refused {
            error: error.to_string(),
            log: Vec::new(),
        },
        error => Reason::Refused {
            error: chain(&error),
            log: Vec::new(),
        },
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The last lines that say something; the statistics at the very end do not.
pub(super) fn last_lines(log: &str) -> Vec<String> {
    let statistics = |line: &&str| {
        let line = line.trim_start();
        ["processed ", "verification time ", "stack depth "]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let lines = log
        .lines()
        .filter(|line| !line.trim().is_empty() && !statistics(line));
    let lines: Vec<&str> = lines.collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    lines[from..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_reason_and_not_the_statistics() {
        let log = "\n1\n2\n3\n4\n5\n6\nR1 invalid mem access 'inv'\nverification time 12 usec\nstack depth 8\nprocessed 7 insns (limit 1000000)\n";
        assert_eq!(
            last_lines(log),
            ["2", "3", "4", "5", "6", "R1 invalid mem access 'inv'"]
        );
        assert!(last_lines("").is_empty());
    }

    #[test]
    fn tells_an_error_with_all_its_causes() {
        let error = ProbeError::Map {
            name: "EVENTS",
            source: Some(aya::maps::MapError::KeyNotFound),
        };
        assert_eq!(
            chain(&error),
            "map EVENTS of the kernel programs is not usable: key not found"
        );
    }
}
