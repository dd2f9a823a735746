//! A chunked body and whatever follows it, cut at one place: the items are the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undertrace::{
    process::ProcessKey,
    protocol::{HEAD_LIMIT, Item, Mark, ParserConfig, Protocol as _, Side, http1::Http1},
};

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

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
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        parser.bytes(Side::Request, mark, piece, &mut items);
        assert!(parser.buffered() <= 2 * HEAD_LIMIT);
        mark.position += piece.len() as u64;
    }
    items
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, body) = input;
    let (first, second) = body.split_at(usize::from(cut).min(body.len()));
    assert_eq!(items(&[HEAD, body]), items(&[HEAD, first, second]));
});
