//! Trace context in a TCP option: what the callbacks of the object `option` are told to write, and what they have read.
//!
//! Input: connections that are established, and requests that were decided or are about to be. Output: entries of `OFFERS`, and the context that a segment
//! has brought. Nothing here is compiled in where the frozen global `TCP_OPTION` is 0.

use core::arch::asm;

use agent_common::{
    abi::{
        Brought, BroughtContext, Counter, Decision, Direction, InjectionState, OfferedContext,
        Offers, PolicyKind, Source, outcome,
    },
    wire::{
        decide::{Context, RESTARTED},
        http1,
    },
};

use crate::{
    conn::{self, Socket, flags},
    decide,
    globals::global,
    maps::{BROUGHT, OFFERS, count},
    scratch::{self, Work},
};

/// What an entry begins with: the stack is full enough.
static NO_OFFERS: Offers = Offers {
    connection: 0,
    state: InjectionState::Refused as u32,
    offered: 0,
    start: 0,
    acknowledged: 0,
    room: 0,
    in_vain: 0,
    trial: 0,
    tried: 0,
    tried_ns: 0,
    quiet: 0,
    asked: 0,
    claimed_ns: 0,
    received: 0,
    left_out: 0,
    slots: [OfferedContext {
        start: 0,
        own: 0,
        number: 0,
        outcome: 0,
        trace_id: [0; 2],
        span_id: 0,
        flags: 0,
        seal: 0,
    }; Offers::COUNT],
};

#[inline(always)]
fn offers(sk: u64) -> Option<&'static mut Offers> {
    let offers = OFFERS.get_ptr_mut(sk)?;
    // SAFETY: entries are plain words; each has one side that writes it.
    Some(unsafe { &mut *offers })
}

/// A connection of a traced process is established: the handshake's callback, which comes next, shall ask for those that write options.
#[inline(never)]
pub(crate) fn want(sk: u64, socket: &mut Socket) {
    if global!(TCP_OPTION) == 0 || socket.policy != PolicyKind::Heads as u8 {
        return;
    }
    if OFFERS.insert(sk, &NO_OFFERS, 0).is_err() {
        count(Counter::OptionSocketsRefused);
        return;
    }
    let Some(offers) = offers(sk) else {
        return;
    };
    offers.connection = socket.connection;
    offers.state = InjectionState::Wanted as u32;
    socket.flags |= flags::OFFERS;
}

/// A connection is over. What came on it goes too: the callback that would take it out may be gone.
#[inline(never)]
pub(crate) fn forget(sk: u64, socket: &Socket) {
    if global!(TCP_OPTION) == 0 {
        return;
    }
    let _ = BROUGHT.remove(sk);
    if !socket.has(flags::OFFERS) {
        return;
    }
    if let Some(offers) = offers(sk) {
        settle(offers, ALL);
    }
    let _ = OFFERS.remove(sk);
}

/// Counts what became of requests that are acknowledged, or whose slot is this one; of all where it is beyond the slots.
#[inline(always)]
fn settle(offers: &mut Offers, reused: u32) {
    let all = reused == ALL || offers.acknowledged == offers.offered;
    for (index, slot) in offers.slots.iter_mut().enumerate() {
        if slot.number == 0
            || slot.outcome & outcome::SETTLED != 0
            || !(all || index as u32 == reused)
        {
            continue;
        }
        if slot.outcome & outcome::WRITTEN == 0 {
            count(if slot.outcome & outcome::CRAMPED != 0 {
                Counter::OptionsNoRoom
            } else {
                Counter::OptionsUnsent
            });
        }
        slot.outcome |= outcome::SETTLED;
    }
}

/// No slot has this number.
const ALL: u32 = u32::MAX;

/// Offers the context of the request whose head was completed in this send, if it is one of a connection whose requests get options.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_offer(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    if work.direction != Direction::Send as u32
        || !socket.has(flags::OFFERS)
        || !http1::is_request(&work.head)
        // The request was decided, and not one before it.
        || work.decision.position != work.message_start
        || work.decision.direction != Direction::Send as u8
        || work.decisions == 0
    {
        return 0;
    }
    let Some(offers) = offers(work.sk) else {
        return 0;
    };
    if offers.state != InjectionState::Enrolled as u32 {
        return 0;
    }
    offer(work, socket, offers);
    1
}

#[inline(always)]
fn offer(work: &Work, socket: &Socket, offers: &mut Offers) {
    let ours = socket.inserted.wrapping_add(socket.planned);
    let start = socket
        .send_base
        .wrapping_add(ours)
        .wrapping_add(work.message_start as u32);
    let trace_id = decide::words(work.decision.trace_id);
    let span_id = u64::from_ne_bytes(work.decision.span_id);
    let newest = &offers.slots[(offers.offered % Offers::COUNT as u32) as usize];
    // Offered again, because it was not accepted.
    if newest.number != 0 && newest.start == start && newest.span_id == span_id {
        return;
    }
    count(Counter::OptionRequests);
    // Where the request begins on the wire cannot be told, or depends on what is yet to be put in before it.
    if socket.has(flags::UNDER_WAY) || socket.planned != 0 {
        count(Counter::OptionsUnsent);
        offers.left_out = 1;
        return;
    }
    // Those that were never accepted: another request stands in their place.
    for slot in &mut offers.slots {
        if slot.number != 0 && slot.start.wrapping_sub(start) as i32 >= 0 {
            slot.number = 0;
            if slot.outcome & (outcome::WRITTEN | outcome::SETTLED) == 0 {
                count(Counter::OptionsUnsent);
            }
        }
    }
    let number = offers.offered.wrapping_add(1);
    let index = number % Offers::COUNT as u32;
    settle(offers, index);
    let sent = &socket.streams[Direction::Send as usize];
    let own = sent.message_end.wrapping_sub(sent.message_start);
    let slot = &mut offers.slots[index as usize];
    // Filled in place, because there is little stack; the other side takes what has the seal of all its words.
    slot.number = 0;
    fence();
    slot.start = start;
    slot.own = if own > MOST { MOST as u32 } else { own as u32 };
    slot.outcome = 0;
    slot.trace_id = trace_id;
    slot.span_id = span_id;
    // The request's own: it may have been decided in an earlier send, and the record in scratch be another one's.
    let restarted = if socket.request.restarts != 0 {
        RESTARTED
    } else {
        0
    };
    slot.flags = u64::from(work.decision.trace_flags) | restarted;
    slot.seal = slot.seal_of();
    fence();
    slot.number = number;
    fence();
    // SAFETY: words of the entry; in this order, because the other side reads them in the opposite one.
    unsafe { (&raw mut offers.start).write_volatile(start) };
    // SAFETY: as above.
    unsafe { (&raw mut offers.offered).write_volatile(number) };
}

/// No packet is longer.
const MOST: u64 = 1 << 20;

/// Takes the context that the segment with the first byte of this request has brought, for the decision that comes next.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_take_brought(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    work.brought = Context::default();
    if work.direction != Direction::Receive as u32 || !http1::is_request(&work.head) {
        return 0;
    }
    let Some(brought) = BROUGHT.get_ptr_mut(work.sk) else {
        return 0;
    };
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    if socket.has(flags::COUNTED) || !socket.has(flags::TRUSTED) {
        return 0;
    }
    let start = socket.receive_base.wrapping_add(work.message_start as u32);
    // SAFETY: entries are plain words.
    take(unsafe { &mut *brought }, start, &mut work.brought);
    0
}

#[inline(always)]
fn take(brought: &mut Brought, start: u32, context: &mut Context) {
    for slot in &mut brought.slots {
        if slot.start != u64::from(start) || slot.taken != 0 {
            continue;
        }
        // Copied, because it may be replaced meanwhile: the seal of the copy tells. To scratch, because there is little stack.
        let seal = slot.seal;
        *context = slot.context();
        fence();
        if seal == BroughtContext::seal_of_words(u64::from(start), context) {
            slot.taken = 1;
            return;
        }
        *context = Context::default();
    }
}

/// Puts what was brought in the place of a record that is not there; what is not taken is forgotten.
#[inline(always)]
pub(crate) fn take_over(work: &mut Work) {
    if work.handover.trace_id[0] | work.handover.trace_id[1] != 0 {
        work.brought = Context::default();
        return;
    }
    work.handover.trace_id = work.brought.trace_id;
    work.handover.span_id = work.brought.span_id;
    work.handover.trace_flags = work.brought.flags;
}

/// Says of a decision by a record that an option has brought it.
#[inline(always)]
pub(crate) fn name_source(brought: &Context, decision: &mut Decision) {
    if brought.exists() && decision.source == Source::SameKernel as u8 {
        decision.source = Source::Option as u8;
        count(Counter::OptionsTaken);
    }
}

/// Keeps the compiler from moving or joining what is read and written around it.
#[inline(always)]
fn fence() {
    // SAFETY: no instruction at all.
    unsafe { asm!("", options(nostack)) };
}
