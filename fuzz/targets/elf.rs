//! The image of a process, with the questions that tell which runtime it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undertrace::process::{
    elf::{holds, sections},
    runtime::recognise,
};

fuzz_target!(|image: &[u8]| {
    let _ = recognise(image);
    for section in sections(image).iter().take(8) {
        let _ = holds(image, section, b"uv_run");
    }
});
