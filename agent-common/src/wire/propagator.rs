//! Trace context in other headers than `traceparent`: B3 in one header or several, Jaeger's, and pairs of a trace id's and a span id's header.
//!
//! Input: a table of header names ([`Field`]) in the user's order, and the lines of a head, block by block. Output: ids and a sampling decision in
//! [`Head`]. A request that has any `traceparent`, well-formed or not, is not looked at. Otherwise the first propagator of the table of which the head
//! has a header counts; where its headers are malformed, incomplete or there twice, the request carries no context.
//!
//! Sources: openzipkin/b3-propagation ("Overall Process", "Encodings"); Jaeger client libraries, "Propagation Format"; both as the OpenTelemetry
//! specification reads them ("Context / Propagators", B3 requirements). B3's decision without ids (`b3: 0`) is not taken.

use super::scan::{self, Bytes, CARRY, Head, LineStore, head_flags};

/// Fields that a table holds.
pub const FIELDS: usize = 12;

/// Words that say where the fields were found: for each an index, then how many there are; and one that [`find`] keeps for itself.
pub const PLACES: usize = FIELDS * 2 + 1;

/// Index of that one: not 0 when the unfinished line's beginning is not there. In memory, where the verifier does not follow it.
const CUT: usize = FIELDS * 2;

/// Longest name of a field, bytes without the colon.
pub const NAME_LIMIT: usize = 23;

/// Hex digits of a trace id.
const TRACE_DIGITS: u64 = 32;

/// Hex digits of a span id.
const SPAN_DIGITS: u64 = 16;

/// Steps of the loop over a block: each pair of its words, and as many lines as any head has.
const STEPS: u32 = 65 + 64;

/// What a field's value says. The kernel has them as plain numbers.
pub mod part {
    /// No field stands here.
    pub const NONE: u32 = 0;
    /// `b3`: `trace-span[-sampled[-parent]]`.
    pub const B3: u32 = 1;
    /// `uber-trace-id`: `trace:span:parent:flags`.
    pub const JAEGER: u32 = 2;
    /// 16 or 32 hex digits.
    pub const TRACE_ID: u32 = 3;
    /// 16 hex digits.
    pub const SPAN_ID: u32 = 4;
    /// `1`, `0`, `d`, `true` or `false`.
    pub const SAMPLED: u32 = 5;
    /// `1`: debug, which is sampled.
    pub const DEBUG: u32 = 6;
}

/// A header that carries context, or a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
pub struct Field {
    /// Its name and the colon, the first byte lowest, each with bit 5 set: that makes letters lower case.
    pub name: [u64; 3],
    /// `ff` for each byte of `name` that counts.
    pub mask: [u64; 3],
    /// Bytes of name and colon.
    pub length: u64,
    /// One of [`part`].
    pub part: u32,
    /// Place of its propagator in the user's order, from 1; a lower one goes first.
    pub rank: u32,
}

/// All fields of all propagators; where there are fewer, the rest is [`part::NONE`].
pub type Table = [Field; FIELDS];

/// A run of hex digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Digits {
    /// The number's high half.
    pub high: u64,
    /// Its low half.
    pub low: u64,
    /// How many digits there are; 33 stands for more than 32.
    pub count: u64,
}

/// Whether the head carries a complete context other than a `traceparent`: in [`Head::trace_id`] and [`Head::span_id`].
#[must_use]
#[inline(always)]
pub const fn is_complete(head: &Head) -> bool {
    const IDS: u32 = head_flags::CARRIED_TRACE | head_flags::CARRIED_SPAN;
    head.flags & (IDS | head_flags::CARRIED_BAD | head_flags::ANY_TRACEPARENT) == IDS
}

/// The caller's sampling decision in a complete context; `None` where it left that to us.
#[must_use]
#[inline(always)]
pub const fn is_sampled(head: &Head) -> Option<bool> {
    if head.flags & head_flags::CARRIED_SAMPLED != 0 {
        Some(true)
    } else if head.flags & head_flags::CARRIED_UNSAMPLED != 0 {
        Some(false)
    } else {
        None
    }
}

/// Finds the fields among the lines of `start..end`, where `start` is at least [`CARRY`] and `head.carry` bytes stand before it: a line that has no
/// newline there is looked at in the next block. `places` has [`PLACES`] words. False when there are more lines than are looked at.
///
/// `field` gives the table's fields; [`part::NONE`] ends nothing, it is passed over.
#[inline(always)]
pub fn find<B: Bytes, S: LineStore>(
    bytes: &B,
    head: &Head,
    field: impl Fn(usize) -> Field,
    places: &S,
    start: u64,
    end: u64,
) -> bool {
    for index in 0..PLACES {
        places.store(index, 0);
    }
    let mut at = start;
    let mut line = bytes.bound(start.wrapping_sub(u64::from(head.carry)));
    // A line whose beginning is not there any more differs from every name.
    places.store(CUT, u64::from(head.flags & head_flags::CUT_LINE));
    for _ in 0..STEPS {
        if at >= end {
            return true;
        }
        let mut newlines = scan::find_newlines(bytes.word(at));
        if newlines == 0 {
            // Two words a step: most have none.
            newlines = scan::find_newlines(bytes.word(at + 8));
            at = bytes.bound(at + 8);
            if newlines == 0 {
                at = bytes.bound(at + 8);
                continue;
            }
        }
        let newline = at + scan::lowest(newlines);
        if newline >= end {
            return true;
        }
        let words = [
            bytes.word(line) | scan::FOLD,
            bytes.word(line + 8) | scan::FOLD,
            bytes.word(line + 16) | scan::FOLD,
        ];
        let cut = places.load(CUT);
        places.store(CUT, 0);
        for index in 0..FIELDS {
            let field = field(index);
            if field.part == part::NONE {
                continue;
            }
            let differs = cut
                | (words[0] ^ field.name[0]) & field.mask[0]
                | (words[1] ^ field.name[1]) & field.mask[1]
                | (words[2] ^ field.name[2]) & field.mask[2];
            // Arithmetic instead of a branch, whose ways the verifier would follow for each line.
            let found = ((differs | differs.wrapping_neg()) >> 63) ^ 1;
            let (place, count) = (places.load(index * 2), places.load(index * 2 + 1));
            let here = line + field.length;
            places.store(index * 2, place ^ ((place ^ here) & found.wrapping_neg()));
            places.store(index * 2 + 1, count + found);
        }
        // Each bounded for itself: the verifier would link two copies of one value, and its states differ by that.
        line = bytes.bound(newline + 1);
        at = bytes.bound(newline + 1);
    }
    false
}

/// Reads the value of `field` at index `at`, where [`find`] found it `count` times, into `head`.
///
/// `digits` reads the hex digits from an index on, as [`digits`] does.
#[inline(always)]
pub fn take<B: Bytes>(
    bytes: &B,
    head: &mut Head,
    field: &Field,
    at: u64,
    count: u64,
    digits: impl Fn(u64) -> Digits,
) {
    let (part, rank) = (field.part, field.rank as u8);
    if count == 0 || part == part::NONE || head.flags & head_flags::ANY_TRACEPARENT != 0 {
        return;
    }
    if head.propagator != rank {
        if head.propagator != 0 && head.propagator < rank {
            return;
        }
        head.propagator = rank;
        head.flags &= !head_flags::CARRIED;
        (head.trace_id, head.span_id) = ([0; 2], 0);
    }
    if count > 1 {
        head.flags |= head_flags::CARRIED_BAD;
        return;
    }
    let at = scan::skip_space(bytes, at);
    let well_formed = match part {
        part::B3 => b3(bytes, head, at, digits),
        part::JAEGER => jaeger(bytes, head, at, digits),
        part::TRACE_ID => trace_id(bytes, head, at, digits),
        part::SPAN_ID => {
            let id = digits(at);
            take_span(head, &id) && id.count == SPAN_DIGITS && is_end(bytes.byte(at + id.count))
        }
        part::SAMPLED => is_first(head, head_flags::CARRIED_DECISION) && sampled(bytes, head, at),
        _ => {
            if bytes.byte(at) == b'1' && is_end(bytes.byte(at + 1)) {
                head.flags |= head_flags::CARRIED_SAMPLED;
            }
            is_first(head, head_flags::CARRIED_DEBUG)
        }
    };
    if !well_formed {
        head.flags |= head_flags::CARRIED_BAD;
    }
}

/// `trace-span[-sampled[-parent]]`; the parent is not read.
#[inline(always)]
fn b3<B: Bytes>(bytes: &B, head: &mut Head, at: u64, digits: impl Fn(u64) -> Digits) -> bool {
    let trace = digits(at);
    let dash = bytes.bound(at + trace.count);
    let span = digits(dash + 1);
    let next = bytes.bound(dash + 1 + span.count);
    let whole = is_trace(&trace)
        && bytes.byte(dash) == b'-'
        && span.count == SPAN_DIGITS
        && take_trace(head, &trace)
        && take_span(head, &span);
    if !whole {
        return false;
    }
    if is_end(bytes.byte(next)) {
        return true;
    }
    let behind = bytes.byte(next + 2);
    bytes.byte(next) == b'-'
        && (is_end(behind) || behind == b'-')
        && take_sampled(head, bytes.byte(next + 1))
}

/// `trace:span:parent:flags`, of which any may lack leading zeros and the colons may be `%3A`; the parent is not looked at.
#[inline(always)]
fn jaeger<B: Bytes>(bytes: &B, head: &mut Head, at: u64, digits: impl Fn(u64) -> Digits) -> bool {
    let trace = digits(at);
    let first = bytes.bound(at + trace.count);
    let span_at = bytes.bound(first + colon(bytes, first));
    let span = digits(span_at);
    let second = bytes.bound(span_at + span.count);
    let parent_at = bytes.bound(second + colon(bytes, second));
    let parent = digits(parent_at);
    let third = bytes.bound(parent_at + parent.count);
    let flags_at = bytes.bound(third + colon(bytes, third));
    let flags = digits(flags_at);
    let end = bytes.byte(flags_at + flags.count);
    let shape = trace.count <= TRACE_DIGITS
        && span.count <= SPAN_DIGITS
        && parent.count <= SPAN_DIGITS
        && flags.count.wrapping_sub(1) < 2
        && first != span_at
        && second != parent_at
        && third != flags_at
        && is_end(end);
    if !shape || !take_trace(head, &trace) || !take_span(head, &span) {
        return false;
    }
    head.flags |= if flags.low & 1 != 0 {
        head_flags::CARRIED_SAMPLED
    } else {
        head_flags::CARRIED_UNSAMPLED
    };
    true
}

#[inline(always)]
fn trace_id<B: Bytes>(bytes: &B, head: &mut Head, at: u64, digits: impl Fn(u64) -> Digits) -> bool {
    let id = digits(at);
    is_trace(&id) && is_end(bytes.byte(at + id.count)) && take_trace(head, &id)
}

#[inline(always)]
fn sampled<B: Bytes>(bytes: &B, head: &mut Head, at: u64) -> bool {
    const TRUE: u64 = u64::from_le_bytes(*b"true\0\0\0\0");
    const FALSE: u64 = u64::from_le_bytes(*b"false\0\0\0");
    let word = bytes.word(at) | scan::FOLD;
    if word & 0xffff_ffff == TRUE && is_end(bytes.byte(at + 4)) {
        return take_sampled(head, b'1');
    }
    if word & 0x00ff_ffff_ffff == FALSE && is_end(bytes.byte(at + 5)) {
        return take_sampled(head, b'0');
    }
    is_end(bytes.byte(at + 1)) && take_sampled(head, bytes.byte(at))
}

/// Bytes of the colon at an index: 1, 3 where it is `%3A`, 0 where there is none.
#[inline(always)]
fn colon<B: Bytes>(bytes: &B, at: u64) -> u64 {
    const ENCODED: u64 = u64::from_le_bytes(*b"%3a\0\0\0\0\0");
    let word = bytes.word(at);
    if word as u8 == b':' {
        1
    } else if (word | 0x0020_0000) & 0x00ff_ffff == ENCODED {
        3
    } else {
        0
    }
}

#[inline(always)]
const fn is_trace(id: &Digits) -> bool {
    id.count == SPAN_DIGITS || id.count == TRACE_DIGITS
}

/// False for an id of zeros, or a second one.
#[inline(always)]
fn take_trace(head: &mut Head, id: &Digits) -> bool {
    let again = head.flags & head_flags::CARRIED_TRACE;
    head.flags |= head_flags::CARRIED_TRACE;
    head.trace_id = [id.high.to_be(), id.low.to_be()];
    again == 0 && id.high | id.low != 0
}

/// Likewise.
#[inline(always)]
fn take_span(head: &mut Head, id: &Digits) -> bool {
    let again = head.flags & head_flags::CARRIED_SPAN;
    head.flags |= head_flags::CARRIED_SPAN;
    head.span_id = id.low.to_be();
    again == 0 && id.low != 0
}

/// False for a second header of the kind that `flag` stands for: it may stand in another block than the first one.
#[inline(always)]
fn is_first(head: &mut Head, flag: u32) -> bool {
    let again = head.flags & flag;
    head.flags |= flag;
    again == 0
}

#[inline(always)]
fn take_sampled(head: &mut Head, byte: u8) -> bool {
    match byte {
        b'1' | b'd' => head.flags |= head_flags::CARRIED_SAMPLED,
        b'0' => head.flags |= head_flags::CARRIED_UNSAMPLED,
        _ => return false,
    }
    true
}

/// Whether a value ends before this byte.
#[inline(always)]
const fn is_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | b' ' | b'\t')
}

/// The hex digits, of either case, from `at` on.
#[must_use]
#[inline(always)]
pub fn digits<B: Bytes>(bytes: &B, at: u64) -> Digits {
    let mut digits = Digits::default();
    for index in 0..=TRACE_DIGITS {
        let byte = bytes.byte(at + index);
        let digit = byte.wrapping_sub(b'0');
        let letter = (byte | 0x20).wrapping_sub(b'a');
        let nibble = if digit < 10 {
            digit
        } else if letter < 6 {
            letter + 10
        } else {
            return digits;
        };
        digits.high = digits.high << 4 | digits.low >> 60;
        digits.low = digits.low << 4 | u64::from(nibble);
        digits.count = index + 1;
    }
    digits
}

#[cfg(not(target_arch = "bpf"))]
impl Field {
    /// The field of this name, of any case; nothing when it is empty, or longer than [`NAME_LIMIT`].
    #[must_use]
    pub fn new(name: &str, part: u32, rank: u32) -> Option<Self> {
        let length = name.len();
        if length == 0 || length > NAME_LIMIT {
            return None;
        }
        let (mut text, mut mask) = ([0; NAME_LIMIT + 1], [0; NAME_LIMIT + 1]);
        for (to, byte) in text.iter_mut().zip(name.bytes().chain([b':'])) {
            *to = fold(byte);
        }
        mask.get_mut(..=length)?.fill(0xff);
        Some(Self {
            name: words(&text),
            mask: words(&mask),
            length: length as u64 + 1,
            part,
            rank,
        })
    }

    fn is_named(&self, name: &[u8]) -> bool {
        let own = self.name.iter().flat_map(|word| word.to_le_bytes());
        self.part != part::NONE
            && name.len() as u64 + 1 == self.length
            && own.zip(name).all(|(own, byte)| own == fold(*byte))
    }
}

#[cfg(not(target_arch = "bpf"))]
const fn fold(byte: u8) -> u8 {
    byte | scan::FOLD as u8
}

#[cfg(not(target_arch = "bpf"))]
fn words(bytes: &[u8; NAME_LIMIT + 1]) -> [u64; 3] {
    let (words, _) = bytes.as_chunks::<8>();
    let mut all = [0; 3];
    for (word, bytes) in all.iter_mut().zip(words) {
        *word = u64::from_le_bytes(*bytes);
    }
    all
}

/// Reads one header of a head, name and value without white space around them, into `head`, which holds what the others said.
/// The caller looks for `traceparent` itself.
#[cfg(not(target_arch = "bpf"))]
pub fn read(table: &[Field], name: &[u8], value: &[u8], head: &mut Head) {
    let value = Value(value);
    for field in table.iter().filter(|field| field.is_named(name)) {
        take(&value, head, field, 0, 1, |at| digits(&value, at));
    }
}

/// A header's value, with line ends behind it.
#[cfg(not(target_arch = "bpf"))]
struct Value<'a>(&'a [u8]);

#[cfg(not(target_arch = "bpf"))]
impl Bytes for Value<'_> {
    fn word(&self, index: u64) -> u64 {
        let mut word = [b'\n'; 8];
        let rest = usize::try_from(index).ok();
        let rest = rest.and_then(|index| self.0.get(index..));
        for (to, byte) in word.iter_mut().zip(rest.unwrap_or_default()) {
            *to = *byte;
        }
        u64::from_le_bytes(word)
    }
}

const _: () = assert!(size_of::<Field>() == 64 && CARRY as usize > NAME_LIMIT + 1 + 16 + 84);

#[cfg(test)]
#[path = "propagator_tests.rs"]
mod tests;
