//! What the send hook tells the program on the socket's send path to write.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::state_line::{self, WORDS};

/// Where a connection stands. Numbers of [`Injection::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum InjectionState {
    /// A traced process connected it; the handshake's callback shall enrol it.
    Wanted = 0,
    /// It is in the sockhash.
    Enrolled = 1,
    /// It is not, and never will be.
    Refused = 2,
}

/// Bits of the one word in `SWITCHES`.
pub mod switches {
    /// Nothing is written any more, and no connection is wanted: a self-test has failed, or the agent ends. Never taken back.
    pub const STOPPED: u32 = 1;
}

/// One place of a send.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct InjectionSlot {
    /// Offset in the bytes that the process sends: of the empty line (insert), or of the `traceparent` value (rewrite).
    pub at: u32,
    /// An [`Action`](crate::wire::inject::Action).
    pub action: u32,
    /// Trace id: two words whose bytes in memory are in the order of the wire.
    pub trace_id: [u64; 2],
    /// Span id, likewise.
    pub span_id: u64,
    /// W3C trace flags.
    pub trace_flags: u64,
}

impl InjectionSlot {
    /// Requests of one send into which something is written.
    pub const COUNT: usize = 4;
}

/// Value of `INJECTIONS` (key: sock pointer): made when a connection of a traced process is established, deleted with the connection.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Injection {
    /// The connection: key in the sockhash.
    pub connection: u64,
    /// Thread group id << 32 | thread id of the send that the slots are for.
    pub pid_tgid: u64,
    /// Bytes of that send.
    pub length: u32,
    /// Slots in use; 0 when there is nothing to do.
    pub count: u32,
    /// An [`InjectionState`].
    pub state: u32,
    /// Bytes put into the stream so far, modulo 2^32. Written after `until`, and read before it.
    pub inserted: u32,
    /// Sequence number of the first byte of that send.
    pub start: u32,
    /// Sequence number behind the last byte that was put in: as long as `write_seq` is below it, `inserted` counts bytes that are still to come.
    pub until: u32,
    /// Key in `STATES` of the `tracestate` line that goes into some of the slots.
    pub state_sk: u64,
    /// [`KeptState::connection`] of that line: the one that is found there must have it.
    pub state_connection: u64,
    /// [`KeptState::position`], likewise.
    pub state_position: u64,
    /// [`KeptState::length`], likewise.
    pub state_length: u32,
    /// One bit for each slot that gets the line, from the lowest.
    pub state_slots: u32,
    /// What to write, in order of place.
    pub slots: [InjectionSlot; InjectionSlot::COUNT],
}

const _: () = assert!(size_of::<InjectionSlot>() == 40 && size_of::<Injection>() == 232);

/// Value of `STATES` (key: sock pointer): the `tracestate` of the open request of a connection, as the line that is written for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KeptState {
    /// The connection. No other request has this and the position.
    pub connection: u64,
    /// Position of the request's first byte.
    pub position: u64,
    /// Bytes of the line, 0 for none.
    pub length: u64,
    /// [`KeptState::seal_of`] the rest: a copy that was made while the entry was replaced has another one.
    pub seal: u64,
    /// The line with its CRLF, the first byte lowest; 0 behind it.
    pub text: [u64; WORDS],
}

impl Default for KeptState {
    fn default() -> Self {
        Self {
            connection: 0,
            position: 0,
            length: 0,
            seal: 0,
            text: [0; WORDS],
        }
    }
}

impl KeptState {
    /// Words of it.
    pub const WORDS: usize = size_of::<Self>() / 8;

    /// The seal that it should have.
    #[must_use]
    #[inline(always)]
    pub fn seal_of(&self) -> u64 {
        let mut seal = state_line::mix(self.connection, self.position);
        seal = state_line::mix(seal, self.length);
        for word in &self.text {
            seal = state_line::mix(seal, *word);
        }
        seal
    }
}

const _: () = assert!(size_of::<KeptState>() == 32 + WORDS * 8);

#[cfg(test)]
mod tests {
    use zerocopy::transmute;

    use super::*;

    #[test]
    fn a_state_of_which_one_word_was_replaced_has_another_seal() {
        let mut state = KeptState {
            connection: 1,
            position: 2,
            length: 15,
            ..KeptState::default()
        };
        state.seal = state.seal_of();
        let words: [u64; KeptState::WORDS] = transmute!(state);
        for index in 0..KeptState::WORDS {
            let mut changed = words;
            changed[index] ^= 1 << 7;
            let changed: KeptState = transmute!(changed);
            assert_ne!(changed.seal, changed.seal_of(), "word {index}");
        }
    }
}
