//! Values of trace-context headers: alone, and in a head.

use agent_common::wire::{
    decide, option,
    propagator::Table,
    scan::{BLOCK, head_flags},
    traceparent::{FLAG_RANDOM, FLAG_SAMPLED, TraceParent, VERSION, format, parse},
    tracestate::{MAX_LENGTH, MAX_MEMBERS, kept},
};

use super::{
    has_gap,
    kernel::{Scanned, scan},
    user,
};
use crate::protocol::http1::RequestHead;

/// The value of a `traceparent` header: what is sent on can be read, and says the same. In a head, the kernel finds it, too.
pub fn traceparent(value: &[u8]) -> bool {
    let context = parse(value);
    if let Some(context) = &context {
        assert_ne!(context.trace_id, [0; 16]);
        assert_ne!(context.span_id, [0; 8]);
        let sent = format(context);
        assert_eq!(value.get(3..52), sent.get(3..52));
        let again = TraceParent {
            version: VERSION,
            flags: context.flags & (FLAG_SAMPLED | FLAG_RANDOM),
            ..*context
        };
        assert_eq!(parse(&sent), Some(again));
        assert_eq!(format(&again), sent);
    }
    let bytes = head_with("traceparent", value);
    // A longer line than the kernel keeps is not looked at where it is cut, and here it is cut between blocks only.
    if !value.iter().any(is_odd) && bytes.len() <= BLOCK as usize {
        let Scanned::End(head, _) = scan(&[&bytes], &Table::default()) else {
            panic!("a head");
        };
        let context = parse(value.trim_ascii());
        if !has_gap(value) {
            assert_eq!(
                head.flags & head_flags::TRACEPARENT != 0,
                context.is_some(),
                "the kernel reads it as user space does"
            );
        }
        assert_eq!(request(&bytes).trace_parent, context);
    }
    context.is_some()
}

/// The value of a `tracestate` header: what is carried on is a part of it, well-formed and within the limits. So it is in a head.
pub fn tracestate(value: &[u8]) -> bool {
    let part = kept(value).map(|range| &value[range]);
    if let Some(part) = part {
        assert!(part.len() <= MAX_LENGTH);
        assert_eq!(kept(part), Some(0..part.len()));
        assert_eq!(part.trim_ascii(), part);
        let members = part.split(|byte| *byte == b',');
        let members = members.filter(|member| !member.trim_ascii().is_empty());
        assert!(members.count() <= MAX_MEMBERS);
    }
    if !value.iter().any(u8::is_ascii_control) {
        let request = request(&head_with("tracestate", value));
        assert_eq!(request.trace_state().as_bytes(), part.unwrap_or_default());
    }
    part.is_some_and(|part| !part.is_empty())
}

/// A TCP option: what is taken from it is what was put in, and one bit more or less is another option or none.
pub fn tcp_option(bytes: &[u8]) -> bool {
    let Some(bytes) = bytes.first_chunk::<{ option::LENGTH }>() else {
        return false;
    };
    let mut words: option::Words = [0; option::WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_ne_bytes(*chunk);
    }
    let context = option::decode(&words);
    if !context.exists() {
        assert_eq!((context.span_id, context.flags), (0, 0));
        return false;
    }
    assert_ne!(context.span_id, 0);
    assert_eq!(
        option::encode(context.trace_id, context.span_id, context.flags),
        words
    );
    let ids = [
        context.trace_id[0].to_ne_bytes(),
        context.trace_id[1].to_ne_bytes(),
        context.span_id.to_ne_bytes(),
    ];
    assert_eq!(ids.concat(), bytes[4..]);
    assert_eq!(context.flags & 1 != 0, bytes[3].is_ascii_uppercase());
    let restarted = context.flags & decide::RESTARTED != 0;
    assert_eq!(restarted, bytes[3].eq_ignore_ascii_case(&b'r'));
    true
}

/// What no header may have in its value.
fn is_odd(byte: &u8) -> bool {
    byte.is_ascii_control() && *byte != b'\t'
}

fn head_with(name: &str, value: &[u8]) -> Vec<u8> {
    let line = [name.as_bytes(), b": ", value].concat();
    [b"GET / HTTP/1.1\r\n", line.as_slice(), b"\r\n\r\n"].concat()
}

fn request(bytes: &[u8]) -> RequestHead {
    match user::head(bytes, &Table::default()) {
        Some(user::Read::Request(request, _)) => request,
        other => panic!("a request, not {other:?}"),
    }
}
