//! Puts a connection that is older than the agent into the sockhash.
//!
//! Input: which descriptor of which process, and what it must be. Output: the socket in the sockhash and its entry in `INJECTIONS`, or why not. The process's descriptor is duplicated
//! (pidfd_getfd, since Linux 5.6) for as long as that takes, some ten microseconds; nothing is done to the process.
#![expect(unsafe_code, reason = "questions to a socket that have no safe form")]

use std::{
    io,
    net::TcpStream,
    os::fd::AsRawFd,
    sync::{Arc, Mutex},
};

use agent_common::abi::{Injection, InjectionState};
use aya::maps::{HashMap, MapData, MapError};
use rustix::{
    io::ioctl_fionread,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};
use zerocopy::transmute;

use super::inject::{Sockets, Words, lock};
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

/// What can put connections in.
pub struct Enroller {
    sockets: Arc<Mutex<Sockets>>,
    injections: HashMap<MapData, u64, Words>,
}

impl Enroller {
    pub(super) const fn new(
        sockets: Arc<Mutex<Sockets>>,
        injections: HashMap<MapData, u64, Words>,
    ) -> Self {
        Self {
            sockets,
            injections,
        }
    }

    /// Puts an idle connection in.
    ///
    /// # Errors
    /// When it is not what it is expected to be, or not idle; or when the system refuses something.
    pub fn enrol(&mut self, name: Name, descriptor: &Descriptor) -> Result<(), EnrolError> {
        let socket = duplicate(descriptor)?;
        if is_layered(&socket)? {
            return Err(EnrolError::Layered);
        }
        if !is_idle(&socket)? {
            return Err(EnrolError::Busy);
        }
        let mut sockets = lock(&self.sockets);
        if sockets.stopped {
            return Err(EnrolError::Stopped);
        }
        // First the socket, in which nothing is written without an entry: the first send that finds one has both.
        sockets
            .map
            .insert(name.connection, socket.as_raw_fd(), NO_EXIST)
            .map_err(|source| EnrolError::Map {
                map: "the sockhash",
                source,
            })?;
        let injection = Injection {
            connection: name.connection,
            state: InjectionState::Enrolled as u32,
            ..Injection::default()
        };
        let words: Words = transmute!(injection);
        let entered = self
            .injections
            .insert(name.socket, words, NO_EXIST)
            .map_err(|source| EnrolError::Map {
                map: "INJECTIONS",
                source,
            });
        // A connection that is over from here on takes its entry away itself.
        let entered = entered.and_then(|()| match socket.peer_addr() {
            Ok(_) => Ok(()),
            Err(_) => {
                let _ = self.injections.remove(&name.socket);
                Err(EnrolError::Gone)
            }
        });
        if entered.is_err() {
            let _ = sockets.map.remove(&name.connection);
        }
        entered
    }
}

/// A descriptor of our own for the socket.
fn duplicate(descriptor: &Descriptor) -> Result<TcpStream, EnrolError> {
    let call = |what| {
        move |error: rustix::io::Errno| match error {
            rustix::io::Errno::BADF | rustix::io::Errno::SRCH => EnrolError::Gone,
            error => EnrolError::Call {
                what,
                source: error.into(),
            },
        }
    };
    let pid = Pid::from_raw(descriptor.tgid.cast_signed()).ok_or(EnrolError::Gone)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(call("pidfd_open"))?;
    let socket = pidfd_getfd(&process, descriptor.fd, PidfdGetfdFlags::empty())
        .map_err(call("pidfd_getfd"))?;
    let inode = rustix::fs::fstat(&socket).map_err(call("fstat"))?.st_ino;
    let socket = TcpStream::from(socket);
    let ends = |socket: &TcpStream| -> io::Result<Connection> {
        Ok(Connection::new(socket.local_addr()?, socket.peer_addr()?))
    };
    match ends(&socket) {
        Ok(ends) if ends == descriptor.ends && inode == descriptor.inode => Ok(socket),
        _ => Err(EnrolError::Gone),
    }
}

/// Whether another protocol was put on top of TCP (TCP_ULP, include/uapi/linux/tcp.h): its name is not empty.
fn is_layered(socket: &TcpStream) -> Result<bool, EnrolError> {
    let mut name = [0u8; 16];
    let mut length = name.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes of the name, and their count.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_ULP,
            name.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(EnrolError::Call {
            what: "TCP_ULP",
            source: io::Error::last_os_error(),
        });
    }
    Ok(length != 0)
}

/// Whether nothing is unread here, and nothing that was sent is on its way.
fn is_idle(socket: &TcpStream) -> Result<bool, EnrolError> {
    let call = |what| move |source| EnrolError::Call { what, source };
    let unread = ioctl_fionread(socket).map_err(io::Error::from);
    let unread = unread.map_err(call("FIONREAD"))?;
    let mut unacknowledged: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int (tcp(7), SIOCOUTQ).
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut unacknowledged) };
    if result != 0 {
        return Err(call("SIOCOUTQ")(io::Error::last_os_error()));
    }
    Ok(unread == 0 && unacknowledged == 0)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        os::{fd::AsFd as _, linux::fs::MetadataExt as _},
    };

    use super::*;

    /// A connection of this process, and what describes its client's end.
    fn connection() -> (TcpStream, TcpStream, Descriptor) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let client = TcpStream::connect(address).expect("it listens");
        let (server, _) = listener.accept().expect("it was connected to");
        let own = format!("/proc/self/fd/{}", client.as_raw_fd());
        let descriptor = Descriptor {
            tgid: std::process::id(),
            fd: client.as_raw_fd(),
            inode: std::fs::metadata(own).expect("it is open").st_ino(),
            ends: Connection::new(client.local_addr().expect("bound"), address),
        };
        (client, server, descriptor)
    }

    #[test]
    fn duplicates_the_socket_that_is_meant_and_no_other() {
        let (client, server, descriptor) = connection();
        let copy = duplicate(&descriptor).expect("it is ours");
        assert_ne!(copy.as_raw_fd(), client.as_raw_fd());
        let same = |a: &TcpStream, b: &TcpStream| a.peer_addr().ok() == b.peer_addr().ok();
        assert!(same(&copy, &client));
        let gone = |descriptor: Descriptor| matches!(duplicate(&descriptor), Err(EnrolError::Gone));
        let other = server.as_fd().as_raw_fd();
        assert!(gone(Descriptor {
            fd: other,
            ..descriptor
        }));
        assert!(gone(Descriptor {
            inode: 1,
            ..descriptor
        }));
        assert!(gone(Descriptor {
            fd: 1 << 20,
            ..descriptor
        }));
        assert!(gone(Descriptor {
            tgid: i32::MAX.cast_unsigned(),
            ..descriptor
        }));
    }

    #[test]
    fn is_idle_when_nothing_is_unread_or_under_way() {
        let (mut client, mut server, _) = connection();
        assert!(is_idle(&client).expect("it is a socket"));
        assert!(!is_layered(&client).expect("it is a socket"));
        server.write_all(b"unread").expect("it is connected");
        client.set_nonblocking(false).expect("a socket");
        let mut looked = [0; 6];
        assert_eq!(client.peek(&mut looked).expect("it arrives"), 6);
        assert!(!is_idle(&client).expect("it is a socket"));
        client.read_exact(&mut looked).expect("it is there");
        assert!(is_idle(&client).expect("it is a socket"));
        // More than both ends hold.
        client.set_nonblocking(true).expect("a socket");
        while client.write(&[0; 65536]).is_ok() {}
        assert!(!is_idle(&client).expect("it is a socket"));
    }
}
