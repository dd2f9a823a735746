//! Positions for user space, on demand: a program that is attached nowhere and run by BPF_PROG_TEST_RUN (raw tracepoints: since Linux 5.10).

use agent_common::abi::{Direction, LIVE_BATCH};
use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    capture,
    conn::{self, flags},
    context, emit, inject,
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
    request.found = 0;
    if let Some(socket) = conn::find(sk)
        && socket.connection == request.connection
    {
        inject::refresh(sk, socket, None, false);
        if !socket.has(flags::COUNTED) {
            conn::unwrap(socket, sk, sock::write_seq(sk), sock::copied_seq(sk));
        }
        capture::settle(sk, socket);
        request.sent = emit::state(&conn::state_of(&socket.streams[Direction::Send as usize]));
        request.received = emit::state(&conn::state_of(
            &socket.streams[Direction::Receive as usize],
        ));
        request.found = 1;
        context::expire(sk, socket, conn::now());
    }
    1
}
