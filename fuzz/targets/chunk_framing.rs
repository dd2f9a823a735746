//! A stream of chunks offered and accepted in any way: what is told of its end is what the parser of whole bodies finds, or nothing.
#![no_main]

use agent_common::wire::chunked::{Chunks, Line, Step};
use libfuzzer_sys::fuzz_target;

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

fuzz_target!(|input: (Vec<(u8, u8)>, &[u8])| {
    let (sends, body) = input;
    let mut chunks = Chunks::default();
    let mut accepted = 0;
    for (offered, taken) in sends {
        let to = body.len().min(accepted + usize::from(offered) + 1);
        if accepted == 0 {
            chunks.begin(0);
        } else if !chunks.resume(accepted as u64) {
            return;
        }
        while !chunks.has_ended() && chunks.line_at < to as u64 {
            let Ok(at) = usize::try_from(chunks.line_at) else {
                return;
            };
            if chunks.feed(body[at]) == Step::Malformed {
                assert_eq!(read(body), None);
                return;
            }
        }
        if chunks.has_ended() {
            assert_eq!(read(body), Some((chunks.body, chunks.line_at)));
        }
        accepted = to.min(accepted + usize::from(taken));
        if accepted == body.len() {
            return;
        }
    }
});
