//! A record of the ring buffer. The magic of its version is given, so that what follows it is reached.
#![no_main]

use agent_common::abi::{ABI_VERSION, Header};
use libfuzzer_sys::fuzz_target;
use undertrace::event::decode::decode;
use zerocopy::{FromBytes as _, IntoBytes as _};

fuzz_target!(|bytes: &[u8]| {
    let mut words = vec![0_u64; bytes.len().div_ceil(8)];
    words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    let record = &mut words.as_mut_bytes()[..bytes.len()];
    let _ = decode(record);
    if let Ok((header, _)) = Header::mut_from_prefix(record) {
        header.version = ABI_VERSION;
        header.kind %= 16;
    }
    let _ = decode(record);
});
