//! Attaches loaded programs, and detaches them again.
//!
//! Input: [`Loaded`] programs. Output: [`Attached`] ones. Dropping that, like the end of the process by any cause, detaches all of them;
//! nothing is pinned anywhere.

use aya::{
    Ebpf,
    programs::{Program, ProgramError, links::FdLink},
};

use super::{
    error::ProbeError,
    hooks::{Attach, Feature, Hook},
    loader::{Loaded, chain, check_required},
    plan::{Plan, Reason},
};

/// Programs at work.
#[derive(Debug)]
pub struct Attached {
    links: Links,
    pub(super) ebpf: Ebpf,
    pub(super) map_memory_bytes: u64,
    /// What is used, after everything was tried.
    pub plan: Plan,
}

/// In order of attachment; dropped in the opposite order.
#[derive(Debug)]
struct Links(Vec<(Hook, FdLink)>);

impl Drop for Links {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

impl Loaded {
    /// Attaches the programs: those that clean up first, those that see data last, so that no state is left behind by something that
    /// ended in between. A program that cannot be attached turns its feature off.
    ///
    /// # Errors
    /// When a required feature does not work.
    pub fn attach(self) -> Result<Attached, ProbeError> {
        check_required(&self.plan)?;
        self.attach_what_can_be().checked()
    }

    /// As [`Loaded::attach`], also when what is left is of no use.
    #[must_use]
    pub fn attach_what_can_be(self) -> Attached {
        let Self {
            ebpf,
            map_memory_bytes,
            plan,
        } = self;
        let mut attached = Attached {
            links: Links(Vec::new()),
            ebpf,
            map_memory_bytes,
            plan,
        };
        for hook in attached.plan.chosen() {
            let chosen = attached.plan.chosen();
            let later = matches!(hook.attach, Attach::Run | Attach::Library);
            if later || !chosen.contains(&hook) {
                continue;
            }
            match attach_program(&mut attached.ebpf, &hook) {
                Ok(link) => attached.links.0.push((hook, link)),
                Err(error) => {
                    let error = chain(&error);
                    tracing::debug!(program = hook.program, error, "program not attached");
                    attached
                        .plan
                        .turn_off(hook.program, Reason::NotAttached { error });
                    attached.detach_unplanned();
                }
            }
        }
        attached
    }
}

impl Attached {
    /// Detaches all programs, which stay loaded: what they counted and left in maps can still be read. One that is running ends.
    pub fn detach(&mut self) {
        while self.links.0.pop().is_some() {}
    }

    /// These programs, when they are enough to trace anything.
    ///
    /// # Errors
    /// When a required feature does not work.
    pub fn checked(self) -> Result<Self, ProbeError> {
        check_required(&self.plan)?;
        Ok(self)
    }

    /// Number of programs that are attached.
    #[must_use]
    pub fn len(&self) -> usize {
        self.links.0.len()
    }

    /// Whether nothing is attached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.0.is_empty()
    }

    /// Whether a feature works.
    #[must_use]
    pub fn offers(&self, feature: Feature) -> bool {
        self.plan.offers(feature)
    }

    fn detach_unplanned(&mut self) {
        let chosen = self.plan.chosen();
        self.links.0.retain(|(hook, _)| chosen.contains(hook));
    }
}

fn attach_program(ebpf: &mut Ebpf, hook: &Hook) -> Result<FdLink, ProgramError> {
    Ok(match ebpf.program_mut(hook.program) {
        Some(Program::FEntry(program)) => {
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Some(Program::FExit(program)) => {
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Some(Program::BtfTracePoint(program)) => {
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    })
}
