//! The fields of a head that somebody needs; all others are passed over.

use agent_common::wire::{
    propagator::{self, Field},
    scan::Head,
    traceparent::{self, TraceParent},
};

use super::{Carried, Framing, lines::find_newline};

/// Longest `user-agent` kept, bytes.
const USER_AGENT_LIMIT: usize = 512;

/// Longest `host` kept, bytes: a name of 253 and a port.
const HOST_LIMIT: usize = 260;

/// The fields of a head that somebody needs.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) host: &'a [u8],
    pub(super) user_agent: &'a [u8],
    trace_parent: &'a [u8],
    trace_parents: u32,
    pub(super) trace_state: &'a [u8],
    pub(super) trace_state_joined: Vec<u8>,
    pub(super) framing: FramingFields,
    pub(super) upgrade: bool,
    propagators: &'a [Field],
    carried: Head,
}

impl<'a> Fields<'a> {
    /// No fields yet; the headers of these propagators will be among them.
    pub(super) fn of(propagators: &'a [Field]) -> Self {
        Self {
            propagators,
            ..Self::default()
        }
    }

    /// Takes the fields up to the empty line, and gives what is behind it; nothing when it is missing but must be there.
    pub(super) fn read(&mut self, mut rest: &'a [u8], must_end: bool) -> Option<&'a [u8]> {
        loop {
            if let [b'\n', behind @ ..] | [b'\r', b'\n', behind @ ..] = rest {
                return Some(behind);
            }
            let Some(newline) = find_newline(rest) else {
                if must_end {
                    return None;
                }
                self.line(rest);
                return Some(&[]);
            };
            let (line, next) = rest.split_at(newline);
            self.line(line);
            rest = next.get(1..).unwrap_or_default();
        }
    }

    /// One line; the CR of its end may stand there still, as white space behind the value.
    #[inline]
    fn line(&mut self, line: &'a [u8]) {
        // Most lines are told apart by their first letter; a folded line begins with white space and matches none.
        let Some(first) = line.first() else { return };
        if !self.propagators.is_empty()
            && let Some(colon) = line.iter().position(|byte| *byte == b':')
            && let (name, Some(value)) = (&line[..colon], line.get(colon + 1..))
        {
            propagator::read(
                self.propagators,
                name,
                value.trim_ascii(),
                &mut self.carried,
            );
        }
        match first | 0x20 {
            b'h' => {
                if let Some(value) = field(line, b"host") {
                    self.host = value.get(..HOST_LIMIT).unwrap_or(value);
                }
            }
            b'u' => {
                if let Some(value) = field(line, b"user-agent") {
                    self.user_agent = value.get(..USER_AGENT_LIMIT).unwrap_or(value);
                } else if field(line, b"upgrade").is_some() {
                    self.upgrade = true;
                }
            }
            b'c' => {
                if let Some(value) = field(line, b"content-length") {
                    self.framing.content_length(value);
                }
            }
            b't' => {
                if let Some(value) = field(line, b"transfer-encoding") {
                    self.framing.transfer_encoding(value);
                } else if let Some(value) = field(line, b"traceparent") {
                    self.trace_parent = value;
                    self.trace_parents += 1;
                } else if let Some(value) = field(line, b"tracestate") {
                    self.add_trace_state(value);
                }
            }
            _ => {}
        }
    }

    /// Several fields are one list, joined by commas in their order (W3C Trace Context section 3.3.1.1).
    fn add_trace_state(&mut self, value: &'a [u8]) {
        if self.trace_state.is_empty() {
            self.trace_state = value;
            return;
        }
        if self.trace_state_joined.is_empty() {
            self.trace_state_joined.extend_from_slice(self.trace_state);
        }
        self.trace_state_joined.push(b',');
        self.trace_state_joined.extend_from_slice(value);
    }

    /// Several `traceparent` fields are malformed input (section 3.2.2): none is used.
    pub(super) fn trace_parent(&self) -> Option<TraceParent> {
        (self.trace_parents == 1)
            .then(|| traceparent::parse(self.trace_parent))
            .flatten()
    }

    pub(super) fn carried(&self) -> Option<Carried> {
        (self.trace_parents == 0 && propagator::is_complete(&self.carried)).then(|| {
            let [high, low] = self.carried.trace_id.map(u64::to_ne_bytes);
            let mut trace_id = [0; 16];
            for (to, byte) in trace_id.iter_mut().zip(high.into_iter().chain(low)) {
                *to = byte;
            }
            Carried {
                trace_id,
                span_id: self.carried.span_id.to_ne_bytes(),
                sampled: propagator::is_sampled(&self.carried),
            }
        })
    }
}

/// Value of the field `name` (lower case) when `line` is that field.
///
/// Inlined, so that the name is a constant that is compared a word at a time.
#[inline(always)]
fn field<'a, const N: usize>(line: &'a [u8], name: &[u8; N]) -> Option<&'a [u8]> {
    // What follows the name is looked at first: that tells most other names apart.
    let rest @ [b':' | b' ' | b'\t' | b'\x0c', ..] = line.get(N..)? else {
        return None;
    };
    let differences = line.first_chunk::<N>()?.iter().zip(name);
    let differences = differences.fold(0, |differences, (byte, expected)| {
        let case = if expected.is_ascii_lowercase() {
            0x20
        } else {
            0
        };
        differences | (byte | case) ^ expected
    });
    if differences != 0 {
        return None;
    }
    // White space before the colon is forbidden and yet understood by many (RFC 9112 section 5.1).
    let rest = rest.trim_ascii_start().strip_prefix(b":")?;
    Some(rest.trim_ascii())
}

/// What `content-length` and `transfer-encoding` say together, RFC 9112 section 6.
#[derive(Default)]
pub(super) struct FramingFields {
    length: Option<u64>,
    contradiction: bool,
    coding: Option<bool>,
}

impl FramingFields {
    fn content_length(&mut self, value: &[u8]) {
        // Nearly always one number alone.
        if let (Some(number), None, false) = (number(value), self.length, self.contradiction) {
            self.length = Some(number);
            return;
        }
        for part in value.split(|byte| *byte == b',') {
            let number = number(part.trim_ascii());
            match (number, self.length) {
                (Some(number), None) => self.length = Some(number),
                (Some(number), Some(length)) if number == length => {}
                _ => self.contradiction = true,
            }
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) {
        let last = value.rsplit(|byte| *byte == b',').next().unwrap_or(value);
        self.coding = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
    }

    pub(super) fn value(&self) -> Framing {
        match (self.coding, self.length) {
            // Transfer-encoding overrides content-length (section 6.3, rule 3).
            (Some(true), _) => Framing::Chunked,
            (Some(false), _) => Framing::Coded,
            (None, _) if self.contradiction => Framing::Unknown,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::Absent,
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        let digit = (digit < 10).then_some(u64::from(digit))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}
