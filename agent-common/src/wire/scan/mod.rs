//! The scanner of HTTP/1 heads: one pass over a block of bytes, word by word.
//!
//! Input: up to [`BLOCK`] bytes through [`Bytes`], the last bytes of the line that a former block left unfinished before them, and the
//! [`Head`] found so far. Output: where the head ends, and in [`Head`] what the kernel needs of it: request or response, method, status,
//! `traceparent`, and the framing headers. It neither follows bodies ([`super::http1`]) nor decides anything ([`super::decide`]).
//!
//! Bytes cut anywhere give the same result, except that a header line longer than [`CARRY`] bytes that a block boundary cuts is not looked at.
//!
//! [`lines`] finds the lines of a block, [`first_line`] and [`values`] read those of interest, [`judge`] says what the block came to.

mod first_line;
mod head;
mod lines;
mod names;
mod values;

use self::{
    first_line::{Start, judge_first, judge_start},
    names::{differs_traceparent, differs_tracestate},
    values::{take_encoding, take_length},
};
pub use self::{
    head::{Head, HeadKind, MethodKind, head_flags},
    lines::{LineStore, Lines, find_lines, note_line},
    values::{state_value, take_traceparent, traceparent_value},
};
pub(super) use self::{
    names::{FOLD, find_newlines, lowest},
    values::skip_space,
};

/// Bytes of an unfinished line that are kept for the next block.
pub const CARRY: u64 = 128;

/// Bytes of one block, which begins at index [`CARRY`] of [`Bytes`]. Most heads fit; the loop over a larger one would cost the verifier too much.
pub const BLOCK: u64 = 1024;

/// Every index given to [`Bytes`] is at most this.
pub const INDEX_MASK: u64 = 8191;

/// Bytes at an index, as the kernel has them in its scratch and a test in a vector.
pub trait Bytes {
    /// The eight bytes from `index` (masked by [`INDEX_MASK`]) on, the first one lowest. Bytes behind the block may be anything.
    fn word(&self, index: u64) -> u64;

    /// The words at `index` and behind it.
    #[inline(always)]
    fn pair(&self, index: u64) -> (u64, u64) {
        (self.word(index), self.word(index + 8))
    }

    /// `index & INDEX_MASK`, in a way that the optimiser cannot drop.
    fn bound(&self, index: u64) -> u64 {
        index & INDEX_MASK
    }

    /// One byte.
    #[inline(always)]
    fn byte(&self, index: u64) -> u8 {
        self.word(index) as u8
    }
}

/// What one block brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The head ends before this index.
    End(u64),
    /// The head goes on in the next block; [`Head::carry`] bytes at the block's end have to stand before it.
    More,
    /// These bytes do not begin an HTTP/1 message.
    NotHttp,
    /// More lines than the scanner handles in one block.
    TooManyLines,
}

/// Second half of a scan: what the lines say.
#[inline(always)]
pub fn judge<B: Bytes>(bytes: &B, head: &mut Head, lines: &Lines, start: u64, end: u64) -> Outcome {
    let Lines {
        line,
        first_line,
        first_end,
        first_open,
        length_at,
        lengths,
        encoding_at,
        encoding_end,
        ended,
        whole,
        exhausted,
        ..
    } = *lines;
    if exhausted != 0 {
        return Outcome::TooManyLines;
    }
    if first_end != 0 && !judge_first(bytes, head, first_line, first_end) {
        return Outcome::NotHttp;
    }
    if lengths != 0 {
        take_length(bytes, head, length_at, lengths);
    }
    if encoding_end != 0 {
        take_encoding(bytes, head, encoding_at, encoding_end);
    }
    if ended != 0 {
        head.length = head.length.wrapping_add((ended - start) as u32);
        head.carry = 0;
        head.flags &= !head_flags::CUT_LINE;
        return Outcome::End(ended);
    }
    let unfinished = end.wrapping_sub(line);
    if first_open != 0 && head.flags & head_flags::METHOD_SEEN == 0 {
        match judge_start(bytes, line, unfinished) {
            Start::NotHttp => return Outcome::NotHttp,
            Start::Method(method) => {
                head.flags |= head_flags::METHOD_SEEN;
                head.method = method as u8;
            }
            Start::Status(_) | Start::TooShort => {}
        }
        // A status line is never as long as that: what is kept of it would not do.
        if unfinished > CARRY && head.flags & head_flags::METHOD_SEEN == 0 {
            return Outcome::NotHttp;
        }
    }
    head.length = head.length.wrapping_add((end - start) as u32);
    if unfinished > CARRY
        && whole != 0
        && differs_traceparent(bytes.word(line), bytes.word(line + 8)) == 0
    {
        head.flags |= head_flags::TRACEPARENT_CUT;
    }
    if unfinished > CARRY
        && whole != 0
        && differs_tracestate(bytes.word(line), bytes.word(line + 8)) == 0
    {
        head.flags |= head_flags::STATE_LOST;
    }
    if unfinished > CARRY || whole == 0 {
        head.flags |= head_flags::CUT_LINE;
        head.carry = if unfinished > CARRY {
            CARRY as u32
        } else {
            unfinished as u32
        };
    } else {
        head.flags &= !head_flags::CUT_LINE;
        head.carry = unfinished as u32;
    }
    Outcome::More
}

#[cfg(test)]
mod tests;
