//! Messages and their bodies, cut anywhere and offered in any way.

use agent_common::wire::chunked::{Chunks, Line, Step};

use super::{byte, cut, number, user};
use crate::protocol::{Item, ParserConfig};

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A conversation: how many bytes are requests, where these are cut and where the responses are, then the bytes. The messages
/// are the same; taken is one in which a response ends.
pub fn messages(data: &[u8]) -> bool {
    let (length, data) = number(data);
    let (request_cut, data) = number(data);
    let (response_cut, data) = number(data);
    let [requests, responses] = cut(data, length);
    let config = ParserConfig::default();
    let whole = user::items(&[requests], &[responses], &config);
    let pieces = user::items(
        &cut(requests, request_cut),
        &cut(responses, response_cut),
        &config,
    );
    assert_eq!(whole, pieces);
    let has = |wanted: fn(&Item) -> bool| whole.iter().any(wanted);
    has(|item| matches!(item, Item::Response(_)))
        && has(|item| matches!(item, Item::ResponseEnd(end) if end.complete))
}

/// A chunked body and whatever follows it, cut at one place: a number, then the bytes. The items are the same, and the body ends where the
/// kernel's reader of its lines says.
pub fn chunked_body(data: &[u8]) -> bool {
    let (at, body) = number(data);
    let config = ParserConfig::default();
    let [first, second] = cut(body, at);
    let whole = user::items(&[HEAD, body], &[], &config);
    assert_eq!(whole, user::items(&[HEAD, first, second], &[], &config));
    let found = whole.iter().find_map(|item| match item {
        Item::RequestEnd(end) if end.complete => Some((end.body_size?, end.wire_size)),
        _ => None,
    });
    let right = read(body).map(|(data, length)| (data, HEAD.len() as u64 + length));
    assert_eq!(found, right);
    right.is_some()
}

/// A stream of chunks offered and accepted in any way: how many sends, of each the bytes offered and taken, then the body. What is told of
/// its end is what the reader of whole bodies finds, or nothing.
pub fn chunk_framing(data: &[u8]) -> bool {
    let (count, data) = byte(data);
    let (sends, body) = data.split_at(data.len().min(count * 2));
    let mut chunks = Chunks::default();
    let mut accepted = 0;
    let (sends, _) = sends.as_chunks::<2>();
    for [offered, taken] in sends {
        let to = body.len().min(accepted + usize::from(*offered) + 1);
        let before = chunks.line_at;
        if accepted == 0 {
            chunks.begin(0);
        } else if !chunks.resume(accepted as u64) {
            return false;
        } else {
            assert!(chunks.line_at <= before, "nothing is passed over");
        }
        while !chunks.has_ended() && chunks.line_at < to as u64 {
            let Ok(at) = usize::try_from(chunks.line_at) else {
                return false;
            };
            if chunks.feed(body[at]) == Step::Malformed {
                assert_eq!(read(body), None);
                return false;
            }
            assert!(chunks.line_at > at as u64, "positions never go back");
        }
        if chunks.has_ended() {
            assert_eq!(read(body), Some((chunks.body, chunks.line_at)));
        }
        accepted = to.min(accepted + usize::from(*taken));
        if accepted == body.len() {
            break;
        }
    }
    chunks.has_ended() && chunks.line_at <= accepted as u64
}

/// Data and length of a body that is whole.
fn read(body: &[u8]) -> Option<(u64, u64)> {
    let (mut line, mut data, mut at) = (Line::new(), 0_u64, 0_u64);
    loop {
        let byte = *body.get(usize::try_from(at).ok()?)?;
        at += 1;
        match line.feed(byte) {
            Step::More => {}
            Step::Data => {
                data += line.value;
                at += line.value;
            }
            Step::End => return Some((data, at)),
            Step::Malformed => return None,
        }
    }
}
