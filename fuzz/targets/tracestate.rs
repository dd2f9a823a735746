//! The value of a `tracestate` header.
#![no_main]

use agent_common::wire::tracestate::{MAX_LENGTH, kept};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    if let Some(range) = kept(value) {
        let part = &value[range];
        assert!(part.len() <= MAX_LENGTH);
        assert_eq!(kept(part), Some(0..part.len()));
    }
});
