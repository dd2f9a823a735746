//! The facts as a person reads them: one line each, with what follows and the next step where something is missing.
//!
//! Input: [`Features`]. Output: [`Finding`]s for `undertrace doctor` and for the log at start. It reads nothing.

use serde::Serialize;

use super::{Capability, Features, Lockdown, Preemption, Processes};
use crate::kernel::{quirks, version::Version};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Something is lost, tracing goes on.
    Limited,
    /// Nothing can be traced.
    Blocking,
}

/// One fact as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, for instance `CAP_BPF`.
    pub subject: &'static str,
    /// What was found.
    pub value: String,
    /// How much it matters.
    pub severity: Severity,
    /// What follows from it and what to do about it; empty when all is well.
    pub advice: &'static str,
}

impl Features {
    /// Every fact with its consequence, in the order in which a person would ask.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![self.kernel(), self.types(), self.lockdown_finding()];
        findings.extend(CAPABILITIES.iter().map(|row| row.finding(self)));
        findings.extend([
            self.pids(),
            self.control_groups(),
            self.control_group_paths(),
            self.memlock(),
            self.preemption_finding(),
            self.compiler(),
        ]);
        findings.push(Finding::fine("cpus", self.cpus.to_string()));
        if let Some(version) = self.version {
            let quirks = quirks::of(version);
            findings.extend(
                quirks.map(|quirk| Finding::fine("known defect", quirk.consequence.to_owned())),
            );
        }
        findings
    }

    fn kernel(&self) -> Finding {
        let value = format!("{} {}", self.release, self.machine);
        let advice = "kernels before 5.10 are not supported: use a newer kernel";
        if self
            .version
            .is_some_and(|version| version < Version::new(5, 10, 0))
        {
            Finding::blocking("kernel", value, advice)
        } else {
            Finding::fine("kernel", value)
        }
    }

    fn types(&self) -> Finding {
        let advice = "without its type information nothing can be read from the kernel: use a kernel built with \
                      CONFIG_DEBUG_INFO_BTF, and in a container mount /sys";
        if self.btf {
            Finding::fine("BTF", "present".into())
        } else {
            Finding::blocking("BTF", "absent".into(), advice)
        }
    }

    fn lockdown_finding(&self) -> Finding {
        let advice = "the kernel refuses tracing in this mode: boot with lockdown=integrity, or with secure boot off";
        match self.lockdown {
            Lockdown::Off => Finding::fine("lockdown", "off".into()),
            Lockdown::Integrity => Finding::fine("lockdown", "integrity".into()),
            Lockdown::Unknown => Finding::fine("lockdown", "unknown".into()),
            Lockdown::Confidentiality => {
                Finding::blocking("lockdown", "confidentiality".into(), advice)
            }
        }
    }

    /// What follows from whose processes can be looked at.
    pub fn pids(&self) -> Finding {
        let advice = "the kernel names processes by the host's ids, which mean nothing here: run with the host's pid namespace \
                      (hostPID: true, docker run --pid=host), or mount the host's /proc and name the place with --proc-root";
        match self.processes {
            Processes::Host { .. } => Finding::fine("process list", "the host's".into()),
            Processes::Container => {
                Finding::blocking("process list", "only a container's".into(), advice)
            }
            Processes::Unreadable => Finding::blocking(
                "process list",
                "not readable".into(),
                "nothing tells which process is which: mount /proc, or name with --proc-root where it is mounted",
            ),
        }
    }

    fn control_group_paths(&self) -> Finding {
        let advice = "paths of control groups begin below the group that the agent shares with the process, so write --cgroup \
                      patterns with a leading `*`: or run with the host's (docker run --cgroupns=host)";
        match self.host_cgroups {
            Some(true) => Finding::fine("cgroup namespace", "the host's".into()),
            Some(false) => Finding::limited("cgroup namespace", "a container's".into(), advice),
            None => Finding::fine("cgroup namespace", "unknown".into()),
        }
    }

    fn control_groups(&self) -> Finding {
        let advice = "selection by control group needs the unified tree: mount -t cgroup2 none /sys/fs/cgroup/unified";
        match &self.cgroup2 {
            Some(path) => Finding::fine("cgroup v2", path.display().to_string()),
            None => Finding::limited("cgroup v2", "not mounted".into(), advice),
        }
    }

    fn memlock(&self) -> Finding {
        let Some(bytes) = self.memlock_bytes else {
            return Finding::fine("memlock", "unlimited".into());
        };
        let value = format!("{} KiB", bytes / 1024);
        let accounted = self
            .version
            .is_some_and(|version| version < Version::new(5, 11, 0));
        let raisable = self.capabilities.allow(Capability::SysResource);
        let advice = "kernels before 5.11 hold maps against this limit: grant CAP_SYS_RESOURCE, or set `ulimit -l unlimited`";
        if accounted && !raisable {
            Finding::blocking("memlock", value, advice)
        } else {
            Finding::fine("memlock", value)
        }
    }

    fn preemption_finding(&self) -> Finding {
        let value = match &self.preemption {
            Preemption::None => "none or voluntary".into(),
            Preemption::Full => "full".into(),
            Preemption::Dynamic(Some(chosen)) => format!("dynamic, {chosen}"),
            Preemption::Dynamic(None) => "dynamic".into(),
            Preemption::Realtime => "real time".into(),
        };
        Finding::fine("preemption", value)
    }

    fn compiler(&self) -> Finding {
        let advice = "programs are interpreted, which is slow: sysctl net.core.bpf_jit_enable=1";
        match self.jit {
            Some(true) => Finding::fine("BPF compiler", "on".into()),
            Some(false) => Finding::limited("BPF compiler", "off".into(), advice),
            None => Finding::fine("BPF compiler", "unknown".into()),
        }
    }
}

impl Finding {
    fn fine(subject: &'static str, value: String) -> Self {
        Self {
            subject,
            value,
            severity: Severity::Fine,
            advice: "",
        }
    }

    fn limited(subject: &'static str, value: String, advice: &'static str) -> Self {
        Self {
            subject,
            value,
            severity: Severity::Limited,
            advice,
        }
    }

    fn blocking(subject: &'static str, value: String, advice: &'static str) -> Self {
        Self {
            subject,
            value,
            severity: Severity::Blocking,
            advice,
        }
    }
}

/// What a capability is for.
struct Row {
    capability: Capability,
    name: &'static str,
    severity: Severity,
    advice: &'static str,
}

impl Row {
    fn finding(&self, features: &Features) -> Finding {
        if features.capabilities.allow(self.capability) {
            Finding::fine(self.name, "granted".into())
        } else {
            Finding {
                subject: self.name,
                value: "missing".into(),
                severity: self.severity,
                advice: self.advice,
            }
        }
    }
}

const CAPABILITIES: &[Row] = &[
    Row {
        capability: Capability::Bpf,
        name: "CAP_BPF",
        severity: Severity::Blocking,
        advice: "needs CAP_BPF to load programs: run as root, or grant it with \
                 `setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search+ep undertrace`",
    },
    Row {
        capability: Capability::Perfmon,
        name: "CAP_PERFMON",
        severity: Severity::Blocking,
        advice: "needs CAP_PERFMON to attach to kernel functions: run as root, or grant it with \
                 `setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search+ep undertrace`",
    },
    Row {
        capability: Capability::SysPtrace,
        name: "CAP_SYS_PTRACE",
        severity: Severity::Limited,
        advice: "environments and executables of other users stay closed, so their services are named by process \
                 name only: run as root, or grant CAP_SYS_PTRACE",
    },
    Row {
        capability: Capability::DacReadSearch,
        name: "CAP_DAC_READ_SEARCH",
        severity: Severity::Limited,
        advice: "executables that only their owner may read are not recognised: run as root, or grant \
                 CAP_DAC_READ_SEARCH",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::features::tests::capable;

    fn healthy() -> Features {
        Features {
            release: "6.12.107+deb13-amd64".into(),
            version: Some(Version::new(6, 12, 107)),
            machine: "x86_64".into(),
            btf: true,
            lockdown: Lockdown::Integrity,
            capabilities: capable(&[2, 19, 21, 24, 38, 39]),
            processes: Processes::Host { own: 42 },
            host_cgroups: Some(true),
            cgroup2: Some("/sys/fs/cgroup".into()),
            memlock_bytes: Some(8 << 20),
            preemption: Preemption::Dynamic(Some("voluntary".into())),
            cpus: 4,
            jit: Some(true),
        }
    }

    fn finding(features: &Features, subject: &str) -> Finding {
        let mut findings = features.findings().into_iter();
        findings
            .find(|finding| finding.subject == subject)
            .expect("every subject is reported")
    }

    #[test]
    fn says_nothing_about_a_machine_that_lacks_nothing() {
        let mut features = healthy();
        features.version = Some(Version::new(6, 1, 176));
        assert!(
            features
                .findings()
                .iter()
                .all(|finding| finding.severity == Severity::Fine && finding.advice.is_empty())
        );
    }

    #[test]
    fn gives_a_next_step_for_everything_that_is_missing() {
        let features = Features {
            version: Some(Version::new(5, 4, 0)),
            btf: false,
            lockdown: Lockdown::Confidentiality,
            capabilities: capable(&[]),
            processes: Processes::Container,
            host_cgroups: Some(false),
            cgroup2: None,
            memlock_bytes: Some(64 << 10),
            jit: Some(false),
            ..healthy()
        };
        let wanting = features
            .findings()
            .into_iter()
            .filter(|finding| finding.severity != Severity::Fine);
        let wanting: Vec<_> = wanting.collect();
        assert!(wanting.iter().all(|finding| !finding.advice.is_empty()));
        let blocking = wanting
            .iter()
            .filter(|finding| finding.severity == Severity::Blocking);
        let blocking: Vec<_> = blocking.map(|finding| finding.subject).collect();
        assert_eq!(
            blocking,
            [
                "kernel",
                "BTF",
                "lockdown",
                "CAP_BPF",
                "CAP_PERFMON",
                "process list",
                "memlock"
            ]
        );
        assert_eq!(wanting.len(), blocking.len() + 5);
    }

    #[test]
    fn holds_the_memory_limit_against_old_kernels_only() {
        let mut features = Features {
            capabilities: capable(&[38, 39]),
            memlock_bytes: Some(64 << 10),
            ..healthy()
        };
        assert_eq!(finding(&features, "memlock").severity, Severity::Fine);
        features.version = Some(Version::new(5, 10, 223));
        assert_eq!(finding(&features, "memlock").severity, Severity::Blocking);
        features.capabilities = capable(&[24, 38, 39]);
        assert_eq!(finding(&features, "memlock").severity, Severity::Fine);
    }

    #[test]
    fn names_the_defect_of_a_known_kernel() {
        let defect = finding(&healthy(), "known defect");
        assert!(defect.value.starts_with("FIONREAD"), "{defect:?}");
        assert_eq!(defect.severity, Severity::Fine, "no feature suffers");
    }
}
