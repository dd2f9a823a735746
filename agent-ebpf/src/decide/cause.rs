//! On whose behalf a thread connects, sends or reads: rules 1 to 4 of causality, on what the maps know.
//!
//! Input: the running thread's entry and the connection. Output: the open request that is the cause, or none. Which rule holds in which situation is
//! [`agent_common::wire::decide`].

use agent_common::{
    abi::{Method, Origin, Role},
    wire::decide::{self, Cause, Context, Situation, event_loop},
};

use crate::{
    conn::{self, Socket, flags},
    context::{self, Thread},
    globals::{fault, faulty},
    kernel::{task, user},
    maps::{FORWARDS, RUNTIMES},
    scratch::Work,
};

/// What the rules came to.
pub(super) struct Found {
    pub(super) parent: Option<&'static Socket>,
    pub(super) parent_sk: u64,
    pub(super) method: Method,
    pub(super) ambiguous: bool,
}

pub(super) const NOTHING: Found = Found {
    parent: None,
    parent_sk: 0,
    method: Method::None,
    ambiguous: false,
};

/// What a thread does that may be on behalf of a request.
#[derive(Clone, Copy)]
pub(super) enum Act {
    /// It connects.
    Connect,
    /// It sends on a connection.
    Send,
}

/// The request on whose behalf the running thread works, by rules 2 to 4.
#[inline(always)]
pub(super) fn find_cause(
    work: &mut Work,
    thread: Option<&Thread>,
    socket: &Socket,
    act: Act,
) -> Found {
    let Some(thread) = thread else {
        return NOTHING;
    };
    let first = matches!(act, Act::Send)
        && !socket.has(flags::USED)
        && socket.origin == Origin::Connect as u8
        && socket.opener == work.pid_tgid;
    // A handler that may still be at work counts as one more request, of which nothing is known.
    let left = thread.open != 0 && context::is_left(thread, work.time_ns);
    let open = thread.open.wrapping_add(u64::from(left));
    let mut situation = Situation {
        open,
        had_several: thread.had_several != 0,
        first_after_connect: first,
        // The thread's only open request needs no help of that rule.
        connect_known: socket.connect_sk != 0 && !(open == 1 && socket.connect_sk == thread.sum),
        epoch_reads: if thread.read_epoch == thread.epoch {
            thread.reads
        } else {
            0
        },
        own_response_in_epoch: socket.response_thread == work.pid_tgid
            && socket.response_epoch == thread.epoch.wrapping_add(1),
        own_response_last: thread.read_sk == work.sk,
        callback_ordered: false,
        read_is_spent: thread.called != 0 || context::may_meet_failure(thread),
        defers: false,
        descends: thread.ancestor_sk != 0,
        process_open: 0,
    };
    if situation.open > 1 {
        let tgid = work.pid_tgid >> 32;
        if let Some(runtime) = RUNTIMES.get_ptr(tgid as u32) {
            // SAFETY: plain words, written by user space only.
            let runtime = unsafe { &*runtime };
            situation.defers = runtime.flags & event_loop::DEFERS != 0;
            if runtime.flags & event_loop::IN_ORDER != 0 {
                situation.callback_ordered = tgid == work.pid_tgid & 0xffff_ffff
                    && user_word(work, runtime.slot) == runtime.handling;
                // Timers run, or something else that no event of this epoch began.
                situation.defers |= !situation.callback_ordered;
            }
        }
    }
    if situation.descends && situation.open == 0 {
        let tgid = work.pid_tgid >> 32;
        situation.process_open =
            context::thread(tgid << 32 | tgid).map_or(0, |leader| leader.process_open);
    }
    if faulty(fault::NO_CAUSALITY) {
        return NOTHING;
    }
    let mut cause = decide::cause(&situation);
    if faulty(fault::WRONG_LINK) && matches!(cause, Cause::Several) {
        cause = Cause::LastRead;
    }
    let (sk, position, method) = match cause {
        Cause::Only(method) => (thread.sum, u64::MAX, method),
        Cause::Connect => (socket.connect_sk, socket.connect_position, Method::Connect),
        Cause::LastRead => (thread.current_sk, thread.current_position, Method::LastRead),
        Cause::Ancestor => (
            thread.ancestor_sk,
            thread.ancestor_position,
            Method::Descendant,
        ),
        Cause::Nothing => return NOTHING,
        Cause::Several => {
            return Found {
                ambiguous: true,
                ..NOTHING
            };
        }
    };
    let position = if position == u64::MAX {
        match conn::find(sk) {
            Some(socket) if socket.request.owner == work.pid_tgid => {
                socket.request.decision.position
            }
            _ => {
                return Found {
                    ambiguous: true,
                    ..NOTHING
                };
            }
        }
    } else {
        position
    };
    let parent = context::open_request(sk, position, work.time_ns);
    Found {
        // A request that is over, or one of several on its connection: there was a cause, but it cannot be told.
        ambiguous: parent.is_none(),
        parent,
        parent_sk: sk,
        method,
    }
}

/// A word of the running process; 0 where there is none.
#[inline(always)]
fn user_word(work: &mut Work, address: u64) -> u64 {
    let word: *mut u64 = &raw mut work.user_word;
    // SAFETY: a word of the level's scratch.
    if unsafe { user::read(word.cast(), size_of::<u64>() as u32, address) } {
        // SAFETY: the helper has just written it.
        unsafe { word.read_volatile() }
    } else {
        0
    }
}

/// The open request whose own context the outgoing head carries.
#[inline(always)]
pub(super) fn find_forwarded(work: &Work, header: &Context) -> Found {
    let key = context::forward_key(work.pid_tgid, header.trace_id, header.span_id);
    let Some(forward) = FORWARDS.get_ptr(key) else {
        return NOTHING;
    };
    // SAFETY: entries are plain words.
    let forward = unsafe { *forward };
    if forward.requests != 1 || forward.position == u64::MAX {
        return Found {
            ambiguous: true,
            ..NOTHING
        };
    }
    let parent = context::open_request(forward.sk, forward.position, work.time_ns);
    Found {
        ambiguous: parent.is_none(),
        parent,
        parent_sk: forward.sk,
        method: Method::Forwarded,
    }
}

/// The request on whose behalf the running thread connects, as sock and position; `(0, 0)` for none.
#[inline(always)]
pub(crate) fn current_request(work: &mut Work, socket: &Socket) -> (u64, u64) {
    if task::is_worker(work.task_flags) {
        return (0, 0);
    }
    let mut thread = context::current(work);
    let found = find_cause(work, thread.as_deref(), socket, Act::Connect);
    if let Some(thread) = &mut thread {
        thread.called = 1;
    }
    match found.parent {
        Some(parent) => (found.parent_sk, parent.request.decision.position),
        None => (0, 0),
    }
}

/// Notes that the running thread has found the end of a connection: what it does next may be a second try for that connection's request.
#[inline(always)]
pub(crate) fn read_end(sk: u64, pid_tgid: u64) {
    let Some(socket) = conn::find(sk) else {
        return;
    };
    if let Some(thread) = context::thread(pid_tgid)
        && thread.start == task::start(task::current())
    {
        let (request_sk, position) = current_of(sk, socket);
        context::touch(thread, sk, request_sk, position);
    }
}

/// Notes that the running thread has read a datagram: it may hold the name that a request waits for.
#[inline(always)]
pub(crate) fn read_datagram(sk: u64, pid_tgid: u64) {
    if let Some(thread) = context::thread(pid_tgid) {
        context::touch(thread, sk, 0, 0);
    }
}

/// The request, as sock and position, that somebody works for who reads from this connection; `(0, 0)` where that is not known.
#[inline(always)]
fn current_of(sk: u64, socket: &Socket) -> (u64, u64) {
    let request = &socket.request;
    if socket.role == Role::Server as u8 {
        (sk, request.decision.position)
    } else {
        (request.parent_sk, request.decision.parent_position)
    }
}

/// Notes that the running thread has read bytes of this connection: what it does next may be on behalf of that connection's request.
#[inline(never)]
pub(crate) fn read(work: &Work, socket: &mut Socket, response: bool) {
    let Some(thread) = context::current(work) else {
        return;
    };
    let (sk, position) = current_of(work.sk, socket);
    context::touch(thread, work.sk, sk, position);
    if response && socket.role != Role::Server as u8 {
        socket.response_epoch = thread.epoch.wrapping_add(1);
        socket.response_thread = work.pid_tgid;
    }
}
