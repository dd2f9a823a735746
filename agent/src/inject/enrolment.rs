//! Tries to put connections that are older than the agent into the sockhash, on a thread of its own: looking for a process's descriptors takes its time
//! on a large machine.
//!
//! Input: a [`Candidate`]. Output: an [`Outcome`] for each, in order.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    thread,
};

use tracing::debug;

use super::older::{Candidate, Outcome};
use crate::{
    kernel::features::own_thread,
    probe::existing::{Descriptor, EnrolError, Enroller},
    process::connections::{Connections, sockets},
};

/// The thread that tries.
#[derive(Debug)]
pub struct Enrolment {
    ask: Sender<Candidate>,
    told: Receiver<Outcome>,
}

/// Why connections that are older than the agent get no header.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// Processes cannot be named by the ids that the kernel programs tell.
    #[error("the agent is in a pid namespace of its own: start it in that of the host")]
    OtherIds,
    /// The thread has ended.
    #[error("the thread that looks for them has ended")]
    Ended,
    /// There is no thread for it.
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
}

impl Enrolment {
    /// Starts it; the host's `/proc` is mounted at `proc`.
    ///
    /// # Errors
    /// When processes cannot be looked into from here.
    pub fn start(proc: PathBuf, mut enroller: Enroller) -> Result<Self, EnrolmentError> {
        // A descriptor is asked for by the process id of this namespace.
        let own = own_thread(&proc).map(|thread| thread >> 32);
        if own != Some(u64::from(std::process::id())) {
            return Err(EnrolmentError::OtherIds);
        }
        let (ask, asked) = channel::<Candidate>();
        let (tell, told) = channel();
        thread::Builder::new()
            .name("enrolment".to_owned())
            .spawn(move || {
                for candidate in asked {
                    let outcome = attempt(&proc, &mut enroller, &candidate);
                    if tell.send(outcome).is_err() {
                        break;
                    }
                }
            })
            .map_err(EnrolmentError::Thread)?;
        Ok(Self { ask, told })
    }

    /// Tries this one next.
    ///
    /// # Errors
    /// When nothing is tried any more.
    pub fn ask(&self, candidate: Candidate) -> Result<(), EnrolmentError> {
        self.ask.send(candidate).map_err(|_| EnrolmentError::Ended)
    }

    /// What became of one, if that is known by now.
    ///
    /// # Errors
    /// When nothing is tried any more.
    pub fn told(&self) -> Result<Option<Outcome>, EnrolmentError> {
        match self.told.try_recv() {
            Ok(outcome) => Ok(Some(outcome)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(EnrolmentError::Ended),
        }
    }
}

fn attempt(proc: &Path, enroller: &mut Enroller, candidate: &Candidate) -> Outcome {
    let Some(descriptor) = find(proc, candidate) else {
        debug!(connection = candidate.name.connection, "no process has it");
        return Outcome::Refused;
    };
    match enroller.enrol(candidate.name, &descriptor) {
        Ok(()) => Outcome::Enrolled,
        Err(EnrolError::Busy) => Outcome::Busy,
        Err(error) => {
            debug!(connection = candidate.name.connection, %error, "not enrolled");
            Outcome::Refused
        }
    }
}

/// The descriptor of the process that is this connection.
fn find(proc: &Path, candidate: &Candidate) -> Option<Descriptor> {
    let tgid = candidate.tgid;
    let namespace = fs::read_link(proc.join(tgid.to_string()).join("ns/net")).ok()?;
    let namespace = namespace
        .to_str()?
        .strip_prefix("net:[")?
        .strip_suffix(']')?;
    if candidate.namespace != 0 && namespace.parse() != Ok(candidate.namespace) {
        return None;
    }
    let inode = Connections::of(proc, tgid).inode(candidate.ends)?;
    let (fd, inode) = sockets(proc, tgid).find(|(_, other)| *other == inode)?;
    Some(Descriptor {
        tgid,
        fd,
        inode,
        ends: candidate.ends,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::{fd::AsRawFd as _, linux::fs::MetadataExt as _},
    };

    use super::*;
    use crate::{probe::existing::Name, process::connections::Connection};

    #[test]
    fn finds_the_descriptor_of_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let client = TcpStream::connect(address).expect("it listens");
        let (server, _) = listener.accept().expect("it was connected to");
        let namespace = fs::metadata("/proc/self/ns/net").expect("there is one");
        let of = |socket: &TcpStream| Candidate {
            name: Name {
                connection: 1,
                socket: 2,
            },
            tgid: std::process::id(),
            ends: Connection::new(
                socket.local_addr().expect("bound"),
                socket.peer_addr().expect("connected"),
            ),
            namespace: u32::try_from(namespace.st_ino()).unwrap_or_default(),
        };
        let proc = Path::new("/proc");
        let found = find(proc, &of(&client)).expect("it is there");
        assert_eq!(found.fd, client.as_raw_fd());
        // The other end was not made from here, and this namespace is not that one.
        assert!(find(proc, &of(&server)).is_none());
        let other = Candidate {
            namespace: 1,
            ..of(&client)
        };
        assert!(find(proc, &other).is_none());
    }
}
