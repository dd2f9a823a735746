//! The framing of a chunked body, RFC 9112 section 7.1, over bytes that are cut anywhere.

use agent_common::wire::chunked::{Line, Step};

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunked {
    line: Line,
    /// Bytes of the chunk that are still to come before the next line.
    left: u64,
    /// Bytes of data so far, without framing.
    pub(super) data: u64,
}

/// What feeding bytes gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// All bytes belong to the body, which goes on.
    All,
    /// The body ended after this many bytes.
    Ended(usize),
    /// These bytes are no chunked body.
    Malformed,
}

impl Chunked {
    /// At the first byte of the body.
    pub(super) const fn new() -> Self {
        Self {
            line: Line::new(),
            left: 0,
            data: 0,
        }
    }

    /// Bytes that may pass unseen without losing the place.
    pub(super) const fn skippable(&self) -> u64 {
        self.left
    }

    /// `length` bytes passed unseen; at most [`Self::skippable`].
    pub(super) const fn skip(&mut self, length: u64) {
        self.data = self.data.saturating_add(length);
        self.left = self.left.saturating_sub(length);
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.left > 0 {
                let take = self.left.min((bytes.len() - at) as u64);
                self.skip(take);
                // At most bytes.len(), so it fits.
                at += take as usize;
                continue;
            }
            at += 1;
            match self.line.feed(byte) {
                Step::More => {}
                Step::Data => self.left = self.line.value,
                Step::End => return Fed::Ended(at),
                Step::Malformed => return Fed::Malformed,
            }
        }
        Fed::All
    }
}

/// Whether a stream that stands at the end of `tail` has just ended a chunked body without trailers.
///
/// The zero chunk must begin a line; a zero byte before it means that the byte was not read.
pub(super) fn tail_ends_body(tail: &[u8; 16]) -> bool {
    let Some(before) = tail.strip_suffix(b"0\r\n\r\n") else {
        return false;
    };
    let line = before.iter().rev().find(|byte| **byte != b'0');
    matches!(line, None | Some(b'\n' | 0))
}

/// Whether a stream that stands at the end of `tail` may have ended a chunked body: with trailers, or with bytes nobody read.
pub(super) fn tail_may_end_body(tail: &[u8; 16]) -> bool {
    tail.ends_with(b"\r\n\r\n") || tail.ends_with(&[0])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_end_behind_extensions_and_trailers() {
        let cases: [(&[u8], u64); 5] = [
            (b"0\r\n\r\n", 0),
            (b"5\r\nhello\r\n0\r\n\r\n", 5),
            (b"5;name=\"v\"\r\nhello\r\n00;x\r\nFoo: bar\r\n\r\n", 5),
            (b"a\nGET / HTTP\n0\n\n", 10),
            (b"3 \r\n0\r\n\r\n1\r\n\n\r\n0\r\nA: b\r\nC: d\r\n\r\n", 4),
        ];
        for (body, data) in cases {
            let mut chunked = Chunked::new();
            let bytes = [body, b"rest"].concat();
            assert_eq!(chunked.feed(&bytes), Fed::Ended(body.len()));
            assert_eq!(chunked.data, data);
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for body in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"1234567890abcdef0\r\n",
            b"1\r\nab",
        ] {
            assert_eq!(Chunked::new().feed(body), Fed::Malformed);
        }
    }

    #[test]
    fn skips_data_it_does_not_see() {
        let mut chunked = Chunked::new();
        assert_eq!(chunked.feed(b"40000000\r\nab"), Fed::All);
        assert_eq!(chunked.skippable(), 0x4000_0000 - 2);
        chunked.skip(0x4000_0000 - 2);
        assert_eq!(chunked.feed(b"\r\n0\r\n\r\n"), Fed::Ended(7));
        assert_eq!(chunked.data, 0x4000_0000);
    }

    #[test]
    fn knows_an_end_by_its_tail() {
        assert!(tail_ends_body(b"ta hello.\r\n0\r\n\r\n"));
        assert!(tail_ends_body(b"\0\0\0\0\0\0\0\0\0\0\x000\r\n\r\n"));
        assert!(!tail_ends_body(b"0123456789 0\r\n\r\n"));
        assert!(!tail_ends_body(b"0123456789abcdef"));
    }

    proptest! {
        #[test]
        fn ends_at_the_same_byte_however_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(0usize..300, 0..8),
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend(format!("{:x}\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\nT: x\r\n\r\n");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let mut chunked = Chunked::new();
            let mut end = None;
            for pair in cuts.windows(2) {
                if let Fed::Ended(n) = chunked.feed(&body[pair[0]..pair[1]]) {
                    end = Some(pair[0] + n);
                }
            }
            prop_assert_eq!(end, Some(body.len()));
            prop_assert_eq!(chunked.data as usize, chunks.iter().map(Vec::len).sum::<usize>());
        }

        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut chunked = Chunked::new();
            if let Fed::Ended(n) = chunked.feed(&bytes) {
                prop_assert!(n <= bytes.len());
            }
        }
    }
}
