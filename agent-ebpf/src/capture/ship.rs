//! What of a segment is written, and with what in its slot.

use agent_common::abi::{Direction, PAYLOAD_BLOCK, PolicyKind, Role, SlotKind, segment_flags};

use super::block::ut_read_block;
use crate::{
    conn::{self, Socket},
    decide,
    emit::ut_emit_segment,
    maps::POLICIES,
    scratch::{self, Work},
};

/// Bytes shipped of a protocol that nobody knows yet.
pub(super) const DETECT: u32 = 256;
/// Bytes shipped behind a head when more follow than `HEAD_EXTRA`.
pub(super) const BEHIND_HEAD: u32 = 64;

/// Ships what user space wants of a protocol that the kernel does not know. It is asked at each change of direction.
#[inline(always)]
pub(super) fn unknown(level: u32, work: *mut Work, socket: &mut Socket) {
    let work = scratch::borrow(work);
    if work.turn != 0
        && let Some((kind, limit)) = policy_of(socket.connection)
    {
        socket.policy = kind as u8;
        socket.limit = limit;
    }
    work.policy = u32::from(socket.policy);
    if socket.policy != PolicyKind::Segments as u8 || work.cursor != 0 {
        return;
    }
    let limit = if socket.limit > PAYLOAD_BLOCK as u32 {
        PAYLOAD_BLOCK as u32
    } else {
        socket.limit
    };
    work.block_offset = 0;
    work.block_length = if work.length > limit {
        limit
    } else {
        work.length
    };
    ut_read_block(level);
    work.ship = work.block_length;
    work.record_flags |= segment_flags::POLICY_LIMIT;
    want_snapshot(work, socket);
}

/// What user space wants of an unknown protocol's segments; `None` while it has not spoken.
#[inline(always)]
fn policy_of(connection: u64) -> Option<(u32, u32)> {
    let policy = POLICIES.get_ptr(connection)?;
    // SAFETY: two words, written by user space only.
    let policy = unsafe { *policy };
    Some((policy.kind, policy.limit))
}

/// Asks for the sender's current request in the record's slot.
#[inline(always)]
pub(super) fn want_snapshot(work: &mut Work, socket: &Socket) {
    if work.direction == Direction::Send as u32 && socket.role != Role::Server as u8 {
        work.wants_snapshot = 1;
    }
}

/// Puts the sender's current request into the slot of the record under construction.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_snapshot(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    if let Some(socket) = conn::find(scratch.work.sk) {
        decide::snapshot(&mut scratch.work, socket);
    }
    0
}

/// Ships what is left of a head that was offered before.
#[inline(always)]
pub(super) fn ship_again(level: u32, work: *mut Work, length: u32) {
    let work = scratch::borrow(work);
    let rest = work.length.wrapping_sub(work.cursor);
    let wanted = length.wrapping_add(BEHIND_HEAD);
    let wanted = if wanted > rest { rest } else { wanted };
    work.block_offset = work.cursor;
    work.block_length = if wanted > PAYLOAD_BLOCK as u32 {
        PAYLOAD_BLOCK as u32
    } else {
        wanted
    };
    ut_read_block(level);
    work.ship = work.block_length;
}

/// Writes the block under construction, when there is something to ship. It speaks of the segment's bytes up to `to`, behind which another record may follow.
#[inline(always)]
pub(super) fn finish_block(level: u32, work: *mut Work, to: u32) {
    let work = scratch::borrow(work);
    if work.ship != 0 || work.record_flags & segment_flags::POLICY_LIMIT != 0 {
        let end = work.block_offset.wrapping_add(work.ship);
        work.told_length = if to > end { to } else { end };
        ut_emit_segment(level);
        work.shipped = end;
    }
    work.ship = 0;
    work.slot = SlotKind::None as u32;
    work.head_length = 0;
    work.unreadable = 0;
    work.record_flags = 0;
}
