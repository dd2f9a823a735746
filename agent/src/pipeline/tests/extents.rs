//! Chunked messages of which the kernel tells the end.

use agent_common::abi::{Direction, Role};

use super::{GET, int, only, text};
use crate::{
    span::conventions as name,
    testing::{Bench, SegmentExt, Socket},
};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const POST: &[u8] = b"POST /up HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
const DONE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// Chunks of five bytes and the end chunk, none of which is captured.
fn pass_chunks(socket: &mut Socket, direction: Direction, count: u64) {
    for _ in 0..count {
        socket.pass(direction, 10, b"5\r\nhello\r\n");
    }
    socket.pass(direction, 5, b"0\r\n\r\n");
}

#[test]
fn sizes_of_unseen_chunks_are_exact() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    socket.send(HEAD).starts();
    pass_chunks(&mut socket, Direction::Send, 3);
    let end = socket.position(Direction::Send);
    socket.message_end(Direction::Send, 0, end, 15);
    bench.push(&mut socket).live(&[&socket]);
    let span = only(&bench);
    assert_eq!(int(span, name::HTTP_RESPONSE_BODY_SIZE), Some(15));
    assert_eq!(
        int(span, name::UNDERTRACE_RESPONSE_WIRE_SIZE),
        Some(HEAD.len() as i64 + 35)
    );
    bench.check_books();
}

#[test]
fn an_end_that_is_not_reached_ends_nothing() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    socket.send(HEAD).starts();
    socket.pass(Direction::Send, 10, b"5\r\nhello\r\n");
    // Offered, and not accepted yet.
    let end = socket.position(Direction::Send) + 15;
    socket.message_end(Direction::Send, 0, end, 10);
    bench.push(&mut socket).live(&[&socket]);
    assert!(bench.spans.is_empty());
    // The process offers more instead.
    let end = end + 10;
    socket.message_end(Direction::Send, 0, end, 15);
    socket.pass(Direction::Send, 20, b"5\r\nhello\r\n");
    bench.push(&mut socket).live(&[&socket]);
    assert!(bench.spans.is_empty());
    socket.pass(Direction::Send, 5, b"0\r\n\r\n");
    bench.live(&[&socket]);
    assert_eq!(int(only(&bench), name::HTTP_RESPONSE_BODY_SIZE), Some(15));
    bench.check_books();
}

#[test]
fn an_end_may_come_before_its_head_is_confirmed() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    for _ in 0..2 {
        let start = socket.position(Direction::Send);
        socket.capture_limit = POST.len();
        socket
            .send(&[POST, b"5\r\nhello\r\n0\r\n\r\n"].concat())
            .starts();
        let end = socket.position(Direction::Send);
        socket.message_end(Direction::Send, start, end, 5);
        socket.receive(DONE).starts();
    }
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(bench.spans.len(), 2);
    for span in &bench.spans {
        assert_eq!(int(span, name::HTTP_REQUEST_BODY_SIZE), Some(5));
        assert_eq!(text(span, name::URL_PATH), Some("/up"));
        assert_eq!(text(span, name::ERROR_TYPE), None);
    }
    bench.check_books();
}

#[test]
fn the_next_message_begins_behind_the_end() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(POST).starts();
    pass_chunks(&mut socket, Direction::Receive, 2);
    let end = socket.position(Direction::Receive);
    socket.message_end(Direction::Receive, 0, end, 10);
    // Pipelined: no turn tells that the first one is over.
    socket.receive(GET).starts();
    socket.send(DONE).starts();
    socket.send(DONE).starts();
    bench.push(&mut socket).live(&[&socket]);
    let sizes: Vec<_> = bench
        .spans
        .iter()
        .map(|span| int(span, name::HTTP_REQUEST_BODY_SIZE))
        .collect();
    assert_eq!(sizes, [Some(10), Some(0)]);
    bench.check_books();
}

#[test]
fn an_end_of_another_message_says_nothing() {
    for (start, end) in [(7, 100), (0, 0), (u64::MAX, u64::MAX)] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Server);
        for _ in 0..2 {
            socket.receive(GET).starts();
            socket
                .send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
                .starts();
            socket.message_end(Direction::Send, start, end, 99);
            socket.message_end(Direction::Receive, start, end, 99);
        }
        bench.push(&mut socket).live(&[&socket]);
        let sizes: Vec<_> = bench
            .spans
            .iter()
            .map(|span| int(span, name::HTTP_RESPONSE_BODY_SIZE))
            .collect();
        assert_eq!(sizes, [Some(3), Some(3)], "{start} {end}");
        bench.check_books();
    }
}
