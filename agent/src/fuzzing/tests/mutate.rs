//! Damages samples: a generator of numbers, and what is done with them.

/// SplitMix64 (Steele, Lea, Flood 2014): each seed gives its own numbers.
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, 0 where that is 0.
    const fn below(&mut self, end: usize) -> usize {
        if end == 0 {
            0
        } else {
            (self.next() % end as u64) as usize
        }
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// Two places of `length` bytes in order, at most `most` apart.
    fn range(&mut self, length: usize, most: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        let to = from + self.below(most.min(length - from) + 1);
        from..to
    }
}

/// Inputs do not grow beyond this.
const LIMIT: usize = 24 * 1024;

/// What stands in the formats that are read, put where it does not belong.
const PIECES: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b",",
    b"-",
    b"/",
    b"\0",
    b"\xff",
    b"HTTP/1.1",
    b"HTTP/1.1 200 OK\r\n",
    b"GET / HTTP/1.1\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
    b"tracestate: a=1\r\n",
    b"b3: 64fe8b2a57d3eff7-e457b5a2e4d86bd1-1\r\n",
    b"x-b3-sampled: 1\r\n",
    "\u{1d11e}".as_bytes(),
    b"\x7fELF",
];

/// Numbers at which something changes.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    7,
    8,
    16,
    127,
    128,
    255,
    256,
    1024,
    0x7fff,
    0xffff,
    1 << 20,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// One of the samples, rarely one of those that are refused, with one to four damages.
pub(super) fn mutated(random: &mut Random, taken: &[Vec<u8>], refused: &[Vec<u8>]) -> Vec<u8> {
    let from = if random.below(16) == 0 && !refused.is_empty() {
        refused
    } else {
        taken
    };
    let mut bytes = from[random.below(from.len())].clone();
    for _ in 0..=random.below(4) {
        damage(random, &mut bytes, taken);
    }
    bytes.truncate(LIMIT);
    bytes
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>, samples: &[Vec<u8>]) {
    let length = bytes.len();
    match random.below(12) {
        0 => {
            let (at, bit) = (random.below(length), random.below(8));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        1 => {
            let (at, value) = (random.below(length), random.next() as u8);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        2 => bytes.truncate(random.below(length + 1)),
        3 => {
            bytes.drain(random.range(length, 32));
        }
        4 => {
            let at = random.range(length, 0);
            let made: Vec<u8> = (0..random.below(12)).map(|_| random.next() as u8).collect();
            bytes.splice(at, made);
        }
        5 | 6 => {
            let at = random.range(length, 0);
            let piece = random.one(&PIECES);
            bytes.splice(at, piece.iter().copied());
        }
        // The end of another sample.
        7 => {
            let other = &samples[random.below(samples.len())];
            let from = random.below(other.len() + 1);
            bytes.truncate(random.below(length + 1));
            bytes.extend_from_slice(&other[from..]);
        }
        8 => {
            let range = random.range(length, 64);
            let most = if random.below(8) == 0 { 200 } else { 4 };
            let repeated = bytes[range.clone()].repeat(1 + random.below(most));
            bytes.splice(range.end..range.end, repeated);
        }
        // A number as machines write it.
        9 => {
            let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
            let width = random.one(&[&1, &2, &4, &8]);
            let at = random.below(length) & !(width - 1);
            for (byte, value) in bytes.iter_mut().skip(at).zip(&number[..*width]) {
                *byte = *value;
            }
        }
        // A number as people write it, in place of one.
        10 => {
            let number = NUMBERS[random.below(NUMBERS.len())];
            let text = match random.below(3) {
                0 => format!("{number:x}"),
                1 => format!("{number:02}"),
                _ => format!("{number}0"),
            };
            let digit = u8::is_ascii_digit;
            let start = random.below(length);
            let from = bytes.iter().skip(start).position(digit);
            let from = from.map_or(length, |offset| start + offset);
            let to = bytes[from..].iter().take_while(|byte| digit(byte)).count();
            bytes.splice(from..from + to, text.into_bytes());
        }
        _ => {
            let (one, other) = (random.below(length), random.below(length));
            if one < length && other < length {
                bytes.swap(one, other);
            }
        }
    }
}
