//! Same-kernel hand-over: the record that the sending end leaves for the receiving one.
//!
//! Input: a connection and where in its stream a message begins. Output: the entries of `HANDOVERS`. What a record is worth beside a header is
//! [`agent_common::wire::decide`].

use agent_common::abi::Counter;

use crate::{
    conn::{Socket, flags},
    globals::{fault, faulty},
    maps::{HANDOVERS, count},
};

/// Key of `HANDOVERS`: the sender's base, the receiver's base (TCP sequence numbers; sock pointers for unix sockets), the position of the message.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct HandoverKey {
    pub(crate) sender: u64,
    pub(crate) receiver: u64,
    pub(crate) position: u64,
}

/// Position of the record that marks a connection as the agent's own.
pub(crate) const UNTRACED: u64 = u64::MAX;

/// Value of `HANDOVERS`: the sender's decision.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Handover {
    pub(crate) trace_id: [u64; 2],
    pub(crate) span_id: u64,
    /// W3C trace flags, and when it was stored ([`agent_common::wire::decide::stored_at`]).
    pub(crate) trace_flags: u64,
}

/// The key under which this end leaves a record for what it sends at `position`.
#[inline(always)]
pub(crate) fn sending_key(sk: u64, socket: &Socket, position: u64) -> HandoverKey {
    if socket.unix_peer != 0 {
        return HandoverKey {
            sender: sk,
            receiver: socket.unix_peer,
            position,
        };
    }
    HandoverKey {
        sender: u64::from(socket.send_base),
        receiver: u64::from(socket.receive_base),
        position,
    }
}

/// The key under which the other end has left a record for what this end reads at `position`.
#[inline(always)]
pub(crate) fn receiving_key(sk: u64, socket: &Socket, position: u64) -> HandoverKey {
    let HandoverKey {
        sender, receiver, ..
    } = sending_key(sk, socket, position);
    HandoverKey {
        sender: receiver,
        receiver: sender,
        position,
    }
}

/// Leaves a record; false when there is no room.
#[inline(always)]
pub(crate) fn hand_over(key: &HandoverKey, handover: &Handover) -> bool {
    if faulty(fault::NO_HANDOVER) {
        return false;
    }
    if faulty(fault::HANDOVERS_FULL) || HANDOVERS.insert(key, handover, 0).is_err() {
        count(Counter::HandoversFull);
        return false;
    }
    count(Counter::HandoversStored);
    true
}

/// Takes a record that the other end has left; false when there is none.
#[inline(always)]
pub(crate) fn take_over(key: &HandoverKey, handover: &mut Handover) -> bool {
    let Some(found) = HANDOVERS.get_ptr(key) else {
        return false;
    };
    // SAFETY: entries are plain words, and this reader is the one that deletes.
    *handover = unsafe { *found };
    let _ = HANDOVERS.remove(key);
    count(Counter::HandoversFound);
    true
}

/// Deletes the record of a connection's last request, which nobody has taken.
#[inline(always)]
pub(crate) fn forget_handover(sk: u64, socket: &mut Socket) {
    if socket.has(flags::HANDED_OVER) {
        socket.flags &= !flags::HANDED_OVER;
        let key = sending_key(sk, socket, socket.handover_position);
        let _ = HANDOVERS.remove(key);
    }
}
