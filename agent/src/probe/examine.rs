//! From nothing to loaded programs, in the one order that works.
//!
//! Input: this machine. Output: [`Kernel`], what it offers, from which programs are loaded.

use std::path::Path;

use super::{
    error::ProbeError,
    hooks::Feature,
    loader::{self, Loaded, Settings},
    objects,
    plan::Plan,
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
    btf_bytes: Vec<u8>,
}

impl Kernel {
    /// Looks at the machine; features in `switched_off` are left out of the plan.
    ///
    /// # Errors
    /// When something without which nothing can be traced is missing; the error says what to do.
    pub fn examine(switched_off: &[Feature]) -> Result<Self, ProbeError> {
        let features = Features::read();
        let blocking = features.findings().into_iter();
        let mut blocking = blocking.filter(|finding| finding.severity == Severity::Blocking);
        if let Some(finding) = blocking.next() {
            return Err(ProbeError::Blocked { finding });
        }
        let btf_bytes = btf::read(Path::new(btf::VMLINUX))?;
        let types = Btf::parse(&btf_bytes)?;
        let offsets = Offsets::resolve(&types)?;
        let plan = Plan::new(&types, switched_off);
        Ok(Self {
            features,
            offsets,
            plan,
            btf_bytes,
        })
    }

    /// Loads the chosen programs. Offsets are among the globals already; `settings` adds to them.
    ///
    /// # Errors
    /// When maps cannot be created, or a required feature does not work.
    pub fn load(&self, settings: &Settings) -> Result<Loaded, ProbeError> {
        let object = objects::find(OBJECT).ok_or(ProbeError::NoObject)?;
        if let Err(error) = features::raise_memlock() {
            tracing::debug!(%error, "limit on locked memory not raised");
        }
        let mut all = Settings::from_offsets(&self.offsets);
        all.globals.extend(&settings.globals);
        all.map_sizes.extend(&settings.map_sizes);
        loader::load(object.bytes, &self.btf_bytes, self.plan.clone(), &all)
    }
}
