//! The options that segments bring.
//!
//! Input: segments with an option that the kernel does not know, under the socket's lock and before their bytes can be read. Output: entries of `BROUGHT`.
//! Which process will read is not known yet: what nobody takes goes with the connection.

use agent_common::{
    abi::{Brought, BroughtContext, Counter},
    wire::{
        decide::Context,
        option::{self, Words},
    },
};
use aya_ebpf::{
    bindings::{
        BPF_NOEXIST, BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_TCP_CLOSE,
    },
    helpers::bpf_load_hdr_opt,
    programs::SockOpsContext,
};

use crate::{BROUGHT, TRUSTED, ask, count, is_in, key, segment};

/// There is no such option: ENOMSG (include/uapi/asm-generic/errno.h).
const ABSENT: i64 = -42;

/// There is one of the right length.
const WHOLE: i64 = option::LENGTH as i64;

/// A connection is accepted by the kernel: its unknown options are of interest. The handshake's last segment may bring a request.
#[inline(always)]
pub(crate) fn begin(ctx: &SockOpsContext) -> Option<()> {
    let sk = key(ctx)?;
    // What an earlier connection of this sock has left is nobody's.
    let_go(sk);
    ask(ctx, BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG);
    read(ctx)
}

/// A connection has changed its state.
#[inline(always)]
pub(crate) fn end(ctx: &SockOpsContext) -> Option<()> {
    if ctx.arg(1) == BPF_TCP_CLOSE {
        let_go(key(ctx)?);
    }
    None
}

/// Deletes what a connection has brought, and counts what nobody has taken.
#[inline(always)]
fn let_go(sk: u64) {
    let Some(brought) = BROUGHT.get_ptr(sk) else {
        return;
    };
    // SAFETY: entries are plain words.
    for slot in unsafe { &(*brought).slots } {
        if slot.taken == 0 && slot.seal == slot.seal_of() {
            count(Counter::OptionsUnread);
        }
    }
    let _ = BROUGHT.remove(sk);
}

/// A segment has options that the kernel does not know.
#[inline(always)]
pub(crate) fn read(ctx: &SockOpsContext) -> Option<()> {
    let segment = segment(ctx)?;
    // SAFETY: a load from the context.
    let next = unsafe { (&raw const (*ctx.ops).rcv_nxt).read_volatile() };
    // Where its first byte has arrived before, it came with an option then, or never.
    if segment.payload == 0 || (segment.sequence.wrapping_sub(next) as i32) < 0 {
        return None;
    }
    let mut context = Context::default();
    let (mut whole, mut broken) = (0u32, 0u32);
    for identifier in option::IDENTIFIERS {
        let mut words: Words = [0; option::WORDS];
        let found = load(ctx, identifier, &mut words);
        if found == WHOLE {
            whole += 1;
            context = option::decode(&words);
        } else if found != ABSENT {
            broken += 1;
        }
    }
    if whole + broken == 0 {
        return None;
    }
    // Two of them would be two parents.
    if whole != 1 || broken != 0 {
        context = Context::default();
    }
    if !context.exists() {
        count(Counter::OptionsMalformed);
        return None;
    }
    if !is_in(&TRUSTED, ctx) {
        count(Counter::OptionsUntrusted);
        return None;
    }
    let brought = entry(ctx)?;
    keep(brought, segment.sequence, &context);
    Some(())
}

/// Copies the option with this identifier, as far as there is room: [`WHOLE`], [`ABSENT`], or anything else where it is malformed.
#[inline(always)]
fn load(ctx: &SockOpsContext, identifier: [u8; 2], words: &mut Words) -> i64 {
    words[0] = option::head(option::NAME, identifier);
    // SAFETY: the context is the kernel's; so many bytes are there.
    unsafe { bpf_load_hdr_opt(ctx.ops, words.as_mut_ptr().cast(), option::LENGTH as u32, 0) }
}

/// The connection's entry, made where there is none.
#[inline(always)]
fn entry(ctx: &SockOpsContext) -> Option<&'static mut Brought> {
    let sk = key(ctx)?;
    if BROUGHT.get_ptr(sk).is_none() {
        // Who deletes the entry has to be called.
        let made = ask(ctx, BPF_SOCK_OPS_STATE_CB_FLAG)
            && BROUGHT
                .insert(sk, &Brought::default(), u64::from(BPF_NOEXIST))
                .is_ok();
        if !made {
            count(Counter::OptionsFull);
            return None;
        }
    }
    let brought = BROUGHT.get_ptr_mut(sk)?;
    // SAFETY: entries are plain words, written under the socket's lock; the reader only marks what it takes.
    Some(unsafe { &mut *brought })
}

/// Keeps a context for the request that begins with this byte.
#[inline(always)]
fn keep(brought: &mut Brought, sequence: u32, context: &Context) {
    let start = u64::from(sequence);
    for slot in &mut brought.slots {
        if slot.seal == slot.seal_of()
            && slot.span_id == context.span_id
            && slot.trace_id == context.trace_id
        {
            // Sent again, or another piece of the same packet; the request begins with the first one.
            if slot.taken == 0 && (sequence.wrapping_sub(slot.start as u32) as i32) < 0 {
                fill(slot, start, context);
            }
            return;
        }
    }
    let index = (brought.next % Brought::COUNT as u64) as usize;
    brought.next = brought.next.wrapping_add(1);
    let slot = &mut brought.slots[index];
    if slot.taken == 0 && slot.seal == slot.seal_of() {
        count(Counter::OptionsUnread);
    }
    fill(slot, start, context);
    count(Counter::OptionsReceived);
}

#[inline(always)]
fn fill(slot: &mut BroughtContext, start: u64, context: &Context) {
    let mut fresh = BroughtContext {
        start,
        trace_id: context.trace_id,
        span_id: context.span_id,
        flags: context.flags,
        seal: 0,
        taken: 0,
    };
    fresh.seal = fresh.seal_of();
    // SAFETY: a slot of the entry. The reader takes what has the seal of all its words.
    unsafe { (&raw mut *slot).write_volatile(fresh) };
}
