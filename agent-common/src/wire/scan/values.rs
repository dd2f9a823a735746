//! Values of the headers that matter: `traceparent`, `tracestate`, and those that say how long the body is.

use super::{
    Bytes,
    head::{Head, head_flags},
    lines::Lines,
    names::FOLD,
};
use crate::wire::traceparent::{self, TraceParent};

#[inline(always)]
fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Index of the first byte from `at` on that is no white space; at most 16 are skipped.
#[inline(always)]
pub(in crate::wire) fn skip_space<B: Bytes>(bytes: &B, mut at: u64) -> u64 {
    for _ in 0..16 {
        if !is_space(bytes.byte(at)) {
            break;
        }
        at += 1;
    }
    bytes.bound(at)
}

/// Whether a value ends before `at`: nothing but white space comes before the newline. At most 16 bytes of it are skipped, CR among them: what has more is
/// taken for no end.
///
/// Only lines whose newline is there are read, so the loop never leaves the line.
#[inline(always)]
fn ends<B: Bytes>(bytes: &B, mut at: u64) -> bool {
    for _ in 0..16 {
        if !is_padding(bytes.byte(at)) {
            break;
        }
        at += 1;
    }
    bytes.byte(at) == b'\n'
}

/// Index behind the last byte before `end` that is no white space; at most 16 bytes of that are passed, CR among them.
#[inline(always)]
fn trim_end<B: Bytes>(bytes: &B, mut end: u64) -> u64 {
    for _ in 0..16 {
        if !is_padding(bytes.byte(end.wrapping_sub(1))) {
            break;
        }
        end = end.wrapping_sub(1);
    }
    bytes.bound(end)
}

/// White space, or the CR of a line's end.
#[inline(always)]
fn is_padding(byte: u8) -> bool {
    byte == b'\r' || is_space(byte)
}

/// Reads the `traceparent` that [`find_lines`](super::find_lines) has found, into `head`; before [`judge`](super::judge).
#[inline(always)]
pub fn take_traceparent<B: Bytes>(bytes: &B, head: &mut Head, lines: &Lines) {
    let (at, count) = (lines.traceparent_at, lines.traceparents);
    const SEEN: u32 =
        head_flags::TRACEPARENT | head_flags::TRACEPARENT_BAD | head_flags::TRACEPARENT_TWICE;
    if count > 1 || head.flags & SEEN != 0 {
        head.flags |= head_flags::TRACEPARENT_TWICE;
        head.flags &= !(head_flags::TRACEPARENT | head_flags::TRACEPARENT_BAD);
        (head.trace_id, head.span_id, head.trace_flags) = ([0; 2], 0, 0);
        return;
    }
    match traceparent_at(bytes, skip_space(bytes, at)) {
        Some(context) => {
            head.flags |= head_flags::TRACEPARENT;
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = context.trace_id;
            head.trace_id = [
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
            ];
            head.span_id = u64::from_ne_bytes(context.span_id);
            head.trace_flags = context.flags;
        }
        None => head.flags |= head_flags::TRACEPARENT_BAD,
    }
}

/// Where the value of the one `tracestate` in a block that ends at `end` begins, and its bytes without the white space around it; more than any value
/// may have when there are several, when more blanks are around it than are taken off, or when the next line may continue it (RFC 9112 section 5.2).
#[must_use]
#[inline(always)]
pub fn state_value<B: Bytes>(bytes: &B, lines: &Lines, end: u64) -> (u64, u64) {
    let at = skip_space(bytes, lines.state_at);
    let next = lines.state_end.wrapping_add(1);
    let behind = trim_end(bytes, lines.state_end);
    let unsure = lines.states != 1
        || next >= end
        || is_space(bytes.byte(next))
        || is_space(bytes.byte(at))
        || is_padding(bytes.byte(behind.wrapping_sub(1)));
    if unsure {
        return (at, u64::MAX);
    }
    (at, behind.saturating_sub(at))
}

/// Index of the value of the `traceparent` that [`find_lines`](super::find_lines) has found.
#[must_use]
#[inline(always)]
pub fn traceparent_value<B: Bytes>(bytes: &B, lines: &Lines) -> u64 {
    skip_space(bytes, lines.traceparent_at)
}

#[inline(always)]
fn traceparent_at<B: Bytes>(bytes: &B, at: u64) -> Option<TraceParent> {
    let mut value = [0u8; traceparent::LENGTH];
    let [a, b, c, d, e, f] =
        [0u64, 8, 16, 24, 32, 40].map(|offset| bytes.word(at + offset).to_le_bytes());
    let g = bytes.word(at + 47).to_le_bytes();
    value[0..8].copy_from_slice(&a);
    value[8..16].copy_from_slice(&b);
    value[16..24].copy_from_slice(&c);
    value[24..32].copy_from_slice(&d);
    value[32..40].copy_from_slice(&e);
    value[40..48].copy_from_slice(&f);
    value[47..55].copy_from_slice(&g);
    let context = traceparent::parse_fixed(&value)?;
    let behind = bytes.bound(at + traceparent::LENGTH as u64);
    let goes_on = context.version > traceparent::VERSION && bytes.byte(behind) == b'-';
    (goes_on || ends(bytes, behind)).then_some(context)
}

#[inline(always)]
pub(super) fn take_length<B: Bytes>(bytes: &B, head: &mut Head, at: u64, count: u64) {
    if count > 1 || head.flags & head_flags::LENGTH != 0 {
        head.flags |= head_flags::LENGTH | head_flags::LENGTH_BAD;
        head.content_length = 0;
        return;
    }
    head.flags |= head_flags::LENGTH;
    let at = skip_space(bytes, at);
    let mut value = 0u64;
    let mut digits = 0u64;
    for index in 0..18 {
        let byte = bytes.byte(at + index);
        if !byte.is_ascii_digit() {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
        digits = index + 1;
    }
    if digits == 0 || !ends(bytes, bytes.bound(at + digits)) {
        head.flags |= head_flags::LENGTH_BAD;
        value = 0;
    }
    head.content_length = value;
}

/// `chunked` counts where it is the last coding and the whole of it: white space, then a comma or the name's colon stand before it.
#[inline(always)]
pub(super) fn take_encoding<B: Bytes>(bytes: &B, head: &mut Head, start: u64, newline: u64) {
    let end = trim_end(bytes, newline);
    let coding = bytes.bound(end.wrapping_sub(7));
    let word = (bytes.word(coding) | FOLD) & 0x00ff_ffff_ffff_ffff;
    let before = trim_end(bytes, coding);
    let whole = before == start || bytes.byte(before.wrapping_sub(1)) == b',';
    if word == u64::from_le_bytes(*b"chunked\0") && whole {
        head.flags |= head_flags::CHUNKED;
        head.flags &= !head_flags::ENCODING_OTHER;
    } else {
        head.flags |= head_flags::ENCODING_OTHER;
        head.flags &= !head_flags::CHUNKED;
    }
}
