//! Puts a connection that is older than the agent into the sockhash.
//!
//! Input: which descriptor of which process, and what it must be. Output: the socket in the sockhash and its entry in `INJECTIONS`, or why not. The process's descriptor is duplicated
//! (pidfd_getfd, since Linux 5.6) for as long as that takes: some ten microseconds, or as long as the application holds its socket's lock, for which the
//! calling thread waits and nobody else. Nothing is done to the process.

mod socket;

use std::{
    io,
    net::TcpStream,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use agent_common::abi::{Injection, InjectionState};
use aya::maps::{HashMap, MapData, MapError, SockHash};
use zerocopy::transmute;

use self::socket::{duplicate, has_zero_copy, is_idle, is_layered};
use super::inject::Words;
use crate::process::connections::Connection;

/// `BPF_NOEXIST` (include/uapi/linux/bpf.h): an entry that is there stays.
const NO_EXIST: u64 = 1;

/// One socket of a process.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The process.
    pub tgid: u32,
    /// Its descriptor.
    pub fd: i32,
    /// Inode of the socket that it is expected to be.
    pub inode: u64,
    /// The ends of the connection that it is expected to be.
    pub ends: Connection,
}

/// What the kernel programs call the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Connection id: key in the sockhash.
    pub connection: u64,
    /// The sock pointer: key in `INJECTIONS`.
    pub socket: u64,
}

/// Why a connection was not put in.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Something is on its way: another time may do.
    #[error("it is not idle")]
    Busy,
    /// It is over, or the descriptor is another socket by now.
    #[error("it is over")]
    Gone,
    /// Something between the process and TCP changes the bytes, such as encryption by the kernel.
    #[error("another layer is on top of it")]
    Layered,
    /// Its sends may be of pages that stay the process's (MSG_ZEROCOPY), of which it is told when they are free again.
    #[error("the process can wait for the completion of its sends (SO_ZEROCOPY)")]
    ZeroCopy,
    /// Nothing is put in any more.
    #[error("no header is written any more")]
    Stopped,
    /// The process does not let us.
    #[error("{what}: {source}")]
    Call {
        /// Which call failed.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel does not take it, or there is no room.
    #[error("{map} does not take it")]
    Map {
        /// Which map.
        map: &'static str,
        /// What the system said.
        #[source]
        source: MapError,
    },
}

impl EnrolError {
    /// Whether another time may do: it is not idle, or the agent has no descriptor or memory left.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        let source = match self {
            Self::Busy => return true,
            Self::Call { source, .. } => source,
            Self::Map {
                source: MapError::SyscallError(error),
                ..
            } => &error.io_error,
            _ => return false,
        };
        let scarce = [libc::EMFILE, libc::ENFILE, libc::ENOMEM];
        source
            .raw_os_error()
            .is_some_and(|error| scarce.contains(&error))
    }
}

/// What can put connections in.
pub struct Enroller {
    sockets: SockHash<MapData, u64>,
    injections: HashMap<MapData, u64, Words>,
    stopped: Arc<AtomicBool>,
}

impl Enroller {
    /// `sockets` is a descriptor of its own for the sockhash.
    pub(super) const fn new(
        sockets: SockHash<MapData, u64>,
        injections: HashMap<MapData, u64, Words>,
        stopped: Arc<AtomicBool>,
    ) -> Self {
        Self {
            sockets,
            injections,
            stopped,
        }
    }

    /// Puts an idle connection in. Waits as long as somebody holds its socket's lock.
    ///
    /// # Errors
    /// When it is not what it is expected to be, or not idle; or when the system refuses something.
    pub fn enrol(&mut self, name: Name, descriptor: &Descriptor) -> Result<(), EnrolError> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(EnrolError::Stopped);
        }
        let socket = duplicate(descriptor)?;
        if is_layered(&socket)? {
            return Err(EnrolError::Layered);
        }
        if has_zero_copy(&socket)? {
            return Err(EnrolError::ZeroCopy);
        }
        if !is_idle(&socket)? {
            return Err(EnrolError::Busy);
        }
        let (sockets, injections) = (&mut self.sockets, &mut self.injections);
        put_in(sockets, injections, &self.stopped, name, &socket)
    }
}

/// A map, as far as putting a connection in needs it.
trait Entries<V> {
    /// Makes an entry where there is none.
    fn add(&mut self, key: u64, value: V) -> Result<(), MapError>;
    /// Takes one away; one that is not there is fine.
    fn take_away(&mut self, key: u64);
}

impl Entries<RawFd> for SockHash<MapData, u64> {
    fn add(&mut self, key: u64, value: RawFd) -> Result<(), MapError> {
        self.insert(key, value, NO_EXIST)
    }

    fn take_away(&mut self, key: u64) {
        let _ = self.remove(&key);
    }
}

impl Entries<Words> for HashMap<MapData, u64, Words> {
    fn add(&mut self, key: u64, value: Words) -> Result<(), MapError> {
        self.insert(key, value, NO_EXIST)
    }

    fn take_away(&mut self, key: u64) {
        let _ = self.remove(&key);
    }
}

/// Makes both entries of a connection, or none. Whoever sets `stopped` takes all sockets out afterwards: either that finds this one, or it is taken away here.
fn put_in(
    sockets: &mut impl Entries<RawFd>,
    injections: &mut impl Entries<Words>,
    stopped: &AtomicBool,
    name: Name,
    socket: &TcpStream,
) -> Result<(), EnrolError> {
    let refused = |map| move |source| EnrolError::Map { map, source };
    // First the socket, in which nothing is written without an entry: the first send that finds one has both.
    sockets
        .add(name.connection, socket.as_raw_fd())
        .map_err(refused("the sockhash"))?;
    let injection = Injection {
        connection: name.connection,
        state: InjectionState::Enrolled as u32,
        ..Injection::default()
    };
    let words: Words = transmute!(injection);
    let entered = injections.add(name.socket, words);
    let entered = entered.map_err(refused("INJECTIONS")).and_then(|()| {
        let unwanted = if stopped.load(Ordering::SeqCst) {
            EnrolError::Stopped
        } else if socket.peer_addr().is_err() {
            EnrolError::Gone
        } else {
            // A connection that is over from here on takes its entry away itself.
            return Ok(());
        };
        injections.take_away(name.socket);
        Err(unwanted)
    });
    if entered.is_err() {
        sockets.take_away(name.connection);
    }
    entered
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::TcpListener};

    use super::*;

    /// A map that refuses what it has, and does something after it took an entry.
    struct Fake<'a, V> {
        entries: BTreeMap<u64, V>,
        then: &'a dyn Fn(),
    }

    impl<V> Entries<V> for Fake<'_, V> {
        fn add(&mut self, key: u64, value: V) -> Result<(), MapError> {
            if self.entries.contains_key(&key) {
                return Err(MapError::ElementNotFound);
            }
            self.entries.insert(key, value);
            (self.then)();
            Ok(())
        }

        fn take_away(&mut self, key: u64) {
            self.entries.remove(&key);
        }
    }

    const NAME: Name = Name {
        connection: 3,
        socket: 5,
    };

    /// Keys in the sockhash and in `INJECTIONS` after a try, in which these were before; `then` happens when the socket was put in.
    fn keys(
        before: (&[u64], &[u64]),
        stopped: &AtomicBool,
        then: &dyn Fn(),
    ) -> (Result<(), EnrolError>, Vec<u64>, Vec<u64>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let client = TcpStream::connect(address).expect("it listens");
        let words: Words = transmute!(Injection::default());
        let mut sockets = Fake {
            entries: before.0.iter().map(|key| (*key, -1)).collect(),
            then,
        };
        let mut injections = Fake {
            entries: before.1.iter().map(|key| (*key, words)).collect(),
            then: &|| (),
        };
        let result = put_in(&mut sockets, &mut injections, stopped, NAME, &client);
        let (sockets, injections) = (sockets.entries, injections.entries);
        (
            result,
            sockets.into_keys().collect(),
            injections.into_keys().collect(),
        )
    }

    #[test]
    fn makes_both_entries_or_none() {
        let on = AtomicBool::new(false);
        let (result, sockets, injections) = keys((&[1], &[2]), &on, &|| ());
        assert!(result.is_ok(), "{result:?}");
        assert_eq!((sockets, injections), (vec![1, 3], vec![2, 5]));
        // What was there before stays.
        let (result, sockets, injections) = keys((&[3], &[]), &on, &|| ());
        assert!(matches!(
            result,
            Err(EnrolError::Map {
                map: "the sockhash",
                ..
            })
        ));
        assert_eq!((sockets, injections), (vec![3], vec![]));
        let (result, sockets, injections) = keys((&[], &[5]), &on, &|| ());
        assert!(matches!(
            result,
            Err(EnrolError::Map {
                map: "INJECTIONS",
                ..
            })
        ));
        assert_eq!((sockets, injections), (vec![], vec![5]));
    }

    #[test]
    fn leaves_nothing_behind_when_writing_ends_meanwhile() {
        let stopped = AtomicBool::new(false);
        let end = || stopped.store(true, Ordering::SeqCst);
        let (result, sockets, injections) = keys((&[1], &[2]), &stopped, &end);
        assert!(matches!(result, Err(EnrolError::Stopped)), "{result:?}");
        assert_eq!((sockets, injections), (vec![1], vec![2]));
    }

    #[test]
    fn what_is_scarce_may_be_there_another_time() {
        let call = |error| EnrolError::Call {
            what: "pidfd_getfd",
            source: io::Error::from_raw_os_error(error),
        };
        let map = |error| EnrolError::Map {
            map: "INJECTIONS",
            source: MapError::SyscallError(aya::sys::SyscallError {
                call: "bpf_map_update_elem",
                io_error: io::Error::from_raw_os_error(error),
            }),
        };
        for scarce in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            assert!(call(scarce).is_passing() && map(scarce).is_passing());
        }
        for refused in [libc::EPERM, libc::ENOSYS, libc::E2BIG] {
            assert!(!call(refused).is_passing() && !map(refused).is_passing());
        }
        assert!(EnrolError::Busy.is_passing());
        assert!(!EnrolError::Gone.is_passing());
    }
}
