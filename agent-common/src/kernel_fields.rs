//! The one table of kernel struct members and enumerators that the kernel programs read.
//!
//! Input: nothing. Output: the table three times over, from one list: as data ([`FIELDS`], [`ENUM_VALUES`], [`WIDTHS`])
//! for the daemon, which resolves each entry against the running kernel's BTF; as a callback macro
//! ([`for_each_kernel_field`](crate::for_each_kernel_field)); and as the read-only globals of the kernel programs
//! ([`declare_kernel_globals`](crate::declare_kernel_globals)), so that the two sides cannot drift apart.
//!
//! It resolves nothing itself and holds no offset: those differ from build to build of a kernel.
//!
//! Names: `O_<STRUCT>_<MEMBER>` is an offset in bytes from the start of the struct, `V_<ENUMERATOR>` the value of an
//! enumerator, `W_<MEMBER>` the width of a member in bytes. Every global is a `u32`, and [`ABSENT`] says that this
//! kernel has no such thing.

/// Value of a global whose member or enumerator this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// The agent cannot observe anything without this member.
const REQUIRED: bool = true;
/// A kernel without this member loses one feature, not the agent.
const OPTIONAL: bool = false;
/// The member is a struct that is only passed through, or its width is a global of its own.
const ANY: u32 = 0;

/// One member of a kernel struct whose offset a kernel program needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Name of the read-only `u32` global in the eBPF object.
    pub global: &'static str,
    /// `(struct, dotted member path)`, tried in order; later ones are the names of other kernels or architectures.
    /// Anonymous structs and unions on the way are not named.
    pub candidates: &'static [(&'static str, &'static str)],
    /// Width in bytes that the programs read; a member of another width is refused. 0 accepts every width.
    pub bytes: u32,
    /// Whether the agent refuses to start where no candidate is there.
    pub required: bool,
}

/// One enumerator of a kernel enumeration whose value a kernel program compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnumValue {
    /// Name of the read-only `u32` global in the eBPF object.
    pub global: &'static str,
    /// Name of the enumeration.
    pub enumeration: &'static str,
    /// Name of the enumerator.
    pub enumerator: &'static str,
    /// Whether the agent refuses to start where it is not there.
    pub required: bool,
}

/// One member whose width, and not only its offset, differs between kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width {
    /// Name of the read-only `u32` global in the eBPF object: the width in bytes.
    pub global: &'static str,
    /// As in [`Field::candidates`].
    pub candidates: &'static [(&'static str, &'static str)],
    /// Whether the agent refuses to start where no candidate is there.
    pub required: bool,
}

/// Calls the macro named by the argument once, with the whole table as its input:
///
/// ```text
/// offsets { $(#[doc])* GLOBAL: REQUIRED|OPTIONAL, bytes, [("struct", "member.path"), ...]; ... }
/// values  { $(#[doc])* GLOBAL: REQUIRED|OPTIONAL, "enumeration", "ENUMERATOR"; ... }
/// widths  { $(#[doc])* GLOBAL: REQUIRED|OPTIONAL, [("struct", "member.path"), ...]; ... }
/// ```
///
/// Sources: Linux `include/linux/net.h`, `include/net/sock.h`, `include/linux/tcp.h`, `include/linux/uio.h`,
/// `include/linux/sched.h`, `include/linux/sched/signal.h`, `include/linux/skbuff.h`, `include/net/tcp.h`, `include/net/af_unix.h`, as of 5.10 to 7.2; each renaming is noted at its entry.
#[macro_export]
macro_rules! for_each_kernel_field {
    ($($callback:tt)+) => {
        $($callback)+! {
            offsets {
                /// `struct sock *` of a `struct socket`.
                O_SOCKET_SK: REQUIRED, 8, [("socket", "sk")];

                /// Address family, host byte order.
                O_SOCK_COMMON_SKC_FAMILY: REQUIRED, 2, [("sock_common", "skc_family")];
                /// Local port, host byte order.
                O_SOCK_COMMON_SKC_NUM: REQUIRED, 2, [("sock_common", "skc_num")];
                /// Peer's port, network byte order.
                O_SOCK_COMMON_SKC_DPORT: REQUIRED, 2, [("sock_common", "skc_dport")];
                /// Local IPv4 address, network byte order.
                O_SOCK_COMMON_SKC_RCV_SADDR: REQUIRED, 4, [("sock_common", "skc_rcv_saddr")];
                /// Peer's IPv4 address, network byte order.
                O_SOCK_COMMON_SKC_DADDR: REQUIRED, 4, [("sock_common", "skc_daddr")];
                /// Local IPv6 address; absent where the kernel is built without IPv6.
                O_SOCK_COMMON_SKC_V6_RCV_SADDR: OPTIONAL, 16, [("sock_common", "skc_v6_rcv_saddr")];
                /// Peer's IPv6 address; absent where the kernel is built without IPv6.
                O_SOCK_COMMON_SKC_V6_DADDR: OPTIONAL, 16, [("sock_common", "skc_v6_daddr")];
                /// TCP state, `TCP_ESTABLISHED` and so on.
                O_SOCK_COMMON_SKC_STATE: REQUIRED, 1, [("sock_common", "skc_state")];
                /// `struct net *` of the socket; absent where the kernel is built without network namespaces.
                O_SOCK_COMMON_SKC_NET: OPTIONAL, 8, [("sock_common", "skc_net.net")];
                /// Inode number of a network namespace.
                O_NET_NS_INUM: OPTIONAL, 4, [("net", "ns.inum")];

                /// `IPPROTO_*`; a bit field before 5.6, which is refused.
                O_SOCK_SK_PROTOCOL: REQUIRED, 2, [("sock", "sk_protocol")];
                /// `SOCK_STREAM` and so on; a bit field before 5.6, which is refused.
                O_SOCK_SK_TYPE: OPTIONAL, 2, [("sock", "sk_type")];
                /// `struct socket *` of a sock, null for one that was not accepted yet or is orphaned.
                O_SOCK_SK_SOCKET: OPTIONAL, 8, [("sock", "sk_socket")];
                /// Which directions the process has shut: 1 receiving, 2 sending.
                O_SOCK_SK_SHUTDOWN: OPTIONAL, 1, [("sock", "sk_shutdown")];
                /// Bytes of the send queue, with what the kernel needs to keep them.
                O_SOCK_SK_WMEM_QUEUED: OPTIONAL, 4, [("sock", "sk_wmem_queued")];
                /// Bytes that the send queue may have.
                O_SOCK_SK_SNDBUF: OPTIONAL, 4, [("sock", "sk_sndbuf")];
                /// Pending error, a positive errno.
                O_SOCK_SK_ERR: OPTIONAL, 4, [("sock", "sk_err")];

                /// Position after the last byte that was queued for sending.
                O_TCP_SOCK_WRITE_SEQ: REQUIRED, 4, [("tcp_sock", "write_seq")];
                /// Position after the last byte that was read by the application.
                O_TCP_SOCK_COPIED_SEQ: REQUIRED, 4, [("tcp_sock", "copied_seq")];
                /// Unsent bytes that the process lets the kernel queue, 0 for what is set for the network namespace.
                O_TCP_SOCK_NOTSENT_LOWAT: OPTIONAL, 4, [("tcp_sock", "notsent_lowat")];
                /// The same for all sockets of a network namespace.
                O_NET_SYSCTL_TCP_NOTSENT_LOWAT: OPTIONAL, 4, [("net", "ipv4.sysctl_tcp_notsent_lowat")];
                /// Position after the last byte that the peer acknowledged.
                O_TCP_SOCK_SND_UNA: OPTIONAL, 4, [("tcp_sock", "snd_una")];
                /// Position of the next byte expected from the peer.
                O_TCP_SOCK_RCV_NXT: OPTIONAL, 4, [("tcp_sock", "rcv_nxt")];
                /// Bytes acknowledged by the peer since the connection began.
                O_TCP_SOCK_BYTES_ACKED: OPTIONAL, 8, [("tcp_sock", "bytes_acked")];
                /// Bytes received in order since the connection began.
                O_TCP_SOCK_BYTES_RECEIVED: OPTIONAL, 8, [("tcp_sock", "bytes_received")];
                /// Upper layer protocol (kTLS); not null where `write_seq` counts ciphertext.
                O_INET_CONNECTION_SOCK_ICSK_ULP_OPS: OPTIONAL, 8, [("inet_connection_sock", "icsk_ulp_ops")];

                /// What the protocol keeps with a packet: a `struct tcp_skb_cb` for TCP.
                O_SK_BUFF_CB: OPTIONAL, ANY, [("sk_buff", "cb")];
                /// Bytes of a packet: of payload, where TCP keeps it to send it again.
                O_SK_BUFF_LEN: OPTIONAL, 4, [("sk_buff", "len")];
                /// Sequence number of a segment's first byte.
                O_TCP_SKB_CB_SEQ: OPTIONAL, 4, [("tcp_skb_cb", "seq")];

                /// The `struct iov_iter` inside a `struct msghdr`.
                O_MSGHDR_MSG_ITER: REQUIRED, ANY, [("msghdr", "msg_iter")];
                /// Kind of an iterator, `W_ITER_TYPE` bytes wide; `type`, with the direction in bit 0, before 5.14.
                O_IOV_ITER_ITER_TYPE: REQUIRED, ANY, [("iov_iter", "iter_type"), ("iov_iter", "type")];
                /// Bytes already consumed of the current segment.
                O_IOV_ITER_IOV_OFFSET: REQUIRED, 8, [("iov_iter", "iov_offset")];
                /// Bytes left in the whole iterator.
                O_IOV_ITER_COUNT: REQUIRED, 8, [("iov_iter", "count")];
                /// `struct iovec *`, the current segment; `iov` before 6.4.
                O_IOV_ITER_IOV: REQUIRED, 8, [("iov_iter", "__iov"), ("iov_iter", "iov")];
                /// The single user buffer; from 6.0.
                O_IOV_ITER_UBUF: OPTIONAL, 8, [("iov_iter", "ubuf")];
                /// Segments left, the current one included.
                O_IOV_ITER_NR_SEGS: REQUIRED, 8, [("iov_iter", "nr_segs")];

                /// `struct sock *` of a unix socket's peer; absent where unix sockets are a module.
                O_UNIX_SOCK_PEER: OPTIONAL, 8, [("unix_sock", "peer")];

                /// Process id in the first pid namespace.
                O_TASK_STRUCT_TGID: REQUIRED, 4, [("task_struct", "tgid")];
                /// Thread id in the first pid namespace.
                O_TASK_STRUCT_PID: REQUIRED, 4, [("task_struct", "pid")];
                /// `PF_*` bits.
                O_TASK_STRUCT_FLAGS: OPTIONAL, 4, [("task_struct", "flags")];
                /// Start of the thread, CLOCK_MONOTONIC ns.
                O_TASK_STRUCT_START_TIME: OPTIONAL, 8, [("task_struct", "start_time")];
                /// Start of the thread, CLOCK_BOOTTIME ns: the clock of field 22 of `/proc/PID/stat`;
                /// `real_start_time` before 5.5.
                O_TASK_STRUCT_START_BOOTTIME: REQUIRED, 8, [("task_struct", "start_boottime"), ("task_struct", "real_start_time")];
                /// `struct task_struct *` of the process's first thread.
                O_TASK_STRUCT_GROUP_LEADER: REQUIRED, 8, [("task_struct", "group_leader")];
                /// `struct task_struct *` of the parent, tracers left aside.
                O_TASK_STRUCT_REAL_PARENT: OPTIONAL, 8, [("task_struct", "real_parent")];
                /// The thread's TLS base: FS on x86-64, `tpidr_el0` on arm64.
                O_TASK_STRUCT_THREAD_FSBASE: OPTIONAL, 8, [("task_struct", "thread.fsbase"), ("task_struct", "thread.uw.tp_value")];
                /// `struct signal_struct *`, which the threads of a process share.
                O_TASK_STRUCT_SIGNAL: REQUIRED, 8, [("task_struct", "signal")];
                /// Threads of the process that have not ended.
                O_SIGNAL_STRUCT_LIVE: REQUIRED, 4, [("signal_struct", "live.counter")];
                /// Exit code and signal as `wait` gives them.
                O_TASK_STRUCT_EXIT_CODE: OPTIONAL, 4, [("task_struct", "exit_code")];
            }
            values {
                /// One user buffer; from 6.0 (6 there, 0 from 6.7).
                V_ITER_UBUF: OPTIONAL, "iter_type", "ITER_UBUF";
                /// An array of user buffers; a flag (4) before 5.14.
                V_ITER_IOVEC: REQUIRED, "iter_type", "ITER_IOVEC";
                /// Pages, from splice and sendfile; a flag (16) before 5.14.
                V_ITER_BVEC: OPTIONAL, "iter_type", "ITER_BVEC";
                /// An array of kernel buffers; a flag (8) before 5.14.
                V_ITER_KVEC: OPTIONAL, "iter_type", "ITER_KVEC";
            }
            widths {
                /// Width of the member at `O_IOV_ITER_ITER_TYPE`: 4 before 5.14, where bit 0 is the direction, else 1.
                W_ITER_TYPE: REQUIRED, [("iov_iter", "iter_type"), ("iov_iter", "type")];
            }
        }
    };
}

/// Declares one `static NAME: u32` for every entry of the table, for the crate of the kernel programs only.
///
/// Each starts as [`ABSENT`] and is overwritten in the object by the loader before it is frozen. Read them with
/// `core::ptr::read_volatile`: the compiler would otherwise fold the initial value into the code. The linker drops
/// globals that no program reads, so the loader must not insist on finding each of them in the object.
#[macro_export]
macro_rules! declare_kernel_globals {
    () => {
        $crate::for_each_kernel_field!($crate::declare_kernel_globals);
    };
    (
        offsets { $($(#[$o_meta:meta])* $o_global:ident: $o_need:ident, $o_bytes:tt, $o_candidates:tt;)* }
        values { $($(#[$v_meta:meta])* $v_global:ident: $v_need:ident, $v_enumeration:literal, $v_enumerator:literal;)* }
        widths { $($(#[$w_meta:meta])* $w_global:ident: $w_need:ident, $w_candidates:tt;)* }
    ) => {
        $($(#[$o_meta])* #[unsafe(no_mangle)] pub static $o_global: u32 = $crate::kernel_fields::ABSENT;)*
        $($(#[$v_meta])* #[unsafe(no_mangle)] pub static $v_global: u32 = $crate::kernel_fields::ABSENT;)*
        $($(#[$w_meta])* #[unsafe(no_mangle)] pub static $w_global: u32 = $crate::kernel_fields::ABSENT;)*
    };
}

macro_rules! tables {
    (
        offsets { $($(#[$o_meta:meta])* $o_global:ident: $o_need:ident, $o_bytes:tt, $o_candidates:tt;)* }
        values { $($(#[$v_meta:meta])* $v_global:ident: $v_need:ident, $v_enumeration:literal, $v_enumerator:literal;)* }
        widths { $($(#[$w_meta:meta])* $w_global:ident: $w_need:ident, $w_candidates:tt;)* }
    ) => {
        /// Every struct member whose offset the kernel programs use.
        pub const FIELDS: &[Field] = &[$(Field {
            global: stringify!($o_global),
            candidates: &$o_candidates,
            bytes: $o_bytes,
            required: $o_need,
        }),*];

        /// Every enumerator whose value the kernel programs use.
        pub const ENUM_VALUES: &[EnumValue] = &[$(EnumValue {
            global: stringify!($v_global),
            enumeration: $v_enumeration,
            enumerator: $v_enumerator,
            required: $v_need,
        }),*];

        /// Every member whose width the kernel programs use.
        pub const WIDTHS: &[Width] = &[$(Width {
            global: stringify!($w_global),
            candidates: &$w_candidates,
            required: $w_need,
        }),*];
    };
}

for_each_kernel_field!(tables);

/// The names of all globals: those of [`FIELDS`], [`ENUM_VALUES`], then [`WIDTHS`].
pub fn globals() -> impl Iterator<Item = &'static str> {
    let fields = FIELDS.iter().map(|field| field.global);
    let values = ENUM_VALUES.iter().map(|value| value.global);
    let widths = WIDTHS.iter().map(|width| width.global);
    fields.chain(values).chain(widths)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `O_SOCK_COMMON_SKC_NUM` of `("sock_common", "skc_num")`.
    fn name_of(field: &Field) -> [u8; 64] {
        let (structure, path) = field.candidates[0];
        let last = path
            .rsplit('.')
            .next()
            .expect("rsplit gives at least one piece");
        // Members whose global leaves out or keeps a part of the path, so that names stay speakable.
        let member = match path {
            "skc_net.net" => "skc_net",
            "ns.inum" => "ns_inum",
            "thread.fsbase" => "thread_fsbase",
            "live.counter" => "live",
            "__iov" => "iov",
            _ => last,
        };
        let mut name = [0; 64];
        let pieces = [b"O_", structure.as_bytes(), b"_", member.as_bytes()];
        for (slot, byte) in name.iter_mut().zip(pieces.into_iter().flatten()) {
            *slot = byte.to_ascii_uppercase();
        }
        name
    }

    #[test]
    fn names_every_global_by_what_it_holds() {
        for field in FIELDS {
            let expected = name_of(field);
            let length = expected
                .iter()
                .position(|byte| *byte == 0)
                .expect("names are shorter than the buffer");
            assert_eq!(field.global.as_bytes(), &expected[..length]);
        }
        for value in ENUM_VALUES {
            assert_eq!(value.global.strip_prefix("V_"), Some(value.enumerator));
        }
        assert!(WIDTHS.iter().all(|width| width.global.starts_with("W_")));
    }

    #[test]
    fn has_no_global_twice_and_no_entry_without_a_candidate() {
        for (position, name) in globals().enumerate() {
            assert!(
                !globals().skip(position + 1).any(|other| other == name),
                "{name} stands there twice"
            );
        }
        assert!(FIELDS.iter().all(|field| !field.candidates.is_empty()));
        assert!(WIDTHS.iter().all(|width| !width.candidates.is_empty()));
        assert_eq!(
            globals().count(),
            FIELDS.len() + ENUM_VALUES.len() + WIDTHS.len()
        );
    }

    #[test]
    fn declares_one_static_per_entry() {
        macro_rules! count {
            (
                offsets { $($(#[$o_meta:meta])* $o_global:ident: $o_need:ident, $o_bytes:tt, $o_candidates:tt;)* }
                values { $($(#[$v_meta:meta])* $v_global:ident: $v_need:ident, $v_enumeration:literal, $v_enumerator:literal;)* }
                widths { $($(#[$w_meta:meta])* $w_global:ident: $w_need:ident, $w_candidates:tt;)* }
            ) => {
                [$(stringify!($o_global),)* $(stringify!($v_global),)* $(stringify!($w_global),)*]
            };
        }
        let declared = crate::for_each_kernel_field!(count);
        assert!(globals().eq(declared));
    }
}
