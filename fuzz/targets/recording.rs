//! A recording, and one that begins well.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undertrace::{
    event::recording::{Description, Recorder, Recording, replay},
    telemetry::Counters,
};

/// Bytes of the chunk that ends a recording in order.
const END: usize = 16;

fn read(bytes: &[u8]) {
    let Ok(mut recording) = Recording::begin(bytes, String::new()) else {
        return;
    };
    let mut pushed = 0;
    let ended = replay(&mut recording, &Counters::default(), |_| pushed += 1);
    if let Ok(ended) = ended {
        assert!(pushed <= ended.entries);
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let description = Description {
        agent_version: String::new(),
        kernel_release: String::new(),
        boot_id: String::new(),
        globals: Vec::new(),
        payload_stripped: false,
    };
    let recording = Recorder::begin(Vec::new(), &description).and_then(Recorder::finish);
    let mut recording = recording.expect("a Vec takes all");
    recording.truncate(recording.len() - END);
    recording.extend_from_slice(bytes);
    read(&recording);
});
