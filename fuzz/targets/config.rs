//! The YAML file; what is refused is refused in one line.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use undertrace::config::file::parse;

fuzz_target!(|text: &str| {
    if let Err(error) = parse(text, Path::new("f")) {
        assert_eq!(error.to_string().lines().count(), 1);
    }
});
