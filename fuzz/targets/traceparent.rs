//! The value of a `traceparent` header.
#![no_main]

use agent_common::wire::traceparent::{format, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    if let Some(context) = parse(value) {
        let again = parse(&format(&context)).expect("what is sent can be read");
        assert_eq!(
            (again.trace_id, again.span_id, again.is_sampled()),
            (context.trace_id, context.span_id, context.is_sampled())
        );
    }
});
