//! The scanner of HTTP/1 heads: one pass over a block of bytes, word by word.
//!
//! Input: up to [`BLOCK`] bytes through [`Bytes`], the last bytes of the line that a former block left unfinished before them, and the
//! [`Head`] found so far. Output: where the head ends, and in [`Head`] what the kernel needs of it: request or response, method, status,
//! `traceparent`, and the framing headers. It neither follows bodies ([`super::http1`]) nor decides anything ([`super::decide`]).
//!
//! Bytes cut anywhere give the same result, except that a header line longer than [`CARRY`] bytes that a block boundary cuts is not looked at.

use super::traceparent::{self, TraceParent};

/// Bytes of an unfinished line that are kept for the next block.
pub const CARRY: u64 = 128;

/// Bytes of one block, which begins at index [`CARRY`] of [`Bytes`]. Most heads fit; the loop over a larger one would cost the verifier too much.
pub const BLOCK: u64 = 1024;

/// Every index given to [`Bytes`] is at most this.
pub const INDEX_MASK: u64 = 8191;

/// The longest method that is looked for.
const METHOD_LIMIT: u64 = 32;

/// Steps of the scanning loop: each pair of words of a block, and as many newlines as any head has.
const STEPS: u32 = 65 + 175;

/// Bytes at an index, as the kernel has them in its scratch and a test in a vector.
pub trait Bytes {
    /// The eight bytes from `index` (masked by [`INDEX_MASK`]) on, the first one lowest. Bytes behind the block may be anything.
    fn word(&self, index: u64) -> u64;

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

/// What a head begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HeadKind {
    /// The first line is not complete.
    Unknown = 0,
    /// `METHOD SP target SP HTTP/1.d`.
    Request = 1,
    /// `HTTP/1.d SP ddd`.
    Response = 2,
}

/// Methods that change how the response is framed (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MethodKind {
    /// Any other.
    Other = 0,
    /// HEAD: no response has a body.
    Head = 1,
    /// CONNECT: a 2xx response ends HTTP.
    Connect = 2,
}

/// Bits of [`Head::flags`].
pub mod head_flags {
    /// The unfinished line is longer than the bytes kept of it.
    pub const CUT_LINE: u32 = 1;
    /// The first line is unfinished, but it begins with a method.
    pub const METHOD_SEEN: u32 = 1 << 1;
    /// A well-formed `traceparent` was seen.
    pub const TRACEPARENT: u32 = 1 << 2;
    /// A malformed `traceparent` was seen.
    pub const TRACEPARENT_BAD: u32 = 1 << 3;
    /// More than one `traceparent` was seen.
    pub const TRACEPARENT_TWICE: u32 = 1 << 4;
    /// A Content-Length was seen.
    pub const LENGTH: u32 = 1 << 5;
    /// A Content-Length that is no number, or a second one that differs.
    pub const LENGTH_BAD: u32 = 1 << 6;
    /// A Transfer-Encoding whose last coding is `chunked`.
    pub const CHUNKED: u32 = 1 << 7;
    /// A Transfer-Encoding that ends otherwise.
    pub const ENCODING_OTHER: u32 = 1 << 8;
    /// A line that was cut, and therefore not read, begins like a `traceparent`.
    pub const TRACEPARENT_CUT: u32 = 1 << 9;
    /// A trace id of another propagator was seen ([`propagator`](super::super::propagator)).
    pub const CARRIED_TRACE: u32 = 1 << 10;
    /// A span id, likewise.
    pub const CARRIED_SPAN: u32 = 1 << 11;
    /// It says that the caller recorded its part.
    pub const CARRIED_SAMPLED: u32 = 1 << 12;
    /// It says that the caller did not.
    pub const CARRIED_UNSAMPLED: u32 = 1 << 13;
    /// It is malformed, or one of its headers is there twice.
    pub const CARRIED_BAD: u32 = 1 << 14;
    /// There is a `tracestate` that cannot be carried on: malformed, too long, in several lines, or cut.
    pub const STATE_LOST: u32 = 1 << 15;
    /// All that is known of another propagator's context.
    pub const CARRIED: u32 =
        CARRIED_TRACE | CARRIED_SPAN | CARRIED_SAMPLED | CARRIED_UNSAMPLED | CARRIED_BAD;
    /// Any header named `traceparent` was seen.
    pub const ANY_TRACEPARENT: u32 =
        TRACEPARENT | TRACEPARENT_BAD | TRACEPARENT_TWICE | TRACEPARENT_CUT;
}

/// What is known of a head. Lives across blocks and segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// Value of Content-Length, where [`head_flags::LENGTH`] is set.
    pub content_length: u64,
    /// Trace id of the `traceparent`: two words whose bytes in memory are in the order of the wire.
    pub trace_id: [u64; 2],
    /// Its parent id, likewise.
    pub span_id: u64,
    /// Bytes of the head in the blocks so far.
    pub length: u32,
    /// Bytes of the unfinished line, at most [`CARRY`], that stand before the next block.
    pub carry: u32,
    /// [`head_flags`].
    pub flags: u32,
    /// Status code of a response.
    pub status: u16,
    /// A [`HeadKind`].
    pub kind: u8,
    /// A [`MethodKind`].
    pub method: u8,
    /// Flags of the `traceparent`.
    pub trace_flags: u8,
    /// Place of the propagator that has filled the ids in the user's order, from 1; 0 for `traceparent`, or none.
    pub propagator: u8,
    #[doc(hidden)]
    pub reserved: [u8; 6],
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

/// How a first line begins.
enum Start {
    Method(MethodKind),
    Status(u16),
    TooShort,
    NotHttp,
}

/// Where the lines of interest are in a block. All are indices of [`Bytes`], or counts.
///
/// The loop keeps them in memory, where the verifier does not follow them: what it follows multiplies the states it looks at.
#[derive(Clone, Copy, Debug, Default, zerocopy::FromBytes)]
#[repr(C)]
pub struct Lines {
    /// First byte of the first line.
    first_line: u64,
    /// Its newline, 0 while it is unfinished.
    first_end: u64,
    /// 1 while the first line is looked for and unfinished.
    first_open: u64,
    /// Behind the name of the last `traceparent`.
    traceparent_at: u64,
    /// How many there are.
    traceparents: u64,
    /// Behind the name of the last Content-Length.
    length_at: u64,
    /// How many there are.
    lengths: u64,
    /// Newline of the last Transfer-Encoding, 0 for none.
    encoding_end: u64,
    /// Behind the empty line, 0 while there is none.
    ended: u64,
    /// First byte of the unfinished line.
    line: u64,
    /// 0 when the unfinished line's beginning is not there.
    whole: u64,
    /// 1 when there are more lines than steps.
    exhausted: u64,
    /// Behind the name of the last `tracestate`, where these are looked for.
    state_at: u64,
    /// How many there are.
    states: u64,
    /// Newline of the last one.
    state_end: u64,
}

impl Lines {
    /// Words in it, in the order of the fields.
    pub const WORDS: usize = 15;

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
    pub(super) const ENDED: usize = 8;
    pub(super) const LINE: usize = 9;
    pub(super) const WHOLE: usize = 10;
    pub(super) const EXHAUSTED: usize = 11;
    pub(super) const STATE: usize = 12;
    pub(super) const STATE_END: usize = 14;
}

const _: () = assert!(
    size_of::<Lines>() == Lines::WORDS * 8
        && core::mem::offset_of!(Lines, first_open) == at::FIRST_OPEN * 8
        && core::mem::offset_of!(Lines, encoding_end) == at::ENCODING * 8
        && core::mem::offset_of!(Lines, exhausted) == at::EXHAUSTED * 8
        && core::mem::offset_of!(Lines, state_end) == at::STATE_END * 8
);

/// First half of a scan: finds the lines of `start..end`, where `start` is at least [`CARRY`] and `head.carry` bytes stand before it;
/// those of a `tracestate` only `with_state`.
///
/// Apart from the second half, so that the verifier need not walk that once for each way out of the loop.
#[inline(always)]
pub fn find_lines<B: Bytes, S: LineStore>(
    bytes: &B,
    head: &Head,
    lines: &S,
    start: u64,
    end: u64,
    with_state: bool,
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
        let mut newlines = find_newlines(bytes.word(at));
        if newlines == 0 {
            // Two words a step: most have none.
            newlines = find_newlines(bytes.word(at + 8));
            at = bytes.bound(at + 8);
            if newlines == 0 {
                at = bytes.bound(at + 8);
                continue;
            }
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
        } else {
            note_line(bytes, lines, word, line, newline, with_state);
        }
        line = next;
        at = bytes.bound(newline + 1);
        lines.store(at::LINE, next);
    }
    lines.store(at::EXHAUSTED, 1);
}

/// Notes a complete line when it is the first one or has a name of interest. Most have not, and their first four bytes tell.
#[inline(always)]
#[expect(
    clippy::collapsible_match,
    reason = "a guard that fails would go on to the other arms, which the verifier would walk too"
)]
fn note_line<B: Bytes, S: LineStore>(
    bytes: &B,
    lines: &S,
    word: u64,
    line: u64,
    newline: u64,
    with_state: bool,
) {
    let whole = lines.load(at::WHOLE);
    lines.store(at::WHOLE, 1);
    if lines.load(at::FIRST_OPEN) != 0 {
        lines.store(at::FIRST_OPEN, 0);
        lines.store(at::FIRST_END, newline);
        return;
    }
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
                lines.store(at::ENCODING, newline);
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
        take_encoding(bytes, head, encoding_end);
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

/// One bit (the highest of its byte) for each newline; the lowest set one is exact.
#[inline(always)]
pub(super) fn find_newlines(word: u64) -> u64 {
    let other = word ^ 0x0a0a_0a0a_0a0a_0a0a;
    other.wrapping_sub(0x0101_0101_0101_0101) & !other & 0x8080_8080_8080_8080
}

/// Index of the lowest byte whose highest bit is set. The multiplication picks the byte's index out of the constant: no table, no branch.
#[inline(always)]
pub(super) fn lowest(bits: u64) -> u64 {
    let lowest = (bits & bits.wrapping_neg()) >> 7;
    lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56
}

/// Makes letters lower case; what else it changes is no part of a name.
pub(super) const FOLD: u64 = 0x2020_2020_2020_2020;

const fn eight(text: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*text)
}

/// How the names of interest begin.
const TRAC: u32 = u32::from_le_bytes(*b"trac");
const CONT: u32 = u32::from_le_bytes(*b"cont");
const TRAN: u32 = u32::from_le_bytes(*b"tran");

#[inline(always)]
fn differs_traceparent(first: u64, second: u64) -> u64 {
    ((first | FOLD) ^ eight(b"tracepar"))
        | (((second | FOLD) ^ eight(b"ent:\0\0\0\0")) & 0xffff_ffff)
}

#[inline(always)]
fn differs_tracestate(first: u64, second: u64) -> u64 {
    ((first | FOLD) ^ eight(b"tracesta"))
        | (((second | FOLD) ^ eight(b"te:\0\0\0\0\0")) & 0x00ff_ffff)
}

#[inline(always)]
fn differs_content_length(first: u64, second: u64) -> u64 {
    ((first | FOLD) ^ eight(b"content-"))
        | (((second | FOLD) ^ eight(b"length:\0")) & 0x00ff_ffff_ffff_ffff)
}

#[inline(always)]
fn differs_transfer_encoding(first: u64, second: u64, third: u64) -> u64 {
    ((first | FOLD) ^ eight(b"transfer"))
        | ((second | FOLD) ^ eight(b"-encodin"))
        | (((third | FOLD) ^ eight(b"g:\0\0\0\0\0\0")) & 0xffff)
}

/// Whether a complete first line is one of HTTP/1; notes kind, method and status.
#[inline(always)]
fn judge_first<B: Bytes>(bytes: &B, head: &mut Head, line: u64, newline: u64) -> bool {
    if head.flags & head_flags::METHOD_SEEN == 0 {
        match judge_start(bytes, line, newline - line) {
            Start::Method(method) => head.method = method as u8,
            Start::Status(status) => {
                head.kind = HeadKind::Response as u8;
                head.status = status;
                return true;
            }
            Start::TooShort | Start::NotHttp => return false,
        }
    }
    let end = if bytes.byte(newline - 1) == b'\r' {
        newline - 1
    } else {
        newline
    };
    let version = bytes.word(end.wrapping_sub(9));
    if version != eight(b" HTTP/1.") || !bytes.byte(end.wrapping_sub(1)).is_ascii_digit() {
        return false;
    }
    head.kind = HeadKind::Request as u8;
    true
}

/// How the `length` bytes at `line`, a first line or its beginning, begin.
#[inline(always)]
fn judge_start<B: Bytes>(bytes: &B, line: u64, length: u64) -> Start {
    let word = bytes.word(line);
    const STATUS_LINE: u64 = u64::from_le_bytes(*b"HTTP/1.\0");
    if length >= 8 && word & 0x00ff_ffff_ffff_ffff == STATUS_LINE {
        if length < 12 {
            return Start::TooShort;
        }
        let status = bytes.word(line + 8);
        let digits = [
            (status >> 8) as u8,
            (status >> 16) as u8,
            (status >> 24) as u8,
        ];
        let wrong = u64::from(status as u8 != b' ')
            | not_digit(digits[0])
            | not_digit(digits[1])
            | not_digit(digits[2]);
        if wrong != 0 {
            return Start::NotHttp;
        }
        let number = u16::from(digits[0] - b'0') * 100
            + u16::from(digits[1] - b'0') * 10
            + u16::from(digits[2] - b'0');
        return Start::Status(number);
    }
    if length == 1 && word as u8 == b'\r' {
        return Start::TooShort;
    }
    if length < 8 && (word ^ STATUS_LINE) & low_bytes(length) == 0 {
        return Start::TooShort;
    }
    for index in 0..=METHOD_LIMIT {
        if index >= length {
            return Start::TooShort;
        }
        let byte = bytes.byte(line + index);
        if byte == b' ' && index != 0 {
            return Start::Method(method_kind(word));
        }
        if !is_token(byte) {
            return Start::NotHttp;
        }
    }
    Start::NotHttp
}

/// A mask of the lowest `count` bytes, 0 to 7.
#[inline(always)]
fn low_bytes(count: u64) -> u64 {
    (1u64 << ((count & 7) * 8)) - 1
}

#[inline(always)]
fn not_digit(byte: u8) -> u64 {
    u64::from(!byte.is_ascii_digit())
}

/// `tchar` of RFC 9110 section 5.6.2.
#[inline(always)]
fn is_token(byte: u8) -> bool {
    const fn table(upper: bool) -> u64 {
        let mut bits = 0u64;
        let mut byte = 0u8;
        while byte < 64 {
            let character = if upper { byte + 64 } else { byte };
            let token = character.is_ascii_alphanumeric()
                || matches!(
                    character,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            if token {
                bits |= 1 << byte;
            }
            byte += 1;
        }
        bits
    }
    const LOWER: u64 = table(false);
    const UPPER: u64 = table(true);
    let bits = if byte & 64 == 0 { LOWER } else { UPPER };
    byte < 128 && (bits >> (byte & 63)) & 1 != 0
}

#[inline(always)]
fn method_kind(word: u64) -> MethodKind {
    if word & 0x00ff_ffff_ffff == u64::from_le_bytes(*b"HEAD \0\0\0") {
        MethodKind::Head
    } else if word == eight(b"CONNECT ") {
        MethodKind::Connect
    } else {
        MethodKind::Other
    }
}

#[inline(always)]
fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Index of the first byte from `at` on that is no white space; at most 16 are skipped.
#[inline(always)]
pub(super) fn skip_space<B: Bytes>(bytes: &B, mut at: u64) -> u64 {
    for _ in 0..16 {
        if !is_space(bytes.byte(at)) {
            break;
        }
        at += 1;
    }
    bytes.bound(at)
}

/// Reads the `traceparent` that [`find_lines`] has found, into `head`; before [`judge`].
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

/// Where the value of the one `tracestate` that [`find_lines`] has found begins, and its bytes without the white space around it.
#[must_use]
#[inline(always)]
pub fn state_value<B: Bytes>(bytes: &B, lines: &Lines) -> (u64, u64) {
    let at = skip_space(bytes, lines.state_at);
    let mut end = lines.state_end;
    for _ in 0..8 {
        let last = bytes.byte(end.wrapping_sub(1));
        if last != b'\r' && !is_space(last) {
            break;
        }
        end = end.wrapping_sub(1);
    }
    (at, end.saturating_sub(at))
}

/// Index of the value of the `traceparent` that [`find_lines`] has found.
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
    let (g, last) = (bytes.word(at + 47).to_le_bytes(), bytes.word(at + 55));
    value[0..8].copy_from_slice(&a);
    value[8..16].copy_from_slice(&b);
    value[16..24].copy_from_slice(&c);
    value[24..32].copy_from_slice(&d);
    value[32..40].copy_from_slice(&e);
    value[40..48].copy_from_slice(&f);
    value[47..55].copy_from_slice(&g);
    let next = last as u8;
    let ended = next == b'\r' || next == b'\n' || is_space(next);
    let context = traceparent::parse_fixed(&value)?;
    (ended || (next == b'-' && context.version > traceparent::VERSION)).then_some(context)
}

#[inline(always)]
fn take_length<B: Bytes>(bytes: &B, head: &mut Head, at: u64, count: u64) {
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
    let next = bytes.byte(at + digits);
    if digits == 0 || !(next == b'\r' || next == b'\n' || is_space(next)) {
        head.flags |= head_flags::LENGTH_BAD;
        value = 0;
    }
    head.content_length = value;
}

#[inline(always)]
fn take_encoding<B: Bytes>(bytes: &B, head: &mut Head, newline: u64) {
    let mut end = newline;
    for _ in 0..8 {
        let last = bytes.byte(end.wrapping_sub(1));
        if last != b'\r' && !is_space(last) {
            break;
        }
        end = end.wrapping_sub(1);
    }
    let word = (bytes.word(end.wrapping_sub(7)) | FOLD) & 0x00ff_ffff_ffff_ffff;
    if word == u64::from_le_bytes(*b"chunked\0") {
        head.flags |= head_flags::CHUNKED;
        head.flags &= !head_flags::ENCODING_OTHER;
    } else {
        head.flags |= head_flags::ENCODING_OTHER;
        head.flags &= !head_flags::CHUNKED;
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
