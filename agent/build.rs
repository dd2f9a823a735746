//! Embeds the kernel programs if they were built.
//!
//! Input: the variable `UNDERTRACE_EBPF_DIR`, a folder with one object file per program object, which
//! `cargo xtask build` sets. Without it the crate builds without kernel programs, under the cfg `no_ebpf_objects`, so
//! that checks and host tests need no eBPF tools.

use std::{env, path::Path};

const EBPF_DIR: &str = "UNDERTRACE_EBPF_DIR";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(no_ebpf_objects)");
    println!("cargo::rerun-if-env-changed={EBPF_DIR}");
    println!("cargo::rerun-if-changed=build.rs");
    match env::var(EBPF_DIR) {
        // `include_bytes!` itself makes cargo rebuild when an object changes.
        Ok(dir) if Path::new(&dir).is_absolute() => println!("cargo::rustc-env={EBPF_DIR}={dir}"),
        Ok(dir) => println!("cargo::error={EBPF_DIR} must be an absolute path, and is `{dir}`"),
        Err(_) => println!("cargo::rustc-cfg=no_ebpf_objects"),
    }
}
