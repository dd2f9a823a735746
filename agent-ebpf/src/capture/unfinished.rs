//! Heads that a segment boundary cuts: kept in `HEADS` until the direction's next segment.

use agent_common::{
    abi::Counter,
    wire::{
        http1::Phase,
        scan::{self, CARRY, head_flags},
    },
};

use super::step::{RESTORED, lose};
use crate::{
    conn::{Socket, Stream},
    globals::{fault, faulty, global},
    maps::{HEADS, count},
    scratch::{HeadKey, Scratch, View, Work},
};

/// Puts the unfinished line before the next block.
#[inline(always)]
pub(super) fn keep_carry(scratch: &mut Scratch) {
    let end = CARRY.wrapping_add(u64::from(scratch.work.block_length));
    let view = View::of(scratch);
    let from = end.wrapping_sub(CARRY);
    for index in 0..scratch.unfinished.carry.len() {
        let word = scan::Bytes::word(&view, from.wrapping_add(index as u64 * 8));
        if let Some(slot) = scratch.unfinished.carry.get_mut(index) {
            *slot = word;
        }
    }
}

/// Keeps an unfinished head until the direction's next segment.
#[inline(always)]
pub(super) fn save(scratch: &mut Scratch, stream: &mut Stream, direction: usize) {
    keep_carry(scratch);
    if global!(INJECT) != 0 && scratch.work.kept.length != 0 {
        // It is not kept over segments.
        scratch.work.head.flags |= head_flags::STATE_LOST;
    }
    scratch.unfinished.head = scratch.work.head;
    let key = HeadKey {
        sk: scratch.work.sk,
        direction: direction as u64,
    };
    let start = scratch.work.message_start;
    let end = scratch
        .work
        .position
        .wrapping_add(u64::from(scratch.work.length));
    stream.message_start = start;
    stream.head_end = end;
    stream.message_end = end;
    if faulty(fault::HEADS_FULL) || HEADS.insert(key, &scratch.unfinished, 0).is_err() {
        count(Counter::HeadsFull);
        lose(stream);
        return;
    }
    stream.phase = Phase::Head as u8;
}

/// Fetches the unfinished head of a direction.
#[inline(always)]
pub(super) fn restore(scratch: &mut Scratch, socket: &Socket, direction: usize) -> bool {
    let key = HeadKey {
        sk: scratch.work.sk,
        direction: direction as u64,
    };
    let Some(kept) = HEADS.get_ptr(key) else {
        return false;
    };
    // SAFETY: entries are plain data.
    scratch.unfinished = unsafe { *kept };
    scratch.work.head = scratch.unfinished.head;
    scratch.work.kept.length = 0;
    scratch.work.message_start = socket.streams[direction].message_start;
    scratch.work.continued = RESTORED;
    true
}

#[inline(always)]
pub(super) fn drop_saved(work: &Work, stream: &Stream, direction: usize) {
    if stream.phase == Phase::Head as u8 {
        let _ = HEADS.remove(HeadKey {
            sk: work.sk,
            direction: direction as u64,
        });
    }
}
