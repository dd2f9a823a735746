//! What is kept between the requests of a connection changes no span.

use agent_common::abi::Role;

use super::OK;
use crate::{
    span::Span,
    testing::{Bench, SegmentExt, Socket},
};

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: b:81\r\n\r\n",
    "GET /?x=1 HTTP/1.1\r\nHost: b:81\r\n\r\n",
    "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
    "GET https://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: t\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
];

fn answered(bench: &mut Bench, socket: &mut Socket, request: &str) {
    let request = request.as_bytes();
    match socket.role() {
        Role::Server => {
            socket.receive(request).starts();
            socket.send(OK).starts();
        }
        _ => {
            socket.send(request).starts();
            socket.receive(OK).starts();
        }
    }
    bench.push(socket);
}

/// The span of a request that is the only one of its connection.
fn alone(role: Role, request: &str) -> Span {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, role);
    answered(&mut bench, &mut socket, request);
    bench.live(&[&socket]);
    super::only(&bench).clone()
}

#[test]
fn a_span_says_what_its_own_request_said() {
    for role in [Role::Server, Role::Client] {
        let mut bench = Bench::new();
        let mut socket = Socket::open(1, role);
        let mut expected = Vec::new();
        // Each request follows each other one, and itself.
        for first in REQUESTS {
            for second in REQUESTS {
                for request in [first, second] {
                    answered(&mut bench, &mut socket, request);
                    expected.push(alone(role, request));
                }
            }
        }
        // Nothing that is kept was given back at a tick.
        bench.live(&[&socket]);
        assert_eq!(bench.spans.len(), expected.len());
        for (span, expected) in bench.spans.iter().zip(&expected) {
            assert_eq!(span.attributes, expected.attributes);
            assert_eq!(span.name, expected.name);
        }
    }
}

#[test]
fn an_open_that_comes_late_tells_the_ends() {
    let mut bench = Bench::new();
    let mut socket = Socket::open(1, Role::Server);
    let open = socket.records.remove(0);
    let request = REQUESTS[0];
    // Two requests between two ticks: what is kept of the first is there for the second, which the connection's `Open` precedes.
    socket.receive(request.as_bytes()).starts();
    socket.send(OK).starts();
    socket.receive(request.as_bytes()).starts();
    socket.send(OK).starts();
    let first_of_second = 2;
    let records = std::mem::take(&mut socket.records);
    for (index, record) in records.iter().enumerate() {
        if index == first_of_second + 1 {
            bench.record(&open);
        }
        bench.record(record);
    }
    bench.live(&[&socket]);
    let [first, second] = bench.spans.as_slice() else {
        panic!("two spans, not {:#?}", bench.spans);
    };
    assert_eq!(second.attributes, alone(Role::Server, request).attributes);
    assert_eq!(first.attribute("client.port"), None);
}
