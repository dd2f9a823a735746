//! What user space is told of where the streams of a connection stand.

use agent_common::{
    abi::{Close, CloseReason, Counter, Direction, Kind, StreamState},
    wire::http1::Phase,
};

use super::{Socket, Stream, now};
use crate::{emit, globals::global, kernel::sock, maps::add, scratch::State};

/// What a direction has seen; the tail only where it belongs to the position, and all ones inside a chunked body that is followed.
#[inline(always)]
pub(crate) fn state_of(stream: &Stream) -> State {
    let mut state = stream.state;
    // Nobody shall take it for the end of a body there: that is told by a record. Without branches, which would cost more stack than there is.
    let followed = u64::from(stream.phase == Phase::Chunked as u8).wrapping_neg();
    let known = u64::from(stream.tail_end == state.position).wrapping_neg();
    state.tail = [
        state.tail[0] & known | followed,
        state.tail[1] & known | followed,
    ];
    state
}

/// Writes the same as user space is told it: of hidden messages nothing is said. `reads`: the process may be reading.
#[inline(always)]
pub(crate) fn tell_state(to: *mut StreamState, socket: &Socket, direction: Direction, reads: bool) {
    let stream = &socket.streams[direction as usize];
    let mut state = state_of(stream);
    if global!(HIDE_UNSAMPLED) != 0 && socket.hides != 0 {
        stop_at_hidden(&mut state, stream, reads);
    }
    emit::put_state(to, &state);
}

/// Takes back to the first hidden message what a direction has seen.
///
/// `reads`: of a direction that is read, perhaps by another CPU at this moment. What it reads counts before its messages are judged.
#[inline(always)]
pub(crate) fn stop_at_hidden(state: &mut State, stream: &Stream, reads: bool) {
    if stream.hidden == 0 {
        if reads && stream.phase == Phase::Body as u8 && state.position > stream.message_end {
            state.position = stream.message_end;
            state.tail = [0; 2];
        }
        // Of the message behind the hidden ones nothing was accepted yet.
        if state.position <= stream.hidden_from || state.position > stream.hidden_to {
            return;
        }
    }
    if state.position > stream.hidden_from {
        state.position = stream.hidden_from;
    }
    state.last_time_ns = stream.hidden_time_ns;
    // Not that of a hidden body.
    let known = u64::from(stream.tail_end == state.position).wrapping_neg();
    state.tail = stream.state.tail.map(|word| word & known);
}

/// Writes the `Close` record of a connection, and counts what is hidden behind all records. False when there was no room.
///
/// A function of its own: beside what its callers hold the record would be too much for the stack.
#[inline(never)]
pub(super) fn write_close(sk: u64, socket: &mut Socket, reason: CloseReason) -> bool {
    if global!(HIDE_UNSAMPLED) != 0 && socket.hides != 0 && socket.hidden_counted == 0 {
        socket.hidden_counted = 1;
        count_hidden(socket);
    }
    let error = sock::error(sk);
    let reason = if error != 0 && matches!(reason, CloseReason::Closed) {
        CloseReason::Error
    } else {
        reason
    };
    let state = StreamState {
        position: 0,
        last_time_ns: 0,
        tail: [0; 16],
    };
    let mut record = Close {
        header: emit::header(Kind::Close, size_of::<Close>(), now(), socket.connection),
        sent: state,
        received: state,
        closed_ns: socket.closed_ns,
        error,
        dropped: socket.dropped,
        reason: reason as u8,
        reserved: [0; 7],
    };
    tell_state(&raw mut record.sent, socket, Direction::Send, false);
    tell_state(&raw mut record.received, socket, Direction::Receive, false);
    emit::record(&record)
}

/// Hidden requests that nobody answered, and hidden bytes that no record follows.
#[inline(always)]
fn count_hidden(socket: &Socket) {
    let unanswered = socket.pending.hidden();
    add(Counter::RequestsHiddenFailed, u64::from(unanswered));
    for stream in &socket.streams {
        if stream.hidden != 0 && stream.state.position > stream.hidden_from {
            add(
                Counter::HiddenBytes,
                stream.state.position - stream.hidden_from,
            );
        }
    }
}
