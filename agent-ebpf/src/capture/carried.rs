//! Context in other headers than `traceparent`. Nothing here is called where the frozen global `PROPAGATORS` is 0; each function asks for it all the same,
//! because before Linux 6.8 the verifier also walks global functions that nobody calls, and these are half of a program.
//!
//! Input: the level's block and what is known of its head. Output: ids in the head. The reading is [`propagator`]; its parts are global functions, so
//! that the verifier walks each once.

use agent_common::wire::{
    propagator::{self, Digits, FIELDS, Field},
    scan::head_flags,
};

use super::lines;
use crate::{
    globals::{PROPAGATOR_FIELDS, global},
    scratch::{self, Found, View},
};

/// Takes what the block has of it: between [`ut_find_lines`](super::lines::ut_find_lines) and [`ut_judge`](super::lines::ut_judge).
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_carried(level: u32) -> u32 {
    if global!(PROPAGATORS) == 0 {
        return 0;
    }
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let places = &raw const scratch.work.places;
    if ut_find_carried(level) == 0 {
        scratch.work.head.flags |= head_flags::CARRIED_BAD;
        return 0;
    }
    for index in 0..FIELDS {
        // SAFETY: a word of the level's scratch, which the call above has written.
        if unsafe { (&raw const (*places)[index * 2 + 1]).read_volatile() } != 0 {
            ut_take_carried(level, index as u32);
        }
    }
    0
}

/// Finds the headers in the level's block. Returns 0 when it has too many lines.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_find_carried(level: u32) -> u32 {
    if global!(PROPAGATORS) == 0 {
        return 0;
    }
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let (start, end) = lines::range(&scratch.work);
    let view = View::of(scratch);
    let work = &mut scratch.work;
    let head_end = work.lines.end();
    let end = if head_end == 0 { end } else { head_end };
    let places = Found::at(&mut work.places);
    u32::from(propagator::find(
        &view, &work.head, field, &places, start, end,
    ))
}

/// Reads one of them.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_take_carried(level: u32, index: u32) -> u32 {
    if global!(PROPAGATORS) == 0 {
        return 0;
    }
    let index = index as usize;
    if index >= FIELDS {
        return 0;
    }
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let view = View::of(scratch);
    let work = &mut scratch.work;
    let (at, count) = (work.places[index * 2], work.places[index * 2 + 1]);
    let (digits_at, digits) = (&raw mut work.digits_at, &raw const work.digits);
    let read = |at| -> Digits {
        // SAFETY: words of the level's scratch.
        unsafe { digits_at.write_volatile(at) };
        ut_digits(level);
        // SAFETY: as above; the call has written them.
        unsafe {
            Digits {
                high: (&raw const (*digits).high).read_volatile(),
                low: (&raw const (*digits).low).read_volatile(),
                count: (&raw const (*digits).count).read_volatile(),
            }
        }
    };
    propagator::take(&view, &mut work.head, &field(index), at, count, read);
    0
}

/// Reads the number at [`Work::digits_at`](scratch::Work::digits_at).
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_digits(level: u32) -> u32 {
    if global!(PROPAGATORS) == 0 {
        return 0;
    }
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let at = scratch.work.digits_at;
    let digits = propagator::digits(&View::of(scratch), at);
    scratch.work.digits = digits;
    0
}

/// A field of the table, word by word: the compiler must not believe the values that it sees.
#[inline(always)]
fn field(index: usize) -> Field {
    let field = &raw const PROPAGATOR_FIELDS[index];
    // SAFETY: plain words of a static that is never written after loading.
    unsafe {
        Field {
            name: [
                (&raw const (*field).name[0]).read_volatile(),
                (&raw const (*field).name[1]).read_volatile(),
                (&raw const (*field).name[2]).read_volatile(),
            ],
            mask: [
                (&raw const (*field).mask[0]).read_volatile(),
                (&raw const (*field).mask[1]).read_volatile(),
                (&raw const (*field).mask[2]).read_volatile(),
            ],
            length: (&raw const (*field).length).read_volatile(),
            part: (&raw const (*field).part).read_volatile(),
            rank: (&raw const (*field).rank).read_volatile(),
        }
    }
}
