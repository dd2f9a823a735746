//! Sockets: identity and TCP sequence numbers.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_skc_to_tcp_sock};

use super::field;
use crate::globals::global;
use agent_common::kernel_fields::ABSENT;

pub(crate) const IPPROTO_TCP: u16 = 6;
pub(crate) const IPPROTO_UDP: u16 = 17;
pub(crate) const IPPROTO_MPTCP: u16 = 262;
pub(crate) const AF_UNIX: u16 = 1;
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;

/// TCP states (include/net/tcp_states.h).
pub(crate) const TCP_ESTABLISHED: u8 = 1;
pub(crate) const TCP_SYN_SENT: u8 = 2;
pub(crate) const TCP_FIN_WAIT1: u8 = 4;
pub(crate) const TCP_FIN_WAIT2: u8 = 5;
const TCP_TIME_WAIT: u8 = 6;
pub(crate) const TCP_CLOSE: u8 = 7;
pub(crate) const TCP_CLOSE_WAIT: u8 = 8;
pub(crate) const TCP_LAST_ACK: u8 = 9;
pub(crate) const TCP_LISTEN: u8 = 10;
pub(crate) const TCP_CLOSING: u8 = 11;

/// What tells one use of a sock from another one at the same address.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Identity {
    pub(crate) family: u16,
    pub(crate) protocol: u16,
    /// Host byte order.
    pub(crate) local_port: u16,
    /// Host byte order.
    pub(crate) peer_port: u16,
}

impl Identity {
    /// The four numbers as one word, for a comparison in one instruction.
    #[inline(always)]
    pub(crate) fn word(self) -> u64 {
        u64::from(self.family)
            | u64::from(self.protocol) << 16
            | u64::from(self.local_port) << 32
            | u64::from(self.peer_port) << 48
    }

    #[inline(always)]
    pub(crate) fn from_word(word: u64) -> Self {
        Self {
            family: word as u16,
            protocol: (word >> 16) as u16,
            local_port: (word >> 32) as u16,
            peer_port: (word >> 48) as u16,
        }
    }
}

/// Identity of a `struct sock` whose type the verifier knows.
#[inline(always)]
pub(crate) fn identity(sk: *const u8) -> Identity {
    Identity {
        family: field::load(sk, global!(O_SOCK_COMMON_SKC_FAMILY)),
        protocol: field::load(sk, global!(O_SOCK_SK_PROTOCOL)),
        local_port: field::load(sk, global!(O_SOCK_COMMON_SKC_NUM)),
        peer_port: u16::from_be(field::load(sk, global!(O_SOCK_COMMON_SKC_DPORT))),
    }
}

/// `write_seq` and `copied_seq` of a sock whose type the verifier knows; zeros for one that is no `tcp_sock`.
#[inline(always)]
pub(crate) fn sequences(sk: *const u8) -> (u32, u32) {
    // SAFETY: the verifier checks that it is a sock; the helper that it is one of TCP.
    let tcp: *const u8 = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) }.cast();
    if tcp.is_null() {
        return (0, 0);
    }
    (
        field::load(tcp, global!(O_TCP_SOCK_WRITE_SEQ)),
        field::load(tcp, global!(O_TCP_SOCK_COPIED_SEQ)),
    )
}

/// `tcp_sock.write_seq`.
#[inline(always)]
pub(crate) fn write_seq(sk: u64) -> u32 {
    field::read(sk, global!(O_TCP_SOCK_WRITE_SEQ))
}

/// `tcp_sock.copied_seq`.
#[inline(always)]
pub(crate) fn copied_seq(sk: u64) -> u32 {
    field::read(sk, global!(O_TCP_SOCK_COPIED_SEQ))
}

/// Whether everything received was read.
#[inline(always)]
pub(crate) fn is_drained(sk: u64) -> bool {
    field::read::<u32>(sk, global!(O_TCP_SOCK_RCV_NXT)) == copied_seq(sk)
}

/// Whether nothing is left to read but the peer's FIN, which counts like a byte.
#[inline(always)]
pub(crate) fn is_read_out(sk: u64) -> bool {
    let next: u32 = field::read(sk, global!(O_TCP_SOCK_RCV_NXT));
    let unread = next.wrapping_sub(copied_seq(sk));
    unread == 0 || (unread == 1 && may_have_fin(sk))
}

/// Sequence numbers of the first byte sent and of the first byte received, for a connection whose start was not seen; nothing where the
/// kernel does not count.
///
/// `bytes_acked` of the end that connected includes its SYN (tcp_rcv_synsent_state_process calls tcp_ack, net/ipv4/tcp_input.c); the accepting end's
/// `snd_una` begins behind it. `bytes_received` counts no SYN at either end. A FIN is counted on both sides of each difference.
#[inline(always)]
pub(crate) fn bases(sk: u64, connected: bool) -> Option<(u32, u32)> {
    if global!(O_TCP_SOCK_SND_UNA) == ABSENT
        || global!(O_TCP_SOCK_RCV_NXT) == ABSENT
        || global!(O_TCP_SOCK_BYTES_ACKED) == ABSENT
        || global!(O_TCP_SOCK_BYTES_RECEIVED) == ABSENT
    {
        return None;
    }
    let acked: u64 = field::read(sk, global!(O_TCP_SOCK_BYTES_ACKED));
    let received: u64 = field::read(sk, global!(O_TCP_SOCK_BYTES_RECEIVED));
    let una: u32 = field::read(sk, global!(O_TCP_SOCK_SND_UNA));
    let next: u32 = field::read(sk, global!(O_TCP_SOCK_RCV_NXT));
    let send = una
        .wrapping_sub(acked as u32)
        .wrapping_add(u32::from(connected));
    Some((send, next.wrapping_sub(received as u32)))
}

/// Whether an upper-layer protocol (kTLS, an MPTCP subflow) sits on the connection.
#[inline(always)]
pub(crate) fn has_upper_layer(sk: u64) -> bool {
    let offset = global!(O_INET_CONNECTION_SOCK_ICSK_ULP_OPS);
    offset != ABSENT && field::read::<u64>(sk, offset) != 0
}

/// What a socket may still queue for sending.
pub(crate) struct SendQueue {
    /// Bytes of memory in use.
    pub(crate) used: u32,
    /// Bytes of memory that it may use.
    pub(crate) limit: u32,
    /// Bytes of payload that may lie there unsent.
    pub(crate) unsent_limit: u32,
}

/// What a TCP socket may still queue for sending; nothing where the kernel does not tell its limits.
#[inline(always)]
pub(crate) fn send_queue(sk: u64) -> SendQueue {
    let mut unsent_limit = u32::MAX;
    let (own, net) = (
        global!(O_TCP_SOCK_NOTSENT_LOWAT),
        global!(O_SOCK_COMMON_SKC_NET),
    );
    if own != ABSENT {
        let limit: u32 = field::read(sk, own);
        if limit != 0 {
            unsent_limit = limit;
        } else if net != ABSENT && global!(O_NET_SYSCTL_TCP_NOTSENT_LOWAT) != ABSENT {
            unsent_limit = field::read(
                field::read(sk, net),
                global!(O_NET_SYSCTL_TCP_NOTSENT_LOWAT),
            );
        }
    }
    SendQueue {
        used: field::read(sk, global!(O_SOCK_SK_WMEM_QUEUED)),
        limit: field::read(sk, global!(O_SOCK_SK_SNDBUF)),
        unsent_limit,
    }
}

/// TCP state.
#[inline(always)]
pub(crate) fn state(sk: u64) -> u8 {
    field::read(sk, global!(O_SOCK_COMMON_SKC_STATE))
}

/// Whether a FIN of the peer may have been received.
#[inline(always)]
pub(crate) fn may_have_fin(sk: u64) -> bool {
    matches!(
        state(sk),
        TCP_TIME_WAIT | TCP_CLOSE | TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING
    )
}

/// Pending error, a positive errno.
#[inline(always)]
pub(crate) fn error(sk: u64) -> u32 {
    let offset = global!(O_SOCK_SK_ERR);
    if offset == ABSENT {
        return 0;
    }
    field::read(sk, offset)
}

/// Whether no process holds the socket any more.
#[inline(always)]
pub(crate) fn is_orphan(sk: u64) -> bool {
    let offset = global!(O_SOCK_SK_SOCKET);
    offset != ABSENT && field::read::<u64>(sk, offset) == 0
}

/// Whether its process will neither send nor receive any more.
#[inline(always)]
pub(crate) fn is_shut(sk: u64) -> bool {
    const BOTH: u8 = 3;
    let offset = global!(O_SOCK_SK_SHUTDOWN);
    offset != ABSENT && field::read::<u8>(sk, offset) & BOTH == BOTH
}

/// Peer of a unix socket, 0 for none.
#[inline(always)]
pub(crate) fn unix_peer(sk: u64) -> u64 {
    let offset = global!(O_UNIX_SOCK_PEER);
    if offset == ABSENT {
        return 0;
    }
    field::read(sk, offset)
}

/// Inode number of the socket's network namespace, 0 when unknown.
#[inline(always)]
pub(crate) fn network_namespace(sk: u64) -> u32 {
    let (net, inum) = (global!(O_SOCK_COMMON_SKC_NET), global!(O_NET_NS_INUM));
    if net == ABSENT || inum == ABSENT {
        return 0;
    }
    field::read(field::read(sk, net), inum)
}

/// Writes the local and the peer's address to `local` and `peer`.
#[inline(always)]
pub(crate) fn addresses(sk: u64, family: u16, local: &mut [u8; 16], peer: &mut [u8; 16]) {
    if family == AF_INET {
        read_bytes(local, 4, sk, global!(O_SOCK_COMMON_SKC_RCV_SADDR));
        read_bytes(peer, 4, sk, global!(O_SOCK_COMMON_SKC_DADDR));
    } else if family == AF_INET6 && global!(O_SOCK_COMMON_SKC_V6_DADDR) != ABSENT {
        read_bytes(local, 16, sk, global!(O_SOCK_COMMON_SKC_V6_RCV_SADDR));
        read_bytes(peer, 16, sk, global!(O_SOCK_COMMON_SKC_V6_DADDR));
    }
}

#[inline(always)]
fn read_bytes(to: &mut [u8; 16], length: u32, sk: u64, offset: u32) {
    let from = sk.wrapping_add(u64::from(offset));
    // SAFETY: the helper checks the address; `length` is 4 or 16, and the destination has 16 bytes.
    let _ = unsafe { bpf_probe_read_kernel(to.as_mut_ptr().cast(), length, from as *const _) };
}

/// Identity of a sock known by address only.
#[inline(always)]
pub(crate) fn identity_of(sk: u64) -> Identity {
    Identity {
        family: field::read(sk, global!(O_SOCK_COMMON_SKC_FAMILY)),
        protocol: field::read(sk, global!(O_SOCK_SK_PROTOCOL)),
        local_port: field::read(sk, global!(O_SOCK_COMMON_SKC_NUM)),
        peer_port: u16::from_be(field::read(sk, global!(O_SOCK_COMMON_SKC_DPORT))),
    }
}
