//! `/proc/<pid>/cgroup`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undertrace::process::cgroup::Place;

fuzz_target!(|text: &str| {
    let _ = Place::parse(text);
});
