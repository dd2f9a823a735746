//! Attaches programs to functions of a file that processes have mapped, and detaches them again.
//!
//! Input: the opened file, and the places of its functions. Output: [`Probed`], which detaches when it is dropped. The kernel keeps one probe for each
//! file and place, whoever maps it now or later (uprobes, kernel/events/uprobes.c).

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        Program, ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeLink, UProbeScope},
    },
};

use agent_common::abi::Direction;

use super::{attach::Attached, loader::chain};
use crate::tls::{Call, Exit, Probe};

/// The program that sees calls return.
const RETURN: &str = "tls_return";

/// Programs at work in one file.
#[derive(Debug)]
pub struct Probed {
    /// Dropped in this order: a call whose return is seen was entered before.
    links: Vec<UProbeLink>,
}

impl Probed {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}

/// Why a file has no programs.
#[derive(Debug, thiserror::Error)]
#[error("{function}: {reason}")]
pub struct NotProbed {
    /// The function.
    pub function: &'static str,
    /// What the kernel said.
    pub reason: String,
}

/// The program for a call; none where there is no program for its shape.
const fn program_for(call: Call) -> Option<&'static str> {
    Some(match call {
        Call::Counted(Direction::Receive) => "tls_read",
        Call::Stored(Direction::Receive) => "tls_read_stored",
        Call::Counted(Direction::Send) => "tls_write",
        Call::Stored(Direction::Send) => "tls_write_stored",
        Call::Handshake => "tls_handshake",
        Call::Free => "tls_free",
        Call::SendFile | Call::Paired(_) | Call::Lent | Call::Taken | Call::Go(_) | Call::Close => {
            return None;
        }
    })
}

/// Whether there are programs for both ways in which these functions move bytes.
#[must_use]
pub fn can_see(probes: &[Probe]) -> bool {
    [Direction::Receive, Direction::Send].iter().all(|way| {
        probes
            .iter()
            .any(|probe| probe.call.direction() == Some(*way) && program_for(probe.call).is_some())
    })
}

impl Attached {
    /// Attaches the programs to these functions of the file: all, or none.
    ///
    /// # Errors
    /// When the kernel refuses one of them.
    pub fn probe(&mut self, file: &File, probes: &[Probe]) -> Result<Probed, NotProbed> {
        // The link leads to the very file that was examined, whatever its path leads to now.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let mut links = Vec::new();
        for probe in probes {
            let Some(program) = program_for(probe.call) else {
                continue;
            };
            let refused = |error: ProgramError| NotProbed {
                function: probe.function,
                reason: chain(&error),
            };
            // First what sees it return: a call that is entered and never returns would be in the way of the next one.
            if probe.exit == Exit::Return {
                links.push(attach(&mut self.ebpf, RETURN, probe.entry, &path).map_err(refused)?);
            }
            links.push(attach(&mut self.ebpf, program, probe.entry, &path).map_err(refused)?);
        }
        // Dropped from the first to the last: entries before returns.
        links.reverse();
        Ok(Probed { links })
    }
}

fn attach(
    ebpf: &mut Ebpf,
    program: &str,
    offset: u64,
    path: &Path,
) -> Result<UProbeLink, ProgramError> {
    let Some(Program::UProbe(program)) = ebpf.program_mut(program) else {
        return Err(ProgramError::UnexpectedProgramType);
    };
    let program: &mut UProbe = program;
    let place = UProbeAttachLocation::AbsoluteOffset(offset);
    let id = program.attach(place, path, UProbeScope::AllProcesses)?;
    program.take_link(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(call: Call) -> Probe {
        Probe {
            function: "f",
            call,
            entry: 0,
            exit: Exit::None,
        }
    }

    #[test]
    fn half_of_a_conversation_is_not_seen() {
        let [read, write] =
            [Direction::Receive, Direction::Send].map(|way| probe(Call::Counted(way)));
        assert!(can_see(&[read.clone(), write]));
        assert!(!can_see(std::slice::from_ref(&read)));
        assert!(!can_see(&[read, probe(Call::Go(Direction::Send))]));
        assert!(!can_see(&[]));
    }
}
