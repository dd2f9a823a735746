//! Sessions of TLS libraries: the calls that threads are in, and the connection that carries a session.
//!
//! Input: calls, as the probes on libraries see them, and sends and receives that happen inside of them. Output: entries of `CALLS` and `SESSIONS`, and
//! connections whose streams are plaintext. A session is bound to a connection by proof: a call of the library with this session is under way on the
//! thread that sends or receives, and the bytes are a record of TLS (RFC 8446 section 5.1). From then on the connection is another one for user space:
//! the old one has ended, and the streams of the new one are what passes the library; what the socket carries is not looked at any more. A session that
//! two connections fit belongs to none.

use agent_common::abi::{CloseReason, Counter, Direction, Origin, PolicyKind};

use crate::{
    conn::{self, Socket, flags},
    globals::{fault, faulty, global},
    inject,
    kernel::sock::{IPPROTO_TCP, Identity},
    maps::{CALLS, SESSIONS, count},
    option,
    scratch::{self, Work},
};

/// Value of `CALLS` (key: thread): the call of a library that a thread is in.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    /// Address of the library's session.
    pub(crate) session: u64,
    /// Where plaintext is, or goes to.
    pub(crate) buffer: u64,
    /// Where the library says how many bytes have passed; 0 where it returns the number.
    pub(crate) stored: u64,
    /// The stack pointer at the call: it tells this call from one inside of it.
    pub(crate) stack: u64,
    /// Bytes offered, or room for so many.
    pub(crate) length: u32,
    /// A [`Direction`], or [`NEITHER`].
    pub(crate) direction: u32,
}

/// [`Call::direction`] of a call that moves no plaintext.
pub(crate) const NEITHER: u32 = 2;

/// Value of `SESSIONS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Session {
    /// Address of the library's session, and the process it is in: two of them may have one key.
    session: u64,
    tgid: u64,
    /// The connection that carries it; [`AMBIGUOUS`] for none.
    connection: u64,
    sk: u64,
}

/// Two connections were seen inside calls of one session.
const AMBIGUOUS: u64 = u64::MAX;

/// Key of `SESSIONS`. Addresses have 47 bits (or 56), process ids 22.
#[inline(always)]
fn key(session: u64, tgid: u64) -> u64 {
    session ^ tgid << 42
}

/// Whether the running thread is inside a call of a library.
#[inline(always)]
pub(crate) fn in_call(pid_tgid: u64) -> bool {
    CALLS.get_ptr(pid_tgid).is_some()
}

/// Whether bytes, the first one lowest, begin a record of TLS: its type, and the version that all versions since SSL 3.0 write there.
#[inline(always)]
pub(crate) fn begins_record(bytes: u64) -> bool {
    const CHANGE_CIPHER_SPEC: u64 = 20;
    const APPLICATION_DATA: u64 = 23;
    let (kind, major, minor) = (bytes & 0xff, bytes >> 8 & 0xff, bytes >> 16 & 0xff);
    kind >= CHANGE_CIPHER_SPEC && kind <= APPLICATION_DATA && major == 3 && minor <= 4
}

/// The thread enters a call. False where it is inside another one already, or there is no room.
#[inline(always)]
pub(crate) fn enter(pid_tgid: u64, call: &Call) -> bool {
    if let Some(outer) = CALLS.get_ptr(pid_tgid)
        // SAFETY: plain words, which this thread alone writes.
        && unsafe { (*outer).stack } > call.stack
    {
        return false;
    }
    let entered = !faulty(fault::CALLS_FULL) && CALLS.insert(pid_tgid, call, 0).is_ok();
    if !entered {
        count(Counter::TlsCallsFull);
    }
    entered
}

/// The thread returns from a call, with its stack here; nothing where that was one inside of the call that was entered.
#[inline(always)]
pub(crate) fn leave(pid_tgid: u64, stack: u64, call: &mut Call) -> bool {
    let Some(entered) = CALLS.get_ptr(pid_tgid) else {
        return false;
    };
    // SAFETY: plain words, which this thread alone writes.
    *call = unsafe { *entered };
    // Where a call pushes its return address (x86-64), the stack is above it then.
    let pushes = cfg!(bpf_target_arch = "x86_64");
    if stack < call.stack || pushes && stack == call.stack {
        return false;
    }
    let _ = CALLS.remove(pid_tgid);
    true
}

/// The connection that carries a session, and its key.
#[inline(always)]
pub(crate) fn carrier(session: u64, pid_tgid: u64) -> Option<(u64, &'static mut Socket)> {
    let tgid = pid_tgid >> 32;
    let found = SESSIONS.get_ptr(key(session, tgid))?;
    // SAFETY: plain words.
    let found = unsafe { &*found };
    if found.session != session || found.tgid != tgid {
        return None;
    }
    let sk = found.sk;
    let socket = conn::find(sk)?;
    (socket.connection == found.connection).then_some((sk, socket))
}

/// An address means another session from now on.
#[inline(always)]
pub(crate) fn free(session: u64, pid_tgid: u64) {
    let _ = SESSIONS.remove(key(session, pid_tgid >> 32));
}

/// A connection is over.
#[inline(always)]
pub(crate) fn forget(socket: &Socket) {
    if global!(TLS) == 0 || socket.session == 0 {
        return;
    }
    if let Some(session) = SESSIONS.get_ptr(socket.session)
        // SAFETY: a plain word.
        && unsafe { (*session).connection } == socket.connection
    {
        let _ = SESSIONS.remove(socket.session);
    }
}

/// Binds the session of the call that the running thread is in to the connection of the level's segment, whose bytes are a record of TLS. Where that
/// cannot be, nothing of the connection is looked at any more.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_bind(level: u32) -> u32 {
    let Some(scratch) = scratch::get(level) else {
        return 0;
    };
    let work = &mut scratch.work;
    let Some(call) = CALLS.get_ptr(work.pid_tgid) else {
        return 0;
    };
    // SAFETY: a plain word, which this thread alone writes.
    let session = unsafe { (*call).session };
    let Some(socket) = conn::find(work.sk) else {
        return 0;
    };
    let identity = Identity::from_word(work.identity);
    let bound = !socket.has(flags::COUNTED)
        && identity.protocol == IPPROTO_TCP
        && bind(work, socket, session);
    if !bound {
        socket.policy = PolicyKind::Ignore as u8;
    }
    0
}

#[inline(always)]
fn bind(work: &mut Work, socket: &mut Socket, session: u64) -> bool {
    let tgid = work.pid_tgid >> 32;
    let key = key(session, tgid);
    if let Some(found) = SESSIONS.get_ptr_mut(key) {
        // SAFETY: plain words.
        let found = unsafe { &mut *found };
        if found.session != session || found.tgid != tgid {
            count(Counter::TlsSessionsFull);
            return false;
        }
        let other = conn::find(found.sk);
        let lives = other.is_some_and(|other| other.connection == found.connection);
        if lives || found.connection == AMBIGUOUS {
            if found.connection != AMBIGUOUS {
                found.connection = AMBIGUOUS;
                count(Counter::TlsAmbiguous);
            }
            return false;
        }
    }
    renew(work, socket);
    let value = Session {
        session,
        tgid,
        connection: socket.connection,
        sk: work.sk,
    };
    if faulty(fault::SESSIONS_FULL) || SESSIONS.insert(key, value, 0).is_err() {
        count(Counter::TlsSessionsFull);
        return false;
    }
    socket.session = key;
    count(Counter::TlsSessions);
    conn::open(socket, work.sk, work.time_ns);
    true
}

/// Ends the connection whose bytes are ciphertext, and begins the one whose bytes are plaintext.
#[inline(always)]
fn renew(work: &mut Work, socket: &mut Socket) {
    if global!(INJECT) != 0 && socket.has(flags::INJECTABLE) {
        inject::release(work, socket);
    }
    option::forget(work.sk, socket);
    // Of a session that is seen from its first byte both ends count alike.
    let other = if work.direction == Direction::Send as u32 {
        Direction::Receive
    } else {
        Direction::Send
    };
    let whole = socket.origin != Origin::FirstSeen as u8
        && work.position == 0
        && socket.streams[other as usize].state.position == 0;
    conn::tell_close(work.sk, socket, CloseReason::Encrypted);
    work.dropped = 0;
    conn::renew(socket, whole);
}
