//! What this machine offers and permits, as far as user space can try it without loading a program.
//!
//! Input: `/proc` and `/sys` under a root folder, and `uname`. Output: [`Features`], plain facts, and [`Features::findings`],
//! one sentence for each with the next step where something is missing. Reading never fails: what cannot be read is a
//! fact too. It decides nothing; the plan does.

mod findings;
mod processes;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

pub use self::{
    findings::{Finding, Severity},
    processes::{Processes, own_thread},
};
use super::version::Version;

/// Inode of the first cgroup namespace, `PROC_CGROUP_INIT_INO` in Linux `include/linux/proc_ns.h`.
const FIRST_CGROUP_NAMESPACE: &str = "cgroup:[4026531835]";
/// Files under /proc and /sys that are read here are short.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A capability that the agent makes use of; numbers from Linux `include/uapi/linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Capability {
    /// Reading files of other users.
    DacReadSearch = 2,
    /// Looking into processes of other users.
    SysPtrace = 19,
    /// All of the others before they were split off.
    SysAdmin = 21,
    /// Raising resource limits.
    SysResource = 24,
    /// Tracing; since Linux 5.8.
    Perfmon = 38,
    /// Loading programs; since Linux 5.8.
    Bpf = 39,
}

/// Capabilities that are in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Reads the line `CapEff:` of `/proc/PID/status`; none when it is not there.
    pub fn from_status(status: &str) -> Self {
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Self(
            mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .unwrap_or(0),
        )
    }

    /// Whether the kernel grants what `capability` stands for. CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON too
    /// (`bpf_capable`, `perfmon_capable`).
    pub fn allow(self, capability: Capability) -> bool {
        let has = |capability: Capability| self.0 >> capability as u32 & 1 == 1;
        has(capability)
            || matches!(capability, Capability::Bpf | Capability::Perfmon)
                && has(Capability::SysAdmin)
    }
}

/// Kernel lockdown, `/sys/kernel/security/lockdown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// Off, or a kernel without it.
    Off,
    /// The kernel may not be changed from user space; tracing is allowed.
    Integrity,
    /// Kernel memory may not be read either; tracing is not allowed.
    Confidentiality,
    /// The file could not be read, for instance because securityfs is not mounted.
    Unknown,
}

/// When the kernel lets another thread run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Preemption {
    /// Only at chosen places.
    None,
    /// Nearly anywhere.
    Full,
    /// Chosen at boot; the choice where it can be read (debugfs).
    Dynamic(Option<String>),
    /// A real-time kernel.
    Realtime,
}

impl Preemption {
    /// Whether a task may be preempted inside a tracing program. A choice that cannot be read is taken for yes.
    #[must_use]
    pub fn reaches_programs(&self) -> bool {
        match self {
            Self::None => false,
            Self::Dynamic(Some(chosen)) => chosen != "none" && chosen != "voluntary",
            Self::Dynamic(None) | Self::Full | Self::Realtime => true,
        }
    }
}

/// The facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Features {
    /// `uname -r`.
    pub release: String,
    /// Upstream version; none where the release states none.
    pub version: Option<Version>,
    /// `uname -m`.
    pub machine: String,
    /// Whether the kernel shows its own types.
    pub btf: bool,
    /// Lockdown mode.
    pub lockdown: Lockdown,
    /// Capabilities of this process that are in effect.
    pub capabilities: Capabilities,
    /// Whose processes can be looked at.
    pub processes: Processes,
    /// Whether paths of control groups are read as the host has them; none when /proc does not tell.
    pub host_cgroups: Option<bool>,
    /// Where the unified control-group tree is mounted.
    pub cgroup2: Option<PathBuf>,
    /// Memory that may be locked, in bytes; none for no limit.
    pub memlock_bytes: Option<u64>,
    /// Preemption model.
    pub preemption: Preemption,
    /// CPUs that may ever come on line: the number of slots of a per-CPU map.
    pub cpus: usize,
    /// Whether programs are compiled to machine code; none when it cannot be read (needs root).
    pub jit: Option<bool>,
}

impl Features {
    /// Reads the facts of this machine and this process; other processes are those of the `/proc` mounted at `proc`.
    pub fn read(proc: &Path) -> Self {
        let name = rustix::system::uname();
        let memlock_bytes = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        Self::read_under(
            Path::new("/"),
            proc,
            &name.release().to_string_lossy(),
            &name.version().to_string_lossy(),
            &name.machine().to_string_lossy(),
            memlock_bytes,
        )
    }

    /// As [`Features::read`], from another root folder and with the answers of `uname` and `getrlimit`.
    fn read_under(
        root: &Path,
        proc: &Path,
        release: &str,
        build: &str,
        machine: &str,
        memlock_bytes: Option<u64>,
    ) -> Self {
        let text = |path: &str| read_text(&root.join(path));
        let cgroup_namespace = fs::read_link(root.join("proc/self/ns/cgroup")).ok();
        Self {
            release: release.to_owned(),
            version: Version::detect(release, build, text("proc/version_signature").as_deref()),
            machine: machine.to_owned(),
            btf: root.join("sys/kernel/btf/vmlinux").is_file(),
            lockdown: lockdown(
                text("sys/kernel/security/lockdown").as_deref(),
                root.join("sys/kernel/security").is_dir(),
            ),
            capabilities: Capabilities::from_status(&text("proc/self/status").unwrap_or_default()),
            processes: Processes::shown_by(proc),
            host_cgroups: cgroup_namespace.map(|link| link.as_os_str() == FIRST_CGROUP_NAMESPACE),
            cgroup2: text("proc/self/mountinfo")
                .as_deref()
                .and_then(cgroup2_mount),
            memlock_bytes,
            preemption: preemption(build, text("sys/kernel/debug/sched/preempt").as_deref()),
            cpus: text("sys/devices/system/cpu/possible")
                .as_deref()
                .and_then(cpu_count)
                .unwrap_or(1),
            jit: text("proc/sys/net/core/bpf_jit_enable").map(|value| value.trim() != "0"),
        }
    }
}

/// Lifts the limit on locked memory, which kernels before 5.11 hold against maps and programs.
///
/// # Errors
/// When the process may not (CAP_SYS_RESOURCE); harmless from 5.11 on.
pub fn raise_memlock() -> std::io::Result<()> {
    let unlimited = rustix::process::Rlimit {
        current: None,
        maximum: None,
    };
    Ok(rustix::process::setrlimit(
        rustix::process::Resource::Memlock,
        unlimited,
    )?)
}

fn read_text(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)
        .ok()?
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `none [integrity] confidentiality`: the mode in effect stands in brackets.
fn lockdown(text: Option<&str>, securityfs: bool) -> Lockdown {
    let Some(text) = text else {
        return if securityfs {
            Lockdown::Off
        } else {
            Lockdown::Unknown
        };
    };
    match bracketed(text, '[', ']') {
        Some("none") => Lockdown::Off,
        Some("integrity") => Lockdown::Integrity,
        Some("confidentiality") => Lockdown::Confidentiality,
        _ => Lockdown::Unknown,
    }
}

fn bracketed(text: &str, open: char, close: char) -> Option<&str> {
    Some(text.split_once(open)?.1.split_once(close)?.0)
}

/// Mount point of the first `cgroup2` in `/proc/PID/mountinfo` (proc_pid_mountinfo(5)); spaces in it are octal.
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    let of_line = |line: &str| {
        let (mount, system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (system.split(' ').next()? == "cgroup2").then(|| PathBuf::from(point.replace("\\040", " ")))
    };
    mountinfo.lines().find_map(of_line)
}

/// The build string states the model; a dynamic one is chosen at boot and shown in debugfs.
fn preemption(build: &str, chosen: Option<&str>) -> Preemption {
    let has = |word| build.split_whitespace().any(|other| other == word);
    if has("PREEMPT_RT") {
        Preemption::Realtime
    } else if has("PREEMPT_DYNAMIC") {
        Preemption::Dynamic(
            chosen
                .and_then(|text| bracketed(text, '(', ')'))
                .map(str::to_owned),
        )
    } else if has("PREEMPT") {
        Preemption::Full
    } else {
        Preemption::None
    }
}

/// CPUs in a list such as `0-3,5`.
fn cpu_count(list: &str) -> Option<usize> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.trim()
        .split(',')
        .try_fold(0_usize, |sum, range| sum.checked_add(count(range)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tundertrace\nCapInh:\t0000000000000000\nCapEff:\t";

    pub(super) fn capable(numbers: &[u32]) -> Capabilities {
        let mask: u64 = numbers.iter().map(|number| 1 << number).sum();
        Capabilities::from_status(&format!("{STATUS}{mask:016x}\nCapBnd:\t000001ffffffffff\n"))
    }

    #[test]
    fn takes_sys_admin_for_the_capabilities_that_were_split_from_it() {
        assert!(capable(&[21]).allow(Capability::Bpf) && capable(&[21]).allow(Capability::Perfmon));
        assert!(!capable(&[21]).allow(Capability::SysPtrace));
        assert!(
            capable(&[38, 39]).allow(Capability::Bpf) && !capable(&[38]).allow(Capability::Bpf)
        );
        assert!(!Capabilities::from_status("no such line").allow(Capability::Bpf));
        assert!(!Capabilities::from_status("CapEff:\tnonsense").allow(Capability::Bpf));
    }

    #[test]
    fn reads_what_the_files_say() {
        assert_eq!(
            lockdown(Some("none [integrity] confidentiality\n"), true),
            Lockdown::Integrity
        );
        assert_eq!(
            lockdown(Some("[none] integrity confidentiality\n"), true),
            Lockdown::Off
        );
        assert_eq!(
            lockdown(Some("none integrity [confidentiality]"), true),
            Lockdown::Confidentiality
        );
        assert_eq!(lockdown(None, true), Lockdown::Off);
        assert_eq!(lockdown(None, false), Lockdown::Unknown);
        assert_eq!(
            preemption(
                "#1 SMP PREEMPT_DYNAMIC Debian",
                Some("none voluntary (full) lazy")
            ),
            Preemption::Dynamic(Some("full".into()))
        );
        assert_eq!(
            preemption("#1 SMP PREEMPT_RT Debian", None),
            Preemption::Realtime
        );
        assert_eq!(preemption("#1 SMP PREEMPT Sat", None), Preemption::Full);
        assert_eq!(
            preemption("#1 SMP Debian 5.10.223-1", None),
            Preemption::None
        );
        for (preemption, reaches) in [
            (Preemption::None, false),
            (Preemption::Full, true),
            (Preemption::Realtime, true),
            (Preemption::Dynamic(None), true),
            (Preemption::Dynamic(Some("none".into())), false),
            (Preemption::Dynamic(Some("voluntary".into())), false),
            (Preemption::Dynamic(Some("full".into())), true),
            (Preemption::Dynamic(Some("lazy".into())), true),
        ] {
            assert_eq!(preemption.reaches_programs(), reaches, "{preemption:?}");
        }
        assert_eq!(cpu_count("0-3,5\n"), Some(5));
        assert_eq!(cpu_count("0"), Some(1));
        assert_eq!(cpu_count("3-1"), None);
        assert_eq!(cpu_count(""), None);
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 31 0:38 / /sys/fs/c\\040group rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(mounts), Some("/sys/fs/c group".into()));
        assert_eq!(cgroup2_mount("nonsense\n - cgroup2"), None);
    }

    #[test]
    fn takes_an_empty_root_as_a_machine_that_offers_nothing() {
        let root = Path::new("/nonexistent/root");
        let features = Features::read_under(
            root,
            &root.join("proc"),
            "6.1.0-37-amd64",
            "#1 SMP Debian 6.1.140-1",
            "x86_64",
            None,
        );
        assert_eq!(features.version, Some(Version::new(6, 1, 140)));
        assert!(!features.btf && features.cgroup2.is_none() && features.host_cgroups.is_none());
        assert_eq!(features.processes, Processes::Unreadable);
        assert_eq!(
            (features.cpus, features.jit, features.lockdown),
            (1, None, Lockdown::Unknown)
        );
    }

    #[test]
    fn reads_the_machine_it_runs_on() {
        let features = Features::read(Path::new("/proc"));
        assert!(!features.release.is_empty() && features.cpus >= 1);
        assert_ne!(
            features.processes,
            Processes::Unreadable,
            "/proc is there where tests run"
        );
    }
}
