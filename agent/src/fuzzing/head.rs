//! Heads, read by the kernel and by user space.

use agent_common::wire::{
    http1::{self, Framing as KernelFraming},
    propagator::{self, Field, Table, part},
    scan::{CARRY, Head, MethodKind, head_flags},
};

use super::{
    cut, has_gap,
    kernel::{Scanned, scan},
    number, user,
};
use crate::protocol::{
    HEAD_LIMIT, Protocol as _, Recognition, Side,
    http1::{Framing, Http1, RequestHead},
};

/// The kernel's scanner of heads, over bytes cut at one place: a number, then the bytes. It finds the same, and what user space finds.
pub fn head_scan(data: &[u8]) -> bool {
    let (at, bytes) = number(data);
    let none = Table::default();
    let whole = scan(&[bytes], &none);
    same_however_cut(bytes, whole, scan(&cut(bytes, at), &none));
    let read = user::head(bytes, &none);
    same_end(bytes, whole, read.as_ref().map(user::Read::end));
    let Scanned::End(head, end) = whole else {
        return false;
    };
    if let Some(fields) = fields(bytes, end) {
        match read {
            Some(user::Read::Request(request, _)) => {
                same_traceparent(&fields, &head, &request);
                same_framing(
                    &fields,
                    http1::request_framing(&head),
                    &head,
                    request.framing,
                );
            }
            Some(user::Read::Response(response, _)) => {
                assert_eq!(response.status, head.status);
                let framed = !matches!(response.status, 100..200 | 204 | 304);
                let kernel = http1::response_framing(&head, Some(MethodKind::Other));
                if framed {
                    same_framing(&fields, kernel, &head, response.framing);
                }
            }
            None => {}
        }
    }
    true
}

/// A head with headers of other propagators: a number, then the bytes. Kernel and user space read the same context, wherever it is cut.
pub fn propagators(data: &[u8]) -> bool {
    let (at, bytes) = number(data);
    let table = table();
    let whole = scan(&[bytes], &table);
    let few = bytes.iter().filter(|byte| **byte == b'\n').count() < LINES;
    if few {
        same_however_cut(bytes, whole, scan(&cut(bytes, at), &table));
    }
    let Scanned::End(mut head, end) = whole else {
        return false;
    };
    let carried = propagator::is_complete(&head).then(|| user::ids(&head));
    if let Some((trace, span)) = carried {
        assert_ne!(trace, [0; 16]);
        assert_ne!(span, [0; 8]);
    }
    if let (Some(_), Some(user::Read::Request(request, _))) =
        (fields(bytes, end), user::head(bytes, &table))
        && few
    {
        let kernel = carried.map(|ids| (ids, propagator::is_sampled(&head)));
        let user = request
            .carried
            .map(|carried| ((carried.trace_id, carried.span_id), carried.sampled));
        assert_eq!(kernel, user);
    }
    // Any `traceparent` outranks what was found.
    head.flags |= head_flags::TRACEPARENT_BAD;
    assert!(!propagator::is_complete(&head));
    let before = head;
    let b3 = b"64fe8b2a57d3eff7-e457b5a2e4d86bd1-1";
    propagator::read(&table, b"b3", b3, &mut head);
    assert_eq!(head, before);
    carried.is_some()
}

/// Lines of a block in which the kernel looks for other propagators; a head with more carries no context.
const LINES: usize = 60;

/// Digits of a Content-Length that the kernel's scanner reads.
const DIGITS: usize = 18;

const FIELDS: [(&str, u32, u32); 8] = [
    ("b3", part::B3, 1),
    ("x-b3-traceid", part::TRACE_ID, 2),
    ("x-b3-spanid", part::SPAN_ID, 2),
    ("x-b3-sampled", part::SAMPLED, 2),
    ("x-b3-flags", part::DEBUG, 2),
    ("uber-trace-id", part::JAEGER, 3),
    ("x-trace-id", part::TRACE_ID, 4),
    ("x-span-id", part::SPAN_ID, 4),
];

fn table() -> Table {
    let mut table = Table::default();
    for (place, (name, part, rank)) in table.iter_mut().zip(FIELDS) {
        *place = Field::new(name, part, rank).expect("a name that fits");
    }
    table
}

/// What is found does not depend on where bytes are cut, apart from two limits: a longer line is not looked at where a boundary cuts it, and
/// lines are counted by the block.
fn same_however_cut(bytes: &[u8], whole: Scanned, cut: Scanned) {
    let short = bytes
        .split(|byte| *byte == b'\n')
        .all(|line| line.len() < CARRY as usize);
    if short
        && !matches!(
            (whole, cut),
            (Scanned::TooManyLines, _) | (_, Scanned::TooManyLines)
        )
    {
        assert_eq!(found(whole), found(cut));
    }
}

/// What others see of a scan: not the scanner's notes for itself, and no ids that are not used.
fn found(scanned: Scanned) -> Scanned {
    let Scanned::End(mut head, end) = scanned else {
        return scanned;
    };
    head.flags &= !head_flags::METHOD_SEEN;
    if head.flags & head_flags::CARRIED != 0 && !propagator::is_complete(&head) {
        head.flags &= !head_flags::CARRIED;
        head.propagator = 0;
        if head.flags & head_flags::TRACEPARENT == 0 {
            (head.trace_id, head.span_id) = ([0; 2], 0);
        }
    }
    Scanned::End(head, end)
}

/// Where both find a head it is the same one, and one of which the first line is right is found by both.
fn same_end(bytes: &[u8], scanned: Scanned, read: Option<u64>) {
    let kernel = match scanned {
        Scanned::End(_, end) => Some(end).filter(|end| *end <= HEAD_LIMIT as u64),
        Scanned::TooManyLines => return,
        Scanned::More | Scanned::NotHttp => None,
    };
    if kernel.is_some() && read.is_some() {
        assert_eq!(kernel, read);
    }
    match bytes.first().map(|_| Http1.recognise(bytes)) {
        // Empty lines before it are skipped by both, but not in the same way.
        Some(Recognition::Yes(Side::Request)) if !matches!(bytes[0], b'\r' | b'\n') => {
            assert_eq!(kernel, read);
        }
        // The kernel takes no status line of which it does not see all.
        Some(Recognition::Yes(Side::Response)) if is_short(bytes) => {
            assert!(read.is_none() || kernel == read, "{kernel:?} and {read:?}");
        }
        _ => {}
    }
}

/// Whether the first line is one that the kernel keeps whole.
fn is_short(bytes: &[u8]) -> bool {
    let line = bytes.iter().position(|byte| *byte == b'\n');
    line.is_some_and(|length| length < CARRY as usize)
}

/// Names and values of a head, when it has nothing that is no HTTP and nothing beyond what the kernel's scanner handles.
fn fields(bytes: &[u8], end: u64) -> Option<Vec<(&[u8], &[u8])>> {
    let head = bytes.get(..usize::try_from(end).ok()?)?;
    let mut fields = Vec::new();
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let odd = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        if line.len() >= CARRY as usize || line.iter().any(odd) {
            return None;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.ends_with(b" ") || name.ends_with(b"\t") || has_gap(value) {
            return None;
        }
        fields.push((name, value.trim_ascii()));
    }
    Some(fields)
}

fn values<'a>(fields: &[(&[u8], &'a [u8])], name: &str) -> Vec<&'a [u8]> {
    fields
        .iter()
        .filter(|(own, _)| own.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| *value)
        .collect()
}

fn same_traceparent(fields: &[(&[u8], &[u8])], head: &Head, request: &RequestHead) {
    let values = values(fields, "traceparent");
    let any = head.flags & head_flags::ANY_TRACEPARENT != 0;
    assert_eq!(any, !values.is_empty());
    let kernel = (head.flags & head_flags::TRACEPARENT != 0).then(|| {
        let (trace_id, span_id) = user::ids(head);
        (trace_id, span_id, head.trace_flags)
    });
    let user = request
        .trace_parent
        .map(|parent| (parent.trace_id, parent.span_id, parent.flags));
    assert_eq!(kernel, user);
}

/// What follows the head. One difference is left: of a Content-Length that is a list, is there twice or has many digits the scanner says that it
/// does not know.
fn same_framing(fields: &[(&[u8], &[u8])], kernel: KernelFraming, head: &Head, user: Framing) {
    let lengths = values(fields, "content-length");
    let plain = |value: &&[u8]| !value.contains(&b',') && value.len() <= DIGITS;
    let plain = lengths.len() < 2 && lengths.iter().all(plain);
    let agreed = match user {
        Framing::Absent => matches!(kernel, KernelFraming::Nothing | KernelFraming::UntilClose),
        Framing::Length(_) if !plain => kernel == KernelFraming::Unknown,
        Framing::Length(length) => kernel == KernelFraming::Length && head.content_length == length,
        Framing::Chunked => kernel == KernelFraming::Chunked,
        Framing::Coded => matches!(kernel, KernelFraming::Unknown | KernelFraming::UntilClose),
        Framing::Unknown => kernel == KernelFraming::Unknown,
    };
    assert!(agreed, "kernel {kernel:?}, user space {user:?}");
}
