//! Tests on type information of real kernels (`fixtures/README.md`).

use agent_common::kernel_fields::{ABSENT, FIELDS, WIDTHS, globals};
use proptest::prelude::*;

use super::{tests::ask, *};
use crate::kernel::offsets::Offsets;

const KERNELS: [(&str, &[u8]); 4] = [
    ("5.10", include_bytes!("fixtures/linux-5.10.btf")),
    ("6.1", include_bytes!("fixtures/linux-6.1.btf")),
    ("6.12", include_bytes!("fixtures/linux-6.12.btf")),
    ("7.2", include_bytes!("fixtures/linux-7.2.btf")),
];

/// What the headers of each kernel give when read by hand: `include/net/sock.h` (`struct sock_common`),
/// `include/linux/net.h`, `include/linux/skbuff.h`, `include/net/tcp.h`, `include/linux/socket.h`, `include/linux/uio.h`, `include/linux/sched/signal.h`, for x86-64.
const BY_HAND: &[(&str, [u32; 4])] = &[
    ("O_SOCKET_SK", [24, 24, 24, 24]),
    ("O_SOCK_COMMON_SKC_DADDR", [0, 0, 0, 0]),
    ("O_SOCK_COMMON_SKC_RCV_SADDR", [4, 4, 4, 4]),
    ("O_SOCK_COMMON_SKC_DPORT", [12, 12, 12, 12]),
    ("O_SOCK_COMMON_SKC_NUM", [14, 14, 14, 14]),
    ("O_SOCK_COMMON_SKC_FAMILY", [16, 16, 16, 16]),
    ("O_SOCK_COMMON_SKC_STATE", [18, 18, 18, 18]),
    ("O_SOCK_COMMON_SKC_NET", [48, 48, 48, 48]),
    ("O_SOCK_COMMON_SKC_V6_DADDR", [56, 56, 56, 56]),
    ("O_SOCK_COMMON_SKC_V6_RCV_SADDR", [72, 72, 72, 72]),
    ("O_SK_BUFF_CB", [40, 40, 40, 40]),
    ("O_SK_BUFF_LEN", [112, 112, 112, 112]),
    ("O_TCP_SKB_CB_SEQ", [0, 0, 0, 0]),
    ("O_MSGHDR_MSG_ITER", [16, 16, 16, 16]),
    ("O_IOV_ITER_ITER_TYPE", [0, 0, 0, 0]),
    ("O_IOV_ITER_IOV_OFFSET", [8, 8, 8, 8]),
    ("O_IOV_ITER_COUNT", [16, 16, 24, 24]),
    ("O_IOV_ITER_IOV", [24, 24, 16, 16]),
    ("O_IOV_ITER_UBUF", [ABSENT, 24, 16, 16]),
    ("O_IOV_ITER_NR_SEGS", [32, 32, 32, 32]),
    ("V_ITER_UBUF", [ABSENT, 6, 0, 0]),
    ("V_ITER_IOVEC", [4, 0, 1, 1]),
    ("V_ITER_KVEC", [8, 1, 3, 3]),
    ("V_ITER_BVEC", [16, 2, 2, 2]),
    ("O_SIGNAL_STRUCT_LIVE", [4, 4, 4, 4]),
    ("W_ITER_TYPE", [4, 1, 1, 1]),
];

fn on_each(mut check: impl FnMut(usize, &str, &Btf<'_>)) {
    for (index, (kernel, bytes)) in KERNELS.iter().enumerate() {
        check(
            index,
            kernel,
            &Btf::parse(bytes).expect("the fixtures are whole"),
        );
    }
}

#[test]
fn resolves_the_table_as_the_headers_say() {
    on_each(|index, kernel, btf| {
        let offsets = Offsets::resolve(btf).expect("every kernel of the matrix is supported");
        for (global, expected) in BY_HAND {
            let value = offsets
                .globals
                .iter()
                .find(|(name, _)| name == global)
                .map(|(_, value)| *value);
            assert_eq!(value, Some(expected[index]), "{global} on {kernel}");
        }
    });
}

#[test]
fn lacks_only_ubuf_and_only_on_5_10() {
    on_each(|_, kernel, btf| {
        let offsets = Offsets::resolve(btf).expect("every kernel of the matrix is supported");
        assert_eq!(offsets.globals.len(), globals().count());
        let missing: Vec<_> = offsets
            .missing
            .iter()
            .map(|missing| missing.global)
            .collect();
        let expected: &[&str] = if kernel == "5.10" {
            &["O_IOV_ITER_UBUF", "V_ITER_UBUF"]
        } else {
            &[]
        };
        assert_eq!(missing, expected, "{kernel}");
    });
}

/// Bytes for btfparse.
struct Bytes(&'static [u8]);

impl btfparse::Readable for Bytes {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = self
            .0
            .get(start..)
            .and_then(|rest| rest.get(..buffer.len()));
        let end = || btfparse::Error::new(btfparse::ErrorKind::IOError, "past the end");
        buffer.copy_from_slice(from.ok_or_else(end)?);
        Ok(())
    }
}

#[test]
fn agrees_with_btfparse_on_every_member_of_the_table() {
    let mut compared = 0;
    for (kernel, bytes) in KERNELS {
        let btf = Btf::parse(bytes).expect("the fixtures are whole");
        let other =
            btfparse::TypeInformation::new(&Bytes(bytes)).expect("btfparse reads the fixtures");
        let candidates = FIELDS
            .iter()
            .flat_map(|field| field.candidates)
            .chain(WIDTHS.iter().flat_map(|width| width.candidates));
        for (structure, path) in candidates {
            // Its own lookup by name takes a forward declaration or a typedef for the struct.
            let is_it = |found: &btfparse::TypeVariant| matches!(found, btfparse::TypeVariant::Struct(found) if found.name().as_deref() == Some(*structure));
            let id = other
                .get()
                .iter()
                .find(|(_, found)| is_it(found))
                .map(|(id, _)| *id);
            let id = id.expect("every struct of the table is in the fixtures");
            let theirs = match other.offset_of(id, path) {
                Ok((_, btfparse::Offset::ByteOffset(offset))) => Some(offset),
                _ => None,
            };
            let ours = btf.member(structure, path).ok().map(|member| member.offset);
            assert_eq!(ours, theirs, "struct {structure}.{path} on {kernel}");
            compared += usize::from(ours.is_some());
        }
    }
    assert!(
        compared >= 4 * FIELDS.len() - 4,
        "{compared} members were found by both"
    );
}

#[test]
fn reads_the_prototypes_of_the_hooks() {
    let message = "int (struct socket *, struct msghdr *, size_t)";
    let receive = "int (struct socket *, struct msghdr *, size_t, int)";
    on_each(|index, kernel, btf| {
        let spelled = |name: &str| btf.function(name).map(|prototype| prototype.to_string());
        for name in ["inet_sendmsg", "inet6_sendmsg", "unix_stream_sendmsg"] {
            assert_eq!(
                spelled(name).as_deref(),
                Some(message),
                "{name} on {kernel}"
            );
        }
        for name in ["inet_recvmsg", "inet6_recvmsg", "unix_stream_recvmsg"] {
            assert_eq!(
                spelled(name).as_deref(),
                Some(receive),
                "{name} on {kernel}"
            );
        }
        let accept = btf
            .function("inet_csk_accept")
            .map(|prototype| prototype.args.len());
        assert_eq!(accept, Some([4, 4, 2, 2][index]), "{kernel}");
        assert_eq!(
            btf.function("inet_sendpage").is_some(),
            index < 2,
            "up to 6.4"
        );
        let page = "ssize_t (struct socket *, struct page *, int, size_t, int)";
        assert_eq!(
            spelled("unix_stream_sendpage").as_deref(),
            (index < 2).then_some(page),
            "{kernel}"
        );
        assert_eq!(
            btf.function("splice_to_socket").is_some(),
            index >= 2,
            "from 6.5"
        );
        assert_eq!(
            spelled("inet_sock_destruct").as_deref(),
            Some("void (struct sock *)"),
            "{kernel}"
        );
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn never_panics_on_a_damaged_kernel(
        kernel in 0..KERNELS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..64),
        end in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = KERNELS[kernel].1.to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len()));
        }
        ask(&bytes);
    }
}
