//! The kernel's scanner of HTTP/1 heads, over bytes cut at one place.
#![no_main]

use std::{array, cell::Cell};

use agent_common::wire::scan::{
    BLOCK, Bytes, CARRY, Head, INDEX_MASK, LineStore, Lines, Outcome, find_lines, judge,
    take_traceparent,
};
use libfuzzer_sys::fuzz_target;

struct Block([u8; INDEX_MASK as usize + 9]);

impl Bytes for Block {
    fn word(&self, index: u64) -> u64 {
        let index = (index & INDEX_MASK) as usize;
        self.0[index..]
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

struct Store([Cell<u64>; Lines::WORDS]);

impl LineStore for Store {
    fn load(&self, index: usize) -> u64 {
        self.0[index].get()
    }

    fn store(&self, index: usize, value: u64) {
        self.0[index].set(value);
    }
}

/// One block, as the kernel programs scan it.
fn scan(bytes: &Block, head: &mut Head, end: u64) -> Outcome {
    let store = Store(array::from_fn(|_| Cell::new(u64::MAX)));
    find_lines(bytes, head, &store, CARRY, end, true);
    let words: [u64; Lines::WORDS] = array::from_fn(|index| store.load(index));
    let lines: Lines = zerocopy::transmute!(words);
    if lines.has_traceparent() {
        take_traceparent(bytes, head, &lines);
    }
    judge(bytes, head, &lines, CARRY, end)
}

/// Where the head ends, and what was found in it; none where it does not end.
fn scan_pieces(pieces: &[&[u8]]) -> Option<(Head, u64)> {
    let mut head = Head::default();
    let mut bytes = Block([b'\n'; INDEX_MASK as usize + 9]);
    let mut before = 0;
    for block in pieces.iter().flat_map(|piece| piece.chunks(BLOCK as usize)) {
        let origin = CARRY as usize;
        let end = origin + block.len();
        bytes.0[origin..end].copy_from_slice(block);
        match scan(&bytes, &mut head, end as u64) {
            Outcome::End(index) => {
                assert!(index > CARRY && index <= end as u64);
                return Some((head, before + index - CARRY));
            }
            Outcome::More => {
                assert!(u64::from(head.carry) <= CARRY);
                let carry = head.carry as usize;
                bytes.0.copy_within(end - carry..end, origin - carry);
            }
            Outcome::NotHttp | Outcome::TooManyLines => return None,
        }
        before += block.len() as u64;
    }
    None
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let whole = scan_pieces(&[bytes]);
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let cut = scan_pieces(&[first, second]);
    // A longer line is not looked at where a boundary cuts it.
    let short = bytes
        .split(|byte| *byte == b'\n')
        .all(|line| line.len() < CARRY as usize);
    if let (Some((whole, whole_end)), Some((cut, cut_end)), true) = (whole, cut, short) {
        assert_eq!(whole_end, cut_end);
        let found = |head: Head| (head.kind, head.status, head.method, head.content_length);
        assert_eq!(found(whole), found(cut));
        assert_eq!((whole.trace_id, whole.span_id), (cut.trace_id, cut.span_id));
    }
});
