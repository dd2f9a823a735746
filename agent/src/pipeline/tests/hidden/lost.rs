//! Where it is not known any more which messages are hidden, and when the kernel is asked.

use agent_common::abi::{Header, LiveRequest};
use zerocopy::FromZeros as _;

use super::*;
use crate::{
    event::{Event, Input},
    pipeline::PipelineConfig,
};

/// A response may be that of a hidden request: it is given to nobody, and what is asked next is paired again.
#[test]
fn are_paired_with_nobody_once_they_cannot_be_told_apart() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    socket.hide(IN, 40);
    socket.receive(&request("/1")).starts();
    let segment = socket.send(&response(500));
    segment.starts().header.flags |= segment_flags::HIDING_LOST;
    socket.send(&response(201)).starts();
    socket.receive(&request("/2")).starts();
    socket.send(&response(202)).starts();
    socket.close(0);
    bench.push(&mut socket);
    let expected = [("1".to_owned(), None), ("2".to_owned(), Some(202))];
    assert_eq!(seen(&bench), expected);
    assert!(
        bench.spans[0]
            .attribute(name::UNDERTRACE_RESPONSE_UNSEEN)
            .is_some()
    );
    assert_eq!(bench.counters.responses_unpaired.get(), 2);
    bench.check_books();
}

/// Where a place was lost while nobody waits for a response, nothing but the hidden messages is: the request that says so has its own response.
#[test]
fn cost_nothing_more_where_their_place_is_lost_between_requests() {
    for (role, requests, responses) in [(Role::Server, IN, OUT), (Role::Client, OUT, IN)] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, role);
        for (path, status) in [("/1", 201), ("/2", 202), ("/3", 203)] {
            if status == 202 {
                socket.pass(requests, 100, b"");
                socket.pass(responses, 3_000, b"");
            }
            let bytes = request(path);
            let segment = if requests == IN {
                socket.receive(&bytes)
            } else {
                socket.send(&bytes)
            };
            segment.starts();
            if status == 202 {
                segment.header.flags |= segment_flags::HIDING_LOST;
            }
            transfer(&mut socket, responses, &response(status), false);
            bench.push(&mut socket);
        }
        bench.live(&[&socket]).tick();
        socket.close(0);
        bench.push(&mut socket);
        assert_eq!(seen(&bench), pairs(&[("1", 201), ("2", 202), ("3", 203)]));
        assert_eq!(bench.counters.responses_unpaired.get(), 0);
        assert_eq!(bench.counters.stream_gap_bytes.get(), 0);
        bench.check_books();
    }
}

/// Pipelining: the response that follows the request is that of another one, and the kernel knows that it may be. Without its word it is taken for the
/// request's own.
#[test]
fn leave_the_next_request_alone_while_others_may_wait() {
    for (told, expected) in [
        (
            true,
            vec![("2".to_owned(), None), ("4".to_owned(), Some(204))],
        ),
        (
            false,
            vec![
                ("2".to_owned(), None),
                ("3".to_owned(), Some(202)),
                ("4".to_owned(), Some(204)),
            ],
        ),
    ] {
        let unpaired = if told { segment_flags::UNPAIRED } else { 0 };
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, Role::Server);
        socket.hide(IN, 40);
        socket.receive(&request("/2")).starts();
        socket.pass(OUT, 500, b"");
        let third = socket.receive(&request("/3"));
        third.starts().header.flags |= segment_flags::HIDING_LOST | unpaired;
        for status in [202, 203] {
            let answer = socket.send(&response(status));
            answer.starts().header.flags |= unpaired;
        }
        socket.receive(&request("/4")).starts();
        socket.send(&response(204)).starts();
        socket.close(0);
        bench.push(&mut socket);
        assert_eq!(seen(&bench), expected);
        bench.check_books();
    }
}

/// The kernel cannot see the end of one of their answers: it is asked until it says that no request is open.
#[test]
fn are_asked_for_until_they_are_answered() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    bench.push(&mut socket);
    let asked = |bench: &Bench| {
        let mut wanted = Vec::new();
        bench.pipeline.live_requests(&mut wanted);
        wanted.len()
    };
    assert_eq!(asked(&bench), 0);
    let mut header = Header::new_zeroed();
    header.connection = 1;
    bench.pipeline.push(&Input::Event(Event::Await(&header)));
    for (found, again) in [(1 | LiveRequest::IS_OPEN, 1), (1, 0)] {
        bench.tick();
        assert_eq!(asked(&bench), 1);
        let answer = LiveRequest {
            found,
            ..socket.live()
        };
        bench.pipeline.push(&Input::Live(&[answer]));
        bench.tick();
        assert_eq!(asked(&bench), again);
    }
    bench.check_books();
}

/// Each connection that may serve is asked for within a minute, and only then and there.
#[test]
fn are_asked_for_now_and_then() {
    for asks_resting in [true, false] {
        let mut bench = Bench::with(PipelineConfig {
            asks_resting,
            ..PipelineConfig::default()
        });
        let roles = [Role::Server, Role::Client, Role::Unknown];
        let mut sockets: Vec<Socket> = (1..)
            .zip(roles)
            .map(|(id, role)| Socket::open(id, role))
            .collect();
        for socket in &mut sockets {
            bench.push(socket);
        }
        let mut asked = Vec::new();
        for _ in 0..600 {
            let mut wanted = Vec::new();
            bench.tick().pipeline.live_requests(&mut wanted);
            asked.extend(wanted.iter().map(|request| request.connection));
            bench.live(&sockets.iter().collect::<Vec<_>>());
        }
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked, if asks_resting { vec![1, 3] } else { Vec::new() });
    }
}
