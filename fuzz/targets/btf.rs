//! Type information of a kernel, with the questions that the daemon asks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undertrace::kernel::{btf::Btf, offsets::Offsets};

fuzz_target!(|bytes: &[u8]| {
    let Ok(btf) = Btf::parse(bytes) else { return };
    let _ = Offsets::resolve(&btf);
    for structure in ["sock", "task_struct", "pt_regs", ""] {
        for path in ["__sk_common.skc_dport", "pid", ""] {
            let _ = btf.member(structure, path);
        }
        let _ = btf.structure_size(structure);
    }
    let _ = (
        btf.function("tcp_sendmsg"),
        btf.enumerator("iter_type", "ITER_IOVEC"),
    );
});
