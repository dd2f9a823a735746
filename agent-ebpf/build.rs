//! Tells the programs which processor they are for: where a context keeps registers depends on it. As `aya-ebpf` finds it out, whose layouts are used.

use std::env;

fn main() {
    println!("cargo::rerun-if-env-changed=CARGO_CFG_BPF_TARGET_ARCH");
    println!("cargo::rustc-check-cfg=cfg(bpf_target_arch, values(\"x86_64\", \"aarch64\"))");
    let host = || env::var("HOST").unwrap_or_default();
    let arch = env::var("CARGO_CFG_BPF_TARGET_ARCH")
        .unwrap_or_else(|_| host().split('-').next().unwrap_or_default().to_owned());
    println!("cargo::rustc-cfg=bpf_target_arch=\"{arch}\"");
}
