//! TCP connections that exist, as `/proc` shows them.
//!
//! Input: a mounted `/proc`. Output: for each network namespace its established connections that were made from inside it, and which socket and descriptor of a process is
//! one of them. Other connections (of listeners, and those that nobody holds any more) are left out.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// States of `/proc/net/tcp` (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

/// The column of queues where nothing that was sent is unacknowledged and nothing that arrived is unread.
const IDLE: &str = "00000000:00000000";

/// Tables of a network namespace, below a process's `net`.
const TABLES: [&str; 2] = ["tcp", "tcp6"];

/// One connection that a process of this namespace made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
}

impl Connection {
    /// The connection between these ends; IPv4 in its mapped form is IPv4.
    #[must_use]
    pub fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        Self {
            local: plain(local),
            peer: plain(peer),
        }
    }
}

/// Connections of one network namespace by the inode of their socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections(HashMap<u64, Connection>);

impl Connections {
    /// Those of the namespace in which a process is.
    #[must_use]
    pub fn of(proc: &Path, tgid: u32) -> Self {
        let read = |name: &str| {
            let path = proc.join(tgid.to_string()).join("net").join(name);
            fs::read_to_string(path).unwrap_or_default()
        };
        Self::parse(&TABLES.map(read))
    }

    /// Those in tables of the form of `/proc/net/tcp` (proc_pid_net(5)).
    fn parse(tables: &[String]) -> Self {
        let mut listening = HashSet::new();
        let mut established = HashMap::new();
        let lines = tables.iter().flat_map(|table| table.lines());
        for entry in lines.filter_map(Entry::parse) {
            match entry.state {
                LISTEN => {
                    listening.insert(entry.ends.local.port());
                }
                // One without an inode belongs to no process any more, or to none yet.
                ESTABLISHED if entry.inode != 0 => {
                    established.insert(entry.inode, entry.ends);
                }
                _ => {}
            }
        }
        established.retain(|_, connection| !listening.contains(&connection.local.port()));
        Self(established)
    }
}

/// One line of a table.
struct Entry<'a> {
    ends: Connection,
    state: &'a str,
    idle: bool,
    inode: u64,
}

impl<'a> Entry<'a> {
    /// None for the first line, and for what is none.
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_whitespace().skip(1);
        let (local, peer) = (address(words.next()?)?, address(words.next()?)?);
        let (state, queues) = (words.next()?, words.next()?);
        // Between them: timers, retransmissions, user, probes.
        let inode = words.nth(4)?.parse().ok()?;
        Some(Self {
            ends: Connection::new(local, peer),
            state,
            idle: queues == IDLE,
            inode,
        })
    }
}

/// A socket, as the kernel's table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its inode.
    pub inode: u64,
    /// Nothing that was sent is unacknowledged, and nothing that arrived is unread.
    pub idle: bool,
}

/// The socket with these ends in the network namespace in which a process is, if it was made from inside it. Reads no further than to the socket.
#[must_use]
pub fn find(proc: &Path, tgid: u32, wanted: Connection) -> Option<Found> {
    let net = proc.join(tgid.to_string()).join("net");
    // A machine without IPv6 has no table of it.
    let tables = TABLES
        .iter()
        .filter_map(|table| File::open(net.join(table)).ok());
    tables
        .map(BufReader::new)
        .find_map(|table| search(table, wanted))
}

fn search(mut table: impl BufRead, wanted: Connection) -> Option<Found> {
    let mut line = String::new();
    loop {
        line.clear();
        if table.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let Some(entry) = Entry::parse(&line) else {
            continue;
        };
        match entry.state {
            // The kernel lists those that listen first (tcp_seq_start, net/ipv4/tcp_ipv4.c): this end was not made from here.
            LISTEN if entry.ends.local.port() == wanted.local.port() => return None,
            ESTABLISHED if entry.inode != 0 && entry.ends == wanted => {
                return Some(Found {
                    inode: entry.inode,
                    idle: entry.idle,
                });
            }
            _ => {}
        }
    }
}

/// Descriptors of a process that are sockets, and their inodes.
pub fn sockets(proc: &Path, tgid: u32) -> impl Iterator<Item = (i32, u64)> {
    let entries = fs::read_dir(proc.join(tgid.to_string()).join("fd"));
    entries.into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        let fd = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?;
        Some((fd, inode.strip_suffix(']')?.parse().ok()?))
    })
}

/// Connections to addresses of which `is_wanted` says so, that the processes `tgids` hold: each once, however many share it.
#[must_use]
pub fn count(
    proc: &Path,
    tgids: impl IntoIterator<Item = u32>,
    is_wanted: impl Fn(&Connection) -> bool,
) -> usize {
    let mut namespaces: HashMap<PathBuf, Connections> = HashMap::new();
    let mut count = 0;
    for tgid in tgids {
        // Another user's, without CAP_SYS_PTRACE.
        let Ok(namespace) = fs::read_link(proc.join(tgid.to_string()).join("ns/net")) else {
            continue;
        };
        let connections = namespaces
            .entry(namespace)
            .or_insert_with(|| Connections::of(proc, tgid));
        for (_, inode) in sockets(proc, tgid) {
            let found = connections.0.remove(&inode);
            count += usize::from(found.as_ref().is_some_and(&is_wanted));
        }
    }
    count
}

/// `0100007F:1F90`: words of the address as this machine stores them, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(8 * at..8 * at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            let octets: [u8; 16] = words.try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::{fd::AsRawFd as _, unix::fs::symlink},
    };

    use super::*;
    use crate::process::fixture::ProcFolder;

    /// As Linux 6.12 prints them on a little-endian machine.
    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0000000000000000 100 0 0 10 0                     
   1: 0100007F:1F90 0100007F:A3C2 01 00000000:00000000 00:00000000 00000000     0        0 101 1 0000000000000000 20 4 30 10 -1                    
   2: 0100007F:A3C2 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 102 1 0000000000000000 20 4 30 10 -1                    
   3: 0F02000A:C350 08080808:0050 01 00000000:00000000 02:000A7214 00000000  1000        0 103 2 0000000000000000 20 4 30 10 -1                    
   4: 0F02000A:C351 0101010A:0050 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0000000000000000                                    
   5: 0F02000A:C352 0101010A:0050 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 20 4 30 10 -1                      
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:C353 00000000000000000000000001000000:0050 01 00000000:00000000 00:00000000 00000000     0        0 104 1 0000000000000000 20 4 30 10 -1
   1: 0000000000000000FFFF00000F02000A:C354 0000000000000000FFFF00000101010A:0050 01 00000000:00000000 00:00000000 00000000     0        0 105 1 0000000000000000 20 4 30 10 -1
nonsense
   2: 00000000:C353 0:1 01 a b c d e 106
";

    fn connection(local: &str, peer: &str) -> Connection {
        let parse = |text: &str| text.parse().expect("an address and a port");
        Connection {
            local: parse(local),
            peer: parse(peer),
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn reads_connections_that_were_made_from_here() {
        let connections = Connections::parse(&[TCP.to_owned(), TCP6.to_owned()]);
        let expected = [
            (102, "127.0.0.1:41922", "127.0.0.1:8080"),
            (103, "10.0.2.15:50000", "8.8.8.8:80"),
            (104, "[::1]:50003", "[::1]:80"),
            (105, "10.0.2.15:50004", "10.1.1.1:80"),
        ];
        let expected = expected.map(|(inode, local, peer)| (inode, connection(local, peer)));
        assert_eq!(connections, Connections(expected.into()));
    }

    /// What is read on is a failed test.
    struct Beyond;

    impl io::Read for Beyond {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("it reads on");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn finds_one_connection_and_reads_no_further() {
        let found = |inode, idle| Some(Found { inode, idle });
        let wanted = connection("127.0.0.1:41922", "127.0.0.1:8080");
        let other_end = connection("127.0.0.1:8080", "127.0.0.1:41922");
        for (wanted, expected) in [(wanted, found(102, true)), (other_end, None)] {
            let table = TCP.as_bytes().chain(BufReader::new(Beyond));
            assert_eq!(search(table, wanted), expected);
        }
        let mapped = connection("10.0.2.15:50004", "10.1.1.1:80");
        assert_eq!(search(TCP6.as_bytes(), mapped), found(105, true));
        assert_eq!(search(TCP.as_bytes(), mapped), None);
        // Nobody's, and over.
        for local in ["10.0.2.15:50002", "10.0.2.15:50001"] {
            let wanted = connection(local, "10.1.1.1:80");
            assert_eq!(search(TCP.as_bytes(), wanted), None);
        }
        let queues = " 01 00000000:00000000 ";
        for busy in [" 01 00000001:00000000 ", " 01 00000000:0000A000 "] {
            let table = TCP.replace(queues, busy);
            assert_eq!(search(table.as_bytes(), wanted), found(102, false));
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn counts_a_connection_once_and_only_what_is_wanted() {
        let proc = ProcFolder::new();
        for (tgid, sockets) in [(7, &[101, 102, 103][..]), (8, &[102, 105]), (9, &[104])] {
            proc.add(tgid, 1, "/bin/x", &[]);
            let folder = proc.path().join(tgid.to_string());
            for name in ["fd", "ns", "net"] {
                fs::create_dir_all(folder.join(name)).expect("the folder is writable");
            }
            proc.write(tgid, "net/tcp", TCP.as_bytes());
            proc.write(tgid, "net/tcp6", TCP6.as_bytes());
            symlink("/dev/null", folder.join("fd/0")).expect("the folder is writable");
            for (fd, inode) in (3..).zip(sockets) {
                let link = folder.join("fd").join(fd.to_string());
                symlink(format!("socket:[{inode}]"), link).expect("the folder is writable");
            }
            if tgid != 9 {
                symlink("net:[1]", folder.join("ns/net")).expect("the folder is writable");
            }
        }
        let all = [7, 8, 9, 10];
        assert_eq!(count(proc.path(), all, |_| true), 3);
        let is_private = |connection: &Connection| connection.peer.ip().to_string() != "8.8.8.8";
        assert_eq!(count(proc.path(), all, is_private), 2);
        let sockets: HashSet<_> = sockets(proc.path(), 8).collect();
        assert_eq!(sockets, HashSet::from([(3, 102), (4, 105)]));
    }

    #[test]
    fn finds_a_connection_of_this_process() {
        let proc = Path::new("/proc");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let client = TcpStream::connect(address).expect("it listens");
        let ends = Connection {
            local: client.local_addr().expect("it is bound"),
            peer: address,
        };
        let own = std::process::id();
        let found = find(proc, own, ends).expect("the connection is in the table");
        assert!(found.idle);
        let mut sockets = sockets(proc, own);
        assert!(sockets.any(|socket| socket == (client.as_raw_fd(), found.inode)));
        let (mut server, _) = listener.accept().expect("it was connected to");
        server.write_all(b"unread").expect("it is connected");
        client.peek(&mut [0]).expect("it arrives");
        let found = find(proc, own, ends).expect("the connection is in the table");
        assert!(!found.idle);
        let counted = count(proc, [own], |connection| *connection == ends);
        assert_eq!(counted, 1);
    }
}
