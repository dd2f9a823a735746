//! Reads a file at any place, in pieces, and searches it.
//!
//! Files are read and never mapped: a file that is cut while it is mapped would end the agent (SIGBUS).

use std::{fs::File, ops::Range, os::unix::fs::FileExt};

use memchr::memmem::Finder;

/// Bytes read at a time.
const PIECE: usize = 64 << 10;

/// Bytes that can be read at any place.
pub trait ReadAt {
    /// Reads some bytes at `offset`; 0 at the end.
    ///
    /// # Errors
    /// Those of the file system.
    fn read_some(&self, into: &mut [u8], offset: u64) -> std::io::Result<usize>;
}

impl ReadAt for File {
    fn read_some(&self, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.read_at(into, offset)
    }
}

impl ReadAt for [u8] {
    fn read_some(&self, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let from = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..))
            .unwrap_or_default();
        let length = from.len().min(into.len());
        into[..length].copy_from_slice(&from[..length]);
        Ok(length)
    }
}

/// Exactly `length` bytes at `offset`; room for them is taken as they come, so that a length that is a lie costs nothing.
pub(super) fn exactly(
    bytes: &(impl ReadAt + ?Sized),
    offset: u64,
    length: usize,
) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    while read.len() < length {
        let filled = read.len();
        read.resize(filled + (length - filled).min(PIECE), 0);
        match bytes.read_some(&mut read[filled..], offset.checked_add(filled as u64)?) {
            Ok(count) if count > 0 => read.truncate(filled + count),
            _ => return None,
        }
    }
    Some(read)
}

/// A piece of a file.
pub(super) struct Piece<'a> {
    /// The piece, with some bytes in front of it and behind it.
    pub(super) bytes: &'a [u8],
    /// Where the first of these bytes is in the file.
    pub(super) offset: u64,
    /// The piece without what is around it: the pieces of a range follow each other without a gap.
    pub(super) body: Range<usize>,
}

/// Hands out a range of a file in pieces, each with up to `margin` bytes of the range around it, until `look` says to stop.
///
/// `false` where the range could not be read to its end.
pub(super) fn pieces(
    bytes: &(impl ReadAt + ?Sized),
    range: Range<u64>,
    margin: usize,
    mut look: impl FnMut(&Piece<'_>) -> bool,
) -> bool {
    let mut buffer = vec![0; margin + PIECE + margin];
    // What the buffer holds, and how much of it was a body already.
    let (mut offset, mut filled, mut done) = (range.start, 0, 0);
    loop {
        while filled < buffer.len() {
            let at = offset + filled as u64;
            let left = usize::try_from(range.end.saturating_sub(at)).unwrap_or(usize::MAX);
            let wanted = left.min(buffer.len() - filled);
            if wanted == 0 {
                break;
            }
            match bytes.read_some(&mut buffer[filled..filled + wanted], at) {
                Ok(count) if count > 0 => filled += count,
                _ => break,
            }
        }
        let ends = filled < buffer.len();
        let end = if ends { filled } else { filled - margin };
        let piece = Piece {
            bytes: &buffer[..filled],
            offset,
            body: done..end,
        };
        if !look(&piece) {
            return true;
        }
        if ends {
            return offset + filled as u64 >= range.end;
        }
        let from = end.saturating_sub(margin);
        buffer.copy_within(from..filled, 0);
        (offset, filled, done) = (offset + from as u64, filled - from, end - from);
    }
}

/// Finds each place of a range at which one of `texts` stands, with up to `margin` bytes before and behind, until `hit` says to stop.
///
/// `hit` is told the place in the piece, and which text it is.
pub(super) fn search(
    bytes: &(impl ReadAt + ?Sized),
    range: Range<u64>,
    texts: &[&[u8]],
    margin: usize,
    mut hit: impl FnMut(&Piece<'_>, usize, usize) -> bool,
) {
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
    let finders: Vec<_> = texts.iter().map(Finder::new).collect();
    pieces(bytes, range, margin.max(longest), |piece| {
        for (which, finder) in finders.iter().enumerate() {
            let mut from = piece.body.start;
            while let Some(found) = finder.find(&piece.bytes[from..]) {
                let at = from + found;
                if at >= piece.body.end {
                    break;
                }
                if !hit(piece, at, which) {
                    return false;
                }
                from = at + 1;
            }
        }
        true
    });
}

/// A file that is read forward, a few bytes here and there: what lies between them is read once, whoever made the file.
pub(super) struct Forward<'a, R: ReadAt + ?Sized> {
    bytes: &'a R,
    buffer: Vec<u8>,
    offset: u64,
}

impl<'a, R: ReadAt + ?Sized> Forward<'a, R> {
    pub(super) const fn new(bytes: &'a R) -> Self {
        Self {
            bytes,
            buffer: Vec::new(),
            offset: 0,
        }
    }

    /// `N` bytes at `offset`; `None` behind the end, and for a place that was passed.
    pub(super) fn take<const N: usize>(&mut self, offset: u64) -> Option<[u8; N]> {
        let skipped = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        if skipped.checked_add(N)? > self.buffer.len() {
            self.buffer.resize(PIECE.max(N), 0);
            let mut filled = 0;
            while filled < N {
                let at = offset.checked_add(filled as u64)?;
                match self.bytes.read_some(&mut self.buffer[filled..], at) {
                    Ok(count) if count > 0 => filled += count,
                    _ => break,
                }
            }
            self.buffer.truncate(filled);
            self.offset = offset;
        }
        let skipped = usize::try_from(offset - self.offset).ok()?;
        self.buffer.get(skipped..)?.first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other_and_know_their_neighbours() {
        let bytes: Vec<u8> = (0..3 * PIECE + 17).map(|at| (at % 251) as u8).collect();
        for margin in [0, 1, 300] {
            for end in [
                0,
                1,
                PIECE,
                PIECE + margin,
                2 * PIECE + 2 * margin,
                bytes.len(),
            ] {
                let mut seen = 0;
                let whole = pieces(bytes.as_slice(), 0..end as u64, margin, |piece| {
                    let at = piece.offset as usize;
                    assert_eq!(piece.bytes, &bytes[at..at + piece.bytes.len()]);
                    assert_eq!(at + piece.body.start, seen);
                    assert!(piece.body.start >= margin.min(seen));
                    seen = at + piece.body.end;
                    assert!(piece.bytes.len() - piece.body.end == margin || seen == end);
                    true
                });
                assert!(whole);
                assert_eq!(seen, end);
            }
        }
        assert!(
            !pieces(bytes.as_slice(), 0..1 << 40, 8, |_| true),
            "it ends before"
        );
    }

    #[test]
    fn finds_a_text_wherever_a_piece_ends() {
        let text = b"uv_run";
        for at in (PIECE - 20..PIECE + 20).chain([0, 3 * PIECE]) {
            let mut bytes = vec![b'u'; at];
            bytes.extend(text);
            let hits = |end: usize| {
                let mut hits = Vec::new();
                search(
                    bytes.as_slice(),
                    0..end as u64,
                    &[b"other", text],
                    0,
                    |piece, at, which| {
                        assert_eq!(which, 1);
                        hits.push(piece.offset as usize + at);
                        true
                    },
                );
                hits
            };
            assert_eq!(hits(bytes.len()), [at]);
            assert!(hits(bytes.len() - 1).is_empty(), "at {at}, cut");
        }
    }

    #[test]
    fn reads_forward_only() {
        let bytes: Vec<u8> = (0..2 * PIECE).map(|at| (at % 251) as u8).collect();
        let mut forward = Forward::new(bytes.as_slice());
        for at in [0, 0, 3, PIECE - 2, PIECE, 2 * PIECE - 4] {
            let expected: [u8; 4] = *bytes[at..].first_chunk().expect("it is long enough");
            assert_eq!(forward.take::<4>(at as u64), Some(expected), "at {at}");
        }
        assert_eq!(forward.take::<4>(2 * PIECE as u64 - 3), None);
        assert_eq!(forward.take::<4>(u64::MAX), None);
        assert_eq!(forward.take::<4>(0), None, "that was passed");
    }

    #[test]
    fn takes_no_room_for_what_is_not_there() {
        assert_eq!(exactly([1_u8; 8].as_slice(), 0, usize::MAX), None);
        assert_eq!(exactly([1_u8; 8].as_slice(), u64::MAX, 2), None);
        assert_eq!(exactly([1_u8; 8].as_slice(), 2, 6), Some(vec![1; 6]));
    }
}
