//! Proofs that this kernel carries a context in a TCP option where it is due, and that the bytes of the stream are those that were sent.
//!
//! Input: a [`Bench`]. Output: nothing, or the first [`Failure`]. Sockets are the agent's own, on loopback. Every wait is bounded.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use agent_common::{
    abi::{BroughtContext, InjectionState, OfferedContext, Offers},
    wire::decide::Context,
};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, socket_with,
};

use super::{Failure, PATIENCE, When as _, accept, pattern, receive, spawn};
use crate::probe::option::Bench;

/// Some context.
const SENT: Context = Context {
    trace_id: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
    span_id: 0x1122_3344_5566_7788,
    flags: 1,
};

/// One connection: what is sent on it at once.
struct Case {
    what: &'static str,
    bytes: usize,
    /// How many of them are known to be the request's own; none where no context is left for it.
    own: Option<u32>,
    flags: u64,
    /// Whether the context is to arrive.
    due: bool,
}

/// Longer than a segment on loopback.
const LONG: usize = 300_000;

const CASES: [Case; 4] = [
    Case {
        what: "a TCP option",
        bytes: 100,
        own: Some(100),
        flags: 1,
        due: true,
    },
    Case {
        what: "a TCP option of what is not sampled",
        bytes: 100,
        own: Some(0),
        flags: 0,
        due: true,
    },
    Case {
        what: "a TCP option of a long request",
        bytes: LONG,
        own: Some(LONG as u32),
        flags: 1,
        due: true,
    },
    Case {
        what: "no TCP option of which nobody spoke",
        bytes: 100,
        own: None,
        flags: 1,
        due: false,
    },
];

/// Runs every proof, and tells how long that took.
///
/// # Errors
/// The first proof that failed.
pub fn carries(bench: &mut Bench) -> Result<Duration, Failure> {
    let start = Instant::now();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listener = listener.map_err(Failure::setup("listening on loopback"))?;
    for case in &CASES {
        one(bench, &listener, case)?;
    }
    Ok(start.elapsed())
}

fn one(bench: &mut Bench, listener: &TcpListener, case: &Case) -> Result<(), Failure> {
    let refused = Failure::setup("connecting to oneself");
    let SocketAddr::V4(address) = listener.local_addr().map_err(&refused)? else {
        return Err(refused(std::io::ErrorKind::AddrNotAvailable.into()));
    };
    let (mut client, from) = made_from(bench, address, case)?;
    let server = accept(listener, from.into());
    let mut server = server.map_err(Failure::setup("accepting the own connection"))?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(PATIENCE)).when("setsockopt")?;
        end.set_write_timeout(Some(PATIENCE)).when("setsockopt")?;
    }
    let bytes = pattern(case.bytes);
    thread::scope(|scope| {
        let sender = spawn(scope, || client.write_all(&bytes))?;
        let received = receive(&mut server, &bytes, case.what);
        let sent = sender.join().map_err(|_| Failure::GivenUp)?;
        sent.when("send").and(received)
    })?;
    let brought = bench.brought(address.port()).when("what options brought")?;
    let slots = brought.map_or_else(Vec::new, |brought| brought.slots.to_vec());
    let is_there = |slot: &&BroughtContext| slot.seal == slot.seal_of();
    let arrived: Vec<Context> = slots
        .iter()
        .filter(is_there)
        .map(BroughtContext::context)
        .collect();
    let expected = Context {
        flags: case.flags,
        ..SENT
    };
    let due: &[Context] = if case.due { &[expected] } else { &[] };
    if arrived == due {
        Ok(())
    } else {
        Err(Failure::Option { what: case.what })
    }
}

/// A connection whose port is known before it is made.
fn made_from(
    bench: &mut Bench,
    to: SocketAddrV4,
    case: &Case,
) -> Result<(TcpStream, SocketAddrV4), Failure> {
    let refused = Failure::setup("connecting to oneself");
    let client = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(&refused)?;
    bind(&client, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).map_err(&refused)?;
    let from = getsockname(&client).and_then(SocketAddrV4::try_from);
    let from = from.map_err(&refused)?;
    if let Some(own) = case.own {
        let mut offers = Offers {
            state: InjectionState::Wanted as u32,
            ..Offers::default()
        };
        offers.slots[1] = OfferedContext {
            own,
            trace_id: SENT.trace_id,
            span_id: SENT.span_id,
            flags: case.flags,
            ..OfferedContext::default()
        };
        bench.offer(from.port(), offers).when("an offer")?;
    }
    connect(&client, &to).map_err(&refused)?;
    Ok((TcpStream::from(client), from))
}
