//! Whether segments with an option arrive.
//!
//! Input: what becomes of the first request that a connection sends with one. Output: entries of `PEERS`, by which a path that does not pass options is left
//! alone for a while, whether it drops such segments, answers them with a reset, or keeps a process waiting for longer than it wants to.
//!
//! The connection need not be a process's any more: what a socket sends on its own after that says as much.
//!
//! Later requests of a connection say nothing: where one has passed, what is lost afterwards is lost for another reason.

use agent_common::abi::{Counter, Offers, Peer, Trial};
use aya_ebpf::{
    bindings::{
        BPF_NOEXIST, BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE,
        BPF_TCP_FIN_WAIT1, BPF_TCP_LAST_ACK,
    },
    helpers::bpf_ktime_get_ns,
    programs::SockOpsContext,
};

use crate::{
    AF_INET, LOOPBACK, O_SOCK_SK_ERR, PATHS, PEERS, count, fault, faulty, is_self_test,
    peer_address,
    send::{find, is_acknowledged},
    tcp_sock,
};

/// What is known of one: nothing.
static UNKNOWN: Peer = Peer {
    until_ns: 0,
    trial_ns: 0,
    proven: 0,
    failures: 0,
    pauses: 0,
    passes: 0,
};

/// How long a path is left alone at first, nanoseconds.
const PAUSE_NS: u64 = 60_000_000_000;

/// The same for tests.
const SHORT_PAUSE_NS: u64 = 2_000_000_000;

/// A process that has waited for so long, and for several round trips, would have seen its request acknowledged: Linux does that at once with what comes first
/// on a connection.
const WAITED_NS: u64 = 50_000_000;

/// Round trips, likewise.
const ROUND_TRIPS: u64 = 4;

/// The kernel has eighths of a microsecond of them (`srtt_us`, include/linux/tcp.h).
const EIGHTHS_PER_US: u64 = 8;

/// Whether nothing is to be written to this peer for now.
#[inline(always)]
pub(crate) fn is_paused(ctx: &SockOpsContext) -> bool {
    if is_self_test() {
        return false;
    }
    let now_ns = now_ns();
    if let Some(peer) = known(ctx) {
        if peer.is_paused(now_ns) {
            return true;
        }
        if peer.proven != 0 {
            return false;
        }
    }
    all(ctx).is_some_and(|all| all.is_paused(now_ns))
}

/// Whether this connection may send a request with an option now.
#[inline(always)]
pub(crate) fn admits(ctx: &SockOpsContext, offers: &mut Offers) -> bool {
    if offers.trial == Trial::Failed as u32 {
        return false;
    }
    if (offers.trial != Trial::Open as u32 && offers.trial != Trial::Claimed as u32)
        || is_self_test()
    {
        return true;
    }
    // SAFETY: a load from the context.
    let next = unsafe { (&raw const (*ctx.ops).snd_nxt).read_volatile() };
    // It was sent without: what is sent again is late for another reason.
    if next.wrapping_sub(offers.start) as i32 > 0 {
        return false;
    }
    let Some(peer) = peer(ctx) else {
        return false;
    };
    if offers.trial == Trial::Claimed as u32 && peer.trial_ns == offers.claimed_ns {
        return true;
    }
    offers.trial = Trial::Open as u32;
    let now_ns = now_ns();
    if !peer.admits(now_ns) {
        return false;
    }
    if peer.proven != 0 {
        return true;
    }
    if all(ctx).is_some_and(|all| !all.admits(now_ns)) {
        // Another peer is tried, or nothing is for now.
        peer.trial_ns = 0;
        return false;
    }
    offers.claimed_ns = now_ns;
    offers.trial = Trial::Claimed as u32;
    // To hear of it where the connection ends before anything is sent.
    want_callbacks(ctx, offers, BPF_SOCK_OPS_STATE_CB_FLAG);
    true
}

/// The option that this connection was to try the path with is not sent: another one may try it.
#[inline(always)]
pub(crate) fn release(ctx: &SockOpsContext, offers: &mut Offers) {
    if offers.trial == Trial::Claimed as u32 {
        offers.trial = Trial::Open as u32;
        make_way(ctx, offers);
    }
}

#[inline(always)]
fn make_way(ctx: &SockOpsContext, offers: &Offers) {
    if let Some(peer) = known(ctx) {
        peer.released(offers.claimed_ns);
    }
    if let Some(all) = all(ctx) {
        all.released(offers.claimed_ns);
    }
}

/// An option was written into the segment with this first byte.
#[inline(always)]
pub(crate) fn sent(ctx: &SockOpsContext, offers: &mut Offers, start: u32) {
    if (offers.trial != Trial::Open as u32 && offers.trial != Trial::Claimed as u32)
        || is_self_test()
    {
        return;
    }
    offers.tried = start;
    offers.received = received(ctx);
    offers.tried_ns = now_ns();
    offers.trial = Trial::Sent as u32;
    // To hear of its end as soon as it is acknowledged, and where the connection ends before.
    want_callbacks(
        ctx,
        offers,
        BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG,
    );
}

/// Something was acknowledged.
#[inline(always)]
pub(crate) fn measured(ctx: &SockOpsContext) -> Option<()> {
    let offers = find(ctx)?;
    look(ctx, offers);
    resolve(ctx, offers);
    None
}

/// Looks whether what was sent with an option in vain has arrived without. Nothing more may be sent on the connection: so this is looked after each time.
#[inline(always)]
pub(crate) fn resolve(ctx: &SockOpsContext, offers: &mut Offers) {
    if offers.in_vain == 0 || !is_acknowledged(ctx, offers) {
        return;
    }
    offers.in_vain = 0;
    count(Counter::OptionSocketsGivenUp);
    if offers.trial == Trial::Sent as u32 {
        fail(ctx, offers);
    }
}

/// Looks whether the first segment with an option was acknowledged, and whether the other end has sent anything since then.
#[inline(always)]
pub(crate) fn look(ctx: &SockOpsContext, offers: &mut Offers) {
    if offers.trial == Trial::Acknowledged as u32 && received(ctx) != offers.received {
        offers.trial = Trial::Passed as u32;
        drop_some(
            ctx,
            offers,
            BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG,
        );
        if let Some(peer) = peer(ctx) {
            peer.passed();
        }
        if let Some(all) = all(ctx) {
            all.passed();
        }
        return;
    }
    if offers.trial != Trial::Sent as u32 || offers.in_vain != 0 {
        return;
    }
    // SAFETY: a load from the context.
    let unacknowledged = unsafe { (&raw const (*ctx.ops).snd_una).read_volatile() };
    if unacknowledged.wrapping_sub(offers.tried) as i32 <= 0 {
        return;
    }
    // Something may take it and answer with a reset: that is still to be heard of.
    offers.trial = Trial::Acknowledged as u32;
    drop_some(ctx, offers, BPF_SOCK_OPS_RTT_CB_FLAG);
    if let Some(peer) = peer(ctx) {
        peer.acknowledged();
    }
    if let Some(all) = all(ctx) {
        all.acknowledged();
    }
}

/// Bytes that the connection has received: the low half of their number.
#[inline(always)]
fn received(ctx: &SockOpsContext) -> u32 {
    // SAFETY: a load from the context.
    unsafe { (&raw const (*ctx.ops).bytes_received).read_volatile() as u32 }
}

/// A connection has changed its state. Where it ends for its process while the first segment with an option is not acknowledged, that may be for the option.
#[inline(always)]
pub(crate) fn leave(ctx: &SockOpsContext) -> Option<()> {
    let offers = find(ctx)?;
    look(ctx, offers);
    resolve(ctx, offers);
    let state = ctx.arg(1);
    let closed = state == BPF_TCP_CLOSE;
    // Where it does not arrive without one either, nothing does.
    let failed = if offers.trial == Trial::Sent as u32 && offers.in_vain == 0 {
        // By a reset, or because the process wants to wait no longer.
        (closed && was_reset(ctx))
            || ((closed || state == BPF_TCP_FIN_WAIT1 || state == BPF_TCP_LAST_ACK)
                && has_waited(ctx, offers))
    } else {
        offers.trial == Trial::Acknowledged as u32 && closed && was_reset(ctx)
    };
    if failed {
        count(Counter::OptionSocketsFailed);
        fail(ctx, offers);
    }
    // It has nothing to tell.
    if closed && (offers.trial == Trial::Claimed as u32 || offers.trial == Trial::Sent as u32) {
        make_way(ctx, offers);
        offers.trial = Trial::Failed as u32;
    }
    None
}

/// Whether the other end, or something on the path, has ended the connection: the error is there before the state changes. Where the process itself ends it so,
/// it comes after that.
#[inline(always)]
fn was_reset(ctx: &SockOpsContext) -> bool {
    /// ECONNRESET (include/uapi/asm-generic/errno.h).
    const RESET: u32 = 104;
    // SAFETY: a static of a plain integer type, never written after loading.
    let offset = unsafe { core::ptr::read_volatile(&raw const O_SOCK_SK_ERR) };
    if offset == 0 {
        return false;
    }
    let Some(tcp) = tcp_sock(ctx) else {
        return false;
    };
    // SAFETY: a member of the struct, which the verifier checks.
    unsafe {
        tcp.wrapping_add(offset as usize)
            .cast::<u32>()
            .read_volatile()
            == RESET
    }
}

#[inline(always)]
fn has_waited(ctx: &SockOpsContext, offers: &Offers) -> bool {
    // SAFETY: a load from the context.
    let round_trip = u64::from(unsafe { (&raw const (*ctx.ops).srtt_us).read_volatile() });
    let waited_ns = now_ns().saturating_sub(offers.tried_ns);
    waited_ns >= WAITED_NS
        && waited_ns / 1_000 * EIGHTHS_PER_US >= round_trip.saturating_mul(ROUND_TRIPS)
}

#[inline(always)]
fn fail(ctx: &SockOpsContext, offers: &mut Offers) {
    offers.trial = Trial::Failed as u32;
    let pause_ns = if faulty(fault::SHORT_PAUSE) {
        SHORT_PAUSE_NS
    } else {
        PAUSE_NS
    };
    let now_ns = now_ns();
    let Some(peer) = peer(ctx) else {
        return;
    };
    // What fails when it is given up already, or was before, tells nothing of others.
    let unknown = peer.is_unknown();
    if peer.failed(now_ns, pause_ns) {
        count(Counter::OptionPeersPaused);
    }
    let Some(all) = all(ctx) else {
        return;
    };
    if !unknown {
        all.released(offers.claimed_ns);
    } else if all.failed(now_ns, pause_ns) {
        count(Counter::OptionPauses);
    }
}

/// Asks for callbacks of this socket, keeps those that somebody else has asked for, and notes which are our own.
#[inline(always)]
pub(crate) fn want_callbacks(ctx: &SockOpsContext, offers: &mut Offers, wanted: u32) -> bool {
    let there = ctx.cb_flags();
    offers.asked |= wanted & !there;
    ctx.set_cb_flags((there | wanted) as i32).is_ok()
}

/// Asks for nothing more on this connection.
#[inline(always)]
pub(crate) fn drop_callbacks(ctx: &SockOpsContext, offers: &mut Offers) {
    drop_some(ctx, offers, u32::MAX);
}

#[inline(always)]
fn drop_some(ctx: &SockOpsContext, offers: &mut Offers, unwanted: u32) {
    let own = offers.asked & unwanted;
    if own == 0 {
        return;
    }
    offers.asked &= !own;
    // Nothing can be done where the kernel refuses it: it goes on calling, and finds nothing to do.
    let _ = ctx.set_cb_flags((ctx.cb_flags() & !own) as i32);
}

/// What is known of the peer, where something is.
#[inline(always)]
fn known(ctx: &SockOpsContext) -> Option<&'static mut Peer> {
    let peer = PEERS.get_ptr_mut(peer_address(ctx)?)?;
    // SAFETY: entries are plain words; see the type for what is lost where two write at one time.
    Some(unsafe { &mut *peer })
}

/// The same, with an entry made where there is none. Where none can be made, nothing is written.
#[inline(always)]
fn peer(ctx: &SockOpsContext) -> Option<&'static mut Peer> {
    if known(ctx).is_none() {
        let _ = PEERS.insert(peer_address(ctx)?, UNKNOWN, u64::from(BPF_NOEXIST));
    }
    known(ctx)
}

/// What is known of all of them; nothing for a peer on this host, whose segments say nothing of paths to others, and depend on none.
#[inline(always)]
fn all(ctx: &SockOpsContext) -> Option<&'static mut Peer> {
    if is_here(ctx) {
        return None;
    }
    let all = PATHS.get_ptr_mut(0)?;
    // SAFETY: as above.
    Some(unsafe { &mut *all })
}

/// Whether the peer has an address of the loopback, or our own.
#[inline(always)]
fn is_here(ctx: &SockOpsContext) -> bool {
    const NETWORK: u32 = u32::from_ne_bytes([255, 0, 0, 0]);
    if ctx.family() == AF_INET {
        let peer = ctx.remote_ip4();
        return peer & NETWORK == LOOPBACK & NETWORK || peer == ctx.local_ip4();
    }
    // Also of the loopback, whose IPv6 network is one address.
    let mut differs = 0;
    for index in 0..4 {
        // SAFETY: loads from the context; the kernel takes those of four bytes only, so each is one of its own.
        differs |= unsafe {
            (&raw const (*ctx.ops).remote_ip6[index]).read_volatile()
                ^ (&raw const (*ctx.ops).local_ip6[index]).read_volatile()
        };
    }
    differs == 0
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}
