//! The maps, with their sizes and what they cost. Who writes each and who deletes its entries stands in ARCHITECTURE.md.

use agent_common::abi::{
    Brought, Counter, EventLoop, Injection, KeptState, LIVE_BATCH, LiveRequest, Offers, Policy,
    SELECTION_WORDS, THRESHOLDS as THRESHOLDS_MAX,
};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf},
};

use crate::{
    conn::Socket,
    context::{Forward, ForwardKey, Handover, HandoverKey, Thread},
    globals::global,
    scratch::{self, HeadKey, Scratch, UnfinishedHead},
    tls::{Call, Session},
};

/// Records for user space: 4 MiB unless the loader changes it.
pub(crate) const EVENTS_BYTES: u32 = 4 << 20;
/// Connections: 18 MB.
pub(crate) const SOCKETS_MAX: u32 = 32_768;
/// Policies set by user space, for protocols that only it knows: 0.3 MB.
pub(crate) const POLICIES_MAX: u32 = 4_096;
/// Threads that serve requests: 2.5 MB.
pub(crate) const THREADS_MAX: u32 = 16_384;
/// Heads cut by a segment boundary: 0.6 MB.
pub(crate) const HEADS_MAX: u32 = 2_048;
/// Same-kernel records: 2 MB.
pub(crate) const HANDOVERS_MAX: u32 = 16_384;
/// Forwarded identities: 1 MB.
pub(crate) const FORWARDS_MAX: u32 = 8_192;
/// Processes whose run-time system is known: 0.4 MB.
pub(crate) const RUNTIMES_MAX: u32 = 4_096;
/// Processes for which a rule of sampling of their own holds: 0.6 MB, or one entry where there are no such rules.
pub(crate) const RULES_MAX: u32 = 8_192;
/// Connections into whose requests something is written: 2 MB, or one entry where that is off.
pub(crate) const INJECTIONS_MAX: u32 = 8_192;
/// Open requests that brought a `tracestate` along: 1.5 MB, or one entry where nothing is written.
pub(crate) const STATES_MAX: u32 = 4_096;
/// Connections whose requests get a TCP option: 2.2 MB, or one entry where that is off.
pub(crate) const OFFERS_MAX: u32 = 8_192;
/// Connections on which options have come: 2 MB, or one entry where that is off.
pub(crate) const BROUGHT_MAX: u32 = 8_192;
/// Threads inside a call of a TLS library: 0.5 MB, or one entry where none is looked at.
pub(crate) const CALLS_MAX: u32 = 4_096;
/// Sessions of TLS libraries: 0.8 MB, or one entry where none is looked at.
pub(crate) const SESSIONS_MAX: u32 = 8_192;
/// Networks whose context is taken.
pub(crate) const TRUSTED_MAX: u32 = 256;
/// One bit per port: 8 KiB.
pub(crate) const PORT_WORDS: u32 = 1_024;

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
#[map]
pub(crate) static SOCKETS: HashMap<u64, Socket> = HashMap::with_max_entries(SOCKETS_MAX, 0);
#[map]
pub(crate) static POLICIES: HashMap<u64, Policy> = HashMap::with_max_entries(POLICIES_MAX, 0);
#[map]
pub(crate) static SELECTION: Array<u64> = Array::with_max_entries(SELECTION_WORDS, 0);
#[map]
pub(crate) static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, 0);
/// IPv6 prefixes, IPv4 ones mapped.
#[map]
pub(crate) static TRUSTED: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(TRUSTED_MAX, 0);
#[map]
pub(crate) static THREADS: HashMap<u64, Thread> = HashMap::with_max_entries(THREADS_MAX, 0);
#[map]
pub(crate) static HEADS: HashMap<HeadKey, UnfinishedHead> = HashMap::with_max_entries(HEADS_MAX, 0);
#[map]
pub(crate) static HANDOVERS: HashMap<HandoverKey, Handover> =
    HashMap::with_max_entries(HANDOVERS_MAX, 0);
#[map]
pub(crate) static FORWARDS: HashMap<ForwardKey, Forward> =
    HashMap::with_max_entries(FORWARDS_MAX, 0);
#[map]
pub(crate) static RUNTIMES: HashMap<u32, EventLoop> = HashMap::with_max_entries(RUNTIMES_MAX, 0);
#[map]
pub(crate) static RULES: HashMap<u32, u32> = HashMap::with_max_entries(RULES_MAX, 0);
#[map]
pub(crate) static THRESHOLDS: Array<u64> = Array::with_max_entries(THRESHOLDS_MAX, 0);
/// Roots that were judged, by rule.
#[map]
pub(crate) static ROOTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(THRESHOLDS_MAX, 0);
#[map]
pub(crate) static INJECTIONS: HashMap<u64, Injection> =
    HashMap::with_max_entries(INJECTIONS_MAX, 0);
#[map]
pub(crate) static STATES: HashMap<u64, KeptState> = HashMap::with_max_entries(STATES_MAX, 0);
#[map]
pub(crate) static OFFERS: HashMap<u64, Offers> = HashMap::with_max_entries(OFFERS_MAX, 0);
#[map]
pub(crate) static BROUGHT: HashMap<u64, Brought> = HashMap::with_max_entries(BROUGHT_MAX, 0);
#[map]
pub(crate) static CALLS: HashMap<u64, Call> = HashMap::with_max_entries(CALLS_MAX, 0);
#[map]
pub(crate) static SESSIONS: HashMap<u64, Session> = HashMap::with_max_entries(SESSIONS_MAX, 0);
/// What user space switches while the programs are at work: one word, see [`agent_common::abi::switches`].
#[map]
pub(crate) static SWITCHES: Array<u32> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static LIVE: Array<LiveRequest> = Array::with_max_entries(LIVE_BATCH, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::CAPACITY, 0);
/// Tasks for which the first program of a hook has run, see [`crate::spare`].
#[map]
pub(crate) static DONE: Array<u64> = Array::with_max_entries(crate::spare::ALL_NOTES, 0);
/// What the programs of a hook go on with, see [`crate::hook::body`]: one entry each.
#[map]
pub(crate) static INET_SEND: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub(crate) static INET6_SEND: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub(crate) static UNIX_SEND: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub(crate) static INET_RECEIVE: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub(crate) static INET6_RECEIVE: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub(crate) static UNIX_RECEIVE: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub(crate) static TLS_CALL: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> =
    PerCpuArray::with_max_entries(crate::scratch::LEVELS, 0);

/// Moves a counter by one.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    add(counter, 1);
}

/// Moves a counter.
#[inline(always)]
pub(crate) fn add(counter: Counter, amount: u64) {
    ut_count(counter as u32, amount);
}

/// Moves the counter of this number.
///
/// A global function: there is one look-up for the verifier to check and the kernel to patch in, where each place that counts had its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_count(counter: u32, amount: u64) -> u32 {
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        if global!(PREEMPTIBLE) != 0 {
            // A task that is preempted between reading and writing would take back the steps of those that ran meanwhile.
            // SAFETY: a word of the entry, which is aligned and lives as long as the map.
            scratch::add(unsafe { &*value }, amount);
        } else {
            // SAFETY: the entry belongs to this CPU; a program in an interrupt may lose one step of a counter, nothing else.
            unsafe { *value = (*value).wrapping_add(amount) };
        }
    }
    0
}
