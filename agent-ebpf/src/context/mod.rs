//! Who serves which request: threads, open requests, forwarded identities, and the records that one end leaves for the other.
//!
//! Input: requests that open and close, and what threads do. Output: the entries of `THREADS` and `FORWARDS`, and by [`handover`] those of
//! `HANDOVERS`. Which of several requests is the parent is [`crate::decide`].

mod handover;

use agent_common::{
    abi::{Counter, Direction},
    wire::http1::Phase,
};

pub(crate) use self::handover::{
    Handover, HandoverKey, UNTRACED, forget_handover, hand_over, receiving_key, sending_key,
    take_over,
};
use crate::{
    conn::{Request, Socket, find, flags, request_flags},
    globals::{fault, faulty, global},
    kernel::task,
    maps::{FORWARDS, STATES, THREADS, count},
    scratch::{Work, add},
};

/// How long a handler may go on behind a request whose connection is gone, nanoseconds; at most as long as a request may be open.
const LEFT_FOR_NS: u64 = 30_000_000_000;

/// Whether a request that was opened at `since_ns` is too old to be a parent.
#[inline(always)]
fn is_stale(since_ns: u64, now_ns: u64, lifetime_ns: u64) -> bool {
    now_ns.wrapping_sub(since_ns) >= lifetime_ns
}

/// Value of `THREADS`.
///
/// `open`, `sum` and `process_open` are changed by other threads too, so only by atomic additions without a result: those 5.10 has.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Thread {
    /// Start of the thread: a reused id has another.
    pub(crate) start: u64,
    /// Open requests whose heads this thread completed.
    pub(crate) open: u64,
    /// Sum of the keys of their sockets: with one open request it is that one's key.
    pub(crate) sum: u64,
    /// Open requests of the whole process, kept in the entry of its first thread.
    pub(crate) process_open: u64,
    /// How often the thread has gone to wait for events.
    pub(crate) epoch: u64,
    /// The epoch in which `reads` was counted.
    pub(crate) read_epoch: u64,
    /// Distinct requests it read something of in that epoch.
    pub(crate) reads: u64,
    /// The sock read last.
    pub(crate) read_sk: u64,
    /// The request read last, 0 when it is not known on whose behalf the thread works.
    pub(crate) current_sk: u64,
    pub(crate) current_position: u64,
    /// 1: a call was made since that read.
    pub(crate) called: u64,
    /// The epoch after the one in which an attempt of the thread to connect was found to have failed, 0 for never.
    pub(crate) failed_epoch: u64,
    /// The request that was open when the thread was cloned.
    pub(crate) ancestor_sk: u64,
    pub(crate) ancestor_position: u64,
    /// 1: it has had several requests open at one time.
    pub(crate) had_several: u64,
    /// When a request of this thread was last over unanswered while its handler perhaps goes on, 0 for never.
    pub(crate) left_ns: u64,
}

/// Key of `FORWARDS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ForwardKey {
    pub(crate) tgid: u64,
    pub(crate) trace_id: [u64; 2],
    pub(crate) span_id: u64,
}

/// Value of `FORWARDS`: the open server request that brought a context in.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Forward {
    pub(crate) sk: u64,
    pub(crate) position: u64,
    /// Open requests that brought the same context in.
    pub(crate) requests: u64,
}

/// The entry of a thread, whoever that id belongs to now.
#[inline(always)]
pub(crate) fn thread(pid_tgid: u64) -> Option<&'static mut Thread> {
    let thread = THREADS.get_ptr_mut(pid_tgid)?;
    // SAFETY: entries are plain words; shared ones are changed by atomic additions only.
    Some(unsafe { &mut *thread })
}

/// The running thread's entry, when it has one that is its own.
#[inline(always)]
pub(crate) fn current(work: &Work) -> Option<&'static mut Thread> {
    let thread = thread(work.pid_tgid)?;
    (thread.start == work.thread_start_ns).then_some(thread)
}

/// The running thread's entry, made when there is none.
#[inline(always)]
fn current_or_new(work: &Work) -> Option<&'static mut Thread> {
    let start = work.thread_start_ns;
    if let Some(thread) = thread(work.pid_tgid) {
        // An entry that another thread made, to count the process's requests.
        if thread.start == 0 {
            thread.start = start;
        }
        if thread.start == start {
            return Some(thread);
        }
    }
    let fresh = Thread {
        start,
        ..Thread::default()
    };
    if faulty(fault::THREADS_FULL) || THREADS.insert(work.pid_tgid, fresh, 0).is_err() {
        count(Counter::ThreadsFull);
        return None;
    }
    thread(work.pid_tgid)
}

/// Key of the entry in which a process counts its open requests: that of its first thread.
#[inline(always)]
fn leader(pid_tgid: u64) -> u64 {
    let tgid = pid_tgid >> 32;
    tgid << 32 | tgid
}

/// A thread goes to wait for events: what it reads next may belong to anybody.
#[inline(always)]
pub(crate) fn wait(pid_tgid: u64) {
    if let Some(thread) = thread(pid_tgid) {
        thread.epoch = thread.epoch.wrapping_add(1);
    }
}

/// A thread was cloned: it may work for the request that its creator serves, while that is the only one of the process.
#[inline(always)]
pub(crate) fn descend(parent: u64, child: u64, child_start: u64) {
    let Some(thread) = thread(parent) else {
        return;
    };
    if is_left(thread, crate::conn::now()) {
        return;
    }
    let (sk, position) = if thread.open == 1 {
        let Some(socket) = find(thread.sum) else {
            return;
        };
        (thread.sum, socket.request.decision.position)
    } else if thread.open == 0 && thread.ancestor_sk != 0 {
        (thread.ancestor_sk, thread.ancestor_position)
    } else {
        return;
    };
    let fresh = Thread {
        start: child_start,
        ancestor_sk: sk,
        ancestor_position: position,
        ..Thread::default()
    };
    if faulty(fault::THREADS_FULL) || THREADS.insert(child, fresh, 0).is_err() {
        count(Counter::ThreadsFull);
    }
}

/// Notes that the running thread has read from `read_sk` something of a request, or of a connection whose request is not known (`sk` 0).
#[inline(always)]
pub(crate) fn touch(thread: &mut Thread, read_sk: u64, sk: u64, position: u64) {
    thread.read_sk = read_sk;
    if thread.read_epoch != thread.epoch {
        thread.read_epoch = thread.epoch;
        thread.reads = 1;
    } else if thread.current_sk != sk || thread.current_position != position || sk == 0 {
        thread.reads = thread.reads.wrapping_add(1);
    }
    thread.current_sk = sk;
    thread.current_position = position;
    thread.called = 0;
}

/// A connection that a thread was making failed: the event tells it in this epoch or the next, and what it does then is on behalf of whoever
/// wanted that connection.
#[inline(always)]
pub(crate) fn connect_failed(pid_tgid: u64) {
    if let Some(thread) = thread(pid_tgid) {
        thread.failed_epoch = thread.epoch.wrapping_add(1);
    }
}

/// Whether such an event may come in this epoch.
#[inline(always)]
pub(crate) fn may_meet_failure(thread: &Thread) -> bool {
    thread.failed_epoch != 0
        && thread
            .epoch
            .wrapping_add(1)
            .wrapping_sub(thread.failed_epoch)
            <= 1
}

/// Whether a handler of the thread may be at work for a request that is over.
#[inline(always)]
pub(crate) fn is_left(thread: &Thread, now_ns: u64) -> bool {
    let lifetime_ns = LEFT_FOR_NS.min(global!(REQUEST_LIFETIME_NS));
    thread.left_ns != 0 && !is_stale(thread.left_ns, now_ns, lifetime_ns)
}

/// Opens the request that the running thread has just read the head of.
#[inline(always)]
pub(crate) fn open(work: &Work, socket: &mut Socket) {
    let request = &mut socket.request;
    request.flags |= request_flags::OPEN;
    request.since_ns = work.time_ns;
    request.claims = 0;
    if faulty(fault::CLOSE_CONTENDED) {
        request.claims = 1;
    }
    request.owner = work.pid_tgid;
    if task::is_worker(work.task_flags) {
        return;
    }
    let Some(thread) = current_or_new(work) else {
        return;
    };
    request.owner_start = thread.start;
    request.owner_epoch = thread.epoch as u32;
    request.flags |= request_flags::OWNED;
    if thread.open != 0 {
        thread.had_several = 1;
    }
    thread.ancestor_sk = 0;
    add(&thread.open, 1);
    add(&thread.sum, work.sk);
    touch(thread, work.sk, work.sk, request.decision.position);
    let leader = leader(work.pid_tgid);
    if leader == work.pid_tgid {
        add(&thread.process_open, 1);
    } else {
        count_process(leader, 1);
    }
}

#[inline(always)]
fn count_process(leader: u64, amount: u64) {
    if let Some(entry) = thread(leader) {
        add(&entry.process_open, amount);
    } else if amount == 1 {
        let fresh = Thread {
            process_open: 1,
            ..Thread::default()
        };
        if THREADS.insert(leader, fresh, 0).is_err() {
            count(Counter::ThreadsFull);
        }
    }
}

/// Remembers the context that a request came with, so that it is known again when it is forwarded.
#[inline(always)]
pub(crate) fn remember_forward(work: &Work, request: &mut Request) {
    let key = forward_key(work.pid_tgid, request.incoming_trace, request.incoming_span);
    if let Some(forward) = FORWARDS.get_ptr_mut(key) {
        // SAFETY: entries are plain words.
        let forward = unsafe { &mut *forward };
        add(&forward.requests, 1);
        request.flags |= request_flags::FORWARDED;
        return;
    }
    let forward = Forward {
        sk: work.sk,
        position: request.decision.position,
        requests: 1,
    };
    if faulty(fault::FORWARDS_FULL) || FORWARDS.insert(key, forward, 0).is_err() {
        count(Counter::ForwardsFull);
        return;
    }
    request.flags |= request_flags::FORWARDED;
}

#[inline(always)]
pub(crate) fn forward_key(pid_tgid: u64, trace_id: [u64; 2], span_id: u64) -> ForwardKey {
    ForwardKey {
        tgid: pid_tgid >> 32,
        trace_id,
        span_id,
    }
}

/// Which request of which connection: by this, who has found it complete knows after its claim that it is still that one.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Place {
    connection: u64,
    position: u64,
}

/// The newest request of a connection, as memory has it now.
#[inline(always)]
pub(crate) fn place(socket: &Socket) -> Place {
    // SAFETY: aligned words of the map.
    unsafe {
        Place {
            connection: (&raw const socket.connection).read_volatile(),
            position: (&raw const socket.request.decision.position).read_volatile(),
        }
    }
}

/// Closes the open request of a connection.
///
/// Two CPUs may come to that at one time (its answer is sent while its connection ends, or while user space gives it up). Subtracted twice, its thread
/// would seem to have one request fewer than it has, and a call would get a parent where it must have none: who finds another claim takes its own back and
/// leaves the request, if need be to whoever comes next (the connection's next read or question for its positions, its end, or the request's age). So
/// does who finds that it is not the request `at` any more.
#[inline(always)]
pub(crate) fn close(sk: u64, socket: &mut Socket, at: Place) {
    let claims = &socket.request.claims;
    add(claims, 1);
    // SAFETY: an aligned word of the map.
    // 0 where a claim of the request before this one was taken back late.
    let alone = unsafe { core::ptr::from_ref(claims).read_volatile() } <= 1;
    if alone && place(socket) == at {
        subtract(sk, socket, at.position);
    } else if alone {
        add(claims, 1u64.wrapping_neg());
    } else {
        add(claims, 1u64.wrapping_neg());
        if faulty(fault::CLOSE_CONTENDED) {
            add(claims, 1u64.wrapping_neg());
        }
        count(Counter::RequestsContended);
    }
}

/// Takes the open request of a connection, which began at `position`, from the counts.
#[inline(never)]
fn subtract(sk: u64, socket: &mut Socket, position: u64) {
    let request = &mut socket.request;
    if global!(INJECT) != 0 && request.state_kept != 0 {
        forget_state(sk, request, position);
    }
    let before = request.flags;
    request.flags = 0;
    if before & request_flags::OWNED != 0 {
        let mut entry = thread(request.owner);
        if let Some(thread) = &entry
            && thread.start == request.owner_start
            && thread.open != 0
        {
            add(&thread.open, 1u64.wrapping_neg());
            add(&thread.sum, sk.wrapping_neg());
        }
        if leader(request.owner) != request.owner {
            entry = thread(leader(request.owner));
        }
        if let Some(leader) = entry
            && leader.process_open != 0
        {
            add(&leader.process_open, 1u64.wrapping_neg());
        }
    }
    if before & request_flags::FORWARDED != 0 {
        let key = forward_key(request.owner, request.incoming_trace, request.incoming_span);
        if let Some(forward) = FORWARDS.get_ptr_mut(key) {
            // SAFETY: entries are plain words.
            let forward = unsafe { &mut *forward };
            if forward.requests <= 1 {
                let _ = FORWARDS.remove(key);
            } else {
                // Which of them is left is not known: the entry stays ambiguous until the last one is gone.
                forward.position = u64::MAX;
                add(&forward.requests, 1u64.wrapping_neg());
            }
        }
    }
}

/// A new request takes the place of a connection's newest one: where that was left open by all who came to close it, its `tracestate` is nobody's any more.
#[inline(always)]
pub(crate) fn replace_state(sk: u64, socket: &mut Socket) {
    if global!(INJECT) != 0 && socket.request.state_kept != 0 {
        socket.request.state_kept = 0;
        let _ = STATES.remove(sk);
    }
}

/// Takes out the `tracestate` of the request that began at `position`. The next one of the connection may have left its own meanwhile, which stays, and so does
/// its mark.
#[inline(always)]
fn forget_state(sk: u64, request: &mut Request, position: u64) {
    let Some(kept) = STATES.get_ptr(sk) else {
        return;
    };
    // SAFETY: a word of the entry.
    if unsafe { (*kept).position } == position {
        request.state_kept = 0;
        let _ = STATES.remove(sk);
    }
}

/// Closes the request of a connection that ends, answered or not. Its positions have to be up to date.
#[inline(always)]
pub(crate) fn abandon(sk: u64, socket: &mut Socket) {
    if socket.request.flags & request_flags::OPEN == 0 {
        return;
    }
    let at = place(socket);
    let sent = &socket.streams[Direction::Send as usize];
    // A response that ends with the connection is complete now; one that ended in a file before Linux 6.5 was not noticed until now.
    let answered = sent.phase == Phase::UntilClose as u8
        || (sent.phase == Phase::Body as u8
            && sent.state.position >= sent.message_end
            && socket.pending.count() == 0);
    if !answered {
        count(Counter::RequestsAbandoned);
        leave(socket);
    }
    close(sk, socket, at);
}

/// Notes that a handler may go on for a request that is over. Only one that closes the connection itself, without a wait for events since it read the
/// request, has come to its end: a worker that serves one request after another.
#[inline(always)]
fn leave(socket: &Socket) {
    let request = &socket.request;
    if request.flags & request_flags::OWNED == 0 {
        return;
    }
    // Elsewhere a soft interrupt may have come over the thread at any place.
    let by_process = socket.has(flags::FIN_SENT) || socket.unix_peer != 0;
    if let Some(thread) = thread(request.owner)
        && thread.start == request.owner_start
        && !(by_process
            && task::pid_tgid() == request.owner
            && thread.epoch as u32 == request.owner_epoch)
    {
        thread.left_ns = crate::conn::now();
    }
}

/// Closes a request that nobody will answer, so that it is not counted among those its thread may work for. User space asks when it gives the request
/// up, which it counts from the first byte of the head and not from the last.
#[inline(always)]
pub(crate) fn expire(sk: u64, socket: &mut Socket, now_ns: u64, given_up: bool) {
    let lifetime_ns = global!(REQUEST_LIFETIME_NS);
    let lifetime_ns = if given_up {
        lifetime_ns - lifetime_ns / 8
    } else {
        lifetime_ns
    };
    let at = place(socket);
    let request = &socket.request;
    if request.flags & request_flags::OPEN != 0 && is_stale(request.since_ns, now_ns, lifetime_ns) {
        count(Counter::RequestsExpired);
        close(sk, socket, at);
    }
}

/// The open request at this sock and position, when it may be a parent.
#[inline(always)]
pub(crate) fn open_request(sk: u64, position: u64, now_ns: u64) -> Option<&'static Socket> {
    let socket = find(sk)?;
    let request = &socket.request;
    let usable = request.flags & (request_flags::OPEN | request_flags::SEVERAL)
        == request_flags::OPEN
        && request.decision.position == position
        && !is_stale(request.since_ns, now_ns, global!(REQUEST_LIFETIME_NS));
    usable.then_some(socket)
}
