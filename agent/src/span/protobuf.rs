//! The few lines of protobuf that spans are written with (protobuf.dev, "Encoding"). Input: values. Output: fields behind the bytes that
//! are there. Fields are written as prost writes them: the shortest form, and nothing for a value that is the default.

/// The key of a field of bytes, text or a message.
pub(crate) const fn length_delimited(field: u8) -> u8 {
    field << 3 | 2
}

/// The key of a field of eight bytes.
pub(crate) const fn fixed64(field: u8) -> u8 {
    field << 3 | 1
}

/// The key of a field that is a variable-length number.
pub(crate) const fn variable(field: u8) -> u8 {
    field << 3
}

/// Bytes that a number takes.
#[inline]
pub(crate) const fn varint_len(value: u64) -> usize {
    // Seven bits to a byte: ceil(bits / 7) without a division, for 1 to 64 bits.
    ((64 - (value | 1).leading_zeros()) as usize * 9 + 64) / 64
}

/// Appends a number.
#[inline]
pub(crate) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field of bytes, if there are any.
#[inline]
pub(crate) fn push_bytes(out: &mut Vec<u8>, key: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(key);
        push_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// Appends a field of eight bytes, unless it is 0.
#[inline]
pub(crate) fn push_fixed64(out: &mut Vec<u8>, key: u8, value: u64) {
    if value != 0 {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        out.extend_from_slice(&[key, a, b, c, d, e, f, g, h]);
    }
}

/// Appends a message that `write` writes. Its length is put before it afterwards: `ROOM` is the bytes that most lengths of this message take;
/// where it takes others, the message is moved.
#[inline]
pub(crate) fn push_message<const ROOM: usize>(
    out: &mut Vec<u8>,
    key: u8,
    write: impl FnOnce(&mut Vec<u8>),
) {
    out.push(key);
    let at = out.len();
    out.extend_from_slice(&[0; ROOM]);
    let from = at + ROOM;
    write(out);
    let end = out.len();
    let mut length = (end - from) as u64;
    let width = varint_len(length);
    if width > ROOM {
        out.resize(end + width - ROOM, 0);
    }
    if width != ROOM {
        out.copy_within(from..end, at + width);
        out.truncate(end + width - ROOM);
    }
    for byte in &mut out[at..at + width] {
        *byte = length as u8 | 0x80;
        length >>= 7;
    }
    out[at + width - 1] &= 0x7f;
}

/// Takes a number from the front; nothing when the bytes do not begin with one.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Takes a number and as many bytes from the front.
pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::encoding;

    use super::*;

    fn numbers() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64_u32).prop_map(|(value, shift)| value >> shift)
    }

    proptest! {
        #[test]
        fn writes_and_takes_numbers_like_prost(value in numbers()) {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            push_varint(&mut ours, value);
            encoding::encode_varint(value, &mut theirs);
            prop_assert_eq!(&ours, &theirs);
            prop_assert_eq!(varint_len(value), ours.len());
            prop_assert_eq!(take_varint(&mut ours.as_slice()), Some(value));
        }

        #[test]
        fn takes_nothing_that_is_cut(value in numbers()) {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, value);
            for length in 0..bytes.len() {
                prop_assert_eq!(take_varint(&mut &bytes[..length]), None);
            }
        }
    }

    #[test]
    fn puts_every_length_before_its_message() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
            let body = vec![7_u8; length];
            let mut expected = vec![9, 0x0a];
            push_varint(&mut expected, length as u64);
            expected.extend_from_slice(&body);
            let written = |push: fn(&mut Vec<u8>, &[u8])| {
                let mut out = vec![9];
                push(&mut out, &body);
                out
            };
            let short = written(|out, body| {
                push_message::<1>(out, 0x0a, |out| out.extend_from_slice(body));
            });
            let long = written(|out, body| {
                push_message::<3>(out, 0x0a, |out| out.extend_from_slice(body));
            });
            assert!(short == expected && long == expected, "{length}");
        }
    }
}
