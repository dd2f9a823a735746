//! The lines that frame a chunked body (RFC 9112 section 7.1): sizes, the ends of chunks, trailers.
//!
//! Input: the bytes of these lines one after another, cut anywhere; the data of chunks is not among them. Output: how many bytes of data follow, and
//! where the body ends ([`Line`]); positions of a stream whose bytes may be offered more than once ([`Chunks`]). No allocation, no slices: the
//! same code runs in the kernel.

/// What a byte of a line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// The line, or the next one, goes on.
    More,
    /// [`Line::value`] bytes of data follow, and behind them the chunk's end.
    Data,
    /// The body ends with this byte.
    End,
    /// This is no chunked body.
    Malformed,
}

/// Where in the lines the next byte stands, values of [`Line::place`].
pub mod place {
    /// In the hexadecimal size.
    pub const SIZE: u8 = 0;
    /// In an extension, until the end of the line.
    pub const EXTENSION: u8 = 1;
    /// In the line end behind the data of a chunk.
    pub const DATA_END: u8 = 2;
    /// At the beginning of a trailer line.
    pub const TRAILER_START: u8 = 3;
    /// Behind a carriage return that begins a trailer line.
    pub const TRAILER_RETURN: u8 = 4;
    /// In a trailer line.
    pub const TRAILER: u8 = 5;
    /// Behind the body.
    pub const ENDED: u8 = 6;
}

/// Most digits of a size: 2^60 bytes are more than anybody sends.
const MAX_DIGITS: u8 = 15;

/// The line that is being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Line {
    /// The size so far.
    pub value: u64,
    /// One of [`place`].
    pub place: u8,
    /// Digits of the size so far.
    pub digits: u8,
}

impl Line {
    /// At the first byte of a body.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            value: 0,
            place: place::SIZE,
            digits: 0,
        }
    }

    /// Whether nothing of a size was read: what was read before does not matter.
    #[must_use]
    #[inline(always)]
    pub const fn is_between(&self) -> bool {
        match self.place {
            place::SIZE => self.digits == 0,
            place::EXTENSION => false,
            _ => true,
        }
    }

    /// Takes the next byte.
    #[inline(always)]
    pub const fn feed(&mut self, byte: u8) -> Step {
        match self.place {
            place::SIZE => self.size(byte),
            place::EXTENSION => {
                if byte == b'\n' {
                    return self.end_of_size();
                }
                Step::More
            }
            place::DATA_END => match byte {
                b'\r' => Step::More,
                b'\n' => {
                    *self = Self::new();
                    Step::More
                }
                _ => Step::Malformed,
            },
            place::TRAILER_START | place::TRAILER_RETURN => {
                if byte == b'\n' {
                    self.place = place::ENDED;
                    return Step::End;
                }
                self.place = if byte == b'\r' && self.place == place::TRAILER_START {
                    place::TRAILER_RETURN
                } else {
                    place::TRAILER
                };
                Step::More
            }
            place::TRAILER => {
                if byte == b'\n' {
                    self.place = place::TRAILER_START;
                }
                Step::More
            }
            _ => Step::Malformed,
        }
    }

    #[inline(always)]
    const fn size(&mut self, byte: u8) -> Step {
        // Letters of either case.
        let letter = (byte | 0x20).wrapping_sub(b'a');
        let digit = byte.wrapping_sub(b'0');
        let digit = if digit < 10 {
            digit
        } else if letter < 6 {
            letter + 10
        } else {
            16
        };
        if digit < 16 {
            if self.digits >= MAX_DIGITS {
                return Step::Malformed;
            }
            self.value = self.value << 4 | digit as u64;
            self.digits += 1;
            return Step::More;
        }
        if self.digits == 0 {
            return Step::Malformed;
        }
        match byte {
            b'\n' => self.end_of_size(),
            b'\r' | b';' | b' ' | b'\t' => {
                self.place = place::EXTENSION;
                Step::More
            }
            _ => Step::Malformed,
        }
    }

    #[inline(always)]
    const fn end_of_size(&mut self) -> Step {
        if self.value == 0 {
            self.place = place::TRAILER_START;
            Step::More
        } else {
            self.place = place::DATA_END;
            Step::Data
        }
    }
}

/// Stands in [`Chunks::before_place`] for a size that was half read.
const HALF: u8 = 255;

/// The lines of one chunked message in a stream.
///
/// A send tells what is offered. What was not accepted is offered again: from before the first line of the segment, or from within its first chunk, it is
/// read anew; behind its newest size line it must be the same bytes; anywhere else, the place is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Chunks {
    /// Position of the next byte of a line; what lies before it is dealt with.
    pub line_at: u64,
    /// Bytes of data in the chunks so far.
    pub body: u64,
    /// [`Line::value`].
    pub value: u64,
    /// `line_at` before the newest segment.
    pub before_line_at: u64,
    /// `body` before the newest segment.
    pub before_body: u64,
    /// `line_at` behind the data of the newest segment's first chunk; `before_line_at` where none begins in it.
    pub first_line_at: u64,
    /// `body` with that chunk.
    pub first_body: u64,
    /// Where the newest size line begins: what it says is sure when it was accepted.
    pub size_at: u64,
    /// [`Line::place`].
    pub place: u8,
    /// [`Line::digits`].
    pub digits: u8,
    /// `place` before the newest segment, 255 where a size was half read.
    pub before_place: u8,
    /// For the owner: which direction it follows.
    pub follows: u8,
    /// For the owner: whether an end of this message was told.
    pub told: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl Chunks {
    /// The body begins at this position, and so does a segment of it.
    #[inline(always)]
    pub fn begin(&mut self, at: u64) {
        self.line_at = at;
        self.size_at = at;
        self.body = 0;
        self.value = 0;
        self.place = place::SIZE;
        self.digits = 0;
        self.mark();
    }

    /// A segment begins at this position, which is not the body's first. False when the place is lost.
    #[must_use]
    #[inline(always)]
    pub fn resume(&mut self, at: u64) -> bool {
        if self.before_line_at != self.line_at {
            if at <= self.before_line_at {
                if self.before_place == HALF {
                    return false;
                }
                self.line_at = self.before_line_at;
                self.body = self.before_body;
                self.value = 0;
                self.place = self.before_place;
                self.digits = 0;
            } else if at <= self.size_at {
                let size = self.first_body.wrapping_sub(self.before_body);
                if at > self.first_line_at || at < self.first_line_at.wrapping_sub(size) {
                    return false;
                }
                self.line_at = self.first_line_at;
                self.body = self.first_body;
                self.value = 0;
                self.place = place::DATA_END;
                self.digits = 0;
            }
        }
        self.mark();
        at <= self.line_at
    }

    /// Whether the end was found, at [`Self::line_at`].
    #[must_use]
    #[inline(always)]
    pub const fn has_ended(&self) -> bool {
        self.place == place::ENDED
    }

    #[inline(always)]
    fn mark(&mut self) {
        self.before_line_at = self.line_at;
        self.before_body = self.body;
        self.first_line_at = self.line_at;
        self.first_body = self.body;
        self.before_place = if self.line().is_between() {
            self.place
        } else {
            HALF
        };
    }

    #[inline(always)]
    const fn line(&self) -> Line {
        Line {
            value: self.value,
            place: self.place,
            digits: self.digits,
        }
    }

    /// Takes the byte at [`Self::line_at`], which then is the position of the next one that matters.
    #[inline(always)]
    pub fn feed(&mut self, byte: u8) -> Step {
        let mut line = self.line();
        if line.place == place::SIZE && line.digits == 0 {
            self.size_at = self.line_at;
        }
        let step = line.feed(byte);
        self.line_at = self.line_at.wrapping_add(1);
        if matches!(step, Step::Data) {
            self.body = self.body.wrapping_add(line.value);
            self.line_at = self.line_at.wrapping_add(line.value);
            if self.first_line_at == self.before_line_at {
                self.first_line_at = self.line_at;
                self.first_body = self.body;
            }
        }
        self.value = line.value;
        self.place = line.place;
        self.digits = line.digits;
        step
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a body whole: its data and its length, if it is one.
    fn read(body: &[u8]) -> Option<(u64, usize)> {
        let (mut line, mut data, mut at) = (Line::new(), 0, 0);
        loop {
            let step = line.feed(*body.get(at)?);
            at += 1;
            match step {
                Step::More => {}
                Step::Data => {
                    data += line.value;
                    at += usize::try_from(line.value).ok()?;
                }
                Step::End => return Some((data, at)),
                Step::Malformed => return None,
            }
        }
    }

    #[test]
    fn reads_sizes_extensions_and_trailers() {
        assert_eq!(read(b"0\r\n\r\nnext"), Some((0, 5)));
        assert_eq!(read(b"5\r\nhello\r\n0\r\n\r\n"), Some((5, 15)));
        assert_eq!(
            read(b"1F;x=\"1\"\r\n0123456789012345678901234567890\r\n0\r\nA: b\r\n\r\n")
                .map(|(data, _)| data),
            Some(31)
        );
        assert_eq!(read(b"a \n0\r\n\r\n56789\n0\n\n"), Some((10, 17)));
        assert_eq!(read(b"0000\r\nT: 1\r\n\r\n"), Some((0, 14)));
    }

    #[test]
    fn refuses_what_is_no_size() {
        for body in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"g\r\n",
            b"1234567890abcdef\r\n",
            b"1\r\nab",
            b"1\r\na\n\n",
        ] {
            assert_eq!(read(body), None, "{body:?}");
        }
    }

    #[test]
    fn knows_where_nothing_is_half_read() {
        let mut line = Line::new();
        assert!(line.is_between());
        line.feed(b'3');
        assert!(!line.is_between());
        line.feed(b';');
        assert!(!line.is_between());
        assert_eq!(line.feed(b'\n'), Step::Data);
        assert!(line.is_between());
    }

    /// One offered segment: false when the place is lost, otherwise the body's end if it was found.
    fn offer(chunks: &mut Chunks, begun: u64, at: u64, bytes: &[u8]) -> Result<Option<u64>, ()> {
        if at == begun {
            chunks.begin(at);
        } else if !chunks.resume(at) {
            return Err(());
        }
        if chunks.has_ended() {
            return Ok(Some(chunks.line_at));
        }
        while let Some(&byte) = bytes.get((chunks.line_at - at) as usize) {
            match chunks.feed(byte) {
                Step::More | Step::Data => {}
                Step::End => return Ok(Some(chunks.line_at)),
                Step::Malformed => return Err(()),
            }
        }
        Ok(None)
    }

    fn framed(sizes: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        for &size in sizes {
            body.extend(format!("{size:x}\r\n").bytes());
            // Data that looks like lines.
            body.extend(b"1\r\n0\r\n\r\n".iter().cycle().take(size.into()));
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\nA: b\r\n\r\n");
        body
    }

    proptest! {
        /// However a body is offered and accepted, the end that is known when all was accepted is the right one, or none.
        #[test]
        fn tells_the_right_end_or_none(
            sizes in prop::collection::vec(1_u8..40, 0..6),
            others in prop::collection::vec(1_u8..40, 0..6),
            steps in prop::collection::vec((1_usize..60, 0_usize..70, any::<bool>()), 1..40),
            start in 0_u64..1000,
        ) {
            let mut body = framed(&sizes);
            let mut chunks = Chunks::default();
            let (mut accepted, mut told, mut lost) = (0, None, false);
            for (offered, taken, changes) in steps.into_iter().chain([(9999, 9999, false)]) {
                let to = body.len().min(accepted + offered);
                if !lost {
                    match offer(&mut chunks, start, start + accepted as u64, &body[accepted..to]) {
                        Ok(None) => told = None,
                        Ok(end) => told = end.map(|end| (end, chunks.body)),
                        Err(()) => { lost = true; told = None; }
                    }
                }
                let took = taken.min(to - accepted);
                accepted += took;
                if accepted == body.len() {
                    break;
                }
                // A process that was told that nothing was accepted may offer something else.
                if changes && took == 0 && accepted == 0 {
                    body = framed(&others);
                }
            }
            prop_assert_eq!(accepted, body.len());
            if let Some((end, data)) = told {
                let (right, length) = read(&body).expect("it is a body");
                prop_assert_eq!(end, start + length as u64);
                prop_assert_eq!(data, right);
            } else {
                prop_assert!(lost);
            }
        }

        /// A chunk and the end of the body in one send, of which a part of the data is accepted, and the rest offered again, perhaps with more.
        #[test]
        fn reads_behind_a_first_chunk_anew(size in 2_u8..40, taken in 0_usize..40, others in prop::collection::vec(1_u8..40, 0..3)) {
            let line = format!("{size:x}\r\n").len();
            let accepted = line + taken % usize::from(size);
            let offered = framed(&[size]);
            let sizes = [&[size][..], &others].concat();
            let body = framed(&sizes);
            let mut chunks = Chunks::default();
            prop_assert_eq!(offer(&mut chunks, 0, 0, &offered), Ok(Some(offered.len() as u64)));
            let end = offer(&mut chunks, 0, accepted as u64, &body[accepted..]);
            prop_assert_eq!(end, Ok(Some(body.len() as u64)));
            prop_assert_eq!(chunks.body, sizes.iter().map(|&size| u64::from(size)).sum::<u64>());
        }

        /// Nothing is lost where each segment is accepted whole.
        #[test]
        fn follows_any_cuts(
            sizes in prop::collection::vec(1_u8..40, 0..6),
            cuts in prop::collection::vec(1_usize..30, 0..40),
        ) {
            let body = framed(&sizes);
            let mut chunks = Chunks::default();
            let (mut at, mut found) = (0, None);
            for cut in cuts.into_iter().chain([9999]) {
                let to = body.len().min(at + cut);
                if at < to {
                    found = offer(&mut chunks, 0, at as u64, &body[at..to]).expect("it is followed");
                    at = to;
                }
            }
            prop_assert_eq!(found, Some(body.len() as u64));
            prop_assert_eq!(chunks.body, sizes.iter().map(|&size| u64::from(size)).sum::<u64>());
        }

        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<u64>()) {
            let mut chunks = Chunks::default();
            chunks.begin(at);
            for byte in bytes {
                if chunks.feed(byte) == Step::Malformed {
                    break;
                }
                let _ = chunks.resume(chunks.line_at);
            }
        }
    }
}
