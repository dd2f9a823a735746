//! What user space writes into and reads from the maps.
//!
//! Input: [`Loaded`] programs. Output: typed accessors, each owning its map. No entry is made here that the kernel would have to delete:
//! who ends an entry stands in ARCHITECTURE.md.

use std::collections::BTreeSet;

use agent_common::{
    abi::{Counter, EventLoop, Policy, SELECTION_WORDS, VERDICT_BITS, Verdict},
    wire::decide,
};
use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, lpm_trie::Key},
};
use zerocopy::transmute;

use super::{error::ProbeError, loader::Loaded};
use crate::config::Network;

/// Processes per word of `SELECTION`.
const PER_WORD: u32 = u64::BITS / VERDICT_BITS;

/// Every map that user space uses.
pub struct Maps {
    /// Records.
    pub events: RingBuf<MapData>,
    /// Verdicts on processes.
    pub selection: Selection,
    /// Ports that are traced.
    pub ports: Ports,
    /// Networks whose context is taken.
    pub trusted: Trusted,
    /// What is captured of a connection.
    pub policies: Policies,
    /// Same-kernel records.
    pub handovers: Handovers,
    /// What is known of run-time systems.
    pub runtimes: Runtimes,
    /// Which processes are sampled by a rule of their own.
    pub rules: Rules,
    /// The thresholds of the rules.
    pub thresholds: Thresholds,
    /// Roots, by rule.
    pub roots: Roots,
    /// The kernel's own counters.
    pub counters: Counters,
}

impl Loaded {
    /// Takes the maps out, so that they can be filled before anything runs; a second call fails.
    ///
    /// # Errors
    /// When the object lacks one of them, or has it with other keys or values.
    pub fn take_maps(&mut self) -> Result<Maps, ProbeError> {
        Maps::take(&mut self.ebpf)
    }
}

impl Maps {
    fn take(ebpf: &mut Ebpf) -> Result<Self, ProbeError> {
        Ok(Self {
            events: take(ebpf, "EVENTS")?,
            selection: Selection(take(ebpf, "SELECTION")?),
            ports: Ports(take(ebpf, "PORTS")?),
            trusted: Trusted(take(ebpf, "TRUSTED")?),
            policies: Policies(take(ebpf, "POLICIES")?),
            handovers: Handovers(take(ebpf, "HANDOVERS")?),
            runtimes: Runtimes(take(ebpf, "RUNTIMES")?),
            rules: Rules(take(ebpf, "RULES")?),
            thresholds: Thresholds(take(ebpf, "THRESHOLDS")?),
            roots: Roots(take(ebpf, "ROOTS")?),
            counters: Counters(take(ebpf, "COUNTERS")?),
        })
    }
}

/// A map of the object as the type that it should be.
pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, ProbeError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or(ProbeError::Map { name, source: None })?;
    M::try_from(map).map_err(|source| ProbeError::Map {
        name,
        source: Some(source),
    })
}

/// `SELECTION`: a verdict for each thread group id.
pub struct Selection(Array<MapData, u64>);

impl Selection {
    /// Writes the verdict on a process; thread group ids beyond the kernel's limit of 2^22 do not exist and are ignored.
    ///
    /// The kernel's hooks write the word too, when one of its 32 processes is new or runs another program, so the word is read again until it holds what was meant.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn set(&mut self, tgid: u32, verdict: Verdict) -> Result<(), MapError> {
        let Some(place) = Place::of(tgid) else {
            return Ok(());
        };
        for _ in 0..MAX_TRIES {
            let word = self.0.get(&place.word, 0)?;
            if place.read(word) == verdict as u64 {
                return Ok(());
            }
            self.0.set(place.word, place.write(word, verdict), 0)?;
        }
        Ok(())
    }

    /// The verdict on a process.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn get(&self, tgid: u32) -> Result<Verdict, MapError> {
        let Some(place) = Place::of(tgid) else {
            return Ok(Verdict::Unknown);
        };
        let word = self.0.get(&place.word, 0)?;
        Ok(match place.read(word) {
            1 => Verdict::Selected,
            2 => Verdict::Ignored,
            3 => Verdict::Own,
            _ => Verdict::Unknown,
        })
    }
}

/// Rounds of writing and reading again.
const MAX_TRIES: usize = 4;

/// Where a verdict stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    word: u32,
    shift: u32,
}

impl Place {
    const fn of(tgid: u32) -> Option<Self> {
        let word = tgid / PER_WORD;
        if word >= SELECTION_WORDS {
            return None;
        }
        let shift = tgid % PER_WORD * VERDICT_BITS;
        Some(Self { word, shift })
    }

    const fn mask(self) -> u64 {
        ((1 << VERDICT_BITS) - 1) << self.shift
    }

    const fn read(self, word: u64) -> u64 {
        (word & self.mask()) >> self.shift
    }

    const fn write(self, word: u64, verdict: Verdict) -> u64 {
        word & !self.mask() | (verdict as u64) << self.shift
    }
}

/// `HANDOVERS`, as plain words: the last one of a value holds the flags.
pub struct Handovers(HashMap<MapData, [u64; 3], [u64; 4]>);

impl Handovers {
    /// Records that the kernel holds at most.
    const CAPACITY: usize = 16_384;

    /// Deletes the records that are older than `limit_ns`; how many those were, and how many are left.
    ///
    /// A walk through a table that changes may begin again from its start; it ends after twice the table's capacity, and may leave some to the next one.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn sweep(&mut self, now_ns: u64, limit_ns: u64) -> Result<(u64, u64), MapError> {
        let (mut stale, mut left) = (BTreeSet::new(), BTreeSet::new());
        for entry in self.0.iter().take(2 * Self::CAPACITY) {
            let Some((key, [.., flags])) = if_there(entry)? else {
                continue;
            };
            if decide::stored_for(flags, now_ns) >= limit_ns {
                stale.insert(key);
            } else {
                left.insert(key);
            }
        }
        let mut deleted = 0;
        for key in &stale {
            if if_there(self.0.remove(key))?.is_some() {
                deleted += 1;
            }
        }
        Ok((deleted, left.len() as u64))
    }
}

/// `TRUSTED`: networks whose context is taken.
pub struct Trusted(LpmTrie<MapData, [u8; 16], u32>);

impl Trusted {
    /// Adds one, before anything is attached: a connection is judged when it is first seen.
    ///
    /// # Errors
    /// When the system call fails, or there are more than 256.
    pub fn add(&mut self, network: &Network) -> Result<(), MapError> {
        let key = Key::new(network.prefix(), network.address().octets());
        self.0.insert(&key, 1, 0)
    }
}

/// `PORTS`: one bit for each TCP port.
pub struct Ports(Array<MapData, u64>);

impl Ports {
    /// Traces connections of which one end has this port.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn select(&mut self, port: u16) -> Result<(), MapError> {
        let index = u32::from(port) / u64::BITS;
        let word = self.0.get(&index, 0)?;
        let bit = 1 << (u32::from(port) % u64::BITS);
        self.0.set(index, word | bit, 0)
    }

    /// Traces exactly the ports whose bits are set: bit `port % 64` of word `port / 64`.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn set_all(&mut self, words: &[u64; 1024]) -> Result<(), MapError> {
        for (index, word) in (0..).zip(words) {
            self.0.set(index, word, 0)?;
        }
        Ok(())
    }
}

/// `POLICIES`: what is captured of a connection.
pub struct Policies(HashMap<MapData, u64, [u32; 2]>);

impl Policies {
    /// Sets the policy of a connection.
    ///
    /// # Errors
    /// When the map is full or the system call fails.
    pub fn set(&mut self, connection: u64, policy: Policy) -> Result<(), MapError> {
        let value: [u32; 2] = transmute!(policy);
        self.0.insert(connection, value, 0)
    }

    /// Forgets a connection that is closed; one that has no policy is fine.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn remove(&mut self, connection: u64) -> Result<(), MapError> {
        absent_is_fine(self.0.remove(&connection))
    }
}

/// `RUNTIMES`: processes about whose run-time system the causality rules know something.
pub struct Runtimes(HashMap<MapData, u32, [u64; 3]>);

impl Runtimes {
    /// Notes what the event loop of a process does; one without flags is forgotten.
    ///
    /// # Errors
    /// When the map is full or the system call fails.
    pub fn set_event_loop(&mut self, tgid: u32, event_loop: EventLoop) -> Result<(), MapError> {
        if event_loop.flags == 0 {
            return self.remove(tgid);
        }
        let value: [u64; 3] = transmute!(event_loop);
        self.0.insert(tgid, value, 0)
    }

    /// Forgets a process that ended or runs another program; one that was never noted is fine.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn remove(&mut self, tgid: u32) -> Result<(), MapError> {
        absent_is_fine(self.0.remove(&tgid))
    }
}

/// `RULES`: which of [`Thresholds`] holds for the traces that begin in a process.
pub struct Rules(HashMap<MapData, u32, u32>);

impl Rules {
    /// Sets the rule of a process; 0, that of the sampler, needs no entry.
    ///
    /// # Errors
    /// When the map is full or the system call fails.
    pub fn set(&mut self, tgid: u32, rule: u32) -> Result<(), MapError> {
        if rule == 0 {
            return absent_is_fine(self.0.remove(&tgid));
        }
        self.0.insert(tgid, rule, 0)
    }
}

/// `THRESHOLDS`: thresholds of roots; the first one is the sampler's.
pub struct Thresholds(Array<MapData, u64>);

impl Thresholds {
    /// Sets the threshold of a rule.
    ///
    /// # Errors
    /// When there is no such rule or the system call fails.
    pub fn set(&mut self, rule: u32, threshold: u64) -> Result<(), MapError> {
        self.0.set(rule, threshold, 0)
    }
}

/// `ROOTS`: how many traces began under each rule.
pub struct Roots(PerCpuArray<MapData, u64>);

impl Roots {
    /// Those of the first rules, summed over the CPUs; cumulative since the programs were loaded.
    ///
    /// # Errors
    /// When there are not so many rules or a system call fails.
    pub fn read(&self, rules: usize) -> Result<Vec<u64>, MapError> {
        let rules = (0..).take(rules);
        let read = |rule: u32| Ok(self.0.get(&rule, 0)?.iter().sum());
        rules.map(read).collect()
    }
}

fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => other,
    }
}

/// `COUNTERS`: what the programs count.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// Every counter, summed over the CPUs; cumulative since the programs were loaded.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn read(&self) -> Result<Vec<(Counter, u64)>, MapError> {
        let read = |counter: &Counter| Ok((*counter, self.one(*counter)?));
        Counter::ALL.iter().map(read).collect()
    }

    /// One counter, likewise.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn one(&self, counter: Counter) -> Result<u64, MapError> {
        let values = self.0.get(&(counter as u32), 0)?;
        Ok(values.iter().sum())
    }
}

/// What a call gave, unless its entry is gone: the kernel, or another reader, was faster.
pub(super) fn if_there<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_every_process_bits_of_its_own() {
        let first = Place::of(0).expect("0 is there");
        assert_eq!(first, Place { word: 0, shift: 0 });
        assert_eq!(Place::of(31), Some(Place { word: 0, shift: 62 }));
        assert_eq!(Place::of(32), Some(Place { word: 1, shift: 0 }));
        let last = Place::of((1 << 22) - 1).map(|place| place.word);
        assert_eq!(last, Some(SELECTION_WORDS - 1));
        assert_eq!(Place::of(1 << 22), None);
    }

    #[test]
    fn changes_no_neighbour() {
        for tgid in 0..32 {
            let place = Place::of(tgid).expect("within the limit");
            for verdict in [
                Verdict::Unknown,
                Verdict::Selected,
                Verdict::Ignored,
                Verdict::Own,
            ] {
                for word in [0, u64::MAX, 0x5555_5555_5555_5555] {
                    let written = place.write(word, verdict);
                    assert_eq!(place.read(written), verdict as u64);
                    assert_eq!(written & !place.mask(), word & !place.mask());
                }
            }
        }
    }
}
