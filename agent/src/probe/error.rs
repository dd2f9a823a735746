//! Why nothing can be traced, with the next step for a person.

use crate::{
    kernel::{btf::BtfError, features::Finding, offsets::OffsetsError},
    probe::{hooks::Feature, objects, plan::Reason},
};

/// Why the kernel programs cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The binary was built without kernel programs.
    #[error("{}", objects::MISSING)]
    NoObject,
    /// Something about this machine forbids it.
    #[error("{} is {}: {}", finding.subject, finding.value, finding.advice)]
    Blocked {
        /// What is missing and what to do about it.
        finding: Finding,
    },
    /// The kernel's type information cannot be read.
    #[error(
        "cannot read the kernel's type information (a kernel with CONFIG_DEBUG_INFO_BTF has it)"
    )]
    Btf(#[from] BtfError),
    /// The kernel's type information cannot be read by the library that loads programs.
    #[error("cannot read the kernel's type information")]
    BtfForLoading(#[source] aya::BtfError),
    /// A kernel struct lacks something that is needed.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
    /// The kernel refused a map, or the object is damaged.
    #[error(
        "the kernel did not take the maps of the kernel programs (`undertrace doctor` tells what this kernel takes)"
    )]
    Object(#[source] aya::EbpfError),
    /// A feature without which the agent is of no use does not work.
    #[error("{} cannot be traced: {program}: {reason}; `undertrace doctor` shows the details", feature.title())]
    Required {
        /// The feature.
        feature: Feature,
        /// The program that does not work.
        program: &'static str,
        /// Why not.
        reason: Reason,
    },
    /// The object lacks a map, or has it with other keys or values.
    #[error("map {name} of the kernel programs is not usable")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// What does not fit; none when there is no such map.
        #[source]
        source: Option<aya::maps::MapError>,
    },
    /// A program that is loaded cannot be run or asked.
    #[error("cannot run program {program}")]
    Run {
        /// Name of the program.
        program: &'static str,
        /// What the system said.
        #[source]
        source: aya::programs::ProgramError,
    },
}
