//! The option of a request that is sent.
//!
//! Input: the context that `capture` has left, and segments on their way out, under the socket's lock. Output: the option in the segment that begins with
//! the request's first byte.
//!
//! Room is made in two steps. The kernel first asks how long segments may be: from then on all are shorter by the option, until the request's first byte is
//! acknowledged. Only segments that were cut after that get any room, so none is longer than its path allows, whichever CPU sends it.

use agent_common::{
    abi::{Counter, InjectionState, OfferedContext, Offers, outcome},
    wire::option,
};
use aya_ebpf::{
    bindings::BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG,
    helpers::{bpf_reserve_hdr_opt, bpf_store_hdr_opt},
    programs::SockOpsContext,
};

use crate::{
    NETWORKS, OFFERS, count, fault, faulty, is_in, is_self_test, key,
    path::{self, drop_callbacks, want_callbacks},
    segment,
};

/// What the kernel asks when it has no packet yet: how much of each will be options (include/uapi/linux/bpf.h).
const CURRENT_MSS: u32 = 1;

/// Values of [`Offers::room`].
mod room {
    /// No segment gets any.
    pub(super) const NONE: u32 = 0;
    /// Segments are being made short enough for an option.
    pub(super) const MADE: u32 = 1;
    /// None is made, because another connection finds out whether options pass.
    pub(super) const NOT_NOW: u32 = 2;
}

/// A connection whose first segments begin no request carries none: so many of them, with acknowledgements of the other end's.
const QUIET: u32 = 64;

/// A connection is established: its requests get options if `capture` wants it and its peer is in one of [`NETWORKS`].
#[inline(always)]
pub(crate) fn begin(ctx: &SockOpsContext) -> Option<()> {
    let offers = find(ctx)?;
    if offers.state != InjectionState::Wanted as u32 {
        return None;
    }
    offers.state = InjectionState::Refused as u32;
    if !is_in(&NETWORKS, ctx) {
        count(Counter::OptionSocketsUntrusted);
        return None;
    }
    if path::is_paused(ctx) {
        count(Counter::OptionSocketsPaused);
        return None;
    }
    if !want_callbacks(ctx, offers, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG) {
        count(Counter::OptionSocketsRefused);
        return None;
    }
    offers.state = InjectionState::Enrolled as u32;
    count(Counter::OptionSockets);
    if is_self_test() {
        offer_at_once(ctx, offers);
    }
    Some(())
}

/// In the self-test, user space has left the context and does not know the number of the first byte.
#[inline(always)]
fn offer_at_once(ctx: &SockOpsContext, offers: &mut Offers) {
    // SAFETY: a load from the context.
    let start = unsafe { (&raw const (*ctx.ops).snd_una).read_volatile() };
    let slot = &mut offers.slots[1];
    slot.start = start;
    slot.number = 1;
    slot.seal = slot.seal_of();
    offers.start = start;
    offers.offered = 1;
}

/// The kernel asks how much room the options of a segment need.
#[inline(always)]
pub(crate) fn make_room(ctx: &SockOpsContext) -> Option<()> {
    let offers = find(ctx)?;
    let asked = ctx.arg(0);
    if offers.state != InjectionState::Enrolled as u32 {
        offers.room = room::NONE;
        path::resolve(ctx, offers);
        if offers.in_vain == 0 {
            drop_callbacks(ctx, offers);
        }
        return None;
    }
    path::look(ctx, offers);
    // SAFETY: a word of the entry; in this order, because the other side writes them in the opposite one.
    let offered = unsafe { (&raw const offers.offered).read_volatile() };
    let mut wanted = offered != offers.acknowledged;
    if wanted && is_acknowledged(ctx, offers) {
        offers.acknowledged = offered;
        wanted = false;
    }
    if asked == CURRENT_MSS {
        // Who finds no room tries no path.
        offers.room = if !wanted || !reserve(ctx) {
            path::release(ctx, offers);
            room::NONE
        } else if path::admits(ctx, offers) {
            room::MADE
        } else {
            room::NOT_NOW
        };
        return None;
    }
    // SAFETY: a word of the entry.
    let left_out = unsafe { (&raw const offers.left_out).read_volatile() };
    if offered == 0 && left_out == 0 {
        offers.quiet += 1;
        if offers.quiet >= QUIET {
            offers.state = InjectionState::Refused as u32;
            count(Counter::OptionSocketsQuiet);
        }
        return None;
    }
    // SAFETY: a load from the context.
    let payload = unsafe { (&raw const (*ctx.ops).skb_len).read_volatile() };
    if !wanted
        || payload == 0
        || offers.room == room::NOT_NOW
        || (offers.room == room::MADE && reserve(ctx))
    {
        return None;
    }
    let slot = &mut offers.slots[(offered % Offers::COUNT as u32) as usize];
    slot.outcome |= outcome::CRAMPED;
    path::release(ctx, offers);
    None
}

/// Whether the newest request's first byte is.
#[inline(always)]
pub(crate) fn is_acknowledged(ctx: &SockOpsContext, offers: &Offers) -> bool {
    // SAFETY: a word of the entry.
    let start = unsafe { (&raw const offers.start).read_volatile() };
    // SAFETY: a load from the context.
    let unacknowledged = unsafe { (&raw const (*ctx.ops).snd_una).read_volatile() };
    unacknowledged.wrapping_sub(start) as i32 > 0
}

#[inline(always)]
fn reserve(ctx: &SockOpsContext) -> bool {
    if faulty(fault::NO_ROOM) {
        return false;
    }
    // SAFETY: the context is the kernel's.
    unsafe { bpf_reserve_hdr_opt(ctx.ops, option::LENGTH as u32, 0) == 0 }
}

/// The kernel lets the options be written; what room is left over it fills with no-operations.
#[inline(always)]
pub(crate) fn write(ctx: &SockOpsContext) -> Option<()> {
    let offers = find(ctx)?;
    let segment = segment(ctx)?;
    // SAFETY: a load from the context.
    let mss = unsafe { (&raw const (*ctx.ops).mss_cache).read_volatile() };
    for slot in &mut offers.slots {
        // SAFETY: plain words, which may be replaced meanwhile: the seal of the copy tells.
        let offer: OfferedContext = unsafe { (&raw const *slot).read_volatile() };
        if offer.number == 0
            || offer.start != segment.sequence
            || offer.seal != offer.seal_of()
            || !option::may_carry(segment.payload, offer.own, mss)
        {
            continue;
        }
        if faulty(fault::ONCE) && offer.outcome & outcome::WRITTEN != 0 {
            return None;
        }
        if offer.outcome / outcome::TIME >= option::TIMES {
            offers.state = InjectionState::Refused as u32;
            offers.in_vain = 1;
            return None;
        }
        let span_id = if faulty(fault::MALFORMED) {
            0
        } else {
            offer.span_id
        };
        let words = option::encode(offer.trace_id, span_id, offer.flags);
        // SAFETY: the context is the kernel's; so many bytes are there.
        let stored =
            unsafe { bpf_store_hdr_opt(ctx.ops, words.as_ptr().cast(), option::LENGTH as u32, 0) };
        if stored != 0 {
            slot.outcome |= outcome::CRAMPED;
            path::release(ctx, offers);
            return None;
        }
        slot.outcome += outcome::TIME;
        count(Counter::OptionSegments);
        if slot.outcome & outcome::WRITTEN == 0 {
            slot.outcome |= outcome::WRITTEN;
            count(Counter::OptionsWritten);
        }
        path::sent(ctx, offers, offer.start);
        return Some(());
    }
    // It goes without: its packet is not all its own.
    if segment.payload != 0 && segment.sequence == offers.start {
        path::release(ctx, offers);
    }
    None
}

/// The entry of this connection, where `capture` has made one.
#[inline(always)]
pub(crate) fn find(ctx: &SockOpsContext) -> Option<&'static mut Offers> {
    let offers = OFFERS.get_ptr_mut(key(ctx)?)?;
    // SAFETY: entries are plain words; each has one side that writes it.
    Some(unsafe { &mut *offers })
}
