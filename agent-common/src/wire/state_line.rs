//! The line `tracestate: ...` that goes in behind the `traceparent` of the same context.
//!
//! Input: a value as it stands in the head of a request. Output: the line as it is written, or that the value is not carried on. What the value means is
//! never looked at ([`tracestate`](super::tracestate) does, in user space): what consists of visible ASCII and blanks is passed on as it came.

use super::scan::Bytes;

/// Bytes of the line before its value: name, colon, blank.
const NAME: u64 = 12;

/// The longest value that is carried on, bytes.
pub const LIMIT: u64 = 256;

/// Bytes of the shortest line: one byte of value, and CRLF.
pub const SHORTEST: u64 = NAME + 3;

/// Bytes of the longest line.
pub const LONGEST: u64 = NAME + LIMIT + 2;

/// Words that hold any line.
pub const WORDS: usize = (LONGEST as usize).div_ceil(8);

const CRLF: u64 = u16::from_le_bytes(*b"\r\n") as u64;

/// Composes the line of the value at `at`, which has 1 to [`LIMIT`] bytes, the first byte of `text` lowest; all behind it is 0. Returns how many bytes the
/// line has, 0 when the value holds something else than visible ASCII and blanks: then the text must not be used.
#[inline(always)]
pub fn compose<B: Bytes>(bytes: &B, at: u64, length: u64, text: &mut [u64; WORDS]) -> u64 {
    let end = NAME + length;
    let mut wrong = 0;
    for (index, slot) in text.iter_mut().enumerate() {
        let start = index as u64 * 8;
        // Bounded anew for each word: what the verifier learns of it at one word would multiply the states in which it comes to the next.
        let end = bytes.bound(end);
        let word = match index {
            0 => u64::from_le_bytes(*b"tracesta"),
            1 => bytes.word(at) << 32 | u64::from(u32::from_le_bytes(*b"te: ")),
            _ => bytes.word(at + (start - NAME)),
        };
        *slot = if end >= start + 8 {
            wrong |= not_visible(word);
            word
        } else if end > start {
            let kept = (end - start) * 8;
            let mask = (1 << (kept & 63)) - 1;
            wrong |= not_visible(word & mask | each(b' ') & !mask);
            word & mask | CRLF << (kept & 63)
        } else if end == start {
            CRLF
        } else if end + 1 == start {
            CRLF >> 8
        } else {
            0
        };
    }
    if wrong == 0 { end + 2 } else { 0 }
}

/// One step of a seal: whichever single word is another one, the seal is another one too.
#[must_use]
#[inline(always)]
pub const fn mix(seal: u64, word: u64) -> u64 {
    (seal ^ word)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(23)
}

const fn each(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

/// 0 when all bytes of a word are visible ASCII or blanks: what a header value may be made of. Without branches, for the verifier's sake.
#[inline(always)]
const fn not_visible(word: u64) -> u64 {
    let control = word.wrapping_sub(each(0x20)) & !word;
    let delete = word ^ each(0x7f);
    let delete = delete.wrapping_sub(each(1)) & !delete;
    (word | control | delete) & each(0x80)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Text(Vec<u8>);

    impl Bytes for Text {
        fn word(&self, index: u64) -> u64 {
            let from = usize::try_from(index).expect("an index is small");
            let bytes = self.0.get(from..from + 8).expect("inside the block");
            u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
        }
    }

    /// The line of `value`, which lies somewhere among other bytes.
    fn line_of(before: usize, value: &[u8], around: u8) -> Option<Vec<u8>> {
        let block = [
            &vec![around; before],
            value,
            &vec![around; LONGEST as usize + 8],
        ];
        let mut text = [u64::MAX; WORDS];
        let bytes = Text(block.concat());
        let length = compose(&bytes, before as u64, value.len() as u64, &mut text) as usize;
        let all: Vec<u8> = text.iter().flat_map(|word| word.to_le_bytes()).collect();
        let (line, rest) = all.split_at(length);
        assert!(length == 0 || rest.iter().all(|byte| *byte == 0));
        (length != 0).then(|| line.to_vec())
    }

    #[test]
    fn every_length_gives_its_line() {
        for length in 1..=LIMIT as usize {
            let value: Vec<u8> = (0..length).map(|at| b'!' + (at % 90) as u8).collect();
            let line = line_of(5, &value, b'\r').expect("a clean value");
            let expected = [b"tracestate: ", &value[..], b"\r\n"].concat();
            assert_eq!(line, expected);
            assert!((SHORTEST..=LONGEST).contains(&(line.len() as u64)));
        }
    }

    #[test]
    fn one_byte_that_is_not_visible_drops_the_value_wherever_it_stands() {
        for length in [1, 2, 3, 4, 5, 11, 12, 13, 255, 256] {
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let mut value = vec![b'v'; length];
                    value[at] = byte;
                    let carried = line_of(0, &value, b'\n').is_some();
                    let visible = matches!(byte, b' '..=b'~');
                    assert_eq!(carried, visible, "{byte:#x} at {at} of {length}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_of_what_lies_around_gets_in(before in 0usize..40, value in "[ -~]{1,256}", around: u8) {
            let expected = format!("tracestate: {value}\r\n");
            prop_assert_eq!(line_of(before, value.as_bytes(), around), Some(expected.into_bytes()));
        }

        #[test]
        fn another_word_gives_another_seal(seal: u64, word: u64, other: u64) {
            prop_assume!(word != other);
            prop_assert_ne!(mix(seal, word), mix(seal, other));
            prop_assert_ne!(mix(word, seal), mix(other, seal));
        }
    }
}
