//! Connections: their kernel state, how they begin and end, and where their streams stand.
//!
//! Input: socks. Output: entries of `SOCKETS`, and `Open` and `Close` records. What a segment's bytes mean is [`crate::capture`].

mod socket;
mod told;

use agent_common::{
    abi::{CloseReason, Counter, Direction, Kind, Open, Origin, PolicyKind, Role},
    wire::{
        chunked::Chunks,
        http1::{Pending, Phase},
    },
};
use aya_ebpf::{
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    maps::lpm_trie::Key,
};

pub(crate) use self::{
    socket::{Request, Socket, Stream, flags, follows, request_flags},
    told::{state_of, stop_at_hidden, tell_state},
};
use crate::{
    context, emit,
    globals::{fault, faulty, global},
    inject,
    kernel::{
        sock::{self, AF_INET, AF_UNIX, IPPROTO_TCP, Identity},
        task,
    },
    log,
    maps::{HEADS, PORTS, SOCKETS, TRUSTED, count},
    option,
    scratch::{HeadKey, Scratch},
    tls,
};

/// A connection id: never reused, made without an atomic.
#[inline(always)]
fn new_id(time_ns: u64) -> u64 {
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    time_ns << 10 | u64::from(cpu & 1023)
}

/// CLOCK_MONOTONIC, nanoseconds.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The state of a sock, when it is the one with this identity.
#[inline(always)]
pub(crate) fn find(sk: u64) -> Option<&'static mut Socket> {
    let socket = SOCKETS.get_ptr_mut(sk)?;
    // SAFETY: entries are plain data; two CPUs that work on one connection may lose each other's update of a statistic, and the verifier keeps
    // every access inside the entry.
    Some(unsafe { &mut *socket })
}

/// Whether the port selectors want this connection.
#[inline(always)]
fn is_wanted(identity: Identity) -> bool {
    if global!(PORT_FILTER) == 0 || identity.family == AF_UNIX {
        return true;
    }
    has_port(identity.local_port) || has_port(identity.peer_port)
}

#[inline(always)]
fn has_port(port: u16) -> bool {
    let word = PORTS.get(u32::from(port >> 6)).copied().unwrap_or(0);
    word >> (port & 63) & 1 != 0
}

/// What a new entry begins with, in the level's staging area.
#[inline(always)]
pub(crate) fn stage<'a>(scratch: &'a mut Scratch, origin: Origin, role: Role) -> &'a mut Socket {
    let work = &scratch.work;
    let socket = &mut scratch.socket;
    let identity = Identity::from_word(work.identity);
    socket.connection = new_id(work.time_ns);
    socket.identity = work.identity;
    socket.send_base = 0;
    socket.receive_base = 0;
    socket.flags = if identity.protocol == IPPROTO_TCP && identity.family != AF_UNIX {
        0
    } else {
        flags::COUNTED
    };
    socket.dropped = 0;
    socket.role = role as u8;
    socket.policy = if is_wanted(identity) {
        PolicyKind::Heads as u8
    } else {
        PolicyKind::Ignore as u8
    };
    socket.origin = origin as u8;
    socket.last_direction = 2;
    socket.limit = 0;
    socket.hides = 0;
    socket.hiding_lost = 0;
    socket.hiding_told = 0;
    socket.unpaired = 0;
    socket.hidden_counted = 0;
    socket.inserted = 0;
    socket.planned = 0;
    socket.handover_position = 0;
    socket.opener = work.pid_tgid;
    socket.opener_start = work.process_start_ns;
    socket.connect_start_ns = 0;
    socket.closed_ns = 0;
    socket.connect_sk = 0;
    socket.connect_position = 0;
    socket.response_epoch = 0;
    socket.response_thread = 0;
    socket.unix_peer = 0;
    socket.session = 0;
    socket.pending = Pending::default();
    socket.chunks = Chunks::default();
    let phase = if matches!(origin, Origin::FirstSeen) {
        Phase::Turn
    } else {
        Phase::Body
    };
    let stream = Stream {
        phase: phase as u8,
        ..Stream::default()
    };
    socket.streams[0] = stream;
    socket.streams[1] = stream;
    socket.request = Request::default();
    socket
}

/// Stores the staged entry; false when there is no room.
#[inline(always)]
pub(crate) fn store(sk: u64, socket: &Socket) -> bool {
    let stored = !faulty(fault::SOCKETS_FULL) && SOCKETS.insert(sk, socket, 0).is_ok();
    if !stored {
        count(Counter::SocketsFull);
        log::ut_refused(log::CONNECTION, (task::pid_tgid() >> 32) as u32);
    }
    stored
}

/// A connection whose start was not seen: bases are computed, positions begin where the stream is. 1 when it is followed; the caller writes `Open`.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_first_seen(level: u32) -> u32 {
    let Some(scratch) = crate::scratch::get(level) else {
        return 0;
    };
    let sk = scratch.work.sk;
    let identity = Identity::from_word(scratch.work.identity);
    if task::is_kernel_thread(scratch.work.task_flags) {
        return 0;
    }
    let is_unix = identity.family == AF_UNIX;
    if !is_unix {
        let state = sock::state(sk);
        if state == sock::TCP_CLOSE || state == sock::TCP_LISTEN || state == sock::TCP_SYN_SENT {
            return 0;
        }
    }
    // Only the end that connected counts its SYN: which end this is, the first bytes tell.
    let response = crate::capture::begins_response(level, scratch);
    let sends = scratch.work.direction == Direction::Send as u32;
    let connected = sends != response;
    let (write_seq, copied_seq) = (scratch.work.write_seq, scratch.work.copied_seq);
    let length = scratch.work.length;
    let socket = stage(scratch, Origin::FirstSeen, Role::Unknown);
    if !socket.has(flags::COUNTED) {
        // A receive has moved copied_seq already.
        let read_before = if sends {
            copied_seq
        } else {
            copied_seq.wrapping_sub(length)
        };
        if let Some((send, receive)) = sock::bases(sk, connected) {
            socket.send_base = send;
            socket.receive_base = receive;
            socket.flags |= flags::BASES_EXACT;
        } else {
            socket.send_base = write_seq;
            socket.receive_base = read_before;
        }
        // The kernel's counters are 64 bit wide, but a sequence number tells the low 32 bits of a position.
        socket.streams[Direction::Send as usize].state.position =
            u64::from(write_seq.wrapping_sub(socket.send_base));
        socket.streams[Direction::Receive as usize].state.position =
            u64::from(read_before.wrapping_sub(socket.receive_base));
        // What passed before is nobody's response.
        for stream in &mut socket.streams {
            stream.message_end = stream.state.position;
        }
    }
    if is_unix {
        socket.unix_peer = sock::unix_peer(sk);
        if !sends && is_first_read(socket.unix_peer, sk) {
            socket.origin = Origin::Accept as u8;
            socket.role = Role::Server as u8;
            socket.flags |= flags::BASES_EXACT;
            for stream in &mut socket.streams {
                stream.phase = Phase::Body as u8;
            }
        }
    }
    if !store(sk, &scratch.socket) {
        return 0;
    }
    1
}

/// Whether a unix socket that was not seen before reads from the start of what its peer sends: the peer was followed since it connected here, and has
/// not begun a second message.
#[inline(always)]
fn is_first_read(peer: u64, sk: u64) -> bool {
    let Some(peer) = find(peer) else {
        return false;
    };
    let sent = &peer.streams[Direction::Send as usize];
    peer.origin == Origin::Connect as u8
        && peer.unix_peer == sk
        && sent.message_start == 0
        && sent.head_end != 0
}

/// A connection whose addresses were not there when it was established: takes them now.
#[inline(always)]
pub(crate) fn learn_address(socket: &mut Socket, identity: u64) {
    socket.flags &= !flags::ADDRESS_LATE;
    socket.identity = identity;
    if !socket.has(flags::OWN) && !is_wanted(Identity::from_word(identity)) {
        socket.policy = PolicyKind::Ignore as u8;
    } else if !socket.has(flags::OWN) {
        socket.policy = PolicyKind::Heads as u8;
    }
}

/// Writes the `Open` record of a connection, once.
#[inline(never)]
pub(crate) fn open(socket: &mut Socket, sk: u64, time_ns: u64) {
    if socket.has(flags::OPENED) || socket.policy == PolicyKind::Ignore as u8 {
        return;
    }
    socket.flags |= flags::OPENED;
    let identity = Identity::from_word(socket.identity);
    let mut record = Open {
        header: emit::header(Kind::Open, size_of::<Open>(), time_ns, socket.connection),
        pid_tgid: socket.opener,
        process_start_ns: socket.opener_start,
        connect_start_ns: socket.connect_start_ns,
        local_address: [0; 16],
        peer_address: [0; 16],
        local_port: identity.local_port,
        peer_port: identity.peer_port,
        family: identity.family,
        protocol: identity.protocol,
        network_namespace: sock::network_namespace(sk),
        role: socket.role,
        origin: socket.origin,
        tls: u8::from(socket.has(flags::TLS)),
        reserved: 0,
        send_base: socket.send_base,
        receive_base: socket.receive_base,
        socket: sk,
    };
    sock::addresses(
        sk,
        identity.family,
        &mut record.local_address,
        &mut record.peer_address,
    );
    if is_trusted(identity.family, &record.peer_address) {
        socket.flags |= flags::TRUSTED;
    }
    if !emit::record(&record) {
        socket.dropped = socket.dropped.wrapping_add(1);
    }
}

/// Whether context from this address is taken; from a unix socket it always is.
#[inline(always)]
fn is_trusted(family: u16, address: &[u8; 16]) -> bool {
    if family == AF_UNIX {
        return true;
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    let first = u32::from_ne_bytes([a, b, c, d]);
    let address = if family == AF_INET {
        [0, 0, 0xffff_0000, first]
    } else {
        [
            first,
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ]
    };
    TRUSTED.get(Key::new(128, address)).is_some()
}

/// The connection is over for its process, which can neither send nor receive any more: closes its request and writes `Close`, once. Both positions have
/// to be up to date.
///
/// What it left in maps stays: its peer may still read what was sent, and an entry whose socket is there yet shall not be made anew.
#[inline(never)]
pub(crate) fn tell_close(sk: u64, socket: &mut Socket, reason: CloseReason) {
    context::abandon(sk, socket);
    if socket.flags & (flags::OPENED | flags::CLOSE_TOLD) != flags::OPENED {
        return;
    }
    // Else the end of the socket is another chance.
    if told::write_close(sk, socket, reason) {
        socket.flags |= flags::CLOSE_TOLD;
        socket.policy = PolicyKind::Ignore as u8;
    }
}

/// Ends a connection: closes its request, writes `Close` unless that was done, deletes what it left in maps.
#[inline(never)]
pub(crate) fn close(sk: u64, reason: CloseReason) {
    let Some(socket) = find(sk) else {
        return;
    };
    let identity = Identity::from_word(socket.identity);
    inject::refresh(sk, socket, None, true);
    if !socket.has(flags::COUNTED) && identity.family != AF_UNIX && !socket.has(flags::CONNECTING) {
        unwrap(socket, sk, sock::write_seq(sk), sock::copied_seq(sk));
    }
    tell_close(sk, socket, reason);
    context::forget_handover(sk, socket);
    inject::forget(sk, socket);
    option::forget(sk, socket);
    tls::forget(socket);
    for direction in 0..2u64 {
        let phase = socket.streams[direction as usize].phase;
        if phase == Phase::Head as u8 {
            let _ = HEADS.remove(HeadKey { sk, direction });
        }
    }
    let _ = SOCKETS.remove(sk);
}

/// Makes of a connection another one on the same socket, whose streams are counted from here on. `whole`: nothing has passed them yet.
#[inline(always)]
pub(crate) fn renew(socket: &mut Socket, whole: bool) {
    // The old one may be of this very moment.
    let (time_ns, behind) = (now(), (socket.connection >> 10).wrapping_add(1));
    socket.connection = new_id(if time_ns > behind { time_ns } else { behind });
    // What was said of the socket holds, what was said of its bytes does not.
    socket.flags &= flags::BASES_EXACT | flags::TRUSTED | flags::FIN_SENT;
    socket.flags |= flags::COUNTED | flags::TLS;
    socket.policy = PolicyKind::Heads as u8;
    if !whole {
        socket.flags &= !flags::BASES_EXACT;
        socket.origin = Origin::FirstSeen as u8;
    }
    socket.dropped = 0;
    socket.last_direction = 2;
    socket.limit = 0;
    socket.closed_ns = 0;
    socket.pending = Pending::default();
    socket.chunks = Chunks::default();
    let phase = if whole { Phase::Body } else { Phase::Turn };
    let stream = Stream {
        phase: phase as u8,
        ..Stream::default()
    };
    socket.streams[0] = stream;
    socket.streams[1] = stream;
    socket.request = Request::default();
}

/// Brings both positions up to the sequence numbers.
#[inline(always)]
pub(crate) fn unwrap(socket: &mut Socket, sk: u64, write_seq: u32, copied_seq: u32) {
    if socket.flags & (flags::FIN_SENT | flags::UNDER_WAY) == 0 {
        let sent = &mut socket.streams[Direction::Send as usize].state.position;
        let base = socket.send_base.wrapping_add(socket.inserted);
        let delta = distance(*sent, base, write_seq);
        *sent = sent.wrapping_add(delta);
    }
    let read = &mut socket.streams[Direction::Receive as usize].state.position;
    let delta = distance(*read, socket.receive_base, copied_seq);
    // A reader that meets the FIN steps over it as over a byte.
    if delta == 1 && sock::may_have_fin(sk) {
        return;
    }
    *read = read.wrapping_add(delta);
}

/// Position in the stream of what was sent of the byte with this sequence number, with so many bytes of ours before it.
#[inline(always)]
pub(crate) fn sent_position(socket: &Socket, sequence: u32, inserted: u32) -> u64 {
    let sent = socket.streams[Direction::Send as usize].state.position;
    let base = socket.send_base.wrapping_add(inserted);
    sent.wrapping_add(distance(sent, base, sequence))
}

/// Whether all that was read of the connection is accounted for.
#[inline(always)]
pub(crate) fn has_read(sk: u64) -> bool {
    let Some(socket) = find(sk) else {
        return false;
    };
    let read = socket.streams[Direction::Receive as usize].state.position as u32;
    !socket.has(flags::COUNTED) && sock::copied_seq(sk) == socket.receive_base.wrapping_add(read)
}

/// From a 64-bit position to the nearest one with the low 32 bits of `sequence - base`.
#[inline(always)]
fn distance(position: u64, base: u32, sequence: u32) -> u64 {
    let delta = sequence.wrapping_sub(base).wrapping_sub(position as u32) as i32;
    i64::from(delta) as u64
}
