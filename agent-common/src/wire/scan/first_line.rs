//! First lines: whether they begin an HTTP/1 message, and which.

use super::{
    Bytes,
    head::{Head, HeadKind, MethodKind, head_flags},
    names::eight,
};

/// The longest method that is looked for.
const METHOD_LIMIT: u64 = 32;

/// How a first line begins.
pub(super) enum Start {
    Method(MethodKind),
    Status(u16),
    TooShort,
    NotHttp,
}

/// Whether a complete first line is one of HTTP/1; notes kind, method and status.
#[inline(always)]
pub(super) fn judge_first<B: Bytes>(bytes: &B, head: &mut Head, line: u64, newline: u64) -> bool {
    if head.flags & head_flags::METHOD_SEEN == 0 {
        match judge_start(bytes, line, newline - line) {
            Start::Method(method) => head.method = method as u8,
            Start::Status(status) => {
                head.kind = HeadKind::Response as u8;
                head.status = status;
                return true;
            }
            Start::TooShort | Start::NotHttp => return false,
        }
    }
    let end = if bytes.byte(newline - 1) == b'\r' {
        newline - 1
    } else {
        newline
    };
    let version = bytes.word(end.wrapping_sub(9));
    if version != eight(b" HTTP/1.") || !bytes.byte(end.wrapping_sub(1)).is_ascii_digit() {
        return false;
    }
    head.kind = HeadKind::Request as u8;
    true
}

/// How the `length` bytes at `line`, a first line or its beginning, begin.
#[inline(always)]
pub(super) fn judge_start<B: Bytes>(bytes: &B, line: u64, length: u64) -> Start {
    let word = bytes.word(line);
    const STATUS_LINE: u64 = u64::from_le_bytes(*b"HTTP/1.\0");
    if length >= 8 && word & 0x00ff_ffff_ffff_ffff == STATUS_LINE {
        if length < 12 {
            return Start::TooShort;
        }
        let status = bytes.word(line + 8);
        let digits = [
            (status >> 8) as u8,
            (status >> 16) as u8,
            (status >> 24) as u8,
        ];
        let wrong = u64::from(status as u8 != b' ')
            | not_digit(digits[0])
            | not_digit(digits[1])
            | not_digit(digits[2]);
        if wrong != 0 {
            return Start::NotHttp;
        }
        let number = u16::from(digits[0] - b'0') * 100
            + u16::from(digits[1] - b'0') * 10
            + u16::from(digits[2] - b'0');
        return Start::Status(number);
    }
    if length == 1 && word as u8 == b'\r' {
        return Start::TooShort;
    }
    if length < 8 && (word ^ STATUS_LINE) & low_bytes(length) == 0 {
        return Start::TooShort;
    }
    // The most frequent ones without a look at each byte.
    const GET: u64 = u64::from_le_bytes(*b"GET \0\0\0\0");
    const POST: u64 = u64::from_le_bytes(*b"POST \0\0\0");
    if length >= 8 && (word & 0xffff_ffff == GET || word & 0xff_ffff_ffff == POST) {
        return Start::Method(MethodKind::Other);
    }
    for index in 0..=METHOD_LIMIT {
        if index >= length {
            return Start::TooShort;
        }
        let byte = bytes.byte(line + index);
        if byte == b' ' && index != 0 {
            return Start::Method(method_kind(word));
        }
        if !is_token(byte) {
            return Start::NotHttp;
        }
    }
    Start::NotHttp
}

/// A mask of the lowest `count` bytes, 0 to 7.
#[inline(always)]
fn low_bytes(count: u64) -> u64 {
    (1u64 << ((count & 7) * 8)) - 1
}

#[inline(always)]
fn not_digit(byte: u8) -> u64 {
    u64::from(!byte.is_ascii_digit())
}

/// `tchar` of RFC 9110 section 5.6.2.
#[inline(always)]
fn is_token(byte: u8) -> bool {
    const fn table(upper: bool) -> u64 {
        let mut bits = 0u64;
        let mut byte = 0u8;
        while byte < 64 {
            let character = if upper { byte + 64 } else { byte };
            let token = character.is_ascii_alphanumeric()
                || matches!(
                    character,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            if token {
                bits |= 1 << byte;
            }
            byte += 1;
        }
        bits
    }
    const LOWER: u64 = table(false);
    const UPPER: u64 = table(true);
    let bits = if byte & 64 == 0 { LOWER } else { UPPER };
    byte < 128 && (bits >> (byte & 63)) & 1 != 0
}

#[inline(always)]
fn method_kind(word: u64) -> MethodKind {
    if word & 0x00ff_ffff_ffff == u64::from_le_bytes(*b"HEAD \0\0\0") {
        MethodKind::Head
    } else if word == eight(b"CONNECT ") {
        MethodKind::Connect
    } else {
        MethodKind::Other
    }
}
