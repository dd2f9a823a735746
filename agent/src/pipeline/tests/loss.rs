//! Records that are late, doubled or lost.

use agent_common::abi::{Direction, Role};

use super::{GET, OK, int, only, text};
use crate::{
    pipeline::PipelineConfig,
    span::conventions as name,
    testing::{Bench, SegmentExt, Socket},
};

fn paths(bench: &Bench) -> Vec<(&str, Option<i64>)> {
    let of = |span| {
        (
            text(span, name::URL_PATH).unwrap_or_default(),
            int(span, name::HTTP_RESPONSE_STATUS_CODE),
        )
    };
    bench.spans.iter().map(of).collect()
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()
}

fn response(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok").into_bytes()
}

/// Two exchanges of a server of which one record, by its number, is lost.
fn two_exchanges_without(lost: usize) -> Bench {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    for index in 0..6 {
        match index {
            0 => socket.receive(&request("/1")).starts(),
            1 => socket.send(&response(201)).starts(),
            2 => socket.receive(&request("/2")).starts(),
            3 => socket.send(&response(202)).starts(),
            4 => socket.receive(&request("/3")).starts(),
            _ => socket.send(&response(203)).starts(),
        };
        if index == lost {
            socket.lose();
        }
    }
    bench.push(&mut socket).live(&[&socket]);
    bench.check_books();
    bench
}

#[test]
fn pairs_nothing_wrongly_when_a_request_is_lost() {
    let bench = two_exchanges_without(0);
    assert_eq!(paths(&bench), [("/2", Some(202)), ("/3", Some(203))]);
    let bench = two_exchanges_without(2);
    assert_eq!(paths(&bench), [("/1", Some(201)), ("/3", Some(203))]);
    assert_eq!(bench.counters.messages_lost_to_gap.get(), 1);
    assert_eq!(bench.counters.responses_unpaired.get(), 1);
}

#[test]
fn keeps_the_request_whose_response_is_lost() {
    let bench = two_exchanges_without(1);
    assert_eq!(
        paths(&bench),
        [("/1", None), ("/2", Some(202)), ("/3", Some(203))]
    );
    assert!(
        bench.spans[0]
            .attribute(name::UNDERTRACE_RESPONSE_UNSEEN)
            .is_some()
    );
    assert!(bench.spans[0].attribute(name::ERROR_TYPE).is_none());
    assert_eq!(bench.counters.messages_lost_to_gap.get(), 1);
}

#[test]
fn loses_one_message_when_a_part_of_its_head_is_lost() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    let head = request("/1");
    socket.receive(&head[..10]).starts();
    socket.receive(&head[10..20]);
    socket.lose();
    socket.receive(&head[20..]);
    socket.send(&response(201)).starts();
    socket.receive(&request("/2")).starts();
    socket.send(&response(202)).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(paths(&bench), [("/2", Some(202))]);
    assert_eq!(bench.counters.messages_lost_to_gap.get(), 1);
    assert_eq!(bench.counters.stream_gap_bytes.get(), 10);
    bench.check_books();
}

#[test]
fn does_not_mind_losing_a_part_of_a_body() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket
        .receive(b"PUT /1 HTTP/1.1\r\nContent-Length: 30\r\n\r\n0123456789")
        .starts();
    socket.receive(b"GET / HTTP");
    socket.lose();
    socket.receive(b"0123456789");
    socket.send(OK).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(paths(&bench), [("/1", Some(200))]);
    assert_eq!(bench.counters.messages_lost_to_gap.get(), 0);
    bench.check_books();
}

#[test]
fn puts_records_in_order_that_came_in_another() {
    for swap in 1..6 {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Server);
        let head = request("/1");
        socket.receive(&head[..10]).starts();
        socket.receive(&head[10..20]);
        socket.receive(&head[20..]);
        socket.send(&response(201)).starts();
        socket.receive(&request("/2")).starts();
        socket.send(&response(202)).starts();
        socket.receive(&request("/3")).starts();
        socket.records.swap(swap, swap + 1);
        bench.push(&mut socket).live(&[&socket]).tick().tick();
        assert_eq!(
            paths(&bench),
            [("/1", Some(201)), ("/2", Some(202))],
            "swapped {swap}"
        );
        assert_eq!(bench.counters.messages_lost_to_gap.get(), 0);
        bench.check_books();
    }
}

#[test]
fn gives_up_waiting_for_a_record_that_does_not_come() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(&request("/1")).starts();
    socket.records.pop();
    socket.send(&response(201)).starts();
    socket.receive(&request("/2")).starts();
    socket.send(&response(202)).starts();
    bench.push(&mut socket);
    assert_eq!(bench.spans.len(), 0);
    bench.tick().tick().live(&[&socket]);
    assert_eq!(paths(&bench), [("/2", Some(202))]);
    bench.check_books();
}

#[test]
fn reads_a_record_that_comes_twice_once() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.receive(GET).starts();
    let twice = socket.records[1].clone();
    socket.records.push(twice);
    socket.send(OK).starts();
    bench.push(&mut socket).live(&[&socket]);
    assert_eq!(bench.spans.len(), 1);
    assert_eq!(bench.counters.segments_stale.get(), 1);
    bench.check_books();
}

#[test]
fn follows_a_connection_whose_open_was_lost() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.lose();
    socket.receive(GET).starts();
    socket.send(OK).starts();
    socket.close(0);
    bench.push(&mut socket);
    assert_eq!(text(only(&bench), name::SERVER_ADDRESS), Some("shop"));
    assert_eq!(bench.counters.connections_without_open.get(), 1);
    bench.check_books();
}

#[test]
fn refuses_connections_beyond_its_limit_and_counts_them() {
    let mut bench = Bench::with(PipelineConfig {
        connections: 1,
        ..PipelineConfig::default()
    });
    for id in 1..4 {
        let mut socket = Socket::open(id, Role::Server);
        socket.receive(GET).starts();
        socket.send(OK).starts();
        bench.push(&mut socket).live(&[&socket]);
    }
    assert_eq!(bench.spans.len(), 1);
    assert!(bench.counters.connections_over_limit.get() >= 2);
    bench.check_books();
}

#[test]
fn sheds_buffered_heads_beyond_its_limit() {
    let mut bench = Bench::with(PipelineConfig {
        buffered_bytes: 100_000,
        ..PipelineConfig::default()
    });
    let head = format!("GET / HTTP/1.1\r\nCookie: {}", "c".repeat(10_000));
    for id in 1..100 {
        let mut socket = Socket::open(id, Role::Server);
        socket.receive(head.as_bytes()).starts();
        bench.push(&mut socket);
        assert!(bench.pipeline.buffered() <= 100_000);
    }
    assert!(bench.counters.messages_over_limit.get() > 80);
    bench.check_books();
}

#[test]
fn notices_a_spliced_head_as_not_seen() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.pass(Direction::Receive, 50, b"");
    socket.send(&response(201)).starts();
    socket.receive(&request("/2")).starts();
    socket.send(&response(202)).starts();
    bench.push(&mut socket).tick().tick().live(&[&socket]);
    assert_eq!(paths(&bench), [("/2", Some(202))]);
    bench.check_books();
}
