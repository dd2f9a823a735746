//! Positions for user space, on demand: a program that is attached nowhere and run by BPF_PROG_TEST_RUN (raw tracepoints: since Linux 5.10).

use agent_common::abi::{Direction, LIVE_BATCH, LiveRequest};
use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    capture,
    conn::{self, flags, request_flags},
    context, inject,
    kernel::sock,
    maps::LIVE,
};

#[raw_tracepoint]
pub fn live_positions(_ctx: RawTracePointContext) -> i32 {
    for index in 0..LIVE_BATCH {
        if ut_answer(index) == 0 {
            break;
        }
    }
    0
}

/// Answers one request; 0 at the end of the batch.
///
/// A global function: the verifier checks it once, and not for each request of a batch.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_answer(index: u32) -> u32 {
    let Some(request) = LIVE.get_ptr_mut(index) else {
        return 0;
    };
    // SAFETY: user space waits while the program runs.
    let request = unsafe { &mut *request };
    let sk = request.socket;
    if sk == 0 {
        return 0;
    }
    let given_up = request.found & LiveRequest::GIVEN_UP != 0;
    request.found = 0;
    if let Some(socket) = conn::find(sk)
        && socket.connection == request.connection
    {
        inject::refresh(sk, socket, None, false);
        if !socket.has(flags::COUNTED) {
            conn::unwrap(socket, sk, sock::write_seq(sk), sock::copied_seq(sk));
        }
        capture::settle(sk, socket);
        conn::tell_state(&raw mut request.sent, socket, Direction::Send, false);
        conn::tell_state(&raw mut request.received, socket, Direction::Receive, true);
        context::expire(sk, socket, conn::now(), given_up);
        request.found = 1;
        if socket.request.flags & request_flags::OPEN != 0 {
            request.found |= LiveRequest::IS_OPEN;
        }
    }
    1
}
