//! What the kernel says about the programs and maps themselves.
//!
//! Input: file descriptors of programs and maps. Output: numbers from `/proc/self/fdinfo`. The kernel counts runs and their time only while
//! somebody asked for it ([`count_runs`]): it costs some 50 ns a run.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
    programs::Program,
    sys::{Stats, SyscallError, enable_stats},
};
use serde::Serialize;

use super::{
    attach::Attached,
    hooks::{Feature, HOOKS},
};

/// What the kernel counted of one program since it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProgramStats {
    /// Name of the program.
    pub program: String,
    /// Runs; 0 while runs are not counted.
    pub runs: u64,
    /// Time in these runs, nanoseconds.
    pub run_time_ns: u64,
    /// Runs that did not happen because the program was already active on that CPU; each is an event that nobody saw. `None` before Linux
    /// 5.12, which ran it.
    pub missed: Option<u64>,
}

impl Attached {
    /// The numbers of every program that is loaded, sorted by name.
    #[must_use]
    pub fn stats(&self) -> Vec<ProgramStats> {
        let of = |(name, program): (&str, &Program)| {
            let fd = program.fd().ok()?.as_fd().as_raw_fd();
            Some(program_stats(name, &fdinfo(fd)?))
        };
        let mut stats: Vec<_> = self.ebpf.programs().filter_map(of).collect();
        stats.sort_by(|one, other| one.program.cmp(&other.program));
        stats
    }

    /// Events that nobody saw because a program of ours was interrupted by itself; 0 before Linux 5.12. `stood_in`: how often a spare program has
    /// done the work of one that was skipped.
    #[must_use]
    pub fn missed(&self, stood_in: u64) -> u64 {
        let spare = |program: &str| {
            let hook = HOOKS.iter().find(|hook| hook.program == program);
            hook.is_some_and(|hook| hook.feature == Feature::Spares)
        };
        let stats = self.stats();
        let first = stats.iter().filter(|stats| !spare(&stats.program));
        let missed: u64 = first.filter_map(|stats| stats.missed).sum();
        missed.saturating_sub(stood_in)
    }

    /// Bytes that the kernel holds for all maps, as it says itself.
    #[must_use]
    pub fn map_memory_bytes(&self) -> u64 {
        self.map_memory_bytes
    }
}

/// Lets the kernel count runs and their time until the result is dropped.
///
/// # Errors
/// When the process may not (CAP_SYS_ADMIN).
pub fn count_runs() -> Result<OwnedFd, SyscallError> {
    enable_stats(Stats::RunTime)
}

/// Bytes that the kernel holds for all maps that are still in the object; to be asked before they are taken out.
pub(super) fn map_memory_bytes(ebpf: &Ebpf) -> u64 {
    let of = |(_, map): (&str, &Map)| {
        let fd = data(map)?.fd().as_fd().as_raw_fd();
        field(&fdinfo(fd)?, "memlock")
    };
    ebpf.maps().filter_map(of).sum()
}

/// The kinds of maps that the object has.
pub(super) fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data)
        | Map::SockHash(data) => Some(data),
        _ => None,
    }
}

fn fdinfo(fd: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()
}

/// Reads `bpf_prog_show_fdinfo` of Linux kernel/bpf/syscall.c.
fn program_stats(name: &str, fdinfo: &str) -> ProgramStats {
    ProgramStats {
        program: name.to_owned(),
        runs: field(fdinfo, "run_cnt").unwrap_or(0),
        run_time_ns: field(fdinfo, "run_time_ns").unwrap_or(0),
        missed: field(fdinfo, "recursion_misses"),
    }
}

fn field(fdinfo: &str, name: &str) -> Option<u64> {
    let mut lines = fdinfo.lines();
    lines.find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(':')?
            .trim()
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FDINFO: &str = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1057\nprog_type:\t26\nprog_jited:\t1\nprog_tag:\t2b0c9f9cd6bb2de3\nmemlock:\t4096\nprog_id:\t37\nrun_time_ns:\t5120\nrun_cnt:\t16\nrecursion_misses:\t3\nverified_insns:\t210\n";

    #[test]
    fn reads_what_the_kernel_shows() {
        let expected = ProgramStats {
            program: "live_positions".to_owned(),
            runs: 16,
            run_time_ns: 5120,
            missed: Some(3),
        };
        assert_eq!(program_stats("live_positions", FDINFO), expected);
    }

    #[test]
    fn tells_an_old_kernel_from_one_that_missed_nothing() {
        let old = FDINFO.replace("recursion_misses:\t3\n", "");
        assert_eq!(program_stats("p", &old).missed, None);
        assert_eq!(program_stats("p", "").runs, 0);
    }
}
