//! A head as the kernel programs read it: block by block, with the unfinished line before the next one.

use std::{array, cell::Cell};

use agent_common::wire::{
    propagator::{self, Table, part},
    scan::{
        BLOCK, Bytes, CARRY, Head, INDEX_MASK, LineStore, Lines, Outcome, find_lines, head_flags,
        judge, note_line, take_traceparent,
    },
};

/// How a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// The head ends behind this many bytes.
    End(Head, u64),
    /// It does not end.
    More,
    /// These bytes begin no message.
    NotHttp,
    /// There are more lines in a block than are looked at.
    TooManyLines,
}

struct Block([u8; INDEX_MASK as usize + 9]);

impl Bytes for Block {
    fn word(&self, index: u64) -> u64 {
        let index = (index & INDEX_MASK) as usize;
        self.0[index..]
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

struct Store<const WORDS: usize>([Cell<u64>; WORDS]);

impl<const WORDS: usize> Store<WORDS> {
    /// What stands in it before is left over from other messages.
    fn new() -> Self {
        Self(array::from_fn(|_| Cell::new(u64::MAX)))
    }
}

impl<const WORDS: usize> LineStore for Store<WORDS> {
    fn load(&self, index: usize) -> u64 {
        self.0[index].get()
    }

    fn store(&self, index: usize, value: u64) {
        self.0[index].set(value);
    }
}

/// Scans a head that arrives in these pieces. Other headers than `traceparent` are looked for where the table has any.
pub(super) fn scan(pieces: &[&[u8]], propagators: &Table) -> Scanned {
    let mut head = Head::default();
    let mut bytes = Block([b'\n'; INDEX_MASK as usize + 9]);
    let mut before = 0;
    for block in pieces.iter().flat_map(|piece| piece.chunks(BLOCK as usize)) {
        let origin = CARRY as usize;
        let end = origin + block.len();
        bytes.0[origin..end].copy_from_slice(block);
        match scan_block(&bytes, &mut head, end as u64, propagators) {
            Outcome::End(index) => {
                assert!(index > CARRY && index <= end as u64);
                assert_eq!(u64::from(head.length), before + index - CARRY);
                return Scanned::End(head, before + index - CARRY);
            }
            Outcome::More => {
                assert!(u64::from(head.carry) <= CARRY);
                let carry = head.carry as usize;
                bytes.0.copy_within(end - carry..end, origin - carry);
            }
            Outcome::NotHttp => return Scanned::NotHttp,
            Outcome::TooManyLines => return Scanned::TooManyLines,
        }
        before += block.len() as u64;
    }
    Scanned::More
}

fn scan_block(bytes: &Block, head: &mut Head, end: u64, propagators: &Table) -> Outcome {
    let store = Store::<{ Lines::WORDS }>::new();
    find_lines(bytes, head, &store, CARRY, end, |line, newline| {
        note_line(bytes, &store, line, newline, true);
    });
    let words: [u64; Lines::WORDS] = array::from_fn(|index| store.load(index));
    let lines: Lines = zerocopy::transmute!(words);
    if lines.has_traceparent() {
        take_traceparent(bytes, head, &lines);
    }
    if propagators[0].part != part::NONE {
        let end = match lines.end() {
            0 => end,
            head_end => head_end,
        };
        take_carried(bytes, head, end, propagators);
    }
    judge(bytes, head, &lines, CARRY, end)
}

fn take_carried(bytes: &Block, head: &mut Head, end: u64, propagators: &Table) {
    let places = Store::<{ propagator::PLACES }>::new();
    if !propagator::find(bytes, head, |index| propagators[index], &places, CARRY, end) {
        head.flags |= head_flags::CARRIED_BAD;
        return;
    }
    for (index, field) in propagators.iter().enumerate() {
        let (at, count) = (places.load(index * 2), places.load(index * 2 + 1));
        let digits = |at| propagator::digits(bytes, at);
        propagator::take(bytes, head, field, at, count, digits);
    }
}
