use proptest::prelude::*;

use super::*;
use crate::{
    process::ProcessKey,
    protocol::{HEAD_LIMIT, Item, Mark},
};

/// What a parser finds in requests that arrive in these pieces, all at the same time.
fn items(pieces: &[&[u8]]) -> Vec<Item> {
    let mut parser = Http1.parser(true, &ParserConfig::default());
    let mut items = Vec::new();
    let mut mark = Mark {
        position: 0,
        time_ns: 1,
        process: ProcessKey {
            tgid: 1,
            start_ns: 1,
        },
    };
    for piece in pieces {
        parser.bytes(Side::Request, mark, piece, &mut items);
        mark.position += piece.len() as u64;
    }
    items
}

#[test]
fn gives_up_a_first_line_that_is_none_wherever_it_is_cut() {
    let text = b"GET / HTTP/1.1\r\n\r\nE ~T:\r\r\r\n\x03(2";
    let whole = items(&[text]);
    assert_eq!(whole.last(), Some(&Item::Lost(Side::Request)));
    for cut in 1..text.len() {
        let (first, second) = text.split_at(cut);
        assert_eq!(items(&[first, second]), whole, "cut at {cut}");
    }
}

#[test]
fn gives_up_a_method_of_more_than_32_bytes_wherever_it_is_cut() {
    let text = format!("{} / HTTP/1.1\r\n\r\n", "A".repeat(33));
    let whole = items(&[text.as_bytes()]);
    assert_eq!(whole, [Item::NotThis]);
    for cut in 1..text.len() {
        let (first, second) = text.as_bytes().split_at(cut);
        assert_eq!(items(&[first, second]), whole, "cut at {cut}");
    }
}

#[test]
fn judges_the_first_line_of_a_head_that_is_too_long_wherever_it_is_cut() {
    let lines = "A: b\r\n".repeat(HEAD_LIMIT / 6 + 1);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(HEAD_LIMIT));
    for (text, expected) in [
        (
            format!("GET / HTTP/1.1\r\n{lines}\r\n"),
            Item::OverLimit(Side::Request),
        ),
        (long, Item::OverLimit(Side::Request)),
        (format!("GET / no HTTP\r\n{lines}\r\n"), Item::NotThis),
        (format!("no HTTP\r\n{lines}"), Item::NotThis),
    ] {
        let whole = items(&[text.as_bytes()]);
        assert_eq!(whole, [expected], "{}", &text[..16]);
        for cut in [1, 6, 20, HEAD_LIMIT - 1, HEAD_LIMIT, HEAD_LIMIT + 1] {
            let (first, second) = text.as_bytes().split_at(cut.min(text.len()));
            assert_eq!(
                items(&[first, second]),
                whole,
                "{} cut at {cut}",
                &text[..16]
            );
        }
    }
}

/// What stands in requests, right and wrong.
fn fragment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "POST / HTTP/1.1\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 3\r\n",
        "\r\n",
        "\n",
        "\r",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "GET",
        " ",
        "/x",
        "HTTP/1.",
        "\0",
    ])
}

proptest! {
    #[test]
    fn finds_the_same_however_cut(
        fragments in prop::collection::vec(fragment(), 0..24),
        cut in any::<prop::sample::Index>(),
    ) {
        let text = fragments.concat().into_bytes();
        let (first, second) = text.split_at(cut.index(text.len() + 1));
        prop_assert_eq!(items(&[first, second]), items(&[&text]));
    }
}
