//! A process's socket: a descriptor of our own for it, and questions to it.
//!
//! Input: which descriptor of which process, and what it must be. Output: the duplicate, and what the kernel says of it. Nothing is changed.
#![expect(unsafe_code, reason = "questions to a socket that have no safe form")]

use std::{io, net::TcpStream, os::fd::AsRawFd};

use rustix::{
    io::ioctl_fionread,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{Descriptor, EnrolError};
use crate::process::connections::Connection;

/// A descriptor of our own for the socket.
pub(super) fn duplicate(descriptor: &Descriptor) -> Result<TcpStream, EnrolError> {
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
pub(super) fn is_layered(socket: &TcpStream) -> Result<bool, EnrolError> {
    let mut name = [0; 16];
    let length = option(socket, (libc::IPPROTO_TCP, libc::TCP_ULP), &mut name);
    let length = length.map_err(|source| EnrolError::Call {
        what: "TCP_ULP",
        source,
    })?;
    Ok(length != 0)
}

/// Whether sends may leave their pages in the process's hands and tell of their completion (SO_ZEROCOPY, socket(7)).
pub(super) fn has_zero_copy(socket: &TcpStream) -> Result<bool, EnrolError> {
    let mut flag = [0; size_of::<libc::c_int>()];
    option(socket, (libc::SOL_SOCKET, libc::SO_ZEROCOPY), &mut flag).map_err(|source| {
        EnrolError::Call {
            what: "SO_ZEROCOPY",
            source,
        }
    })?;
    Ok(libc::c_int::from_ne_bytes(flag) != 0)
}

/// Reads an option of this level and name; gives how many bytes it has.
fn option(
    socket: &TcpStream,
    (level, name): (libc::c_int, libc::c_int),
    value: &mut [u8],
) -> io::Result<usize> {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes of the value, and their count.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(length as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether nothing is unread here, and nothing that was sent is on its way.
pub(super) fn is_idle(socket: &TcpStream) -> Result<bool, EnrolError> {
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

    #[test]
    fn sees_who_waits_for_the_completion_of_sends() {
        let (client, server, _) = connection();
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads one int.
        let result = unsafe {
            libc::setsockopt(
                client.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ZEROCOPY,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        assert!(has_zero_copy(&client).expect("it is a socket"));
        assert!(!has_zero_copy(&server).expect("it is a socket"));
    }

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
