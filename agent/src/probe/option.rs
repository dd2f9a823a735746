//! The object that carries trace context in a TCP option: how it is loaded, tied to the object that decides, and attached.
//!
//! Input: the object `option`, networks, the maps that both objects share. Output: a [`Carrier`] at work, or the reason why there is none. Without it the
//! agent traces as before. Sockets keep asking for its callbacks when it is gone, and find nobody: segments are as they were before.

use std::{fs::File, net::Ipv6Addr, path::Path};

use agent_common::abi::{Brought, Offers};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
    programs::{CgroupAttachMode, Program, ProgramError},
};
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use zerocopy::transmute;

use super::{
    inject::{InjectError, SharedMaps, refused, take},
    maps::if_there,
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
    (Fault::OptionShortPause, 1 << 3),
];

/// Peers of which is known whether options arrive.
const PEERS: u32 = 1_024;

/// Entries of an LRU map that a CPU may set aside, twice over. Before d4adf1c9ee77 (2025) a CPU takes 128 at a time whatever the size, and one that finds
/// none left throws out what it has just learned.
const SET_ASIDE: u32 = 256;

/// Sockets of one self-test, with room to spare.
const BENCH_SOCKETS: u32 = 64;

/// Program type, attach type and BTF type of a program of this object, for the verifier alone.
pub(super) fn program_types(program: &str) -> Option<(u32, u32, u32)> {
    (program == CARRIER).then_some((
        bpf_prog_type::BPF_PROG_TYPE_SOCK_OPS as u32,
        bpf_attach_type::BPF_CGROUP_SOCK_OPS as u32,
        0,
    ))
}

/// What the object is told of the kernel that it runs on.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// CPUs that there may be.
    pub cpus: usize,
    /// Offset of `sock.sk_err`, where it is known.
    pub sk_err: Option<u32>,
}

impl Machine {
    /// Entries of `PEERS`.
    fn peers(&self) -> u32 {
        let cpus = u32::try_from(self.cpus).unwrap_or(u32::MAX);
        PEERS.saturating_add(cpus.saturating_mul(SET_ASIDE))
    }
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
        machine: Machine,
    ) -> Result<Self, InjectError> {
        let object = objects::find(OBJECT).ok_or(InjectError::NoObject)?;
        super::examine::raise_memlock();
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS);
        let bits = FAULTS.iter().filter(|(fault, _)| faults.contains(fault));
        let bits: u32 = bits.fold(0, |all, (_, bit)| all | bit);
        let sk_err = machine.sk_err.unwrap_or(0);
        loader.override_global("OPTION_FAULT", &bits, false);
        loader.override_global("O_SOCK_SK_ERR", &sk_err, false);
        loader.map_max_entries("PEERS", machine.peers());
        for (fault, map) in [
            (Fault::OffersFull, "OFFERS"),
            (Fault::BroughtFull, "BROUGHT"),
        ] {
            if faults.contains(&fault) {
                loader.map_max_entries(map, 1);
            }
        }
        shared.apply(&mut loader);
        let mut carrier = Self::of(loader.load(object.bytes).map_err(InjectError::Object)?)?;
        allow(&mut carrier.ebpf, "NETWORKS", networks)?;
        Ok(carrier)
    }

    /// Loads the program, while all its maps are open: it holds them from now on, also those that are taken out.
    fn of(mut ebpf: Ebpf) -> Result<Self, InjectError> {
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

/// Puts networks into a map of this name.
fn allow(ebpf: &mut Ebpf, name: &'static str, networks: &[Network]) -> Result<(), InjectError> {
    let mut trie: LpmTrie<MapData, [u8; 16], u32> = take(ebpf, name)?;
    for network in networks {
        let key = Key::new(network.prefix(), Ipv6Addr::octets(&network.address()));
        trie.insert(&key, 1, 0).map_err(|source| InjectError::Map {
            name,
            source: Some(source),
        })?;
    }
    Ok(())
}

/// [`Offers`] as plain words.
type OffersWords = [u64; size_of::<Offers>() / 8];
/// [`Brought`], likewise.
type BroughtWords = [u64; size_of::<Brought>() / 8];

/// What the self-test may do with an object of its own, which sees connections to 127.0.0.1 only.
pub struct Bench {
    /// Attached as long as this lives.
    _carrier: Carrier,
    offers: HashMap<MapData, u64, OffersWords>,
    brought: HashMap<MapData, u64, BroughtWords>,
}

impl Bench {
    /// Loads and attaches it.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn new(cgroup: &Path) -> Result<Self, InjectError> {
        let object = objects::find(OBJECT).ok_or(InjectError::NoObject)?;
        super::examine::raise_memlock();
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS);
        loader.override_global("SELF_TEST", &1u32, false);
        for map in ["OFFERS", "BROUGHT"] {
            loader.map_max_entries(map, BENCH_SOCKETS);
        }
        let mut carrier = Carrier::of(loader.load(object.bytes).map_err(InjectError::Object)?)?;
        let ebpf = &mut carrier.ebpf;
        for map in ["NETWORKS", "TRUSTED"] {
            allow(ebpf, map, &Network::private())?;
        }
        let offers = take(ebpf, "OFFERS")?;
        let brought = take(ebpf, "BROUGHT")?;
        carrier.attach(cgroup)?;
        Ok(Self {
            _carrier: carrier,
            offers,
            brought,
        })
    }

    /// Says what the first request gets of the connection that will be made from this port.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn offer(&mut self, port: u16, offers: Offers) -> Result<(), MapError> {
        let words: OffersWords = transmute!(offers);
        self.offers.insert(u64::from(port), words, 0)
    }

    /// What the newest connection to this port has brought.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn brought(&self, port: u16) -> Result<Option<Brought>, MapError> {
        let words = if_there(self.brought.get(&u64::from(port), 0))?;
        Ok(words.map(|words: BroughtWords| transmute!(words)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_peers_are_known_on_many_cpus() {
        let peers = |cpus| Machine { cpus, sk_err: None }.peers();
        assert_eq!(peers(1), 1_280);
        for cpus in [1, 8, 64, 512] {
            let aside = u32::try_from(cpus).expect("a small number") * 128;
            assert!(peers(cpus) - aside >= 1_024 + aside);
        }
        assert_eq!(peers(usize::MAX), u32::MAX);
    }
}
