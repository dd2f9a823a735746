//! A line put in, or a value replaced.
//!
//! Input: one instruction. Output: how many bytes the message has grown by, or the counter that says why nothing was written.

use agent_common::{
    abi::{Counter, InjectionSlot},
    wire::inject::{self, EMPTY_LINE, LINE, PARENT_AT, VALUE},
};
use aya_ebpf::{helpers::bpf_msg_pull_data, programs::SkMsgContext};

use crate::{
    count, fault, faulty,
    packet::{Packet, bytes, pull},
    state::{self, Staged},
};

/// Puts a line in front of the empty line that begins at `at`, and behind it that of a `tracestate`, the `state_line` bytes in `staged`.
#[inline(always)]
pub(crate) fn insert(
    ctx: &SkMsgContext,
    at: u32,
    slot: &InjectionSlot,
    staged: *const Staged,
    state_line: u32,
) -> Result<u32, Counter> {
    check_empty_line(ctx, at)?;
    let at = if faulty(fault::LATE) { at + 1 } else { at };
    let line_length = if faulty(fault::TWICE) { 2 * LINE } else { LINE };
    let state_line = if faulty(fault::TWICE) { 0 } else { state_line };
    let length = line_length + state_line;
    if ctx.push_data(at, length, 0).is_err() {
        return Err(Counter::InjectRefused);
    }
    // The new bytes are a piece of their own: nothing is copied.
    // SAFETY: the context is the kernel's; every pointer into the message is taken again behind this.
    let pulled = unsafe { bpf_msg_pull_data(ctx.msg, at, at + length, 0) };
    let line = if pulled == 0 {
        bytes(ctx, line_length)
    } else {
        None
    };
    let Some(line) = line else {
        // What was put in has no content yet.
        let _ = ctx.pop_data(at, length, 0);
        return Err(Counter::InjectRefused);
    };
    let flags = slot.trace_flags as u8;
    inject::write_line(&mut Packet(line), slot.trace_id, slot.span_id, flags);
    if faulty(fault::TWICE) {
        let second = line.wrapping_add(LINE as usize);
        inject::write_line(&mut Packet(second), slot.trace_id, slot.span_id, flags);
    }
    if state_line != 0 {
        if !state::write(ctx, staged, state_line) {
            // Not reached: what was put in is as long as both lines. All of it, and nothing goes out that was not meant.
            let _ = ctx.pop_data(at, length, 0);
            return Err(Counter::InjectRefused);
        }
        count(Counter::InjectStates, 1);
    }
    if faulty(fault::LOSS) {
        let _ = ctx.pop_data(1, 1, 0);
    }
    Ok(length)
}

/// Replaces the parent id of the value at `at`, when the value is still that of the same trace.
#[inline(always)]
pub(crate) fn rewrite(ctx: &SkMsgContext, at: u32, slot: &InjectionSlot) -> Result<u32, Counter> {
    const LENGTH: u32 = VALUE + 1;
    if !pull(ctx, at, at + LENGTH) {
        return Err(Counter::InjectRefused);
    }
    let value = bytes(ctx, LENGTH).ok_or(Counter::InjectRefused)?;
    let byte = |at: usize| {
        // SAFETY: the constants are below `LENGTH`.
        unsafe { value.wrapping_add(at).read() }
    };
    let word = |at: usize| {
        // SAFETY: as above.
        unsafe { value.wrapping_add(at).cast::<u64>().read_unaligned() }
    };
    let [first, second] = slot.trace_id;
    let differs = (word(3) ^ inject::hex(first as u32))
        | (word(11) ^ inject::hex((first >> 32) as u32))
        | (word(19) ^ inject::hex(second as u32))
        | (word(27) ^ inject::hex((second >> 32) as u32))
        | u64::from((byte(2) ^ b'-') | (byte(35) ^ b'-') | (byte(52) ^ b'-'));
    if differs != 0 {
        return Err(Counter::InjectChanged);
    }
    inject::write_span_id(&mut Packet(value), PARENT_AT as usize, slot.span_id);
    Ok(0)
}

/// Whether `CRLF CRLF` is there, of which the second one begins at `at`; where the first one lay in an earlier send, the second one alone.
#[inline(always)]
fn check_empty_line(ctx: &SkMsgContext, at: u32) -> Result<(), Counter> {
    if at >= 2 {
        if !pull(ctx, at - 2, at + 2) {
            return Err(Counter::InjectRefused);
        }
        let end = bytes(ctx, 4).ok_or(Counter::InjectRefused)?;
        // SAFETY: four bytes are there.
        let end = unsafe { end.cast::<u32>().read_unaligned() };
        return if end == EMPTY_LINE {
            Ok(())
        } else {
            Err(Counter::InjectChanged)
        };
    }
    if !pull(ctx, at, at + 2) {
        return Err(Counter::InjectRefused);
    }
    let end = bytes(ctx, 2).ok_or(Counter::InjectRefused)?;
    // SAFETY: two bytes are there.
    let end = unsafe { end.cast::<u16>().read_unaligned() };
    if end == EMPTY_LINE as u16 {
        Ok(())
    } else {
        Err(Counter::InjectChanged)
    }
}
