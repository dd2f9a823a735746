//! The value of a `tracestate` header, W3C Trace Context level 2, section 3.3.
//!
//! Input: the bytes of one header value, or of several joined by commas in their order. Output: which part of it is carried on, as it
//! stands. Members are never read, changed or reordered: the agent has no entry of its own.

use core::ops::Range;

/// Longest value that is carried on, bytes (section 3.3.1.5: at least 512 characters).
pub const MAX_LENGTH: usize = 512;

/// Most members a value may have (section 3.3.1.1).
pub const MAX_MEMBERS: usize = 32;

/// Longest key and longest value of a member, bytes (section 3.3.1.3).
const MAX_PART: usize = 256;

/// The bytes of `value` to carry on, without the white space around them, or `None` when the value is malformed and must be dropped whole.
///
/// Members that do not fit in [`MAX_LENGTH`] bytes are left out from the end, never cut. The range is empty when nothing is left. Keys that
/// stand there twice are kept: finding out which one is newer is the affair of their owner.
#[must_use]
pub fn kept(value: &[u8]) -> Option<Range<usize>> {
    let mut members = 0;
    let mut begin = None;
    let mut end = 0;
    let mut fits = true;
    let mut rest = Some(0);
    while let Some(from) = rest {
        let until = value
            .iter()
            .skip(from)
            .position(|byte| *byte == b',')
            .map(|offset| from + offset);
        let member = trimmed(value, from..until.unwrap_or(value.len()));
        if !member.is_empty() {
            members += 1;
            if members > MAX_MEMBERS || !is_member(value.get(member.clone())?) {
                return None;
            }
            let start = *begin.get_or_insert(member.start);
            fits = fits && member.end - start <= MAX_LENGTH;
            if fits {
                end = member.end;
            }
        }
        rest = until.map(|comma| comma + 1);
    }
    let start = begin.unwrap_or(0);
    Some(start..end.max(start))
}

/// Optional white space (RFC 9110 section 5.6.3) taken off both ends.
fn trimmed(value: &[u8], range: Range<usize>) -> Range<usize> {
    let bytes = value.get(range.clone()).unwrap_or_default();
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let leading = bytes.iter().take_while(|byte| blank(byte)).count();
    let trailing = bytes.iter().rev().take_while(|byte| blank(byte)).count();
    let start = range.start + leading;
    start..range.end.saturating_sub(trailing).max(start)
}

/// `key "=" value` of section 3.3.1.3, white space around it taken off.
fn is_member(member: &[u8]) -> bool {
    let Some(equals) = member.iter().position(|byte| *byte == b'=') else {
        return false;
    };
    let (key, value) = member.split_at(equals);
    let value = value.get(1..).unwrap_or_default();
    let first = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let later = |byte: u8| first(byte) || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@');
    let key_right = key.first().is_some_and(|byte| first(*byte))
        && key.iter().all(|byte| later(*byte))
        && key.len() <= MAX_PART;
    // The comma cannot occur here: it ended the member. A blank at the end was taken off, one at the start is part of the value.
    let value_right = (1..=MAX_PART).contains(&value.len())
        && value
            .iter()
            .all(|byte| matches!(byte, b' '..=b'~') && *byte != b'=');
    key_right && value_right
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept_of(value: &[u8]) -> Option<&[u8]> {
        kept(value).map(|range| &value[range])
    }

    #[test]
    fn keeps_the_examples_of_the_specification_as_they_stand() {
        let cases: [&[u8]; 5] = [
            b"rojo=00f067aa0ba902b7",
            b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            b"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
            b"fw529a3039@dt=FfAC;Ck9fbGFi, other=1",
            b"ot=p:8;r:62",
        ];
        for case in cases {
            assert_eq!(kept_of(case), Some(case), "{}", case.escape_ascii());
        }
    }

    #[test]
    fn keeps_empty_members_and_drops_the_blanks_around() {
        assert_eq!(kept_of(b"foo=1,,bar=2"), Some(&b"foo=1,,bar=2"[..]));
        assert_eq!(
            kept_of(b" \tfoo=1 , \t bar=2\t , "),
            Some(&b"foo=1 , \t bar=2"[..])
        );
        assert_eq!(kept_of(b""), Some(&b""[..]));
        assert_eq!(kept_of(b" , ,\t"), Some(&b""[..]));
    }

    #[test]
    fn drops_a_malformed_value_whole() {
        let cases: [&[u8]; 12] = [
            b"foo",
            b"foo=",
            b"=1",
            b"foo=1=2",
            b"foo=1,bar",
            b"Foo=1",
            b"@foo=1",
            b"_foo=1",
            b"foo =1",
            b"foo=\x01",
            b"foo=\xc3\xa4",
            b"foo.bar=1",
        ];
        for case in cases {
            assert_eq!(kept_of(case), None, "{}", case.escape_ascii());
        }
    }

    #[test]
    fn drops_more_than_32_members() {
        let members = |count: usize| vec!["a=1"; count].join(",");
        let most = members(32);
        assert_eq!(kept_of(most.as_bytes()), Some(most.as_bytes()));
        assert_eq!(kept_of(members(33).as_bytes()), None);
    }

    #[test]
    fn limits_keys_and_values_to_256_bytes() {
        let member = |key: usize, value: usize| {
            format!("{}={}", "k".repeat(key), "v".repeat(value)).into_bytes()
        };
        assert_eq!(kept_of(&member(255, 256)), Some(&member(255, 256)[..]));
        assert_eq!(kept(&member(257, 1)), None);
        assert_eq!(kept(&member(1, 257)), None);
        // Well-formed, but 513 bytes: left out.
        assert_eq!(kept_of(&member(256, 256)), Some(&b""[..]));
    }

    #[test]
    fn leaves_out_whole_members_from_the_end() {
        let member = format!("k={}", "v".repeat(168));
        let three = [member.as_str(); 3].join(",");
        assert_eq!(three.len(), MAX_LENGTH);
        let four = format!("{three},k=1");
        assert_eq!(kept_of(three.as_bytes()), Some(three.as_bytes()));
        assert_eq!(kept_of(four.as_bytes()), Some(three.as_bytes()));
    }

    proptest! {
        #[test]
        fn is_total_and_bounded(value in prop::collection::vec(any::<u8>(), 0..2000)) {
            if let Some(range) = kept(&value) {
                let part = value.get(range);
                prop_assert!(part.is_some_and(|part| part.len() <= MAX_LENGTH));
            }
        }

        #[test]
        fn keeping_twice_changes_nothing(value in "([a-z@]{0,3}=[0-9a-z =]{0,60}[ ,]{0,3}){0,12}") {
            if let Some(part) = kept_of(value.as_bytes()) {
                prop_assert_eq!(kept_of(part), Some(part));
            }
        }
    }
}
