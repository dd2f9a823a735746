//! Read-only globals: what the loader tells the programs before the verifier sees them.
//!
//! Input: the loader overwrites the initial values and freezes them, so the verifier knows each as a constant and leaves out the branches
//! that cannot be taken. Output: one reader per global. Offsets of kernel struct members come from
//! [`agent_common::kernel_fields`]; what stands here is configuration.

use agent_common::wire::propagator::{FIELDS, Field, Table, part};

agent_common::declare_kernel_globals!();

/// Thread group id of the agent: its exec, fork and exit are not reported. 0 for none.
#[unsafe(no_mangle)]
pub static OWN_TGID: u32 = 0;

/// 1: processes that user space has not examined are traced; 0: they are not.
#[unsafe(no_mangle)]
pub static SELECT_UNKNOWN: u32 = 1;

/// 1: only connections with a port in `PORTS`, local or of the peer, are followed.
#[unsafe(no_mangle)]
pub static PORT_FILTER: u32 = 0;

/// A root is sampled when the low 56 bits of its trace id are at least this (0: all, 2^56: none).
#[unsafe(no_mangle)]
pub static SAMPLE_THRESHOLD: u64 = 0;

/// 1: roots are judged by `THRESHOLDS`, each by the entry that `RULES` names for its process.
#[unsafe(no_mangle)]
pub static SAMPLE_BY_PROCESS: u32 = 0;

/// 1: roots are judged by `THRESHOLDS`, which user space moves, and counted.
#[unsafe(no_mangle)]
pub static SAMPLE_LIMITED: u32 = 0;

/// 1: sends of files and of pages are seen as any other (since Linux 6.5).
#[unsafe(no_mangle)]
pub static PAGES_SEEN: u32 = 0;

/// 1: messages of traces that are not sampled are not shipped.
#[unsafe(no_mangle)]
pub static HIDE_UNSAMPLED: u32 = 0;

/// Bytes behind a head that are shipped with it when the segment has no more than those; of longer rests 64 are shipped. At most 2048.
#[unsafe(no_mangle)]
pub static HEAD_EXTRA: u32 = 256;

/// Index of `inet_csk_accept`'s return value in the context of its fexit program: its number of arguments (4 before Linux 6.10, then 2).
#[unsafe(no_mangle)]
pub static N_ARGS_ACCEPT: u32 = 4;

/// 1: the kernel has a helper that gives the running task with its type (since Linux 5.11).
#[unsafe(no_mangle)]
pub static TYPED_TASK: u32 = 0;

/// 1: the kernel may let another task run while a program is at work, see [`crate::spare`].
#[unsafe(no_mangle)]
pub static PREEMPTIBLE: u32 = 0;

/// Losses that tests force: bits of [`fault`].
#[unsafe(no_mangle)]
pub static FAULT: u32 = 0;

/// After this time a request is no parent any more, nanoseconds.
#[unsafe(no_mangle)]
pub static REQUEST_LIFETIME_NS: u64 = 300_000_000_000;

/// 1: exceptional refusals are logged through `AYA_LOGS`.
#[unsafe(no_mangle)]
pub static LOG: u32 = 0;

/// 1: trace context is written into requests.
#[unsafe(no_mangle)]
pub static INJECT: u32 = 0;

/// 1: user space also puts connections that are older than the agent into the sockhash.
#[unsafe(no_mangle)]
pub static INJECT_EXISTING: u32 = 0;

/// 1: trace context is carried in a TCP option.
#[unsafe(no_mangle)]
pub static TCP_OPTION: u32 = 0;

/// 1: calls of TLS libraries are seen, and bind their sessions to connections.
#[unsafe(no_mangle)]
pub static TLS: u32 = 0;

/// 1: context of other propagators than `traceparent` is looked for.
#[unsafe(no_mangle)]
pub static PROPAGATORS: u32 = 0;

/// Their headers.
#[unsafe(no_mangle)]
pub static PROPAGATOR_FIELDS: Table = [Field {
    name: [0; 3],
    mask: [0; 3],
    length: 0,
    part: part::NONE,
    rank: 0,
}; FIELDS];

/// What stands behind it is never run, and the compiler does not know.
#[unsafe(no_mangle)]
pub static NEVER: u32 = 0;

/// Bits of [`FAULT`].
pub mod fault {
    /// The ring buffer takes nothing of every 16th record.
    pub const RING_FULL: u32 = 1;
    /// `SOCKETS` has no room.
    pub const SOCKETS_FULL: u32 = 1 << 1;
    /// `THREADS` has no room.
    pub const THREADS_FULL: u32 = 1 << 2;
    /// `HEADS` has no room.
    pub const HEADS_FULL: u32 = 1 << 3;
    /// `HANDOVERS` has no room.
    pub const HANDOVERS_FULL: u32 = 1 << 4;
    /// `FORWARDS` has no room.
    pub const FORWARDS_FULL: u32 = 1 << 5;
    /// Scratch is busy.
    pub const SCRATCH_BUSY: u32 = 1 << 6;
    /// User memory cannot be read.
    pub const UNREADABLE: u32 = 1 << 7;
    /// Ambiguous links are made all the same, to the request read last: the negative control of the causality rules.
    pub const WRONG_LINK: u32 = 1 << 8;
    /// Same-kernel records are not stored: the negative control of the hand-over.
    pub const NO_HANDOVER: u32 = 1 << 9;
    /// Outgoing requests get no parent: the negative control of what counts links.
    pub const NO_CAUSALITY: u32 = 1 << 10;
    /// What to write into a request is left as if for the send before it: the program on the send path must not do it.
    pub const INJECT_STALE: u32 = 1 << 11;
    /// A hook's program does not jump to its body.
    pub const BODIES_MISSING: u32 = 1 << 12;
    /// Whoever first comes to close a request finds the claim of another, who finds theirs: both leave it.
    pub const CLOSE_CONTENDED: u32 = 1 << 13;
    /// What is taken for a request on a connection older than the agent gets a header without more proof: the negative control of that proof.
    pub const INJECT_EAGERLY: u32 = 1 << 14;
    /// What is kept in `STATES` is gone at once.
    pub const STATES_VANISH: u32 = 1 << 15;
    /// `CALLS` has no room.
    pub const CALLS_FULL: u32 = 1 << 16;
    /// `SESSIONS` has no room.
    pub const SESSIONS_FULL: u32 = 1 << 17;
}

/// Reads a global: volatile, because the value that the compiler sees is not the one that the program will see.
macro_rules! global {
    ($name:ident) => {{
        // SAFETY: a static of a plain integer type, never written after loading.
        unsafe { core::ptr::read_volatile(&raw const $crate::globals::$name) }
    }};
}

pub(crate) use global;

/// Whether a test asked for this loss.
#[inline(always)]
pub(crate) fn faulty(bit: u32) -> bool {
    global!(FAULT) & bit != 0
}
