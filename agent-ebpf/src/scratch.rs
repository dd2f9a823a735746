//! Per-CPU staging: the record that is being built, and everything that one program run knows.
//!
//! One run takes a level with [`acquire`] and gives it back with [`release`]. Programs interrupt each other on one CPU (a task by a soft interrupt, or
//! by another task where the kernel is preemptible); each nesting takes another level, and beyond the last there is none.
//!
//! Functions that the verifier shall check once, and not at each call, are global: they take the level and look the scratch up themselves.

use core::arch::asm;

use agent_common::{
    abi::{Decision, DecisionRecord, KeptState, MessageEnd, PAYLOAD_BLOCK, Segment},
    wire::chunked::Chunks,
    wire::decide::Context,
    wire::propagator::{Digits, PLACES},
    wire::scan::{self, Bytes, CARRY, Head, INDEX_MASK, LineStore, Lines},
};

use crate::{
    context::{Handover, HandoverKey},
    globals::{fault, faulty},
    kernel::{iter::Place, task},
    maps::{SCRATCH, count},
};

/// Nesting levels.
pub(crate) const LEVELS: u32 = 3;

/// The bytes before index 0 of the scanner: the segment's fixed part without what the carry overlays.
const LEAD: usize = size_of::<Segment>() - CARRY as usize;

/// Key of `HEADS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct HeadKey {
    pub(crate) sk: u64,
    pub(crate) direction: u64,
}

/// Value of `HEADS`: a head whose end is still to come.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct UnfinishedHead {
    pub(crate) head: Head,
    pub(crate) carry: [u64; CARRY as usize / 8],
}

/// What one direction had seen, as words.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct State {
    pub(crate) position: u64,
    pub(crate) last_time_ns: u64,
    pub(crate) tail: [u64; 2],
}

/// What one program run knows of the send or receive it handles.
#[repr(C)]
pub(crate) struct Work {
    pub(crate) busy: u64,
    /// The task that goes on with this level in another program; 0 for none.
    pub(crate) passed_by: u64,
    /// The [`Post`](crate::spare::Post) that is done with the work.
    pub(crate) post: u64,
    pub(crate) time_ns: u64,
    pub(crate) pid_tgid: u64,
    /// Starts of the running thread and of its group, nanoseconds since boot.
    pub(crate) thread_start_ns: u64,
    pub(crate) process_start_ns: u64,
    pub(crate) sk: u64,
    pub(crate) identity: u64,
    pub(crate) write_seq: u32,
    pub(crate) copied_seq: u32,
    /// Bytes asked or read.
    pub(crate) length: u32,
    /// Segment flags of every record of this run.
    pub(crate) flags: u32,
    /// A [`Direction`](agent_common::abi::Direction).
    pub(crate) direction: u32,
    pub(crate) policy: u32,
    /// `task_struct.flags` of the running thread.
    pub(crate) task_flags: u32,
    pub(crate) place: Place,
    pub(crate) connection: u64,
    /// Position of the segment's first byte.
    pub(crate) position: u64,
    pub(crate) own: State,
    pub(crate) peer: State,
    /// Bytes of the segment that are dealt with.
    pub(crate) cursor: u32,
    /// Where in the segment the loaded block begins.
    pub(crate) block_offset: u32,
    /// Bytes in the block.
    pub(crate) block_length: u32,
    /// What to copy from the process: how much, where to in the block, and from which address.
    pub(crate) copy_length: u32,
    pub(crate) copy_to: u32,
    pub(crate) copy_base: u32,
    /// 1: the last byte of a response was offered.
    pub(crate) finished: u32,
    /// 1: the record's slot shall hold the sender's current request.
    pub(crate) wants_snapshot: u32,
    /// 1: the send has more buffers than are walked, and was counted for it.
    pub(crate) too_long: u32,
    pub(crate) copy_from: u64,
    /// Bytes that could not be read behind them.
    pub(crate) unreadable: u32,
    /// Bytes of the block to ship.
    pub(crate) ship: u32,
    /// Segment flags of the next record alone.
    pub(crate) record_flags: u32,
    pub(crate) head_length: u32,
    /// A [`SlotKind`](agent_common::abi::SlotKind).
    pub(crate) slot: u32,
    pub(crate) dropped: u32,
    /// Whether the scan goes on with the head that [`Work::head`] holds.
    pub(crate) continued: u32,
    /// 1: the other direction had a segment since this direction's last.
    pub(crate) turn: u32,
    /// 1: the other direction had a segment since this direction's last, for the whole of this segment.
    pub(crate) turned: u32,
    /// Index at which the scan begins.
    pub(crate) scan_at: u32,
    /// Index behind the head, when it ended.
    pub(crate) scan_end: u32,
    /// 1: a send of bytes that were offered before, whose decision stands.
    pub(crate) repeated: u32,
    pub(crate) decisions: u32,
    /// The head's last four bytes, the first one lowest.
    pub(crate) ending: u32,
    /// Where in the segment the `traceparent` value begins, [`GONE`](agent_common::wire::inject::GONE) when it does not.
    pub(crate) value_at: u32,
    /// 1: what was read or is sent is plaintext of a TLS library, and not what a socket carries.
    pub(crate) plaintext: u32,
    /// 1: the segment is a record of TLS, sent or received inside a call of a library.
    pub(crate) record: u32,
    /// 1: the connection has turned out to speak no HTTP/1.
    pub(crate) releases: u32,
    pub(crate) message_start: u64,
    pub(crate) head: Head,
    pub(crate) lines: Lines,
    /// The `tracestate` of the head at hand, where it is needed; none where its length is 0.
    pub(crate) kept: KeptState,
    /// Where headers of other propagators are in the block.
    pub(crate) places: [u64; PLACES],
    /// Index of a number that `ut_digits` shall read, and what it read.
    pub(crate) digits_at: u64,
    pub(crate) digits: Digits,
    pub(crate) decision: Decision,
    /// What the slot of the record under construction holds.
    pub(crate) slot_decision: Decision,
    pub(crate) staged: DecisionRecord,
    pub(crate) handover_key: HandoverKey,
    pub(crate) handover: Handover,
    /// What the request's segment has brought in a TCP option.
    pub(crate) brought: Context,
    /// A word read from the process.
    pub(crate) user_word: u64,
    pub(crate) random: u64,
    pub(crate) emitted: u64,
    /// Bytes of the segment up to which user space gets them all.
    pub(crate) shipped: u32,
    /// 1: the end of a message could not be told by a record.
    pub(crate) untold: u32,
    /// Bytes of the segment of which the record under construction, and those before it, speak.
    pub(crate) told_length: u32,
    /// 1: the connection hides messages.
    pub(crate) hides: u32,
    /// 1: the direction's newest message is hidden; where the first of them begins.
    pub(crate) hidden: u32,
    /// 1: the segment begins with what was told already as the message behind hidden ones, and was not accepted.
    pub(crate) behind: u32,
    /// 1: as [`Socket::unpaired`](crate::conn::Socket::unpaired).
    pub(crate) unpaired: u32,
    /// 1: the message at hand is the response to a hidden request.
    pub(crate) mute: u32,
    /// 1: the record under construction has to end before the message at hand.
    pub(crate) cut: u32,
    /// 1: the answer to a hidden request may go on where no hook sees it.
    pub(crate) awaits: u32,
    /// 1: a message of this segment was hidden.
    pub(crate) hid: u32,
    /// The [`Socket::hiding_lost`](crate::conn::Socket::hiding_lost) that user space is still to be told of, and that it was told of; 0 for none.
    pub(crate) hiding_lost: u32,
    pub(crate) hiding_told: u32,
    pub(crate) hidden_from: u64,
    /// As [`Stream::hidden_to`](crate::conn::Stream::hidden_to).
    pub(crate) hidden_to: u64,
    /// The chunked body at hand.
    pub(crate) chunks: Chunks,
    pub(crate) ended: MessageEnd,
}

/// One level.
#[repr(C)]
pub(crate) struct Scratch {
    /// The record's beginning.
    pub(crate) lead: [u64; LEAD / 8],
    /// Carry, block, and as much as an index can reach: the scanner's index 0.
    pub(crate) bytes: [u64; (INDEX_MASK as usize + 1 + 64) / 8],
    pub(crate) work: Work,
    pub(crate) unfinished: UnfinishedHead,
    pub(crate) socket: crate::conn::Socket,
}

const _: () = assert!(LEAD % 8 == 0 && CARRY as usize + PAYLOAD_BLOCK <= INDEX_MASK as usize + 1);

impl Scratch {
    /// Where the record begins.
    #[inline(always)]
    pub(crate) fn record(&mut self) -> *mut u8 {
        (&raw mut self.lead).cast()
    }

    /// The block's first byte.
    #[inline(always)]
    pub(crate) fn block(&mut self) -> *mut u8 {
        self.record().wrapping_add(size_of::<Segment>())
    }
}

/// The scanner's view of a level.
pub(crate) struct View(*const u8);

impl View {
    #[inline(always)]
    pub(crate) fn of(scratch: &Scratch) -> Self {
        Self((&raw const scratch.bytes).cast())
    }
}

impl Bytes for View {
    #[inline(always)]
    fn word(&self, index: u64) -> u64 {
        let at = self.0.wrapping_add(bound(index) as usize);
        let word: u64;
        // SAFETY: the index is below 8192, and 64 more bytes follow; unaligned loads are allowed where the kernel's verifier allows them (x86-64, arm64).
        unsafe {
            asm!("{0} = *(u64 *)({1} + 0)", out(reg) word, in(reg) at, options(readonly, nostack))
        };
        word
    }

    #[inline(always)]
    fn pair(&self, index: u64) -> (u64, u64) {
        let at = self.0.wrapping_add(bound(index) as usize);
        let (first, second): (u64, u64);
        // SAFETY: as above.
        unsafe {
            asm!(
                "{0} = *(u64 *)({2} + 0)",
                "{1} = *(u64 *)({2} + 8)",
                out(reg) first,
                lateout(reg) second,
                in(reg) at,
                options(readonly, nostack)
            )
        };
        (first, second)
    }

    #[inline(always)]
    fn bound(&self, index: u64) -> u64 {
        bound(index)
    }
}

/// Where the scanner keeps what it found.
pub(crate) struct Found(*mut u64);

impl Found {
    #[inline(always)]
    pub(crate) fn of(work: &mut Work) -> Self {
        Self((&raw mut work.lines).cast())
    }

    #[inline(always)]
    pub(crate) fn at(places: &mut [u64; PLACES]) -> Self {
        Self((&raw mut *places).cast())
    }
}

impl LineStore for Found {
    #[inline(always)]
    fn load(&self, index: usize) -> u64 {
        // SAFETY: a word of `Lines`, or of the places; the verifier checks the index.
        unsafe { self.0.wrapping_add(index).read_volatile() }
    }

    #[inline(always)]
    fn store(&self, index: usize, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.wrapping_add(index).write_volatile(value) };
    }
}

/// `index & 8191`, in assembly because LLVM drops a mask where it believes that it knows the bound.
#[inline(always)]
pub(crate) fn bound(mut index: u64) -> u64 {
    const { assert!(scan::INDEX_MASK == 8191) };
    // SAFETY: one instruction without effects.
    // Not marked pure: two equal results made of one instruction would be linked in the verifier's eyes, and its states differ by that.
    unsafe { asm!("{0} &= 8191", inout(reg) index, options(nomem, nostack)) };
    index
}

/// `length & 2047`: a block of the scanner is shorter.
#[inline(always)]
pub(crate) fn bound_scan(mut length: u64) -> u64 {
    const { assert!(scan::BLOCK < 2048) };
    // SAFETY: one instruction without effects.
    unsafe { asm!("{0} &= 2047", inout(reg) length, options(pure, nomem, nostack)) };
    length
}

/// `length & 4095`, likewise.
#[inline(always)]
pub(crate) fn bound_block(mut length: u64) -> u64 {
    // SAFETY: one instruction without effects.
    unsafe { asm!("{0} &= 4095", inout(reg) length, options(pure, nomem, nostack)) };
    length
}

/// The level's scratch.
#[inline(always)]
pub(crate) fn get(level: u32) -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(level)?;
    // SAFETY: the level belongs to this run until it is released.
    Some(unsafe { &mut *scratch })
}

/// What a pointer into the scratch of this run points to.
///
/// Functions that call a global function take such a pointer and not a reference: the global function changes the same memory, and LLVM believes
/// of a parameter that is a reference that nobody else does.
#[inline(always)]
pub(crate) fn borrow<T>(pointer: *mut T) -> &'static mut T {
    // SAFETY: callers pass a part of the scratch that their run has acquired.
    unsafe { &mut *pointer }
}

/// A free level.
#[inline(always)]
pub(crate) fn acquire() -> Option<(u32, &'static mut Scratch)> {
    let refused = faulty(fault::SCRATCH_BUSY);
    for level in 0..LEVELS {
        let scratch = get(level)?;
        if !refused && take(&scratch.work.busy) {
            return Some((level, scratch));
        }
    }
    count(agent_common::abi::Counter::ScratchBusy);
    None
}

/// Leaves a level to the program that the running task goes on with.
#[inline(always)]
pub(crate) fn pass_on(scratch: &mut Scratch) {
    scratch.work.passed_by = task::current();
}

/// The level that the running task has left to this program, or to none.
#[inline(always)]
pub(crate) fn take_over() -> Option<(u32, &'static mut Scratch)> {
    let task = task::current();
    for level in 0..LEVELS {
        let scratch = get(level)?;
        if scratch.work.passed_by == task {
            scratch.work.passed_by = 0;
            return Some((level, scratch));
        }
    }
    None
}

/// Gives a level back.
#[inline(always)]
pub(crate) fn release(scratch: &mut Scratch) {
    add(&scratch.work.busy, 1u64.wrapping_neg());
}

/// Whether nobody else has it: only whoever comes to one alone has it, so a task that is preempted between the two steps costs a level and
/// never shares one.
#[inline(always)]
fn take(busy: &u64) -> bool {
    add(busy, 1);
    let busy: *const u64 = busy;
    // SAFETY: an aligned word of the map.
    let alone = unsafe { busy.read_volatile() } == 1;
    if !alone {
        // SAFETY: as above.
        add(unsafe { &*busy }, 1u64.wrapping_neg());
    }
    alone
}

/// Adds to a word that other tasks, or other CPUs, change too.
#[inline(always)]
pub(crate) fn add(value: &u64, amount: u64) {
    let value: *const u64 = value;
    // SAFETY: an aligned u64 of a map entry; the instruction is BPF_XADD, which has no result and is there since Linux 3.
    unsafe {
        asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) value, in(reg) amount, options(nostack))
    };
}

/// A random word: splitmix64, seeded once per level from the kernel's generator. Ids must differ, not be secret.
#[inline(always)]
pub(crate) fn random(work: &mut Work) -> u64 {
    use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
    if work.random == 0 {
        // SAFETY: a helper without arguments.
        let high = unsafe { bpf_get_prandom_u32() };
        // SAFETY: as above.
        let low = unsafe { bpf_get_prandom_u32() };
        work.random = u64::from(high) << 32 ^ u64::from(low) ^ work.time_ns.rotate_left(20);
    }
    work.random = work.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = work.random;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let word = word ^ (word >> 31);
    if word == 0 { 1 } else { word }
}
