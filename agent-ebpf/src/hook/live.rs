//! Positions for user space, on demand: a program that is attached nowhere and run by BPF_PROG_TEST_RUN (raw tracepoints: since Linux 5.10).

use agent_common::abi::{Direction, LIVE_BATCH};
use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    capture,
    conn::{self, flags},
    context, inject,
    kernel::sock,
    maps::LIVE,
};

#[raw_tracepoint]
pub fn live_positions(_ctx: RawTracePointContext) -> i32 {
    for index in 0..LIVE_BATCH {
        if !answer(index) {
            break;
        }
    }
    0
}

/// Answers one request; false at the end of the batch.
#[inline(always)]
fn answer(index: u32) -> bool {
    let Some(request) = LIVE.get_ptr_mut(index) else {
        return false;
    };
    // SAFETY: user space waits while the program runs.
    let request = unsafe { &mut *request };
    let sk = request.socket;
    if sk == 0 {
        return false;
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
        conn::tell_state(&raw mut request.sent, socket, Direction::Send);
        conn::tell_state(&raw mut request.received, socket, Direction::Receive);
        request.found = 1;
        context::expire(sk, socket, conn::now());
    }
    true
}
