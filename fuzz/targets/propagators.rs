//! Headers of other propagators, in any order and with any values: ids are never zero, and any `traceparent` outranks them.
#![no_main]

use agent_common::wire::{
    propagator::{Field, Table, is_complete, part, read},
    scan::{Head, head_flags},
};
use libfuzzer_sys::fuzz_target;

const NAMES: [(&str, u32, u32); 8] = [
    ("b3", part::B3, 1),
    ("x-b3-traceid", part::TRACE_ID, 2),
    ("x-b3-spanid", part::SPAN_ID, 2),
    ("x-b3-sampled", part::SAMPLED, 2),
    ("x-b3-flags", part::DEBUG, 2),
    ("uber-trace-id", part::JAEGER, 3),
    ("x-trace-id", part::TRACE_ID, 4),
    ("x-span-id", part::SPAN_ID, 4),
];

fuzz_target!(|headers: Vec<(u8, Vec<u8>)>| {
    let mut table = Table::default();
    for (place, (name, part, rank)) in table.iter_mut().zip(NAMES) {
        *place = Field::new(name, part, rank).expect("a name that fits");
    }
    let mut head = Head::default();
    for (name, value) in &headers {
        let (name, ..) = NAMES[usize::from(*name) % NAMES.len()];
        read(&table, name.as_bytes(), value, &mut head);
    }
    if is_complete(&head) {
        assert_ne!(head.trace_id, [0; 2]);
        assert_ne!(head.span_id, 0);
    }
    head.flags |= head_flags::TRACEPARENT_BAD;
    assert!(!is_complete(&head));
    let before = head;
    read(
        &table,
        b"b3",
        b"64fe8b2a57d3eff7-e457b5a2e4d86bd1-1",
        &mut head,
    );
    assert_eq!(head, before);
});
