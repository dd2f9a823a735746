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
        socket.pass_followed(direction, 10);
    }
    // The end is found: its phase is that of any body, whose last bytes are not kept.
    socket.pass(direction, 5, &[0; 16]);
}

/// This size of every span, in the order in which they came.
fn sizes(bench: &Bench, key: &str) -> Vec<Option<i64>> {
    bench.spans.iter().map(|span| int(span, key)).collect()
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
    socket.pass_followed(Direction::Send, 10);
    // Offered, and not accepted yet.
    let end = socket.position(Direction::Send) + 15;
    socket.message_end(Direction::Send, 0, end, 10);
    bench.push(&mut socket).live(&[&socket]);
    assert!(bench.spans.is_empty());
    // The process offers more instead.
    let end = end + 10;
    socket.message_end(Direction::Send, 0, end, 15);
    socket.pass_followed(Direction::Send, 20);
    bench.push(&mut socket).live(&[&socket]);
    assert!(bench.spans.is_empty());
    socket.pass(Direction::Send, 5, &[0; 16]);
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
    assert_eq!(
        sizes(&bench, name::HTTP_REQUEST_BODY_SIZE),
        [Some(10), Some(0)]
    );
    bench.check_books();
}

#[test]
fn an_end_of_another_message_says_nothing() {
    for (start, end) in [(7, 100), (1_000_000, 0), (u64::MAX, u64::MAX)] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Server);
        for _ in 0..2 {
            socket.receive(GET).starts();
            let first = socket.position(Direction::Send);
            socket.send(HEAD).starts();
            socket.message_end(Direction::Send, start, end, 99);
            socket.message_end(Direction::Receive, first, end, 99);
            pass_chunks(&mut socket, Direction::Send, 1);
            let behind = socket.position(Direction::Send);
            socket.message_end(Direction::Send, first, behind, 5);
            socket.message_end(Direction::Send, start, end, 99);
        }
        bench.push(&mut socket).live(&[&socket]);
        assert_eq!(
            sizes(&bench, name::HTTP_RESPONSE_BODY_SIZE),
            [Some(5), Some(5)],
            "{start} {end}"
        );
        bench.check_books();
    }
}

#[test]
fn an_end_that_is_taken_back_is_forgotten() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    socket.send(HEAD).starts();
    socket.pass_followed(Direction::Send, 10);
    let end = socket.position(Direction::Send) + 5;
    socket.message_end(Direction::Send, 0, end, 5);
    socket.message_end(Direction::Send, 0, u64::MAX, 0);
    socket.pass_followed(Direction::Send, 10);
    bench.push(&mut socket).live(&[&socket]);
    assert!(bench.spans.is_empty());
    pass_chunks(&mut socket, Direction::Send, 0);
    let end = socket.position(Direction::Send);
    socket.message_end(Direction::Send, 0, end, 10);
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(int(only(&bench), name::HTTP_RESPONSE_BODY_SIZE), Some(10));
    bench.check_books();
}

#[test]
fn a_head_that_is_offered_instead_of_another_has_no_end_yet() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.capture_limit = POST.len();
    let chunks = b"5\r\nhello\r\n0\r\n\r\n";
    socket.send_partly(&[POST, chunks].concat(), 0).starts();
    socket.message_end(Direction::Send, 0, (POST.len() + chunks.len()) as u64, 5);
    socket.capture_limit = usize::MAX;
    let whole = [POST, b"1\r\nx\r\n0\r\n\r\n"].concat();
    socket.send(&whole).starts();
    socket.receive(DONE).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(int(only(&bench), name::HTTP_REQUEST_BODY_SIZE), Some(1));
    bench.check_books();
}

#[test]
fn a_body_that_stops_before_its_end_is_truncated() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    socket.send(HEAD).starts();
    socket.pass_followed(Direction::Send, 10);
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(
        text(only(&bench), name::ERROR_TYPE),
        Some("response_truncated")
    );
    bench.check_books();
}

#[test]
fn a_request_in_the_midst_of_a_response_does_not_end_it() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    socket.send(HEAD).starts();
    socket.pass_followed(Direction::Send, 10);
    socket.receive(GET).starts();
    pass_chunks(&mut socket, Direction::Send, 2);
    let end = socket.position(Direction::Send);
    socket.message_end(Direction::Send, 0, end, 15);
    socket.send(DONE).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(
        sizes(&bench, name::HTTP_RESPONSE_BODY_SIZE),
        [Some(15), Some(0)]
    );
    assert_eq!(bench.counters.responses_unpaired.get(), 0);
    bench.check_books();
}

#[test]
fn two_ends_may_come_before_their_heads() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    // One send with two messages, of which only the heads are captured.
    let message = [POST, b"5\r\nhello\r\n0\r\n\r\n"].concat();
    let length = message.len();
    let heads = [0..POST.len(), length..length + POST.len()];
    socket.send(GET).starts();
    socket.receive(DONE).starts();
    let begin = socket.position(Direction::Send);
    socket
        .send_ranges(&[message.as_slice(), &message].concat(), &heads)
        .starts();
    let second = socket.records.len() - 1;
    socket.records[second].segment_mut().starts();
    for start in [0, length as u64] {
        let start = begin + start;
        let end = start + length as u64;
        socket.message_end(Direction::Send, start, end, 5);
    }
    socket.receive(DONE).starts();
    socket.receive(DONE).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(
        sizes(&bench, name::HTTP_REQUEST_BODY_SIZE),
        [Some(0), Some(5), Some(5)]
    );
    bench.check_books();
}

/// Of a chunked body that is read together with what follows, its first record does not speak: until its end is told, all that follows would be taken for body.
#[test]
fn the_next_message_may_come_in_the_same_read() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Client);
    socket.send(GET).starts();
    socket.send(GET).starts();
    let first = [HEAD, b"5\r\nhello\r\n0\r\n\r\n"].concat();
    let length = first.len();
    let heads = [
        0..HEAD.len(),
        HEAD.len()..HEAD.len(),
        length..length + DONE.len(),
    ];
    let at = socket.records.len();
    socket
        .receive_ranges(&[first.as_slice(), DONE].concat(), &heads)
        .starts();
    socket.records.remove(at + 1);
    socket.records[at + 1].segment_mut().starts();
    socket.message_end(Direction::Receive, 0, length as u64, 5);
    socket.records.swap(at + 1, at + 2);
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(
        sizes(&bench, name::HTTP_RESPONSE_BODY_SIZE),
        [Some(5), Some(0)]
    );
    assert_eq!(bench.counters.messages_lost_to_gap.get(), 0);
    bench.check_books();
}
