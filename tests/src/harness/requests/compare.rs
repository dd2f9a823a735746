//! Whether what arrived is what was sent, and exactly the lines that were due.

use anyhow::{Result, ensure};

/// Bytes of the line that is put in.
const LINE: usize = 70;

/// Bytes that an error shows around a difference.
const SHOWN: usize = 100;

/// What was written into a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Written {
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
}

/// What became of a connection's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The lines that are there, in order.
    pub(crate) written: Vec<Written>,
    /// How many are not there although they are due; the bytes around them are right.
    pub(crate) missing: u64,
}

/// Compares what arrived with what was sent; lines may be at the places that are due, one at each, and nowhere else.
///
/// # Errors
/// When a byte differs: it is lost, changed, or of a line where none belongs.
pub(crate) fn compare(sent: &[u8], due: &[usize], received: &[u8]) -> Result<Judged> {
    let mut judged = Judged::default();
    let (mut from, mut at) = (0, 0);
    for place in due {
        same(sent, from, *place, received, at)?;
        at += place - from;
        from = *place;
        match received.get(at..at + LINE).and_then(read_line) {
            Some(written) => {
                judged.written.push(written);
                at += LINE;
            }
            None => judged.missing += 1,
        }
    }
    same(sent, from, sent.len(), received, at)?;
    at += sent.len() - from;
    ensure!(
        at == received.len(),
        "bytes differ: {} behind the last one that was sent: {}",
        received.len() - at,
        shown(received, at)
    );
    Ok(judged)
}

/// `sent[from..to]` arrived at `at`.
fn same(sent: &[u8], from: usize, to: usize, received: &[u8], at: usize) -> Result<()> {
    let wanted = &sent[from..to];
    let got = received.get(at..).unwrap_or_default();
    if got.starts_with(wanted) {
        return Ok(());
    }
    let common = wanted.iter().zip(got).take_while(|(a, b)| a == b).count();
    anyhow::bail!(
        "bytes differ: byte {} of {} that were sent is not what arrived as {} of {}\nsent:    {}\narrived: {}",
        from + common,
        sent.len(),
        at + common,
        received.len(),
        shown(sent, from + common),
        shown(received, at + common)
    )
}

fn shown(bytes: &[u8], at: usize) -> String {
    let before = &bytes[at.saturating_sub(SHOWN)..at.min(bytes.len())];
    let behind = &bytes[at.min(bytes.len())..bytes.len().min(at + SHOWN)];
    format!("{} >>> {}", before.escape_ascii(), behind.escape_ascii())
}

/// A line as it is written: lower case, sampled and with the random flag, ended by CRLF.
fn read_line(line: &[u8]) -> Option<Written> {
    let line = std::str::from_utf8(line).ok()?;
    let ids = line
        .strip_prefix("traceparent: 00-")?
        .strip_suffix("-03\r\n")?;
    let (trace_id, span_id) = ids.split_once('-')?;
    let is_id = |text: &str, length: usize| {
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits && text.len() == length && text.bytes().any(|b| b != b'0')
    };
    (is_id(trace_id, 32) && is_id(span_id, 16)).then(|| Written {
        trace_id: trace_id.to_owned(),
        span_id: span_id.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::requests::due::Due;

    const TEXT: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03\r\n";

    /// Bytes as they arrive: two requests with a line each, and a body that looks like one.
    fn sample() -> (Vec<u8>, Vec<usize>, Vec<u8>) {
        let get = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
        let sent = format!(
            "POST /b HTTP/1.1\r\nContent-Length: {}\r\n\r\n{get}{get}",
            get.len()
        );
        let due = Due::of(sent.as_bytes(), None).lines;
        let mut arrived = sent.clone();
        for place in due.iter().rev() {
            arrived.insert_str(*place, TEXT);
        }
        (sent.into_bytes(), due, arrived.into_bytes())
    }

    #[test]
    fn what_is_due_and_nothing_else_is_right() {
        let (sent, due, arrived) = sample();
        assert_eq!(due.len(), 2);
        let judged = compare(&sent, &due, &arrived).expect("all is as it is due");
        assert_eq!((judged.written.len(), judged.missing), (2, 0));
        assert_eq!(judged.written[0].span_id, "00f067aa0ba902b7");
        let judged = compare(&sent, &due, &sent).expect("the bytes are right");
        assert_eq!((judged.written.len(), judged.missing), (0, 2));
        assert!(compare(&sent, &[], &arrived).is_err(), "none is due");
    }

    #[test]
    fn a_header_twice_is_seen() {
        let (sent, due, arrived) = sample();
        for place in [due[0], due[1] + LINE] {
            let mut twice = arrived.clone();
            twice.splice(place..place, TEXT.bytes());
            assert!(compare(&sent, &due, &twice).is_err());
        }
    }

    #[test]
    fn a_header_anywhere_but_at_its_place_is_seen() {
        let (sent, due, _) = sample();
        for place in (0..=sent.len()).filter(|place| !due.contains(place)) {
            let mut late = sent.clone();
            late.splice(place..place, TEXT.bytes());
            assert!(compare(&sent, &due, &late).is_err(), "at {place}");
        }
    }

    #[test]
    fn each_byte_lost_changed_or_added_is_seen() {
        let (sent, due, arrived) = sample();
        for place in 0..arrived.len() {
            let mut lost = arrived.clone();
            lost.remove(place);
            assert!(compare(&sent, &due, &lost).is_err(), "{place} lost");
            let mut changed = arrived.clone();
            changed[place] ^= 0x20;
            assert!(compare(&sent, &due, &changed).is_err(), "{place} changed");
            let mut added = arrived.clone();
            added.insert(place, b'+');
            assert!(compare(&sent, &due, &added).is_err(), "added at {place}");
        }
        let cut = &arrived[..arrived.len() - 1];
        assert!(compare(&sent, &due, cut).is_err());
        let more = [&arrived[..], b"\0"].concat();
        assert!(compare(&sent, &due, &more).is_err());
    }

    #[test]
    fn a_line_is_taken_only_as_it_is_written() {
        let (sent, due, arrived) = sample();
        for (good, bad) in [
            ("traceparent", "Traceparent"),
            ("-03\r\n", "-00\r\n"),
            ("00f067aa0ba902b7", "00F067AA0BA902B7"),
            ("00f067aa0ba902b7", "0000000000000000"),
        ] {
            let text = String::from_utf8(arrived.clone()).expect("it is text");
            let text = text.replacen(good, bad, 1);
            assert!(compare(&sent, &due, text.as_bytes()).is_err(), "{bad}");
        }
    }
}
