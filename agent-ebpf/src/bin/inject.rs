//! The object that writes trace context into requests: a callback of the handshake that enrols sockets, and a program on their send path.
//!
//! It decides nothing and looks for nothing. The object `capture` leaves in `INJECTIONS`, which both share, which connections are wanted, and in
//! each send what to write where; this one executes that in the same send, after it has looked again at the few bytes around the place. Whatever is
//! not as expected passes untouched.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use core::arch::asm;

use agent_common::{
    abi::{Counter, Injection, InjectionSlot, InjectionState, KeptState},
    wire::inject::{
        self, Action, EMPTY_LINE, LINE, PARENT_AT, STATE_LIMIT, STATE_LINE, STATE_NAME, Sink, VALUE,
    },
};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    bindings::BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
    helpers::{bpf_get_current_pid_tgid, bpf_msg_pull_data, bpf_skc_to_tcp_sock},
    macros::{map, sk_msg, sock_ops},
    maps::{HashMap, LpmTrie, PerCpuArray, SockHash, lpm_trie::Key},
    programs::{SkMsgContext, SockOpsContext},
};

/// Connections: shared with `capture`, which says what each means.
#[map]
static INJECTIONS: HashMap<u64, Injection> = HashMap::with_max_entries(8_192, 0);
/// What requests brought along, shared with `capture`.
#[map]
static STATES: HashMap<u64, KeptState> = HashMap::with_max_entries(4_096, 0);
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
}

/// Verdict of a program on the send path: what it has left of the message goes on.
const SK_PASS: u32 = 1;

/// Address families (include/linux/socket.h).
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// The kernel hands a send over in parts only where it has filled that many bytes.
const PART: u32 = 32 << 10;

#[sock_ops]
pub fn enrol_established(ctx: SockOpsContext) -> u32 {
    if ctx.op() == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        enrol(&ctx);
    }
    1
}

#[sk_msg]
pub fn write_context(ctx: SkMsgContext) -> u32 {
    execute(&ctx);
    SK_PASS
}

#[inline(always)]
fn enrol(ctx: &SockOpsContext) -> Option<()> {
    // SAFETY: a load from the context.
    let operations = unsafe { &*ctx.ops };
    // SAFETY: the only member of the union that is a value.
    let sk = unsafe { operations.__bindgen_anon_2.sk };
    let injection = find(tcp_sock(sk.cast())? as u64)?;
    if injection.state != InjectionState::Wanted as u32 {
        return None;
    }
    injection.state = InjectionState::Refused as u32;
    if !is_trusted(ctx) {
        count(Counter::InjectUntrusted, 1);
        return None;
    }
    let connection = injection.connection;
    // SAFETY: the context is the kernel's for as long as the program runs.
    let operations = unsafe { &mut *ctx.ops };
    if ENROLLED
        .update(connection, operations, u64::from(BPF_NOEXIST))
        .is_err()
    {
        count(Counter::InjectSocketsRefused, 1);
        return None;
    }
    injection.state = InjectionState::Enrolled as u32;
    count(Counter::InjectSockets, 1);
    Some(())
}

/// Whether the peer is in one of the networks.
#[inline(always)]
fn is_trusted(ctx: &SockOpsContext) -> bool {
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
        return false;
    }
    NETWORKS.get(Key::new(128, address)).is_some()
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

/// What is to be written into this message, if the send hook has left something for this very send.
#[inline(always)]
fn instructions(ctx: &SkMsgContext) -> Option<&'static mut Injection> {
    // SAFETY: a static of a plain integer type, never written after loading.
    if unsafe { core::ptr::read_volatile(&raw const SELF_TEST) } != 0 {
        let injection = find(bpf_get_current_pid_tgid())?;
        return is_for(injection, ctx.size(), injection.start);
    }
    // SAFETY: a load from the context.
    let message = unsafe { &*ctx.msg };
    // SAFETY: the only member of the union that is a value.
    let tcp = tcp_sock(unsafe { message.__bindgen_anon_3.sk }.cast())?;
    // SAFETY: a static of a plain integer type, never written after loading.
    let offset = unsafe { core::ptr::read_volatile(&raw const O_TCP_SOCK_WRITE_SEQ) };
    let write_seq = tcp.wrapping_add(offset as usize).cast::<u32>();
    // SAFETY: a member of the struct, which the verifier checks.
    let write_seq = unsafe { write_seq.read_volatile() };
    is_for(find(tcp as u64)?, ctx.size(), write_seq)
}

/// The instructions, when they were left by this thread for a send of this size whose first byte gets this sequence number; they are taken in any case.
#[inline(always)]
fn is_for(
    injection: &'static mut Injection,
    size: u32,
    write_seq: u32,
) -> Option<&'static mut Injection> {
    let slots = injection.count;
    if slots == 0 {
        return None;
    }
    let whole = size == injection.length || (size < injection.length && size >= PART);
    if whole && injection.start == write_seq && injection.pid_tgid == bpf_get_current_pid_tgid() {
        return Some(injection);
    }
    injection.count = 0;
    count(Counter::InjectOtherSend, u64::from(slots));
    None
}

/// Executes what the send hook has asked for in this send.
#[inline(always)]
fn execute(ctx: &SkMsgContext) -> Option<()> {
    let injection = instructions(ctx)?;
    let slots = injection.count;
    injection.count = 0;
    let (mut shift, mut behind) = (0, 0);
    for index in 0..InjectionSlot::COUNT {
        if index as u32 >= slots {
            break;
        }
        let slot = injection.slots[index];
        let at = bound(slot.at.wrapping_add(shift));
        let mut length = LINE;
        let written = if slot.action == Action::Insert as u32 {
            let state = state_for(injection, index as u32);
            insert(ctx, at, &slot, state, injection)
        } else {
            rewrite(ctx, at, &slot)
        };
        match written {
            Ok(bytes) => {
                shift += bytes;
                if bytes != 0 {
                    length = bytes;
                    let until = injection.start.wrapping_add(at).wrapping_add(bytes);
                    let inserted = injection.inserted.wrapping_add(bytes);
                    // SAFETY: words of the entry; in this order, because the other side reads them in the opposite one.
                    unsafe { (&raw mut injection.until).write_volatile(until) };
                    // SAFETY: as above.
                    unsafe { (&raw mut injection.inserted).write_volatile(inserted) };
                }
                count(Counter::InjectBytes, u64::from(bytes));
                count(
                    if bytes == 0 {
                        Counter::InjectRewritten
                    } else {
                        Counter::InjectInserted
                    },
                    1,
                );
            }
            Err(counter) => count(counter, 1),
        }
        behind = at.wrapping_add(length);
    }
    if shift != 0 {
        // The kernel sends each piece of a message as if it were a message: a client that leaves small packets to Nagle's algorithm would
        // wait for the peer's acknowledgement of the first piece. So they become one piece again; where that fails, they are only slower.
        // SAFETY: the context is the kernel's; no pointer into the message is used any more.
        let _ = unsafe { bpf_msg_pull_data(ctx.msg, 0, bound(behind).wrapping_add(2), 0) };
    }
    Some(())
}

/// `at & 0xffff`, in assembly because LLVM drops a mask where it believes that it knows the bound.
#[inline(always)]
fn bound(at: u32) -> u32 {
    let mut at = u64::from(at);
    // SAFETY: one instruction without effects.
    unsafe { asm!("{0} &= 65535", inout(reg) at, options(pure, nomem, nostack)) };
    at as u32
}

/// Makes bytes `from..to` readable; what lies before them becomes one piece, because the kernel miscounts places behind the first piece
/// (`rsge.offset` in `bpf_msg_push_data`, net/core/filter.c, before 6.13).
#[inline(always)]
fn pull(ctx: &SkMsgContext, from: u32, to: u32) -> bool {
    // SAFETY: the context is the kernel's; every pointer into the message is taken again behind this.
    let joined = unsafe { bpf_msg_pull_data(ctx.msg, 0, to, 0) };
    if joined != 0 {
        return false;
    }
    // SAFETY: as above.
    let narrowed = unsafe { bpf_msg_pull_data(ctx.msg, from, to, 0) };
    narrowed == 0
}

/// The message's readable bytes, if there are at least `length`.
#[inline(always)]
fn bytes(ctx: &SkMsgContext, length: u32) -> Option<*mut u8> {
    let (data, end) = (ctx.data(), ctx.data_end());
    (data + length as usize <= end).then_some(data as *mut u8)
}

/// Bytes of the `tracestate` that goes into this slot, 0 for none.
#[inline(always)]
fn state_for(injection: &Injection, index: u32) -> u32 {
    if injection.state_slot == index && injection.state_length <= STATE_LIMIT {
        injection.state_length
    } else {
        0
    }
}

/// The `tracestate` that was meant, if it is still the same request's.
#[inline(always)]
fn state_of(injection: &Injection) -> Option<&'static KeptState> {
    let state = STATES.get_ptr(injection.state_sk)?;
    // SAFETY: plain words of a map entry; that they may be replaced meanwhile is looked after.
    let state = unsafe { &*state };
    is_of(state, injection).then_some(state)
}

#[inline(always)]
fn is_of(state: &KeptState, injection: &Injection) -> bool {
    let (sk, position) = (&raw const state.sk, &raw const state.position);
    // SAFETY: words of a map entry.
    let (sk, position) = unsafe { (sk.read_volatile(), position.read_volatile()) };
    sk == injection.state_sk && position == injection.state_position
}

/// Writes a `tracestate` line of `length` bytes of value behind the first one. False when the value is not the one that was meant, or was replaced meanwhile.
#[inline(always)]
fn write_state(ctx: &SkMsgContext, injection: &Injection, length: u32) -> bool {
    const NAME_AT: usize = LINE as usize;
    const VALUE_AT: usize = (LINE + STATE_NAME) as usize;
    let Some(state) = state_of(injection) else {
        return false;
    };
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + VALUE_AT > end {
        return false;
    }
    inject::write_state_name(&mut Packet((data as *mut u8).wrapping_add(NAME_AT)));
    let value = (&raw const state.value).cast::<u8>();
    for index in 0..STATE_LIMIT as usize {
        if index as u32 >= length || data + VALUE_AT + index + 1 > end {
            break;
        }
        // SAFETY: the index is below the length of the value; the verifier follows the place in the packet.
        unsafe {
            let byte = value.wrapping_add(index).read_volatile();
            (data as *mut u8).wrapping_add(VALUE_AT + index).write(byte);
        }
    }
    let behind = data + VALUE_AT + bound_state(length) as usize;
    if behind + 2 > end {
        return false;
    }
    // SAFETY: two bytes are there.
    unsafe {
        (behind as *mut u16).write_unaligned(u16::from_le_bytes(*b"\r\n"));
    }
    is_of(state, injection)
}

/// `length & 511`, as [`bound`].
#[inline(always)]
fn bound_state(length: u32) -> u32 {
    let mut length = u64::from(length);
    // SAFETY: one instruction without effects.
    unsafe { asm!("{0} &= 511", inout(reg) length, options(pure, nomem, nostack)) };
    length as u32
}

/// Puts a line in front of the empty line that begins at `at`, and behind it one for a `tracestate` of `state` bytes.
#[inline(always)]
fn insert(
    ctx: &SkMsgContext,
    at: u32,
    slot: &InjectionSlot,
    state: u32,
    injection: &Injection,
) -> Result<u32, Counter> {
    check_empty_line(ctx, at)?;
    let at = if faulty(fault::LATE) { at + 1 } else { at };
    let line_length = if faulty(fault::TWICE) { 2 * LINE } else { LINE };
    let state_line = if state == 0 || faulty(fault::TWICE) {
        0
    } else {
        STATE_LINE + state
    };
    let length = line_length + state_line;
    if ctx.push_data(at, length, 0).is_err() {
        return Err(Counter::InjectRefused);
    }
    // The new bytes are a piece of their own: nothing is copied.
    // SAFETY: the context is the kernel's; every pointer into the message is taken again behind this.
    let pulled = unsafe { bpf_msg_pull_data(ctx.msg, at, at + length, 0) };
    let line = if pulled == 0 {
        bytes(ctx, line_length)
    } else {
        None
    };
    let Some(line) = line else {
        // What was put in has no content yet.
        let _ = ctx.pop_data(at, length, 0);
        return Err(Counter::InjectRefused);
    };
    let flags = slot.trace_flags as u8;
    inject::write_line(&mut Packet(line), slot.trace_id, slot.span_id, flags);
    if faulty(fault::TWICE) {
        let second = line.wrapping_add(LINE as usize);
        inject::write_line(&mut Packet(second), slot.trace_id, slot.span_id, flags);
    }
    let mut length = length;
    if state_line != 0 {
        if write_state(ctx, injection, state) {
            count(Counter::InjectStates, 1);
        } else if ctx.pop_data(at + LINE, state_line, 0).is_ok() {
            count(Counter::InjectStatesDropped, 1);
            length = line_length;
        } else {
            // Nothing goes out that was not meant.
            let _ = ctx.pop_data(at, length, 0);
            return Err(Counter::InjectRefused);
        }
    }
    if faulty(fault::LOSS) {
        let _ = ctx.pop_data(1, 1, 0);
    }
    Ok(length)
}

/// Whether `CRLF CRLF` is there, of which the second one begins at `at`; where the first one lay in an earlier send, the second one alone.
#[inline(always)]
fn check_empty_line(ctx: &SkMsgContext, at: u32) -> Result<(), Counter> {
    if at >= 2 {
        if !pull(ctx, at - 2, at + 2) {
            return Err(Counter::InjectRefused);
        }
        let end = bytes(ctx, 4).ok_or(Counter::InjectRefused)?;
        // SAFETY: four bytes are there.
        let end = unsafe { end.cast::<u32>().read_unaligned() };
        return if end == EMPTY_LINE {
            Ok(())
        } else {
            Err(Counter::InjectChanged)
        };
    }
    if !pull(ctx, at, at + 2) {
        return Err(Counter::InjectRefused);
    }
    let end = bytes(ctx, 2).ok_or(Counter::InjectRefused)?;
    // SAFETY: two bytes are there.
    let end = unsafe { end.cast::<u16>().read_unaligned() };
    if end == EMPTY_LINE as u16 {
        Ok(())
    } else {
        Err(Counter::InjectChanged)
    }
}

/// Replaces the parent id of the value at `at`, when the value is still that of the same trace.
#[inline(always)]
fn rewrite(ctx: &SkMsgContext, at: u32, slot: &InjectionSlot) -> Result<u32, Counter> {
    const LENGTH: u32 = VALUE + 1;
    if !pull(ctx, at, at + LENGTH) {
        return Err(Counter::InjectRefused);
    }
    let value = bytes(ctx, LENGTH).ok_or(Counter::InjectRefused)?;
    let byte = |at: usize| {
        // SAFETY: the constants are below `LENGTH`.
        unsafe { value.wrapping_add(at).read() }
    };
    let word = |at: usize| {
        // SAFETY: as above.
        unsafe { value.wrapping_add(at).cast::<u64>().read_unaligned() }
    };
    let [first, second] = slot.trace_id;
    let differs = (word(3) ^ inject::hex(first as u32))
        | (word(11) ^ inject::hex((first >> 32) as u32))
        | (word(19) ^ inject::hex(second as u32))
        | (word(27) ^ inject::hex((second >> 32) as u32))
        | u64::from((byte(2) ^ b'-') | (byte(35) ^ b'-') | (byte(52) ^ b'-'));
    if differs != 0 {
        return Err(Counter::InjectChanged);
    }
    inject::write_span_id(&mut Packet(value), PARENT_AT as usize, slot.span_id);
    Ok(0)
}

/// Bytes of the message. Whoever makes one has checked that there are as many as will be written.
struct Packet(*mut u8);

impl Sink for Packet {
    #[inline(always)]
    fn word(&mut self, at: usize, value: u64) {
        // SAFETY: checked when it was made; the verifier follows the constants.
        unsafe { self.0.wrapping_add(at).cast::<u64>().write_unaligned(value) };
    }

    #[inline(always)]
    fn half(&mut self, at: usize, value: u16) {
        // SAFETY: as above.
        unsafe { self.0.wrapping_add(at).cast::<u16>().write_unaligned(value) };
    }

    #[inline(always)]
    fn byte(&mut self, at: usize, value: u8) {
        // SAFETY: as above.
        unsafe { self.0.wrapping_add(at).write(value) };
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
