//! Newlines and names of headers, found in whole words without a branch for each byte.

/// One bit (the highest of its byte) for each newline; the lowest set one is exact.
#[inline(always)]
pub(in crate::wire) fn find_newlines(word: u64) -> u64 {
    let other = word ^ 0x0a0a_0a0a_0a0a_0a0a;
    other.wrapping_sub(0x0101_0101_0101_0101) & !other & 0x8080_8080_8080_8080
}

/// Index of the lowest byte whose highest bit is set. The multiplication picks the byte's index out of the constant: no table, no branch.
#[inline(always)]
pub(in crate::wire) fn lowest(bits: u64) -> u64 {
    let lowest = (bits & bits.wrapping_neg()) >> 7;
    lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56
}

/// Makes letters lower case; what else it changes is no part of a name.
pub(in crate::wire) const FOLD: u64 = 0x2020_2020_2020_2020;

pub(super) const fn eight(text: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*text)
}

/// How the names of interest begin.
pub(super) const TRAC: u32 = u32::from_le_bytes(*b"trac");
pub(super) const CONT: u32 = u32::from_le_bytes(*b"cont");
pub(super) const TRAN: u32 = u32::from_le_bytes(*b"tran");

#[inline(always)]
pub(super) fn differs_traceparent(first: u64, second: u64) -> u64 {
    ((first | FOLD) ^ eight(b"tracepar"))
        | (((second | FOLD) ^ eight(b"ent:\0\0\0\0")) & 0xffff_ffff)
}

#[inline(always)]
pub(super) fn differs_tracestate(first: u64, second: u64) -> u64 {
    ((first | FOLD) ^ eight(b"tracesta"))
        | (((second | FOLD) ^ eight(b"te:\0\0\0\0\0")) & 0x00ff_ffff)
}

#[inline(always)]
pub(super) fn differs_content_length(first: u64, second: u64) -> u64 {
    ((first | FOLD) ^ eight(b"content-"))
        | (((second | FOLD) ^ eight(b"length:\0")) & 0x00ff_ffff_ffff_ffff)
}

#[inline(always)]
pub(super) fn differs_transfer_encoding(first: u64, second: u64, third: u64) -> u64 {
    ((first | FOLD) ^ eight(b"transfer"))
        | ((second | FOLD) ^ eight(b"-encodin"))
        | (((third | FOLD) ^ eight(b"g:\0\0\0\0\0\0")) & 0xffff)
}
