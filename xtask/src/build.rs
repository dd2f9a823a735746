//! `cargo xtask build`: first the kernel programs, then the agent that carries them.
//!
//! Input: the crates agent-ebpf and agent. Output: object files of the kernel programs in a folder of the target
//! folder, and the agent's binary with these objects inside.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    paths, run,
    setup::{RustSource, Setup},
};

/// Target of kernel programs: the kernel's virtual machine, little-endian.
const EBPF_TARGET: &str = "bpfel-unknown-none";

/// Cargo profile of kernel programs.
const EBPF_PROFILE: &str = "ebpf";

/// Variable that tells agent/build.rs where the objects lie.
pub(crate) const EBPF_DIR: &str = "UNDERTRACE_EBPF_DIR";

/// What a build made.
#[derive(Debug)]
pub(crate) struct Built {
    /// Folder with one object file per program object.
    pub(crate) ebpf_dir: PathBuf,
    /// The agent's binary.
    pub(crate) agent: PathBuf,
}

/// Builds kernel programs and agent.
///
/// # Errors
/// When cargo fails; it has printed why.
pub(crate) fn run(setup: &Setup, release: bool) -> Result<Built> {
    let ebpf_dir = kernel_programs(setup)?;
    let mut command = run::cargo();
    command.current_dir(paths::workspace()).args([
        "build",
        "--quiet",
        "--package",
        "agent",
        "--bin",
        "undertrace",
    ]);
    command.env(EBPF_DIR, &ebpf_dir);
    if release {
        command.arg("--release");
    }
    run::streamed(&mut command)?;
    let agent = paths::target()
        .join(if release { "release" } else { "debug" })
        .join("undertrace");
    Ok(Built { ebpf_dir, agent })
}

/// Builds the kernel programs and returns the folder with their objects.
///
/// # Errors
/// When cargo fails; it has printed why.
pub(crate) fn kernel_programs(setup: &Setup) -> Result<PathBuf> {
    let mut command = run::cargo();
    command
        .current_dir(paths::workspace())
        .args(["build", "--quiet", "--package", "agent-ebpf"]);
    command.args([
        "--target",
        EBPF_TARGET,
        "--profile",
        EBPF_PROFILE,
        "-Z",
        "build-std=core",
    ]);
    // The unstable flag and target are the stable compiler's own; only the switch is missing.
    command.env("RUSTC_BOOTSTRAP", "1");
    // Debug information must cover core too, so it stands here and not in the profile alone; BTF maps need --btf.
    command
        .env(
            "RUSTFLAGS",
            "-C debuginfo=2 -C link-arg=--btf -C link-arg=--disable-expand-memcpy-in-order",
        )
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &setup.bpf_linker);
    if let RustSource::Cache(library) = &setup.rust_source {
        // Where cargo's own tests put the source; it spares us a link inside the toolchain's folder.
        command.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    run::streamed(&mut command).context("the kernel programs do not build")?;
    Ok(paths::target().join(EBPF_TARGET).join(EBPF_PROFILE))
}

/// Names and sizes in bytes of the object files in a folder.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn objects(dir: &Path) -> Result<Vec<(String, u64)>> {
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() && !name.contains('.') {
            objects.push((name, entry.metadata()?.len()));
        }
    }
    objects.sort();
    Ok(objects)
}
