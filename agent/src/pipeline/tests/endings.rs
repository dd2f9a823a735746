//! Requests that end badly or not at all.

use agent_common::abi::{Direction, Role};

use super::{GET, OK, int, only, text};
use crate::{
    span::{Status, conventions as name},
    testing::{Bench, SegmentExt, Socket},
};

const ECONNRESET: u32 = 104;

fn error_of(bench: &Bench) -> Option<&str> {
    let span = only(bench);
    assert_eq!(span.status, Status::Error);
    bench.check_books();
    text(span, name::ERROR_TYPE)
}

#[test]
fn names_a_reset_before_and_in_the_middle_of_the_response() {
    for response in [&b""[..], &OK[..OK.len() - 2]] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Client);
        socket.send(GET).starts();
        if !response.is_empty() {
            socket.receive(response).starts();
        }
        socket.close(ECONNRESET);
        bench.push(&mut socket);
        assert_eq!(error_of(&bench), Some("connection_reset"));
        let status = int(only(&bench), name::HTTP_RESPONSE_STATUS_CODE);
        assert_eq!(status, (!response.is_empty()).then_some(200));
    }
}

/// The peer's answer to the FIN is none of the process's business.
#[test]
fn ends_a_request_when_its_process_closes() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    let closed_ns = socket.now_ns;
    socket.now_ns += 3_000_000_000;
    socket.close_begun(closed_ns);
    bench.push(&mut socket);
    assert_eq!(error_of(&bench), Some("connection_closed"));
    let span = only(&bench);
    assert!(span.end_unix_ns - span.start_unix_ns < 1_000_000_000);
}

#[test]
fn names_a_close_before_the_response() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(error_of(&bench), Some("connection_closed"));
}

#[test]
fn names_a_close_in_the_middle_of_the_response() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    socket.receive(&OK[..OK.len() - 1]).starts();
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(error_of(&bench), Some("response_truncated"));
    assert_eq!(int(only(&bench), name::HTTP_RESPONSE_BODY_SIZE), Some(4));
}

#[test]
fn names_a_close_in_the_middle_of_the_request() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket
        .receive(b"PUT / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc")
        .starts();
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(error_of(&bench), Some("request_truncated"));
}

#[test]
fn gives_up_waiting_for_a_server_that_never_answers_and_still_pairs_what_follows() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(bench.spans.len(), 0);
    bench.wait(301_000_000_000);
    assert_eq!(error_of(&bench), Some("no_response"));

    // The answer comes after all, and belongs to nobody else.
    socket.now_ns += 301_000_000_000;
    socket
        .receive(b"HTTP/1.1 503 Late\r\nContent-Length: 0\r\n\r\n")
        .starts();
    socket.send(GET).starts();
    socket.receive(OK).starts();
    bench.push(&mut socket);
    let status = |span| int(span, name::HTTP_RESPONSE_STATUS_CODE);
    let statuses: Vec<_> = bench.spans.iter().map(status).collect();
    assert_eq!(statuses, [None, Some(200)]);
    assert_eq!(bench.counters.responses_unpaired.get(), 0);
    bench.check_books();
}

#[test]
fn does_not_give_up_a_response_that_streams() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    socket
        .receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        .starts();
    bench.push(&mut socket).wait(400_000_000_000);
    assert_eq!(bench.spans.len(), 0);
    bench.check_books();
}

#[test]
fn marks_errors_by_status_as_each_side_sees_them() {
    let cases = [
        (Role::Server, 404, Status::Unset),
        (Role::Server, 503, Status::Error),
        (Role::Client, 404, Status::Error),
        (Role::Client, 302, Status::Unset),
    ];
    for (role, code, status) in cases {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, role);
        let response = format!("HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n");
        if role == Role::Server {
            socket.receive(GET).starts();
            socket.send(response.as_bytes()).starts();
        } else {
            socket.send(GET).starts();
            socket.receive(response.as_bytes()).starts();
        }
        socket.close(0);
        bench.push(&mut socket);
        let span = only(&bench);
        assert_eq!(span.status, status);
        let expected = (status == Status::Error).then(|| code.to_string());
        assert_eq!(text(span, name::ERROR_TYPE), expected.as_deref());
        bench.check_books();
    }
}

#[test]
fn ends_what_is_open_when_the_close_record_was_lost() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket
        .receive(b"PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        .starts();
    bench.push(&mut socket);
    // The kernel knows no such connection any more: asked once, then given one more tick for its `Close`.
    bench.live(&[]).tick();
    assert_eq!(error_of(&bench), Some("request_truncated"));
}

#[test]
fn takes_no_late_record_for_a_new_connection() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    let late = socket.records.clone();
    socket.send(OK).starts();
    socket.close(0);
    bench.push(&mut socket);
    for record in &late {
        bench.record(record);
    }
    assert_eq!(bench.spans.len(), 1);
    assert_eq!(bench.counters.segments_stale.get(), 1);
    assert_eq!(bench.counters.connections_without_open.get(), 0);
    bench.check_books();
}

#[test]
fn follows_an_idle_connection_without_asking_for_it() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    socket.send(OK).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(bench.spans.len(), 1);
    let mut wanted = Vec::new();
    bench.tick().pipeline.live_requests(&mut wanted);
    assert!(wanted.is_empty());
    let unanswered = Socket::open(2, Role::Server).position(Direction::Send);
    assert_eq!(unanswered, 0);
}

#[test]
fn blames_nobody_for_what_is_open_when_the_agent_ends() {
    let mut bench = Bench::new();
    let mut waiting = Socket::open(1, Role::Server);
    waiting.receive(GET).starts();
    bench.push(&mut waiting);
    // Offered a moment ago, and nothing has confirmed it yet.
    let mut answered = Socket::open(2, Role::Server);
    answered.receive(GET).starts();
    answered.send(OK).starts();
    bench.push(&mut answered);
    bench.pipeline.finish();
    bench.pipeline.drain_spans(&mut bench.spans);
    let [waiting, answered] = bench.spans.as_slice() else {
        panic!("two spans, not {:?}", bench.spans);
    };
    assert_eq!(waiting.status, Status::Unset);
    assert!(
        waiting
            .attribute(name::UNDERTRACE_RESPONSE_UNSEEN)
            .is_some()
    );
    assert_eq!(int(answered, name::HTTP_RESPONSE_STATUS_CODE), Some(200));
    assert_eq!(answered.attribute(name::UNDERTRACE_RESPONSE_UNSEEN), None);
    bench.check_books();
}
