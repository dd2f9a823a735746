//! Two network namespaces of the calling thread's own, and a pair of virtual interfaces between them.
//!
//! Input: nothing of the machine's own network, which is not touched: the namespaces are seen by nobody else, and gone with the thread and its sockets. Output: listeners
//! in the one, and the calling thread in the other; or what the system refused. Messages are those of rtnetlink(7).

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::SocketAddrNetlink,
        sockopt::{Timeout, set_socket_timeout},
    },
    thread::LinkNameSpaceType,
};

use crate::probe::namespace::leave_network;

/// Number of the interface in either namespace: beyond those that a kernel makes by itself in a new one.
const INTERFACE: u32 = 1_000;

/// Addresses of the listeners' end and of the other one: of networks for documentation (RFC 5737, RFC 3849).
fn addresses() -> [[IpAddr; 2]; 2] {
    let v4 = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    let v6 = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    [[v4(1), v4(2)], [v6(1), v6(2)]]
}

/// How long an answer of the kernel, or the first packet between the namespaces, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the system refused.
#[derive(Debug, thiserror::Error)]
#[error("{what} ({source})")]
pub(super) struct VethError {
    what: &'static str,
    #[source]
    source: io::Error,
}

fn refused<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> VethError {
    move |error| VethError {
        what,
        source: error.into(),
    }
}

/// Moves the calling thread into a new namespace, and gives a listener for IPv4 in another one that it can reach, and one for IPv6 where there is any. `proc` is a mounted
/// `/proc` in which the thread is. A thread that has called this must not be used for anything else.
pub(super) fn listeners(proc: &Path) -> Result<Vec<TcpListener>, VethError> {
    const NEW: &str = "no network namespace can be made";
    leave_network().map_err(refused(NEW))?;
    let mut near = Rtnetlink::open()?;
    let path = proc.join("thread-self/ns/net");
    let near_namespace = File::open(&path).map_err(refused(NEW))?;
    leave_network().map_err(refused(NEW))?;
    let mut far = Rtnetlink::open()?;
    let far_namespace = File::open(&path).map_err(refused(NEW))?;

    const PAIR: &str = "no pair of virtual interfaces can be made";
    near.ask(&new_pair(far_namespace.as_raw_fd()))
        .map_err(refused(PAIR))?;
    for end in [&mut near, &mut far] {
        end.ask(&up()).map_err(refused(PAIR))?;
    }
    let mut listeners = Vec::new();
    for [there, here] in addresses() {
        let added = far
            .ask(&new_address(there))
            .and_then(|()| near.ask(&new_address(here)))
            .and_then(|()| TcpListener::bind((there, 0)));
        match added {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6 has nothing to prove there.
            Err(_) if there.is_ipv6() => {}
            Err(error) => return Err(refused("an interface gets no address")(error)),
        }
    }
    rustix::thread::move_into_link_name_space(
        near_namespace.as_fd(),
        Some(LinkNameSpaceType::Network),
    )
    .map_err(refused("the network namespace cannot be entered"))?;
    for listener in &listeners {
        reach(listener).map_err(refused("one network namespace does not reach the other"))?;
    }
    Ok(listeners)
}

/// One connection, before anything depends on it: an interface passes nothing until the kernel has noticed that its other end is up.
fn reach(listener: &TcpListener) -> io::Result<()> {
    let client = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    let (_server, _) = listener.accept()?;
    drop(client);
    Ok(())
}

/// A socket on which the kernel is asked to change a namespace.
struct Rtnetlink(OwnedFd);

impl Rtnetlink {
    /// Opens one in the calling thread's namespace, of which it stays.
    fn open() -> Result<Self, VethError> {
        let open = || {
            let socket = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                None,
            )?;
            rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
            set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
            Ok(Self(socket))
        };
        open().map_err(refused::<rustix::io::Errno>(
            "the kernel cannot be asked for interfaces",
        ))
    }

    /// Asks, and waits for the answer.
    fn ask(&mut self, message: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.0, message, SendFlags::empty())?;
        let mut answer = [0; 1024];
        let (_, length) = rustix::net::recv(&self.0, &mut answer, RecvFlags::empty())?;
        verdict(answer.get(..length).unwrap_or(&answer))
    }
}

/// What `struct nlmsghdr` and the `struct nlmsgerr` behind it say.
fn verdict(answer: &[u8]) -> io::Result<()> {
    const NLMSG_ERROR: u16 = 2;
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = answer.get(4..6).ok_or_else(malformed)?;
    let error = answer.get(16..20).ok_or_else(malformed)?;
    if kind != NLMSG_ERROR.to_ne_bytes() {
        return Err(malformed());
    }
    let error = error.try_into().map(i32::from_ne_bytes);
    match error.map_err(|_| malformed())? {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// Kinds of messages (include/uapi/linux/rtnetlink.h).
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;

/// Flags of requests (include/uapi/linux/netlink.h): a request, with an answer; and: what is there already is an error.
const CHANGE: u16 = 0x1 | 0x4;
const CREATE: u16 = CHANGE | 0x200 | 0x400;

/// A pair of interfaces of which the other end lies in the namespace that this descriptor stands for.
fn new_pair(other_namespace: i32) -> Vec<u8> {
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_NET_NS_FD: u16 = 28;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const VETH_INFO_PEER: u16 = 1;
    let peer = [
        interface(0),
        attribute(IFLA_IFNAME, b"undertrace1\0"),
        attribute(IFLA_NET_NS_FD, &other_namespace.to_ne_bytes()),
    ]
    .concat();
    let info = [
        attribute(IFLA_INFO_KIND, b"veth"),
        attribute(IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &peer)),
    ]
    .concat();
    let content = [
        interface(0),
        attribute(IFLA_IFNAME, b"undertrace0\0"),
        attribute(IFLA_LINKINFO, &info),
    ];
    message(RTM_NEWLINK, CREATE, &content.concat())
}

/// The interface passes packets from now on.
fn up() -> Vec<u8> {
    const IFF_UP: u32 = 1;
    message(RTM_NEWLINK, CHANGE, &interface(IFF_UP))
}

/// The interface gets an address.
fn new_address(address: IpAddr) -> Vec<u8> {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    /// At once, and not when nobody has claimed it for a second.
    const IFA_F_NODAD: u8 = 2;
    let (family, prefix, flags, bytes) = match address {
        IpAddr::V4(address) => (AF_INET, 30, 0, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, 64, IFA_F_NODAD, address.octets().to_vec()),
    };
    // struct ifaddrmsg
    let content = [
        vec![family, prefix, flags, 0],
        INTERFACE.to_ne_bytes().to_vec(),
        attribute(IFA_LOCAL, &bytes),
        attribute(IFA_ADDRESS, &bytes),
    ];
    message(RTM_NEWADDR, CREATE, &content.concat())
}

/// `struct ifinfomsg`: the interface, and these flags set.
fn interface(flags: u32) -> Vec<u8> {
    [0, INTERFACE, flags, flags].map(u32::to_ne_bytes).concat()
}

/// `struct nlattr` and its value, as long as the next one needs it.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct nlmsghdr` and what follows it.
fn message(kind: u16, flags: u16, content: &[u8]) -> Vec<u8> {
    let length = (16 + content.len()) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and sender: one request at a time needs neither.
    bytes.extend([0; 8]);
    bytes.extend(content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_a_pair_as_the_kernel_reads_it() {
        let expected: &[(&[u8], &str)] = &[
            (&[108, 0, 0, 0, 16, 0, 5, 6], "length, RTM_NEWLINK, flags"),
            (&[0; 8], "sequence number, sender"),
            (&[0, 0, 0, 0, 0xe8, 3, 0, 0], "any family, interface 1000"),
            (&[0; 8], "no flags"),
            (&[16, 0, 3, 0], "IFLA_IFNAME"),
            (b"undertrace0\0", "its name"),
            (&[60, 0, 18, 0], "IFLA_LINKINFO"),
            (&[8, 0, 1, 0, b'v', b'e', b't', b'h'], "IFLA_INFO_KIND"),
            (&[48, 0, 2, 0], "IFLA_INFO_DATA"),
            (&[44, 0, 1, 0], "VETH_INFO_PEER"),
            (&[0, 0, 0, 0, 0xe8, 3, 0, 0], "any family, interface 1000"),
            (&[0; 8], "no flags"),
            (&[16, 0, 3, 0], "IFLA_IFNAME"),
            (b"undertrace1\0", "its name"),
            (&[8, 0, 28, 0, 77, 0, 0, 0], "IFLA_NET_NS_FD"),
        ];
        let mut message = &new_pair(77)[..];
        for (bytes, what) in expected {
            let (part, rest) = message.split_at(bytes.len().min(message.len()));
            assert_eq!(part, *bytes, "{what}");
            message = rest;
        }
        assert!(message.is_empty(), "{message:?}");
    }

    #[test]
    fn asks_for_addresses_as_the_kernel_reads_them() {
        let address = new_address(Ipv4Addr::new(192, 0, 2, 1).into());
        let expected = [
            &[40, 0, 0, 0, 20, 0, 5, 6][..],
            &[0; 8],
            &[2, 30, 0, 0, 0xe8, 3, 0, 0],
            &[8, 0, 2, 0, 192, 0, 2, 1],
            &[8, 0, 1, 0, 192, 0, 2, 1],
        ];
        assert_eq!(address, expected.concat());
        let address = new_address(Ipv6Addr::LOCALHOST.into());
        assert_eq!(address[16..20], [10, 64, 2, 0]);
        assert_eq!(address.len(), 16 + 8 + 2 * 20);
    }

    #[test]
    fn understands_the_answer() {
        let answer = |kind: u16, error: i32| {
            let header = message(kind, 0, &error.to_ne_bytes());
            verdict(&[header, vec![0; 16]].concat())
        };
        assert!(answer(2, 0).is_ok());
        let refused = answer(2, -1).expect_err("EPERM");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(answer(3, 0).is_err());
        assert!(verdict(&[0; 19]).is_err());
    }
}
