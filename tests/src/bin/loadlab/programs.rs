//! Kernel programs: what the kernel counts for each, the memory of maps, and the empty pair.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf,
    programs::{FEntry, FExit, loaded_programs},
};
use serde::Serialize;

/// The switch for counting runs and run time of every kernel program (Documentation/admin-guide/sysctl/kernel.rst).
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Lets the kernel count while this lives. Counting costs two clock readings per program run.
#[derive(Debug)]
pub(crate) struct Counting(());

impl Counting {
    /// Begins.
    ///
    /// # Errors
    /// When the switch cannot be written.
    pub(crate) fn begin() -> Result<Self> {
        fs::write(STATISTICS, "1").context("cannot switch on the kernel's program statistics")?;
        Ok(Self(()))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // The machine ends soon after; the next segment's figures would show it.
        let _ = fs::write(STATISTICS, "0");
    }
}

/// What the kernel counted for one program.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Runs {
    /// Number that the kernel gave to the program.
    #[serde(skip)]
    pub(crate) id: u32,
    /// Name, 15 characters at most.
    pub(crate) name: String,
    /// Runs.
    pub(crate) runs: u64,
    /// Time in them, nanoseconds, with part of the clock readings.
    pub(crate) time_ns: u64,
}

/// Everything counted so far, for every program in the kernel.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn counted() -> Result<Vec<Runs>> {
    loaded_programs()
        .map(|program| {
            let program = program?;
            Ok(Runs {
                id: program.id(),
                name: String::from_utf8_lossy(program.name()).into_owned(),
                runs: program.run_count(),
                time_ns: u64::try_from(program.run_time().as_nanos())?,
            })
        })
        .collect()
}

/// What was counted between two looks, for programs that ran.
pub(crate) fn between(before: &[Runs], after: Vec<Runs>) -> Vec<Runs> {
    let earlier = |id| before.iter().find(|runs| runs.id == id);
    let since = after.into_iter().map(|mut runs| {
        if let Some(earlier) = earlier(runs.id) {
            runs.runs -= earlier.runs;
            runs.time_ns -= earlier.time_ns;
        }
        runs
    });
    since.filter(|runs| runs.runs > 0).collect()
}

/// Bytes of kernel memory in the maps and in the programs that a process holds open (`memlock` in its fdinfo).
///
/// # Errors
/// When the process is gone.
pub(crate) fn memory(pid: u32) -> Result<(u64, u64)> {
    let (mut maps, mut programs) = (Vec::new(), Vec::new());
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(text) = fs::read_to_string(file?.path()) else {
            continue;
        };
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        if let Some(bytes) = field("memlock:") {
            match (field("map_id:"), field("prog_id:")) {
                (Some(id), _) => maps.push((id, bytes)),
                (None, Some(id)) => programs.push((id, bytes)),
                (None, None) => {}
            }
        }
    }
    let sum = |mut entries: Vec<(u64, u64)>| {
        // One map may be open several times.
        entries.sort_unstable();
        entries.dedup();
        entries.iter().map(|(_, bytes)| bytes).sum()
    };
    Ok((sum(maps), sum(programs)))
}

/// The empty pair, attached while this lives.
#[derive(Debug)]
pub(crate) struct EmptyPair(
    #[expect(dead_code, reason = "dropping it detaches the programs")] Ebpf,
);

impl EmptyPair {
    /// Loads and attaches it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn attach(object: &Path) -> Result<Self> {
        let mut ebpf =
            Ebpf::load_file(object).with_context(|| format!("cannot load {}", object.display()))?;
        let btf = Btf::from_sys_fs()?;
        let send: &mut FEntry = ebpf
            .program_mut("empty_send")
            .context("no program empty_send")?
            .try_into()?;
        send.load("inet_sendmsg", &btf)?;
        send.attach()?;
        let receive: &mut FExit = ebpf
            .program_mut("empty_receive")
            .context("no program empty_receive")?
            .try_into()?;
        receive.load("inet_recvmsg", &btf)?;
        receive.attach()?;
        Ok(Self(ebpf))
    }
}
