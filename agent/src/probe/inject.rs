//! The object that writes trace context into requests: how it is loaded, tied to the object that decides, and attached.
//!
//! Input: the object `inject`, networks, the maps that both objects share. Output: an [`Injector`] at work, or the reason why there is none. Without
//! it the agent traces as before. Sockets are let go when it is dropped, like at the end of the process by any cause.

use std::{
    fs::File,
    io,
    net::Ipv6Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use agent_common::abi::{Injection, KeptState, switches};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, SockHash, lpm_trie::Key},
    programs::{CgroupAttachMode, Program, ProgramError},
};
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use zerocopy::transmute;

use super::{
    existing::Enroller,
    loader::{chain, last_lines},
    objects,
};
use crate::config::{Fault, Network};

/// Name of the object.
const OBJECT: &str = "inject";
/// The program on the send path.
const WRITER: &str = "write_context";
/// The callback of the handshake.
const ENROLLER: &str = "enrol_established";
/// Maps that several objects have.
const SHARED: &[&str] = &[
    "INJECTIONS",
    "STATES",
    "SWITCHES",
    "COUNTERS",
    "OFFERS",
    "BROUGHT",
    "TRUSTED",
];

/// Threads that send in one self-test, with room to spare.
const BENCH_THREADS: u32 = 16;

/// Bits of the global `INJECT_FAULT`, agent-ebpf `bin/inject`.
const FAULTS: &[(Fault, u32)] = &[
    (Fault::InjectTwice, 1),
    (Fault::InjectLate, 1 << 1),
    (Fault::InjectLoss, 1 << 2),
    (Fault::InjectStateReplaced, 1 << 3),
    (Fault::InjectStateUnchecked, 1 << 4),
];

/// Why headers are not written.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// The binary was built without kernel programs.
    #[error("{}", objects::MISSING)]
    NoObject,
    /// The unified control-group tree is mounted nowhere.
    #[error("no cgroup2 tree is mounted, to which the callback of sockets could be attached")]
    NoCgroup,
    /// The control-group tree cannot be opened.
    #[error("cannot open the control-group tree {path}")]
    Cgroup {
        /// Where it is mounted.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Two objects cannot share maps.
    #[error(
        "cannot make a BPF file system, through which the programs share their maps (needs CAP_SYS_ADMIN)"
    )]
    Share(#[source] io::Error),
    /// The kernel refused a map.
    #[error("the kernel did not take the maps for trace context (needs CAP_NET_ADMIN): {}", chain(.0))]
    Object(#[source] aya::EbpfError),
    /// A map is missing or cannot be used.
    #[error("map {name} cannot be used")]
    Map {
        /// Its name.
        name: &'static str,
        /// What is wrong; none when it is not there.
        #[source]
        source: Option<MapError>,
    },
    /// The kernel refused a program.
    #[error("program {program}: {reason}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it said.
        reason: String,
    },
    /// A self-test failed.
    #[error("self-test: {0}")]
    SelfTest(#[from] crate::inject::selftest::Failure),
}

impl InjectError {
    /// Whether a call failed, which may be for want of a descriptor or of memory: another time may do.
    #[must_use]
    pub const fn is_call(&self) -> bool {
        match self {
            Self::SelfTest(failure) => failure.is_call(),
            _ => true,
        }
    }

    /// Whether a proof has failed.
    #[must_use]
    pub fn is_proof(&self) -> bool {
        matches!(self, Self::SelfTest(failure) if failure.is_proof())
    }
}

/// Program type, attach type and BTF type of a program of this object, for the verifier alone.
pub(super) fn program_types(program: &str) -> Option<(u32, u32, u32)> {
    match program {
        WRITER => Some((
            bpf_prog_type::BPF_PROG_TYPE_SK_MSG as u32,
            bpf_attach_type::BPF_SK_MSG_VERDICT as u32,
            0,
        )),
        ENROLLER => Some((
            bpf_prog_type::BPF_PROG_TYPE_SOCK_OPS as u32,
            bpf_attach_type::BPF_CGROUP_SOCK_OPS as u32,
            0,
        )),
        _ => None,
    }
}

/// A BPF file system of our own, mounted nowhere: objects that are loaded with it find each other's maps there. It is gone with this value, or with
/// the process; the maps stay as long as their programs.
#[derive(Debug)]
pub struct SharedMaps(OwnedFd);

impl SharedMaps {
    /// Makes one (fsopen, since Linux 5.2).
    ///
    /// # Errors
    /// When the process may not.
    pub fn new() -> Result<Self, InjectError> {
        let make = || -> rustix::io::Result<OwnedFd> {
            let context = rustix::mount::fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
            rustix::mount::fsconfig_create(context.as_fd())?;
            rustix::mount::fsmount(
                context.as_fd(),
                FsMountFlags::FSMOUNT_CLOEXEC,
                MountAttrFlags::empty(),
            )
        };
        make()
            .map(Self)
            .map_err(|error| InjectError::Share(error.into()))
    }

    /// Makes an object that is loaded share its maps.
    pub(super) fn apply(&self, loader: &mut EbpfLoader<'_>) {
        for name in SHARED {
            let path = format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd());
            loader.map_pin_path(name, PathBuf::from(path));
        }
    }
}

/// The object in the kernel.
pub struct Injector {
    ebpf: Ebpf,
    sockets: SockHash<MapData, u64>,
    switches: Array<MapData, u32>,
    /// None is put in any more.
    stopped: Arc<AtomicBool>,
    let_go: u64,
}

/// [`Injection`] as plain words.
pub(super) type Words = [u64; size_of::<Injection>() / 8];
/// [`KeptState`], likewise.
type StateWords = [u64; KeptState::WORDS];

/// What the self-test may do with an injector of its own.
pub struct Bench {
    injector: Injector,
    injections: HashMap<MapData, u64, Words>,
    states: HashMap<MapData, u64, StateWords>,
}

impl Injector {
    /// Loads the object with maps shared or its own; nothing is enrolled before [`Injector::attach`]. `write_seq` is the offset of that member of
    /// `tcp_sock`; without it, the object is for the self-test.
    fn load(
        shared: Option<&SharedMaps>,
        faults: &[Fault],
        write_seq: Option<u32>,
    ) -> Result<Self, InjectError> {
        let object = objects::find(OBJECT).ok_or(InjectError::NoObject)?;
        super::examine::raise_memlock();
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS);
        let bits = FAULTS.iter().filter(|(fault, _)| faults.contains(fault));
        let bits: u32 = bits.fold(0, |all, (_, bit)| all | bit);
        let self_test = u32::from(write_seq.is_none());
        let write_seq = write_seq.unwrap_or(0);
        loader.override_global("INJECT_FAULT", &bits, false);
        loader.override_global("SELF_TEST", &self_test, false);
        loader.override_global("O_TCP_SOCK_WRITE_SEQ", &write_seq, false);
        match shared {
            Some(shared) => shared.apply(&mut loader),
            None => {
                loader.map_max_entries("STATES", 1);
                loader.map_max_entries("INJECTIONS", BENCH_THREADS);
            }
        }
        if faults.contains(&Fault::SockhashFull) {
            loader.map_max_entries("ENROLLED", 1);
        }
        let mut ebpf = loader.load(object.bytes).map_err(InjectError::Object)?;
        let sockets: SockHash<MapData, u64> = take(&mut ebpf, "ENROLLED")?;
        let switches = take(&mut ebpf, "SWITCHES")?;
        let map = sockets.fd().try_clone().map_err(|error| InjectError::Map {
            name: "ENROLLED",
            source: Some(MapError::IoError(error)),
        })?;
        // Before any socket is in the map: which functions of the kernel a socket gets is settled when it is put there.
        let attached = match ebpf.program_mut(WRITER) {
            Some(Program::SkMsg(program)) => {
                program.load().and_then(|()| program.attach(&map).map(drop))
            }
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        attached.map_err(refused(WRITER))?;
        Ok(Self {
            ebpf,
            sockets,
            switches,
            stopped: Arc::default(),
            let_go: 0,
        })
    }

    /// Loads the object for work beside the object `capture`, which must be loaded with the same `shared`; headers go to `networks` only. `write_seq` is the
    /// offset of that member of `tcp_sock`, bytes.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn new(
        shared: &SharedMaps,
        networks: &[Network],
        faults: &[Fault],
        write_seq: u32,
    ) -> Result<Self, InjectError> {
        let mut injector = Self::load(Some(shared), faults, Some(write_seq))?;
        let mut trie: LpmTrie<MapData, [u8; 16], u32> = take(&mut injector.ebpf, "NETWORKS")?;
        for network in networks {
            let key = Key::new(network.prefix(), Ipv6Addr::octets(&network.address()));
            trie.insert(&key, 1, 0).map_err(|source| InjectError::Map {
                name: "NETWORKS",
                source: Some(source),
            })?;
        }
        // While its maps are open: the program holds them from now on.
        let loaded = match injector.ebpf.program_mut(ENROLLER) {
            Some(Program::SockOps(program)) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        loaded.map_err(refused(ENROLLER))?;
        Ok(injector)
    }

    /// Begins to enrol connections that are established from now on by processes below `cgroup`.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn attach(&mut self, cgroup: &Path) -> Result<(), InjectError> {
        let folder = File::open(cgroup).map_err(|source| InjectError::Cgroup {
            path: cgroup.to_owned(),
            source,
        })?;
        let attached = match self.ebpf.program_mut(ENROLLER) {
            Some(Program::SockOps(program)) => {
                program.attach(folder, CgroupAttachMode::Single).map(drop)
            }
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        attached.map_err(refused(ENROLLER))
    }

    /// Takes a connection's socket out of the sockhash; one that is not there is fine.
    pub fn let_go(&mut self, connection: u64) {
        match self.sockets.remove(&connection) {
            Ok(()) => self.let_go += 1,
            Err(error) => tracing::trace!(connection, %error, "socket not let go"),
        }
    }

    /// What puts in connections that are older than the agent. It has a descriptor of its own for the sockhash: putting a socket in waits for as long as
    /// the application holds that socket's lock, and nobody else waits with it.
    ///
    /// # Errors
    /// When it was made before, or the system has no file descriptor left.
    pub fn enroller(&mut self) -> Result<Enroller, InjectError> {
        let same = || {
            let copy = self.sockets.fd().as_fd().try_clone_to_owned();
            let map = Map::from_map_data(MapData::from_fd(copy?)?)?;
            SockHash::try_from(map)
        };
        let sockets = same().map_err(|source| InjectError::Map {
            name: "ENROLLED",
            source: Some(source),
        })?;
        let injections = take(&mut self.ebpf, "INJECTIONS")?;
        let stopped = Arc::clone(&self.stopped);
        Ok(Enroller::new(sockets, injections, stopped))
    }

    /// Turns writing off for good: nothing more is asked for, no connection is enrolled, and every socket is taken out. Connections go on as if they
    /// had never been in. Gives how many were taken out.
    pub fn stop(&mut self) -> u64 {
        let before = self.let_go;
        if let Err(error) = self.switches.set(0, switches::STOPPED, 0) {
            // What is asked for is carried out by a socket that is in the map, and none stays.
            tracing::warn!(%error, "the programs cannot be told that no header is written any more");
        }
        // Before the sockets are taken out: whoever puts one in looks at this afterwards.
        let stopped = self.stopped.swap(true, Ordering::SeqCst);
        if !stopped
            && let Some(Program::SockOps(program)) = self.ebpf.program_mut(ENROLLER)
            && let Err(error) = program.unload()
        {
            tracing::warn!(%error, "the callback of handshakes cannot be detached");
        }
        self.let_all_go();
        self.let_go - before
    }

    /// After [`Injector::stop`]: takes out what a callback put in that was running meanwhile.
    pub fn tidy(&mut self) {
        if self.stopped.load(Ordering::SeqCst) {
            self.let_all_go();
        }
    }

    fn let_all_go(&mut self) {
        // The first key, over and over: an iterator loses its place in a map that shrinks.
        for _ in 0..=u32::from(u16::MAX) {
            let first = self.sockets.keys().next();
            let Some(Ok(connection)) = first else {
                return;
            };
            self.let_go(connection);
        }
    }

    /// Sockets that were taken out.
    #[must_use]
    pub const fn let_go_count(&self) -> u64 {
        self.let_go
    }
}

impl Bench {
    /// An injector whose sockets are enrolled by hand; with `faults`, one that is broken.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn new(faults: &[Fault]) -> Result<Self, InjectError> {
        let mut injector = Injector::load(None, faults, None)?;
        let injections = take(&mut injector.ebpf, "INJECTIONS")?;
        let states = take(&mut injector.ebpf, "STATES")?;
        Ok(Self {
            injector,
            injections,
            states,
        })
    }

    /// Puts a connected socket into the sockhash.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn enrol(&mut self, connection: u64, socket: &impl AsRawFd) -> Result<(), MapError> {
        let sockets = &mut self.injector.sockets;
        sockets.insert(connection, socket.as_raw_fd(), 0)
    }

    /// Takes it out again.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn let_go(&mut self, connection: u64) -> Result<(), MapError> {
        self.injector.sockets.remove(&connection)
    }

    /// Says what to write into the next send of the thread whose id stands in `injection`.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn instruct(&mut self, injection: Injection) -> Result<(), MapError> {
        let words: Words = transmute!(injection);
        self.injections.insert(injection.pid_tgid, words, 0)
    }

    /// Says what instructions find that name the key 0 in `STATES`.
    ///
    /// # Errors
    /// When the system call fails.
    pub fn keep(&mut self, state: KeptState) -> Result<(), MapError> {
        let words: StateWords = transmute!(state);
        self.states.insert(0, words, 0)
    }
}

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, InjectError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or(InjectError::Map { name, source: None })?;
    M::try_from(map).map_err(|source| InjectError::Map {
        name,
        source: Some(source),
    })
}

pub(super) fn refused(program: &'static str) -> impl Fn(ProgramError) -> InjectError {
    move |error| InjectError::Program {
        program,
        reason: match error {
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } => {
                let lines = last_lines(&verifier_log.to_string());
                format!("{io_error}: {}", lines.join(" | "))
            }
            error => chain(&error),
        },
    }
}
