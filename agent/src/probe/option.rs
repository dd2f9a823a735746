//! The object that carries trace context in a TCP option: how it is loaded, tied to the object that decides, and attached.
//!
//! Input: the object `option`, networks, the maps that both objects share. Output: a [`Carrier`] at work, or the reason why there is none. Without it the
//! agent traces as before. Sockets keep asking for its callbacks when it is gone, and find nobody: segments are as they were before.

use std::{fs::File, net::Ipv6Addr, path::Path};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{LpmTrie, MapData, lpm_trie::Key},
    programs::{CgroupAttachMode, Program, ProgramError},
};
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};

use super::{
    inject::{InjectError, SharedMaps, refused, take},
    objects,
};
use crate::config::{Fault, Network};

/// Name of the object.
const OBJECT: &str = "option";
/// Its program.
const CARRIER: &str = "carry_context";

/// Bits of the global `OPTION_FAULT`, agent-ebpf `bin/option`.
const FAULTS: &[(Fault, u32)] = &[
    (Fault::OptionMalformed, 1),
    (Fault::OptionNoRoom, 1 << 1),
    (Fault::OptionOnce, 1 << 2),
];

/// Program type, attach type and BTF type of a program of this object, for the verifier alone.
pub(super) fn program_types(program: &str) -> Option<(u32, u32, u32)> {
    (program == CARRIER).then_some((
        bpf_prog_type::BPF_PROG_TYPE_SOCK_OPS as u32,
        bpf_attach_type::BPF_CGROUP_SOCK_OPS as u32,
        0,
    ))
}

/// The object in the kernel.
pub struct Carrier {
    ebpf: Ebpf,
}

impl Carrier {
    /// Loads the object for work beside the object `capture`, which must be loaded with the same `shared` afterwards; options are written towards `networks`
    /// only. Nothing runs before [`Carrier::attach`].
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn new(
        shared: &SharedMaps,
        networks: &[Network],
        faults: &[Fault],
    ) -> Result<Self, InjectError> {
        let object = objects::find(OBJECT).ok_or(InjectError::NoObject)?;
        super::examine::raise_memlock();
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS);
        let bits = FAULTS.iter().filter(|(fault, _)| faults.contains(fault));
        let bits: u32 = bits.fold(0, |all, (_, bit)| all | bit);
        loader.override_global("OPTION_FAULT", &bits, false);
        for (fault, map) in [
            (Fault::OffersFull, "OFFERS"),
            (Fault::BroughtFull, "BROUGHT"),
        ] {
            if faults.contains(&fault) {
                loader.map_max_entries(map, 1);
            }
        }
        shared.apply(&mut loader);
        let mut ebpf = loader.load(object.bytes).map_err(InjectError::Object)?;
        let mut trie: LpmTrie<MapData, [u8; 16], u32> = take(&mut ebpf, "NETWORKS")?;
        for network in networks {
            let key = Key::new(network.prefix(), Ipv6Addr::octets(&network.address()));
            trie.insert(&key, 1, 0).map_err(|source| InjectError::Map {
                name: "NETWORKS",
                source: Some(source),
            })?;
        }
        // While its maps are open: the program holds them from now on.
        let loaded = match ebpf.program_mut(CARRIER) {
            Some(Program::SockOps(program)) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        loaded.map_err(refused(CARRIER))?;
        Ok(Self { ebpf })
    }

    /// Begins to carry context on connections that are established from now on by processes below `cgroup`.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn attach(&mut self, cgroup: &Path) -> Result<(), InjectError> {
        let folder = File::open(cgroup).map_err(|source| InjectError::Cgroup {
            path: cgroup.to_owned(),
            source,
        })?;
        let attached = match self.ebpf.program_mut(CARRIER) {
            Some(Program::SockOps(program)) => {
                program.attach(folder, CgroupAttachMode::Single).map(drop)
            }
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        attached.map_err(refused(CARRIER))
    }
}
