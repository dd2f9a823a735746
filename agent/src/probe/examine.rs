//! From nothing to loaded programs, in the one order that works.
//!
//! Input: this machine. Output: [`Kernel`], what it offers, from which programs are loaded.

use std::path::Path;

use super::{
    error::ProbeError,
    hooks::Feature,
    inject::SharedMaps,
    loader::{self, Loaded},
    memory, objects,
    plan::Plan,
    settings::{Settings, Value},
};
use crate::kernel::{
    btf::{self, Btf},
    features::{self, Features, Severity},
    offsets::Offsets,
};

/// Name of the object with the programs of [`HOOKS`](super::hooks::HOOKS).
pub const OBJECT: &str = "capture";

/// What this kernel offers. Holds the kernel's type information (some 10 MB): drop it when the programs are loaded.
pub struct Kernel {
    /// Facts about the machine.
    pub features: Features,
    /// Where the members of kernel structs are.
    pub offsets: Offsets,
    /// Which hooks fit.
    pub plan: Plan,
    pub(super) btf_bytes: Vec<u8>,
    /// Arguments of `inet_csk_accept`: 4 before Linux 6.10, then 2. Its program finds the result behind them.
    accept_arguments: u32,
    /// Sends of files and pages call the same function as any other: since Linux 6.5.
    pages_seen: bool,
    /// 1 where a helper gives the running task with its type: since Linux 5.11.
    typed_task: u32,
}

impl Kernel {
    /// Looks at the machine, and at its processes through the `/proc` mounted at `proc`; features in `switched_off` are left out of the plan.
    ///
    /// # Errors
    /// When something without which nothing can be traced is missing; the error says what to do.
    pub fn examine(proc: &Path, switched_off: &[Feature]) -> Result<Self, ProbeError> {
        let features = Features::read(proc);
        let blocking = features.findings().into_iter();
        let mut blocking = blocking.filter(|finding| finding.severity == Severity::Blocking);
        if let Some(finding) = blocking.next() {
            return Err(ProbeError::Blocked { finding });
        }
        Self::of(features, switched_off)
    }

    /// As [`Kernel::examine`], without giving up because of something that is known to block: trying tells.
    ///
    /// # Errors
    /// When the kernel's types cannot be read, or lack something that is needed.
    pub fn of(features: Features, switched_off: &[Feature]) -> Result<Self, ProbeError> {
        let btf_bytes = btf::read(Path::new(btf::VMLINUX))?;
        let types = Btf::parse(&btf_bytes)?;
        let offsets = Offsets::resolve(&types)?;
        let mut plan = Plan::new(&types, switched_off);
        if !features.preemption.reaches_programs() {
            plan = plan.without(Feature::Spares);
        }
        let accept = types.function("inet_csk_accept");
        let accept_arguments = accept.map_or(0, |prototype| prototype.args.len() as u32);
        let pages_seen = types.function("inet_sendpage").is_none();
        let typed_task = u32::from(types.function("bpf_get_current_task_btf").is_some());
        Ok(Self {
            features,
            offsets,
            plan,
            btf_bytes,
            accept_arguments,
            pages_seen,
            typed_task,
        })
    }

    /// The id by which the kernel knows this process.
    ///
    /// # Errors
    /// When the host's processes cannot be seen; the error says what to do.
    pub fn own(&self) -> Result<u32, ProbeError> {
        let own = self.features.processes.own();
        own.ok_or_else(|| ProbeError::Blocked {
            finding: self.features.pids(),
        })
    }

    /// Loads the chosen programs. Offsets are among the globals already; `settings` adds to them.
    ///
    /// # Errors
    /// When maps cannot be created.
    pub fn load(&self, settings: &Settings) -> Result<Loaded, ProbeError> {
        self.load_with(settings, None)
    }

    /// As [`Kernel::load`], with maps that another object finds through `shared`.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load_with(
        &self,
        settings: &Settings,
        shared: Option<&SharedMaps>,
    ) -> Result<Loaded, ProbeError> {
        let object = objects::find(OBJECT).ok_or(ProbeError::NoObject)?;
        raise_memlock();
        let all = self.complete(settings);
        let loaded = loader::load(
            object.bytes,
            &self.btf_bytes,
            self.plan.clone(),
            &all,
            shared,
        );
        memory::give_back();
        loaded
    }

    /// What this kernel demands, and then `settings`.
    #[must_use]
    pub fn complete(&self, settings: &Settings) -> Settings {
        Settings::from_offsets(&self.offsets)
            .with("N_ARGS_ACCEPT", Value::U32(self.accept_arguments))
            .with("TYPED_TASK", Value::U32(self.typed_task))
            .with("PAGES_SEEN", Value::U32(u32::from(self.pages_seen)))
            .with(
                "PREEMPTIBLE",
                Value::U32(u32::from(self.plan.needs(Feature::Spares))),
            )
            .and(settings)
    }
}

/// Before Linux 5.11 maps count against a limit; later the limit does not matter.
pub(super) fn raise_memlock() {
    if let Err(error) = features::raise_memlock() {
        tracing::debug!(%error, "limit on locked memory not raised");
    }
}
