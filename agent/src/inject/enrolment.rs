//! Tries to put connections that are older than the agent into the sockhash, on a thread of its own: looking for a process's descriptors takes its time
//! on a large machine.
//!
//! Input: a [`Candidate`]. Output: an [`Outcome`] for each, in order.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    thread,
};

use tracing::{debug, warn};

use super::older::{Candidate, Outcome};
use crate::{
    kernel::features::own_thread,
    probe::existing::{Descriptor, EnrolError, Enroller},
    process::connections::{self, sockets},
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
                let mut told_refusal = false;
                for candidate in asked {
                    let tried = attempt(&proc, &mut enroller, &candidate);
                    if let Err(error) = &tried {
                        complain(error, &candidate, &mut told_refusal);
                    }
                    if tell.send(outcome(&tried)).is_err() {
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

fn attempt(proc: &Path, enroller: &mut Enroller, candidate: &Candidate) -> Result<(), EnrolError> {
    let descriptor = find(proc, candidate)?;
    enroller.enrol(candidate.name, &descriptor)
}

fn outcome(tried: &Result<(), EnrolError>) -> Outcome {
    match tried {
        Ok(()) => Outcome::Enrolled,
        Err(error) if error.is_passing() => Outcome::Busy,
        Err(_) => Outcome::Refused,
    }
}

/// Says why one was not put in: what the system refuses once to everybody, since it will refuse the next one too.
fn complain(error: &EnrolError, candidate: &Candidate, told: &mut bool) {
    let refused = matches!(error, EnrolError::Call { .. }) && !error.is_passing();
    if refused && !std::mem::replace(told, true) {
        warn!(
            reason = %error,
            "a connection older than the agent gets no header (others may not either, and are counted): needs CAP_SYS_PTRACE, and a filter of system calls \
             that lets pidfd_getfd pass (systemd: SystemCallFilter=pidfd_getfd)"
        );
    }
    debug!(connection = candidate.name.connection, %error, "not enrolled");
}

/// The descriptor of the process that is this connection, if it is idle.
fn find(proc: &Path, candidate: &Candidate) -> Result<Descriptor, EnrolError> {
    let tgid = candidate.tgid;
    let namespace = fs::read_link(proc.join(tgid.to_string()).join("ns/net"));
    let namespace = namespace.map_err(|source| match source.kind() {
        ErrorKind::NotFound => EnrolError::Gone,
        _ => EnrolError::Call {
            what: "looking at the process's network namespace",
            source,
        },
    })?;
    let expected = format!("net:[{}]", candidate.namespace);
    if candidate.namespace != 0 && namespace != Path::new(&expected) {
        return Err(EnrolError::Gone);
    }
    let found = connections::find(proc, tgid, candidate.ends).ok_or(EnrolError::Gone)?;
    if !found.idle {
        return Err(EnrolError::Busy);
    }
    let (fd, inode) = sockets(proc, tgid)
        .find(|(_, inode)| *inode == found.inode)
        .ok_or(EnrolError::Gone)?;
    Ok(Descriptor {
        tgid,
        fd,
        inode,
        ends: candidate.ends,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
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
        let (mut server, _) = listener.accept().expect("it was connected to");
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
        let found = find(proc, &of(&client)).expect("it is there and idle");
        assert_eq!(found.fd, client.as_raw_fd());
        // The other end was not made from here, and this namespace is not that one.
        let gone = |candidate: &Candidate| matches!(find(proc, candidate), Err(EnrolError::Gone));
        assert!(gone(&of(&server)));
        assert!(gone(&Candidate {
            namespace: 1,
            ..of(&client)
        }));
        assert!(gone(&Candidate {
            tgid: i32::MAX.cast_unsigned(),
            ..of(&client)
        }));
        server.write_all(b"unread").expect("it is connected");
        client.peek(&mut [0]).expect("it arrives");
        assert!(matches!(find(proc, &of(&client)), Err(EnrolError::Busy)));
    }

    #[test]
    fn tells_of_a_refusal_once_and_of_nothing_that_passes() {
        let candidate = Candidate {
            name: Name {
                connection: 1,
                socket: 2,
            },
            tgid: 3,
            ends: Connection::new(([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into()),
            namespace: 0,
        };
        let call = |error| EnrolError::Call {
            what: "pidfd_getfd",
            source: io::Error::from_raw_os_error(error),
        };
        let mut told = false;
        for error in [EnrolError::Gone, EnrolError::Busy, call(libc::EMFILE)] {
            complain(&error, &candidate, &mut told);
            assert!(!told, "{error}");
        }
        complain(&call(libc::EPERM), &candidate, &mut told);
        assert!(told);
        assert_eq!(outcome(&Err(call(libc::EPERM))), Outcome::Refused);
        assert_eq!(outcome(&Err(call(libc::EMFILE))), Outcome::Busy);
        assert_eq!(outcome(&Ok(())), Outcome::Enrolled);
    }
}
