//! Bytes that TCP sent again, at the span of their message.

use agent_common::abi::{Direction, Role};

use super::{GET, OK, int, only};
use crate::{
    span::{Span, Value, conventions as name},
    testing::{Bench, SegmentExt, Socket},
};

/// Name and bytes of each retransmission, in the order of the span's events.
fn resent(span: &Span) -> Vec<(&str, i64)> {
    let mut found = Vec::new();
    for event in &span.events {
        let bytes = event.attributes.get(name::UNDERTRACE_RETRANSMISSION_BYTES);
        if let Some(Value::Int(bytes)) = bytes {
            found.push((event.name, bytes));
        }
    }
    found
}

/// Attributed, unattributed, over a limit.
fn counted(bench: &Bench) -> (u64, u64, u64) {
    bench.check_books();
    let counters = &bench.counters;
    (
        counters.retransmissions_attributed.get(),
        counters.retransmissions_unattributed.get(),
        counters.retransmissions_over_limit.get(),
    )
}

#[test]
fn tells_at_the_client_that_its_request_was_sent_again() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    bench.push(&mut socket).live(&[&socket]);
    socket.now_ns += 200_000_000;
    socket.resend(GET.len() as u64, GET.len() as u32);
    socket.receive(OK).starts();
    bench.push(&mut socket);
    let span = only(&bench);
    let bytes = GET.len() as i64;
    assert_eq!(resent(span), [(name::EVENT_REQUEST_RETRANSMISSION, bytes)]);
    let names: Vec<_> = span.events.iter().map(|event| event.name).collect();
    let in_order = [
        name::EVENT_REQUEST_HEAD,
        name::EVENT_REQUEST_RETRANSMISSION,
        name::EVENT_RESPONSE_FIRST_BYTE,
    ];
    assert_eq!(names, in_order);
    assert_eq!(int(span, name::UNDERTRACE_RETRANSMISSION_COUNT), Some(1));
    assert_eq!(counted(&bench), (1, 0, 0));
}

/// Nothing has told yet that the send was accepted: the message is read only with the response.
#[test]
fn keeps_what_comes_before_its_message_is_known() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    socket.resend(8, 5);
    bench.push(&mut socket);
    assert_eq!(counted(&bench), (0, 0, 0));
    socket.receive(OK).starts();
    bench.push(&mut socket);
    assert_eq!(
        resent(only(&bench)),
        [(name::EVENT_REQUEST_RETRANSMISSION, 5)]
    );
    assert_eq!(counted(&bench), (1, 0, 0));
}

#[test]
fn tells_at_the_server_what_it_sent_again_while_the_response_is_under_way() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n";
    socket.send(head).starts();
    socket.pass(Direction::Send, 2_000_000, b"");
    socket.resend(1_001_448, 1448);
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(bench.spans.len(), 0);
    socket.pass(Direction::Send, 1_000_000, b"");
    bench.live(&[&socket]);
    let expected = [(name::EVENT_RESPONSE_RETRANSMISSION, 1448)];
    assert_eq!(resent(only(&bench)), expected);
    assert_eq!(counted(&bench), (1, 0, 0));
}

#[test]
fn counts_what_comes_when_the_span_is_complete() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    socket.send(OK).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(bench.spans.len(), 1);
    socket.now_ns += 200_000_000;
    socket.resend(OK.len() as u64, OK.len() as u32);
    // The next exchange has nothing to do with it.
    socket.receive(GET).starts();
    socket.send(OK).starts();
    bench.push(&mut socket).live(&[&socket]);
    bench.wait(2_000_000_000);
    assert_eq!(bench.spans.len(), 2);
    for span in &bench.spans {
        assert_eq!(resent(span), []);
        assert_eq!(int(span, name::UNDERTRACE_RETRANSMISSION_COUNT), None);
    }
    assert_eq!(counted(&bench), (0, 1, 0));
}

#[test]
fn counts_what_belongs_to_no_connection_that_is_followed() {
    let mut bench = Bench::new();
    let mut unknown = Socket::open(2, Role::Client);
    unknown.records.clear();
    unknown.resend(10, 10);
    bench.push(&mut unknown);
    assert_eq!(counted(&bench), (0, 1, 0));
    assert_eq!(bench.counters.connections_without_open.get(), 0);
    let mut silent = Socket::open(1, Role::Client);
    silent.resend(10, 10);
    silent.close(0);
    bench.push(&mut silent);
    assert_eq!(counted(&bench), (0, 2, 0));
}

/// TCP goes on with what lies in the queue of a socket that its process has closed.
#[test]
fn counts_what_comes_after_the_close() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    socket.close(0);
    socket.resend(GET.len() as u64, GET.len() as u32);
    bench.push(&mut socket);
    assert_eq!(resent(only(&bench)), []);
    assert_eq!(counted(&bench), (0, 1, 0));
    assert_eq!(bench.counters.connections_without_open.get(), 0);
}

/// Each of two requests in one segment has the bytes that end in it; what reaches into the one before belongs to the later one.
#[test]
fn finds_the_right_one_of_several_open_requests() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(&[GET, GET, GET].concat()).starts();
    let length = GET.len() as u64;
    socket.resend(length, 10);
    socket.resend(length + 20, 30);
    socket.resend(3 * length, length as u32);
    for _ in 0..3 {
        socket.receive(OK).starts();
    }
    bench.push(&mut socket);
    let seen: Vec<_> = bench.spans.iter().map(resent).collect();
    let event = |bytes| vec![(name::EVENT_REQUEST_RETRANSMISSION, bytes)];
    assert_eq!(seen, [event(10), event(30), event(length as i64)]);
    assert_eq!(counted(&bench), (3, 0, 0));
}

/// A line was put into the first request: more bytes were sent again than the process had sent.
#[test]
fn takes_more_bytes_than_the_request_has() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    socket.resend(GET.len() as u64, GET.len() as u32 + 69);
    socket.receive(OK).starts();
    bench.push(&mut socket);
    let bytes = GET.len() as i64 + 69;
    assert_eq!(
        resent(only(&bench)),
        [(name::EVENT_REQUEST_RETRANSMISSION, bytes)]
    );
    assert_eq!(counted(&bench), (1, 0, 0));
}

#[test]
fn keeps_sixteen_events_and_counts_all() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    bench.push(&mut socket).live(&[&socket]);
    for _ in 0..100 {
        socket.resend(GET.len() as u64, GET.len() as u32);
    }
    socket.receive(OK).starts();
    bench.push(&mut socket);
    let span = only(&bench);
    assert_eq!(resent(span).len(), 16);
    assert_eq!(int(span, name::UNDERTRACE_RETRANSMISSION_COUNT), Some(100));
    assert_eq!(counted(&bench), (16, 0, 84));
}

/// Positions that no stream has, in any order with anything else.
#[test]
fn survives_positions_beyond_any_stream() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.resend(u64::MAX, u32::MAX);
    socket.send(GET).starts();
    socket.resend(0, 9);
    socket.resend(GET.len() as u64 + 1, 1);
    for _ in 0..40 {
        socket.resend(1 << 40, 1);
    }
    socket.receive(OK).starts();
    bench.push(&mut socket);
    assert_eq!(resent(only(&bench)), []);
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(counted(&bench), (0, 16, 27));
}
