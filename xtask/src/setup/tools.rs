//! Tools that setup installs into the cache: bpf-linker from crates, virtme-ng from the Python package index.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::versions::{Versions, Wheel};
use crate::run;

/// Where bpf-linker lies in the cache, whether it is there or not.
pub(crate) fn bpf_linker(cache: &Path, versions: &Versions) -> PathBuf {
    cache
        .join(format!("bpf-linker-{}", versions.bpf_linker))
        .join("bin/bpf-linker")
}

/// Builds bpf-linker; about a minute.
///
/// # Errors
/// When cargo cannot fetch or build it.
pub(crate) fn install_bpf_linker(cache: &Path, versions: &Versions) -> Result<()> {
    let version = &versions.bpf_linker;
    let root = cache.join(format!("bpf-linker-{version}"));
    let mut command = run::cargo();
    command.current_dir(cache).args([
        "install",
        "bpf-linker",
        "--locked",
        "--quiet",
        "--version",
        version.as_str(),
    ]);
    command
        .arg("--root")
        .arg(&root)
        .env("CARGO_TARGET_DIR", cache.join("bpf-linker-build"));
    command
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run::output(&mut command).with_context(|| {
        format!(
            "bpf-linker {version} cannot be installed; by hand: cargo install bpf-linker --version {version} --locked \
             --root {}",
            root.display()
        )
    })?;
    run::remove_dir(&cache.join("bpf-linker-build"))
}

/// Where virtme-ng's Python modules lie in the cache, whether they are there or not.
pub(crate) fn virtme_ng(cache: &Path, versions: &Versions) -> PathBuf {
    cache.join(format!("virtme-ng-{}", versions.virtme_ng.version))
}

/// Whether virtme-ng is in the cache.
pub(crate) fn has_virtme_ng(cache: &Path, versions: &Versions) -> bool {
    virtme_ng(cache, versions)
        .join("virtme/guest/bin/virtme-ng-init")
        .is_file()
}

/// Fetches virtme-ng. Its dependencies are left out: only its command `vng` needs them, and the runner does without.
///
/// # Errors
/// When no Python of this machine has pip, or the wheel cannot be had or has another checksum.
pub(crate) fn install_virtme_ng(cache: &Path, versions: &Versions) -> Result<()> {
    let Wheel { version, sha256 } = &versions.virtme_ng;
    let target = virtme_ng(cache, versions);
    let by_hand = format!(
        "virtme-ng {version} cannot be installed; by hand: pip install --no-deps --target {} virtme-ng=={version}",
        target.display()
    );
    let partial = target.with_extension("partial");
    run::remove_dir(&partial)?;
    fs::create_dir_all(&partial)?;
    let requirements = cache.join("virtme-ng.requirements");
    fs::write(
        &requirements,
        format!("virtme-ng=={version} --hash=sha256:{sha256}\n"),
    )?;
    let python = python_with_pip().with_context(|| by_hand.clone())?;
    let mut command = Command::new(python);
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--no-warn-script-location",
    ]);
    command.args(["--root-user-action", "ignore"]);
    command
        .arg("--target")
        .arg(&partial)
        .arg("--requirement")
        .arg(&requirements);
    run::output(&mut command).context(by_hand)?;
    fs::remove_file(&requirements)?;
    run::remove_dir(&target)?;
    fs::rename(&partial, &target).context("cannot move virtme-ng into place")
}

/// The Python that runs virtme-ng: the system's own, else the first in `PATH`.
///
/// # Errors
/// When there is none.
pub(crate) fn python() -> Result<PathBuf> {
    pythons()
        .into_iter()
        .next()
        .context("`python3` is missing: apt-get install python3")
}

fn python_with_pip() -> Result<PathBuf> {
    pythons()
        .into_iter()
        .find(|python| run::output(Command::new(python).args(["-m", "pip", "--version"])).is_ok())
        .context("no python3 of this machine has pip: apt-get install python3-pip")
}

fn pythons() -> Vec<PathBuf> {
    let system = PathBuf::from("/usr/bin/python3");
    let mut all: Vec<PathBuf> = system.is_file().then_some(system).into_iter().collect();
    all.extend(run::find_program("python3"));
    all.dedup();
    all
}
