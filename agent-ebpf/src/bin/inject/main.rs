//! The object that writes trace context into requests: a callback of the handshake that enrols sockets, and a program on their send path.
//!
//! It decides nothing and looks for nothing. The object `capture` leaves in `INJECTIONS`, which both share, which connections are wanted, and in
//! each send what to write where; this one executes that in the same send, after it has looked again at the few bytes around the place. Whatever is
//! not as expected passes untouched.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod enrol;
mod line;
mod packet;
mod send;
mod state;

use agent_common::abi::{Counter, Injection};
use aya_ebpf::{
    bindings::BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
    helpers::bpf_skc_to_tcp_sock,
    macros::{map, sk_msg, sock_ops},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, SockHash},
    programs::{SkMsgContext, SockOpsContext},
};

/// Connections: shared with `capture`, which says what each means.
#[map]
static INJECTIONS: HashMap<u64, Injection> = HashMap::with_max_entries(8_192, 0);
/// What user space switches while the programs are at work; shared with `capture`.
#[map]
static SWITCHES: Array<u32> = Array::with_max_entries(1, 0);
/// Shared with `capture`.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::CAPACITY, 0);
/// Enrolled sockets by connection id.
#[map]
static ENROLLED: SockHash<u64> = SockHash::with_max_entries(8_192, 0);
/// Networks into which headers are written: IPv6 prefixes, IPv4 ones mapped.
#[map]
static NETWORKS: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(256, 0);

/// Broken on purpose, for tests: bits of [`fault`].
#[unsafe(no_mangle)]
pub static INJECT_FAULT: u32 = 0;

/// 1: entries of `INJECTIONS` are found by the thread that sends, whose id the self-test knows, and not by the sock.
#[unsafe(no_mangle)]
pub static SELF_TEST: u32 = 0;

/// Offset of `tcp_sock.write_seq`, bytes.
#[unsafe(no_mangle)]
pub static O_TCP_SOCK_WRITE_SEQ: u32 = 0;

/// Bits of [`INJECT_FAULT`].
mod fault {
    /// The line is written twice.
    pub(super) const TWICE: u32 = 1;
    /// The line is written one byte late.
    pub(super) const LATE: u32 = 1 << 1;
    /// One byte of the process is dropped.
    pub(super) const LOSS: u32 = 1 << 2;
    /// A `tracestate` is another one when it is copied.
    pub(super) const STATE_REPLACED: u32 = 1 << 3;
    /// And that is not looked after.
    pub(super) const STATE_UNCHECKED: u32 = 1 << 4;
}

/// Verdict of a program on the send path: what it has left of the message goes on.
const SK_PASS: u32 = 1;

#[sock_ops]
pub fn enrol_established(ctx: SockOpsContext) -> u32 {
    if ctx.op() == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        enrol::enrol(&ctx);
    }
    1
}

#[sk_msg]
pub fn write_context(ctx: SkMsgContext) -> u32 {
    send::execute(&ctx);
    SK_PASS
}

/// The sock as one of TCP. Its address is the key in `INJECTIONS`: that of a socket of its own kind may be one on every version of the kernel.
#[inline(always)]
fn tcp_sock(sk: *mut core::ffi::c_void) -> Option<*const u8> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the verifier checks that it is a sock.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk) };
    (!tcp.is_null()).then_some(tcp.cast_const().cast())
}

#[inline(always)]
fn find(sk: u64) -> Option<&'static mut Injection> {
    let injection = INJECTIONS.get_ptr_mut(sk)?;
    // SAFETY: entries are plain words, written in the same task or before the connection carries anything.
    Some(unsafe { &mut *injection })
}

#[inline(always)]
fn count(counter: Counter, amount: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the entry belongs to this CPU; a program that interrupts this one may lose one step of a counter, nothing else.
        unsafe { *value = (*value).wrapping_add(amount) };
    }
}

#[inline(always)]
fn faulty(bit: u32) -> bool {
    // SAFETY: a static of a plain integer type, never written after loading.
    let fault = unsafe { core::ptr::read_volatile(&raw const INJECT_FAULT) };
    fault & bit != 0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
