//! The object that carries trace context in a TCP option: one program in the callbacks that the kernel offers for header options (Linux 5.10).
//!
//! It decides nothing. The object `capture` leaves in `OFFERS`, which both share, the context of each request that is sent and the sequence number of its
//! first byte; [`send`] writes the option into the segment that begins with that byte, each time TCP sends it. What segments bring, [`receive`] leaves in
//! `BROUGHT` for `capture`. No byte of a stream is touched.

#![no_std]
#![no_main]

mod path;
mod receive;
mod send;

use agent_common::abi::{Brought, Counter, Offers, Peer};
use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_HDR_OPT_LEN_CB,
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTT_CB,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_WRITE_HDR_OPT_CB,
    },
    helpers::bpf_skc_to_tcp_sock,
    macros::{map, sock_ops},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
    programs::SockOpsContext,
};

/// Connections whose requests get an option: shared with `capture`.
#[map]
static OFFERS: HashMap<u64, Offers> = HashMap::with_max_entries(8_192, 0);
/// What segments have brought: shared with `capture`.
#[map]
static BROUGHT: HashMap<u64, Brought> = HashMap::with_max_entries(8_192, 0);
/// Shared with `capture`.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::CAPACITY, 0);
/// Networks into which options are written: IPv6 prefixes, IPv4 ones mapped.
#[map]
static NETWORKS: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(256, 0);
/// Networks from which they are taken, likewise: shared with `capture`.
#[map]
static TRUSTED: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(256, 0);
/// What is known of paths: by address of the peer, IPv4 ones mapped. One that is pushed out is learned again. User space adds to its size what CPUs set aside.
#[map]
static PEERS: LruHashMap<[u32; 4], Peer> = LruHashMap::with_max_entries(1_024, 0);
/// One entry: what is known of all paths together, which holds for those to peers of which nothing is known.
#[map]
static PATHS: Array<Peer> = Array::with_max_entries(1, 0);

/// Broken on purpose, for tests: bits of [`fault`].
#[unsafe(no_mangle)]
pub static OPTION_FAULT: u32 = 0;

/// Bits of [`OPTION_FAULT`].
mod fault {
    /// What is written is malformed: an id that is none.
    pub(super) const MALFORMED: u32 = 1;
    /// There is room for no option.
    pub(super) const NO_ROOM: u32 = 1 << 1;
    /// Only the first segment of each request carries its option, and no repetition.
    pub(super) const ONCE: u32 = 1 << 2;
    /// A path that does not pass options is tried again soon.
    pub(super) const SHORT_PAUSE: u32 = 1 << 3;
}

/// 1: the sockets of the self-test, which user space knows by their ports.
#[unsafe(no_mangle)]
pub static SELF_TEST: u32 = 0;

/// Offset of `sock.sk_err`, bytes; 0 where it is not known.
#[unsafe(no_mangle)]
pub static O_SOCK_SK_ERR: u32 = 0;

/// 127.0.0.1, in the order of the wire.
const LOOPBACK: u32 = u32::from_ne_bytes([127, 0, 0, 1]);

/// Address families (include/linux/socket.h).
const AF_INET: u32 = 2;

const AF_INET6: u32 = 10;

#[sock_ops]
pub fn carry_context(ctx: SockOpsContext) -> u32 {
    let op = ctx.op();
    if op == BPF_SOCK_OPS_HDR_OPT_LEN_CB {
        send::make_room(&ctx);
    } else if op == BPF_SOCK_OPS_WRITE_HDR_OPT_CB {
        send::write(&ctx);
    } else if op == BPF_SOCK_OPS_PARSE_HDR_OPT_CB {
        receive::read(&ctx);
    } else if op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        send::begin(&ctx);
    } else if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        receive::begin(&ctx);
    } else if op == BPF_SOCK_OPS_RTT_CB {
        path::measured(&ctx);
    } else if op == BPF_SOCK_OPS_STATE_CB {
        path::leave(&ctx);
        receive::end(&ctx);
    }
    1
}

/// Address of the sock: the key of both maps, and the same that `capture` sees. In the self-test its local port, for connections to 127.0.0.1 only.
#[inline(always)]
fn key(ctx: &SockOpsContext) -> Option<u64> {
    if is_self_test() {
        let own = ctx.family() == AF_INET && ctx.remote_ip4() == LOOPBACK;
        return own.then(|| u64::from(ctx.local_port()));
    }
    Some(tcp_sock(ctx)? as u64)
}

/// The sock.
#[inline(always)]
fn tcp_sock(ctx: &SockOpsContext) -> Option<*const u8> {
    // SAFETY: a load from the context.
    let operations = unsafe { &*ctx.ops };
    // SAFETY: the only member of the union that is a value.
    let sk = unsafe { operations.__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // A socket of its own kind may be a number on every version of the kernel.
    // SAFETY: the verifier checks that it is a sock.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast()) };
    (!tcp.is_null()).then_some(tcp.cast_const().cast())
}

/// What a segment's header says of it.
struct Segment {
    /// Sequence number of its first byte.
    sequence: u32,
    /// Bytes behind the header.
    payload: u32,
}

/// The segment under way, where there is one.
#[inline(always)]
fn segment(ctx: &SockOpsContext) -> Option<Segment> {
    const FIXED: usize = 20;
    // SAFETY: a load from the context.
    let data = unsafe { (*ctx.ops).__bindgen_anon_3.skb_data } as usize;
    // SAFETY: as above.
    let end = unsafe { (*ctx.ops).__bindgen_anon_4.skb_data_end } as usize;
    if data + FIXED > end {
        return None;
    }
    let header = data as *const u8;
    // SAFETY: twenty bytes are there. Unaligned loads are allowed where the kernel's verifier allows them (x86-64, arm64).
    let sequence = unsafe { header.wrapping_add(4).cast::<u32>().read_unaligned() };
    // SAFETY: as above.
    let offset = unsafe { header.wrapping_add(12).read() };
    let length = u32::from(offset >> 4) * 4;
    // SAFETY: a load from the context.
    let whole = unsafe { (&raw const (*ctx.ops).skb_len).read_volatile() };
    Some(Segment {
        sequence: u32::from_be(sequence),
        payload: whole.saturating_sub(length),
    })
}

/// Whether the peer is in one of these networks.
#[inline(always)]
fn is_in(networks: &LpmTrie<[u32; 4], u32>, ctx: &SockOpsContext) -> bool {
    let Some(address) = peer_address(ctx) else {
        return false;
    };
    networks.get(Key::new(128, address)).is_some()
}

/// Address of the peer, an IPv4 one mapped.
#[inline(always)]
fn peer_address(ctx: &SockOpsContext) -> Option<[u32; 4]> {
    let mut address = [0u32; 4];
    if ctx.family() == AF_INET {
        address[2] = 0xffff_0000;
        address[3] = ctx.remote_ip4();
    } else if ctx.family() == AF_INET6 {
        for (index, word) in address.iter_mut().enumerate() {
            // SAFETY: a load from the context; the kernel takes those of four bytes only, so each is one of its own.
            *word = unsafe { (&raw const (*ctx.ops).remote_ip6[index]).read_volatile() };
        }
    } else {
        return None;
    }
    Some(address)
}

/// Asks for one more callback of this socket, and keeps those that somebody else has asked for.
#[inline(always)]
fn ask(ctx: &SockOpsContext, flag: u32) -> bool {
    let wanted = ctx.cb_flags() | flag;
    ctx.set_cb_flags(wanted as i32).is_ok()
}

#[inline(always)]
fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the entry belongs to this CPU; a program that interrupts this one may lose one step of a counter, nothing else.
        unsafe { *value = (*value).wrapping_add(1) };
    }
}

#[inline(always)]
fn is_self_test() -> bool {
    // SAFETY: a static of a plain integer type, never written after loading.
    unsafe { core::ptr::read_volatile(&raw const SELF_TEST) != 0 }
}

#[inline(always)]
fn faulty(bit: u32) -> bool {
    // SAFETY: a static of a plain integer type, never written after loading.
    let fault = unsafe { core::ptr::read_volatile(&raw const OPTION_FAULT) };
    fault & bit != 0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
