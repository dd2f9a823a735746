//! The only code that writes to the ring buffer.

use agent_common::abi::{
    ABI_VERSION, Counter, Decision, DecisionRecord, Header, Kind, MessageEnd, PAYLOAD_BLOCK,
    Segment, StreamState, segment_flags,
};
use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_ringbuf_output, bpf_ringbuf_query,
};

use crate::{
    globals::{fault, faulty},
    maps::{EVENTS, EVENTS_BYTES, add, count},
    scratch::{self, State, Work, bound},
};

const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;
const BPF_RB_AVAIL_DATA: u64 = 0;

/// Records after which the fill level is looked at.
const LOOK_EVERY: u64 = 64;
/// Unread bytes that wake the reader.
const WAKE_ABOVE: u64 = EVENTS_BYTES as u64 / 2;

/// A record's header.
#[inline(always)]
pub(crate) fn header(kind: Kind, length: usize, time_ns: u64, connection: u64) -> Header {
    Header {
        kind: kind as u16,
        version: ABI_VERSION,
        length: length as u32,
        time_ns,
        connection,
        position: 0,
        // SAFETY: a helper without arguments.
        cpu: unsafe { bpf_get_smp_processor_id() },
        flags: 0,
    }
}

/// Writes a record of fixed size without waking the reader; false when there is no room.
#[inline(always)]
pub(crate) fn record<T>(record: &T) -> bool {
    output(
        (&raw const *record).cast(),
        size_of::<T>() as u64,
        BPF_RB_NO_WAKEUP,
    )
}

/// Writes a record and wakes the reader.
#[inline(always)]
pub(crate) fn urgent<T>(record: &T) -> bool {
    output(
        (&raw const *record).cast(),
        size_of::<T>() as u64,
        BPF_RB_FORCE_WAKEUP,
    )
}

#[inline(always)]
fn output(data: *const u8, length: u64, flags: u64) -> bool {
    // SAFETY: the verifier checks that `length` bytes are there.
    let failed = unsafe { bpf_ringbuf_output(ring(), data.cast_mut().cast(), length, flags) };
    if failed != 0 {
        count(Counter::RingFull);
    }
    failed == 0
}

#[inline(always)]
fn ring() -> *mut core::ffi::c_void {
    (&raw const EVENTS).cast_mut().cast()
}

/// The decision in scratch as a record of its own; false when there was no room.
#[inline(always)]
pub(crate) fn decision(work: &mut Work) -> bool {
    let mut header = header(
        Kind::Decision,
        size_of::<DecisionRecord>(),
        work.time_ns,
        work.connection,
    );
    header.position = work.decision.position;
    // Built in scratch: the stack is full enough.
    let staged = &mut work.staged;
    staged.header = header;
    staged.pid_tgid = work.pid_tgid;
    staged.process_start_ns = work.process_start_ns;
    staged.decision = work.decision;
    let sent = record(&work.staged);
    if sent {
        count(Counter::Decisions);
    } else {
        work.dropped = work.dropped.wrapping_add(1);
    }
    sent
}

/// The end of the message that begins at `start`: what [`Work::chunks`] knows of it; false when there was no room.
#[inline(always)]
pub(crate) fn message_end(work: &mut Work, start: u64) -> bool {
    let mut header = header(
        Kind::MessageEnd,
        size_of::<MessageEnd>(),
        work.time_ns,
        work.connection,
    );
    header.position = start;
    let ended = &mut work.ended;
    ended.header = header;
    ended.end = work.chunks.line_at;
    ended.body = work.chunks.body;
    ended.direction = work.direction as u8;
    ended.reserved = [0; 7];
    let sent = record(&work.ended);
    if !sent {
        work.dropped = work.dropped.wrapping_add(1);
    }
    sent
}

/// Words of a [`Decision`].
const DECISION_WORDS: usize = size_of::<Decision>() / 8;

/// Writes a plain struct of `N` words.
#[inline(always)]
fn put_words<T, const N: usize>(to: *mut T, words: &[u64; N]) {
    const { assert!(size_of::<T>() == N * 8 && align_of::<T>() == 8) };
    // SAFETY: the same size and alignment, and any bits are a value of the record's types.
    unsafe { to.cast::<[u64; N]>().write(*words) };
}

/// Writes what a direction had seen.
#[inline(always)]
pub(crate) fn put_state(to: *mut StreamState, state: &State) {
    let [high, low] = state.tail;
    put_words(to, &[state.position, state.last_time_ns, high, low]);
}

/// Completes the segment in the level's scratch and writes it with the first [`Work::ship`] bytes of its block. Returns 1 when it was written.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_emit_segment(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let target = scratch.record().cast::<Segment>();
    let work = &mut scratch.work;
    let captured = if work.ship > PAYLOAD_BLOCK as u32 {
        PAYLOAD_BLOCK as u32
    } else {
        work.ship
    };
    let length = size_of::<Segment>() as u64 + u64::from(captured);
    if captured < work.block_length {
        work.record_flags |= segment_flags::POLICY_LIMIT;
    }
    if work.hidden | work.behind != 0 {
        // What begins a message follows the hidden ones; anything else says that the place was lost.
        if work.record_flags & segment_flags::MESSAGE_START != 0 {
            work.record_flags |= segment_flags::HIDDEN_BEFORE;
            if work.hidden != 0 {
                work.hidden_to = work.position.wrapping_add(u64::from(work.block_offset));
                let hidden = work.hidden_to.wrapping_sub(work.hidden_from);
                add(Counter::HiddenBytes, hidden);
            }
        }
        work.hidden = 0;
        work.behind = 0;
    }
    if work.hiding_lost != 0 {
        work.record_flags |= segment_flags::HIDING_LOST;
    }
    if work.unpaired != 0 {
        work.record_flags |= segment_flags::UNPAIRED;
    }
    // Written where it lies, word by word: the stack is full enough.
    // SAFETY: the record begins the scratch, which is larger than a segment.
    let segment = unsafe { &mut *target };
    segment.header.kind = Kind::Segment as u16;
    segment.header.version = ABI_VERSION;
    segment.header.length = length as u32;
    segment.header.time_ns = work.time_ns;
    segment.header.connection = work.connection;
    segment.header.position = work.position + u64::from(work.block_offset);
    // SAFETY: a helper without arguments.
    segment.header.cpu = unsafe { bpf_get_smp_processor_id() };
    segment.header.flags = work.flags | work.record_flags;
    segment.pid_tgid = work.pid_tgid;
    segment.process_start_ns = work.process_start_ns;
    segment.context_id = 0;
    segment.length = work.told_length.wrapping_sub(work.block_offset);
    segment.captured = captured;
    segment.unreadable = work.unreadable;
    segment.dropped = work.dropped;
    segment.direction = work.direction as u8;
    segment.slot = work.slot as u8;
    segment.policy = work.policy as u8;
    segment.context_kind = 0;
    segment.head_length = work.head_length;
    put_state(&raw mut segment.own, &work.own);
    put_state(&raw mut segment.peer, &work.peer);
    if work.slot == 0 {
        put_words(&raw mut segment.decision, &[0; DECISION_WORDS]);
    } else {
        let words = (&raw const work.slot_decision).cast::<[u64; DECISION_WORDS]>();
        // SAFETY: a decision is that many words without padding.
        put_words(&raw mut segment.decision, unsafe { &*words });
    }

    work.emitted = work.emitted.wrapping_add(1);
    let mut wake = BPF_RB_NO_WAKEUP;
    if work.emitted & (LOOK_EVERY - 1) == 0 {
        // SAFETY: the map is a ring buffer.
        let unread = unsafe { bpf_ringbuf_query(ring(), BPF_RB_AVAIL_DATA) };
        if unread > WAKE_ABOVE {
            wake = BPF_RB_FORCE_WAKEUP;
        }
    }
    let refused = faulty(fault::RING_FULL) && work.emitted & 15 == 0;
    if refused {
        count(Counter::RingFull);
    }
    let slot = work.slot;
    if refused || !output(target.cast_const().cast(), bound(length), wake) {
        work.dropped = work.dropped.wrapping_add(1);
        return 0;
    }
    if work.hiding_lost != 0 {
        work.hiding_told = work.hiding_lost;
        work.hiding_lost = 0;
    }
    count(Counter::Segments);
    if slot == agent_common::abi::SlotKind::Decision as u32 {
        count(Counter::Decisions);
    }
    1
}
