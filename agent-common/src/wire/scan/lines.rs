//! First half of a scan: where the lines of a block are that matter.

use super::{
    Bytes,
    head::{Head, HeadKind, head_flags},
    names::{
        CONT, FOLD, TRAC, TRAN, differs_content_length, differs_traceparent, differs_tracestate,
        differs_transfer_encoding, find_newlines, lowest,
    },
};

/// Steps of the scanning loop: each pair of words of a block, and as many newlines as any head has.
const STEPS: u64 = 65 + 175;

/// Where the lines of interest are in a block. All are indices of [`Bytes`], or counts.
///
/// The loop keeps them in memory, where the verifier does not follow them: what it follows multiplies the states it looks at.
#[derive(Clone, Copy, Debug, Default, zerocopy::FromBytes)]
#[repr(C)]
pub struct Lines {
    /// First byte of the first line.
    pub(super) first_line: u64,
    /// Its newline, 0 while it is unfinished.
    pub(super) first_end: u64,
    /// 1 while the first line is looked for and unfinished.
    pub(super) first_open: u64,
    /// Behind the name of the last `traceparent`.
    pub(super) traceparent_at: u64,
    /// How many there are.
    pub(super) traceparents: u64,
    /// Behind the name of the last Content-Length.
    pub(super) length_at: u64,
    /// How many there are.
    pub(super) lengths: u64,
    /// Behind the name of the last Transfer-Encoding.
    pub(super) encoding_at: u64,
    /// Its newline, 0 for none.
    pub(super) encoding_end: u64,
    /// Behind the empty line, 0 while there is none.
    pub(super) ended: u64,
    /// First byte of the unfinished line.
    pub(super) line: u64,
    /// 0 when the unfinished line's beginning is not there.
    pub(super) whole: u64,
    /// 1 when there are more lines than steps.
    pub(super) exhausted: u64,
    /// Behind the name of the last `tracestate`, where these are looked for.
    pub(super) state_at: u64,
    /// How many there are.
    pub(super) states: u64,
    /// Newline of the last one.
    pub(super) state_end: u64,
}

impl Lines {
    /// Words in it, in the order of the fields.
    pub const WORDS: usize = 16;

    /// Whether there is a `traceparent` for [`take_traceparent`].
    #[must_use]
    #[inline(always)]
    pub const fn has_traceparent(&self) -> bool {
        self.traceparents != 0
    }

    /// How many lines are a `tracestate`, where these are looked for.
    #[must_use]
    #[inline(always)]
    pub const fn states(&self) -> u64 {
        self.states
    }

    /// Index behind the empty line, 0 where there is none.
    #[must_use]
    #[inline(always)]
    pub const fn end(&self) -> u64 {
        self.ended
    }
}

/// Where the loop keeps a [`Lines`], word by word: memory that the optimiser neither forwards nor merges.
pub trait LineStore {
    /// The word at this index, below [`Lines::WORDS`].
    fn load(&self, index: usize) -> u64;
    /// Replaces it.
    fn store(&self, index: usize, value: u64);
}

/// Index of each field of [`Lines`]; a count follows its place.
mod at {
    pub(super) const FIRST_LINE: usize = 0;
    pub(super) const FIRST_END: usize = 1;
    pub(super) const FIRST_OPEN: usize = 2;
    pub(super) const TRACEPARENT: usize = 3;
    pub(super) const LENGTH: usize = 5;
    pub(super) const ENCODING: usize = 7;
    pub(super) const ENCODING_END: usize = 8;
    pub(super) const ENDED: usize = 9;
    pub(super) const LINE: usize = 10;
    pub(super) const WHOLE: usize = 11;
    pub(super) const EXHAUSTED: usize = 12;
    pub(super) const STATE: usize = 13;
    pub(super) const STATE_END: usize = 15;
}

const _: () = assert!(
    size_of::<Lines>() == Lines::WORDS * 8
        && core::mem::offset_of!(Lines, first_open) == at::FIRST_OPEN * 8
        && core::mem::offset_of!(Lines, encoding_end) == at::ENCODING_END * 8
        && core::mem::offset_of!(Lines, exhausted) == at::EXHAUSTED * 8
        && core::mem::offset_of!(Lines, state_end) == at::STATE_END * 8
);

/// First half of a scan: finds the lines of `start..end`, where `start` is at least [`CARRY`](super::CARRY) and `head.carry` bytes stand before it.
/// `note` is called with the first byte and the newline of each line behind the first that may matter, and is to call [`note_line`].
///
/// Apart from the second half, so that the verifier need not walk that once for each way out of the loop, and from [`note_line`], which it would walk
/// once for each step.
#[inline(always)]
pub fn find_lines<B: Bytes, S: LineStore>(
    bytes: &B,
    head: &Head,
    lines: &S,
    start: u64,
    end: u64,
    note: impl Fn(u64, u64),
) {
    let mut at = start;
    let mut line = bytes.bound(start.wrapping_sub(u64::from(head.carry)));
    for index in 0..Lines::WORDS {
        lines.store(index, 0);
    }
    lines.store(at::FIRST_LINE, line);
    lines.store(
        at::FIRST_OPEN,
        u64::from(head.kind == HeadKind::Unknown as u8),
    );
    lines.store(at::LINE, line);
    lines.store(at::WHOLE, u64::from(head.flags & head_flags::CUT_LINE == 0));
    for _ in 0..STEPS {
        if at >= end {
            return;
        }
        // Two words a step: most have none.
        let (first, second) = bytes.pair(at);
        let mut newlines = find_newlines(first);
        if newlines == 0 {
            newlines = find_newlines(second);
            if newlines == 0 {
                at = bytes.bound(at + 16);
                continue;
            }
            at = bytes.bound(at + 8);
        }
        let newline = at + lowest(newlines);
        if newline >= end {
            return;
        }
        let word = bytes.word(line);
        let length = newline - line;
        let next = bytes.bound(newline + 1);
        if length == 0 || (length == 1 && word as u8 == b'\r') {
            if lines.load(at::FIRST_OPEN) == 0 {
                lines.store(at::ENDED, newline + 1);
                return;
            }
            // An empty line before the first line is skipped (RFC 9112 section 2.2).
            lines.store(at::FIRST_LINE, next);
        } else if lines.load(at::FIRST_OPEN) != 0 {
            lines.store(at::FIRST_OPEN, 0);
            lines.store(at::FIRST_END, newline);
            lines.store(at::WHOLE, 1);
        } else if is_of_interest(bytes, line, word) {
            note(line, newline);
        } else {
            lines.store(at::WHOLE, 1);
        }
        line = next;
        at = bytes.bound(newline + 1);
        lines.store(at::LINE, next);
    }
    lines.store(at::EXHAUSTED, 1);
}

/// Whether a line, whose first word is given, may have a name of interest. Most have not, and their first four bytes tell, or the one behind `Content-`.
#[inline(always)]
fn is_of_interest<B: Bytes>(bytes: &B, line: u64, word: u64) -> bool {
    match (word | FOLD) as u32 {
        TRAC | TRAN => true,
        CONT => bytes.byte(line + 8) | FOLD as u8 == b'l',
        _ => false,
    }
}

/// Notes a complete line, which is not the first one, when it has a name of interest; that of a `tracestate` only `with_state`.
#[inline(always)]
#[expect(
    clippy::collapsible_match,
    reason = "a guard that fails would go on to the other arms, which the verifier would walk too"
)]
pub fn note_line<B: Bytes, S: LineStore>(
    bytes: &B,
    lines: &S,
    line: u64,
    newline: u64,
    with_state: bool,
) {
    let word = bytes.word(line);
    let whole = lines.load(at::WHOLE);
    lines.store(at::WHOLE, 1);
    if whole == 0 {
        return;
    }
    match (word | FOLD) as u32 {
        TRAC => {
            if differs_traceparent(word, bytes.word(line + 8)) == 0 {
                note(lines, at::TRACEPARENT, line + 12);
            } else if with_state && differs_tracestate(word, bytes.word(line + 8)) == 0 {
                note(lines, at::STATE, line + 11);
                lines.store(at::STATE_END, newline);
            }
        }
        CONT => {
            if differs_content_length(word, bytes.word(line + 8)) == 0 {
                note(lines, at::LENGTH, line + 15);
            }
        }
        TRAN => {
            if differs_transfer_encoding(word, bytes.word(line + 8), bytes.word(line + 16)) == 0 {
                lines.store(at::ENCODING, line + 18);
                lines.store(at::ENCODING_END, newline);
            }
        }
        _ => {}
    }
}

/// Notes a place and counts it.
#[inline(always)]
fn note<S: LineStore>(lines: &S, field: usize, place: u64) {
    lines.store(field, place);
    lines.store(field + 1, lines.load(field + 1) + 1);
}
