//! The scanner at work on the level's block. Global functions, so that the verifier walks each half once.

use agent_common::wire::scan::{self, CARRY, Outcome};

use super::step::FRESH;
use crate::{
    globals::global,
    scratch::{self, Found, View, Work},
};

/// Outcomes of [`ut_judge`].
pub(super) mod outcome {
    pub(in crate::capture) const MORE: u32 = 0;
    pub(in crate::capture) const END: u32 = 1;
    pub(in crate::capture) const NOT_HTTP: u32 = 2;
    pub(in crate::capture) const TOO_MANY_LINES: u32 = 3;
}

/// Finds the lines of the level's block, from [`Work::scan_at`] on.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_find_lines(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    // Also where no line is unfinished: the head's last bytes are asked for.
    if scratch.work.continued != FRESH {
        let carry = scratch.unfinished.carry;
        scratch.bytes[..carry.len()].copy_from_slice(&carry);
    }
    let (start, end) = range(&scratch.work);
    let view = View::of(scratch);
    let work = &mut scratch.work;
    let found = Found::of(work);
    scan::find_lines(&view, &work.head, &found, start, end, |line, newline| {
        ut_note_line(level, line as u32, newline as u32);
    });
    0
}

/// Notes a line of the level's block that may matter, by the indices of its first byte and its newline.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_note_line(level: u32, line: u32, newline: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let view = View::of(scratch);
    let found = Found::of(&mut scratch.work);
    let (line, newline) = (
        scratch::bound(u64::from(line)),
        scratch::bound(u64::from(newline)),
    );
    let with_state = global!(INJECT) != 0;
    scan::note_line(&view, &found, line, newline, with_state);
    0
}

/// Reads the `traceparent` among the lines found.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_traceparent(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let view = View::of(scratch);
    let work = &mut scratch.work;
    scan::take_traceparent(&view, &mut work.head, &work.lines);
    if global!(INJECT) != 0 {
        let index = scan::traceparent_value(&view, &work.lines) as u32;
        // In an earlier send this is before the segment, and wraps to a place that is none.
        work.value_at = work
            .block_offset
            .wrapping_add(index)
            .wrapping_sub(CARRY as u32);
    }
    0
}

/// Judges the lines found and notes the head. Returns one of [`outcome`].
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_judge(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return outcome::NOT_HTTP;
    };
    let view = View::of(scratch);
    let (start, end) = range(&scratch.work);
    let work = &mut scratch.work;
    match scan::judge(&view, &mut work.head, &work.lines, start, end) {
        Outcome::End(index) => {
            work.scan_end = index as u32;
            work.ending = scan::Bytes::word(&view, index.wrapping_sub(4)) as u32;
            outcome::END
        }
        Outcome::More => outcome::MORE,
        Outcome::NotHttp => outcome::NOT_HTTP,
        Outcome::TooManyLines => outcome::TOO_MANY_LINES,
    }
}

/// Indices between which the scan runs.
#[inline(always)]
pub(super) fn range(work: &Work) -> (u64, u64) {
    let start = scratch::bound(u64::from(work.scan_at));
    (
        start,
        CARRY + scratch::bound_scan(u64::from(work.block_length)),
    )
}
