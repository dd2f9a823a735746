//! What the send hook tells the callback that writes TCP options, and what that one has read for the receive hook.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::{decide::Context, state_line::mix};

/// Bits of [`OfferedContext::outcome`].
pub mod outcome {
    /// A segment has carried it.
    pub const WRITTEN: u32 = 1;
    /// A segment had no room for it.
    pub const CRAMPED: u32 = 1 << 1;
    /// It was counted.
    pub const SETTLED: u32 = 1 << 2;
    /// How often a segment has carried it: a number in the bits from here on.
    pub const TIME: u32 = 1 << 8;
}

/// The context of one request that is sent.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct OfferedContext {
    /// Sequence number of the request's first byte.
    pub start: u32,
    /// Bytes from there that are known to be the request's own.
    pub own: u32,
    /// Number of the request on its connection, from 1; 0 for an empty slot.
    pub number: u32,
    /// Bits of [`outcome`], all but the last one of the callback's.
    pub outcome: u32,
    /// Trace id: two words whose bytes in memory are in the order of the wire.
    pub trace_id: [u64; 2],
    /// Span id, likewise.
    pub span_id: u64,
    /// W3C trace flags.
    pub flags: u64,
    /// [`OfferedContext::seal_of`] the rest, outcome aside: a copy that was made while the slot was filled has another one.
    pub seal: u64,
}

impl OfferedContext {
    /// The seal that it should have.
    #[must_use]
    #[inline(always)]
    pub const fn seal_of(&self) -> u64 {
        let mut seal = mix(1, self.start as u64 | (self.own as u64) << 32);
        seal = mix(seal, self.trace_id[0]);
        seal = mix(seal, self.trace_id[1]);
        seal = mix(seal, self.span_id);
        mix(seal, self.flags)
    }
}

/// Value of `OFFERS` (key: sock pointer): made when a connection of a traced process is established, deleted with the connection.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Offers {
    /// The connection.
    pub connection: u64,
    /// An [`InjectionState`](super::InjectionState).
    pub state: u32,
    /// Requests so far. Written after `start` and the slot.
    pub offered: u32,
    /// Sequence number of the newest request's first byte.
    pub start: u32,
    /// How many of them are acknowledged, by the callback.
    pub acknowledged: u32,
    /// 1: segments are being made short enough for an option, by the callback.
    pub room: u32,
    /// 1: a request's option was sent in vain, and it goes without; whether it arrives so is not known yet. By the callback.
    pub in_vain: u32,
    /// A [`Trial`]: whether options pass on this connection. By the callback, like all up to `asked`.
    pub trial: u32,
    /// Sequence number of the first byte that was sent with an option.
    pub tried: u32,
    /// When it was first sent.
    pub tried_ns: u64,
    /// Segments in a row without any request, as far as there was none yet.
    pub quiet: u32,
    /// Callbacks of this socket that nobody had asked for before us.
    pub asked: u32,
    /// When this connection began to try the path; by the callback, like `received`.
    pub claimed_ns: u64,
    /// Bytes that the connection had received when the first one was sent with an option: the low half of their number.
    pub received: u32,
    /// 1: a request was left out, because it could not be told where it begins on the wire.
    pub left_out: u32,
    /// The newest ones: a request's number modulo their count is its slot.
    pub slots: [OfferedContext; Offers::COUNT],
}

impl Offers {
    /// Requests that may be under way on one connection with their options.
    pub const COUNT: usize = 4;
}

/// Whether options pass on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Trial {
    /// None was sent.
    Open = 0,
    /// One was sent, and it is not known whether it arrived.
    Sent = 1,
    /// It was acknowledged, and then the other end sent something.
    Passed = 2,
    /// It was not, and the connection went on without or ended.
    Failed = 3,
    /// This connection is the one that tries the path, and none was sent yet.
    Claimed = 4,
    /// It was acknowledged, and nothing was received since then.
    Acknowledged = 5,
}

/// The context that a segment has brought.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BroughtContext {
    /// Sequence number of the segment's first byte.
    pub start: u64,
    /// Trace id: two words whose bytes in memory are in the order of the wire.
    pub trace_id: [u64; 2],
    /// Span id, likewise.
    pub span_id: u64,
    /// W3C trace flags.
    pub flags: u64,
    /// [`BroughtContext::seal_of`] what stands above; anything else says that the slot is empty, or being filled.
    pub seal: u64,
    /// 1: a request has it. It stays, because further pieces of the same packet may bring the same.
    pub taken: u64,
}

impl BroughtContext {
    /// The seal that it should have.
    #[must_use]
    #[inline(always)]
    pub const fn seal_of(&self) -> u64 {
        Self::seal_of_words(self.start, &self.context())
    }

    /// The seal of a slot with these words.
    #[must_use]
    #[inline(always)]
    pub const fn seal_of_words(start: u64, context: &Context) -> u64 {
        let mut seal = mix(1, start);
        seal = mix(seal, context.trace_id[0]);
        seal = mix(seal, context.trace_id[1]);
        seal = mix(seal, context.span_id);
        mix(seal, context.flags)
    }

    /// The context.
    #[must_use]
    #[inline(always)]
    pub const fn context(&self) -> Context {
        Context {
            trace_id: self.trace_id,
            span_id: self.span_id,
            flags: self.flags,
        }
    }
}

/// Value of `BROUGHT` (key: sock pointer): made by the first option on a connection, deleted with it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Brought {
    /// Options so far: the next one's slot, modulo their count.
    pub next: u64,
    /// The newest ones.
    pub slots: [BroughtContext; Brought::COUNT],
}

impl Brought {
    /// Requests that may have arrived on one connection before the first of them is read.
    pub const COUNT: usize = 4;
}

const _: () = assert!(size_of::<OfferedContext>() == 56 && size_of::<Offers>() == 296);
const _: () = assert!(size_of::<BroughtContext>() == 56 && size_of::<Brought>() == 232);

#[cfg(test)]
mod tests {
    use zerocopy::transmute;

    use super::*;

    #[test]
    fn an_offer_of_which_one_word_was_replaced_has_another_seal() {
        let mut offer = OfferedContext {
            start: 1,
            own: 2,
            trace_id: [3, 4],
            span_id: 5,
            flags: 1,
            ..OfferedContext::default()
        };
        offer.seal = offer.seal_of();
        let words: [u64; 7] = transmute!(offer);
        // Word 1 is the number and the outcome.
        for index in [0, 2, 3, 4, 5, 6] {
            let mut changed = words;
            changed[index] ^= 1 << 7;
            let changed: OfferedContext = transmute!(changed);
            assert_ne!(changed.seal, changed.seal_of(), "word {index}");
        }
    }

    #[test]
    fn what_was_brought_is_told_from_an_empty_slot() {
        let empty = BroughtContext::default();
        assert_ne!(empty.seal, empty.seal_of());
        let mut brought = BroughtContext {
            start: 7,
            trace_id: [1, 2],
            span_id: 3,
            ..empty
        };
        brought.seal = brought.seal_of();
        let words: [u64; 7] = transmute!(brought);
        // The last one says whether it was taken.
        for index in 0..6 {
            let mut changed = words;
            changed[index] ^= 1 << 40;
            let changed: BroughtContext = transmute!(changed);
            assert_ne!(changed.seal, changed.seal_of(), "word {index}");
        }
    }
}
