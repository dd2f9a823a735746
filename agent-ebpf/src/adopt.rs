//! Connections that are older than the agent, and get headers all the same (`--inject-existing`).
//!
//! Input: entries of `INJECTIONS` that user space has made after it put a socket into the sockhash. Output: the connection is one of those that
//! get headers; and whether a request begins where one seems to. Nothing here is compiled in where the frozen global `INJECT_EXISTING` is 0.

use agent_common::{
    abi::{Direction, Origin, Role},
    wire::http1::Phase,
};

use crate::{
    conn::{self, Socket, flags},
    globals::{fault, faulty, global},
    inject::{find, release},
    scratch,
};

/// Whether user space may put this connection into the sockhash, or has.
#[inline(always)]
fn is_older(socket: &Socket) -> bool {
    global!(INJECT_EXISTING) != 0
        && socket.origin == Origin::FirstSeen as u8
        && socket.role != Role::Server as u8
}

/// Whether a send has to look for what user space has done with the connection.
#[inline(always)]
pub(crate) fn may_be_adopted(socket: &Socket) -> bool {
    is_older(socket) && !socket.has(flags::INJECTABLE)
}

/// From this send on, a connection older than the agent whose socket user space has put into the sockhash is one of those that get headers.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_adopt(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    let Some(injection) = find(work.sk) else {
        return 0;
    };
    // What an earlier connection of this sock has left is nobody's.
    if injection.connection != socket.connection {
        return 0;
    }
    socket.flags |= flags::INJECTABLE;
    if [Direction::Send, Direction::Receive]
        .iter()
        .any(|direction| socket.streams[*direction as usize].phase == Phase::Opaque as u8)
    {
        return release(work, socket);
    }
    0
}

/// Whether what was seen of a connection older than the agent leaves no doubt that a request begins where one seems to: where the request before it
/// ended, with all requests answered, and the last response, too, having begun where the one before it ended and been read to its end. What only looks
/// like requests (the body of an upload that began before the agent) gets no such answers, unless its client had pipelined further requests before it and
/// each piece of the body is a send of its own that reads like a request.
#[inline(always)]
fn is_settled(socket: &Socket) -> bool {
    let received = &socket.streams[Direction::Receive as usize];
    // The request itself waits.
    socket.pending.count() == 1
        && received.proven != 0
        && received.phase == Phase::Body as u8
        && received.state.position == received.message_end
}

/// Whether a request certainly begins where the newest one does.
#[inline(always)]
pub(crate) fn is_proven(socket: &Socket) -> bool {
    if socket.origin == Origin::FirstSeen as u8 {
        if faulty(fault::INJECT_EAGERLY) {
            return true;
        }
        if !is_settled(socket) {
            return false;
        }
    }
    socket.streams[Direction::Send as usize].proven != 0
}

/// Whether user space has made an entry for the connection, and no send came to see it.
#[inline(always)]
pub(crate) fn is_left(sk: u64, socket: &Socket) -> bool {
    is_older(socket) && find(sk).is_some_and(|injection| injection.connection == socket.connection)
}
