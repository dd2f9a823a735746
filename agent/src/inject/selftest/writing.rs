//! What is written into requests is exactly what was asked, exactly where.
//!
//! Input: a [`Pair`] and instructions for the program on its send path. Output: nothing, or that other bytes arrived.

use std::io::{IoSlice, Read as _, Write as _};

use agent_common::{
    abi::{Injection, InjectionSlot},
    wire::{
        inject::{Action, LINE},
        traceparent::{self, TraceParent},
    },
};

use super::{Failure, Pair, When as _, pattern, receive, same, uninterrupted};
use crate::probe::inject::Bench;

impl Pair {
    /// A line goes in exactly where it belongs: small and large heads, bodies of several pages, several buffers, two requests in one send.
    pub(super) fn insertions(&mut self, bench: &mut Bench, thread: u64) -> Result<(), Failure> {
        let bodies = [0, 1, 3000, 50_000];
        for head in [18, 100, 1000, 5000, 16_000] {
            for body in bodies {
                let message = request(head, body);
                let at = head as u32 - 2;
                bench
                    .instruct(instruction(thread, message.len(), &[(at, Action::Insert)]))
                    .when("instruction")?;
                self.client.write_all(&message).when("send")?;
                receive(
                    &mut self.server,
                    &with_lines(&message, &[at]),
                    "a header that was put in",
                )?;
            }
        }
        let message = request(400, 9000);
        bench
            .instruct(instruction(thread, message.len(), &[(398, Action::Insert)]))
            .when("instruction")?;
        let parts: Vec<_> = message
            .chunks(100)
            .take(4)
            .chain([&message[400..]])
            .map(IoSlice::new)
            .collect();
        let count = uninterrupted(|| self.client.write_vectored(&parts)).when("writev")?;
        if count != message.len() {
            return Err(Failure::Bytes {
                when: "a send of several buffers was cut",
            });
        }
        receive(
            &mut self.server,
            &with_lines(&message, &[398]),
            "a header that was put into several buffers",
        )?;

        let two = [request(300, 0), request(200, 10)].concat();
        let places = [298, 498];
        bench
            .instruct(instruction(
                thread,
                two.len(),
                &places.map(|at| (at, Action::Insert)),
            ))
            .when("instruction")?;
        self.client.write_all(&two).when("send")?;
        receive(
            &mut self.server,
            &with_lines(&two, &places),
            "two headers in one send",
        )?;

        // Only the empty line, and then bytes that are none.
        bench
            .instruct(instruction(thread, 2, &[(0, Action::Insert)]))
            .when("instruction")?;
        self.client.write_all(b"\r\n").when("send")?;
        receive(
            &mut self.server,
            &with_lines(b"\r\n", &[0]),
            "a header before a lone empty line",
        )?;
        bench
            .instruct(instruction(thread, 40, &[(20, Action::Insert)]))
            .when("instruction")?;
        self.client.write_all(&pattern(40)).when("send")?;
        receive(&mut self.server, &pattern(40), "bytes that have changed")
    }

    /// A client that leaves small packets to Nagle's algorithm does not wait for an acknowledgement in the midst of a request.
    pub(super) fn one_piece(&mut self, bench: &mut Bench, thread: u64) -> Result<(), Failure> {
        let message = request(200, 0);
        self.client.set_nodelay(false).when("setsockopt")?;
        bench
            .instruct(instruction(thread, message.len(), &[(198, Action::Insert)]))
            .when("instruction")?;
        self.client.write_all(&message).when("send")?;
        let mut bytes = [0; 1000];
        let count = uninterrupted(|| self.server.read(&mut bytes)).when("receive")?;
        self.client.set_nodelay(true).when("setsockopt")?;
        same(
            &bytes[..count],
            &with_lines(&message, &[198]),
            "a request that got a header comes in several packets",
        )
    }

    pub(super) fn rewriting(&mut self, bench: &mut Bench, thread: u64) -> Result<(), Failure> {
        let line = |span_id| {
            let value = traceparent::format(&TraceParent { span_id, ..CONTEXT });
            [&b"GET / HTTP/1.1\r\ntraceparent: "[..], &value, b"\r\n\r\n"].concat()
        };
        let (message, expected) = (line([9; 8]), line(CONTEXT.span_id));
        let at = b"GET / HTTP/1.1\r\ntraceparent: ".len() as u32;
        bench
            .instruct(instruction(thread, message.len(), &[(at, Action::Rewrite)]))
            .when("instruction")?;
        self.client.write_all(&message).when("send")?;
        receive(&mut self.server, &expected, "a header that was rewritten")
    }
}

/// A request with a head and a body of these lengths.
pub(super) fn request(head: usize, body: usize) -> Vec<u8> {
    let mut message = b"GET / HTTP/1.1".to_vec();
    if head > 22 {
        message.extend(b"\r\nA: ");
        message.extend(pattern(head - 4 - message.len()));
    }
    message.extend(b"\r\n\r\n");
    message.extend(pattern(body));
    message
}

const CONTEXT: TraceParent = TraceParent {
    version: 0,
    trace_id: [
        0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47,
        0x36,
    ],
    span_id: [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7],
    flags: 1,
};

pub(super) fn instruction(thread: u64, length: usize, places: &[(u32, Action)]) -> Injection {
    let [a, b, c, d, e, f, g, h, rest @ ..] = CONTEXT.trace_id;
    let trace_id = [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes(rest),
    ];
    let mut injection = Injection {
        pid_tgid: thread,
        length: length as u32,
        count: places.len() as u32,
        ..Injection::default()
    };
    for (slot, (at, action)) in injection.slots.iter_mut().zip(places) {
        *slot = InjectionSlot {
            at: *at,
            action: *action as u32,
            trace_id,
            span_id: u64::from_ne_bytes(CONTEXT.span_id),
            trace_flags: u64::from(CONTEXT.flags),
        };
    }
    injection
}

/// The message with a line at each of these places.
pub(super) fn with_lines(message: &[u8], places: &[u32]) -> Vec<u8> {
    with_lines_and(message, places, b"")
}

/// The message with a line, and what belongs behind it, at each of these places.
pub(super) fn with_lines_and(message: &[u8], places: &[u32], behind: &[u8]) -> Vec<u8> {
    let line = [
        &b"traceparent: "[..],
        &traceparent::format(&CONTEXT),
        b"\r\n",
    ]
    .concat();
    debug_assert_eq!(line.len(), LINE as usize);
    let mut all = Vec::new();
    let mut from = 0;
    for at in places {
        let at = *at as usize;
        all.extend(&message[from..at]);
        all.extend(&line);
        all.extend(behind);
        from = at;
    }
    all.extend(&message[from..]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_requests_of_the_length_asked() {
        for head in [18, 100, 16_000] {
            let message = request(head, 7);
            assert_eq!(message.len(), head + 7);
            assert_eq!(&message[head - 4..head], b"\r\n\r\n");
        }
    }
}
