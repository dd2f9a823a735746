//! The source of `core`, from which cargo builds it for the kernel's virtual machine.
//!
//! Looked for in the toolchain first, then in the cache; else the rustup component is asked for, else Debian's
//! package of exactly the toolchain's version is unpacked in the cache. The toolchain's own folder is not changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{apt, apt::Suite, versions::Package};
use crate::run;

/// Where the source lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RustSource {
    /// In the toolchain, where cargo looks by itself.
    Toolchain,
    /// In the cache; cargo must be told.
    Cache(PathBuf),
}

/// The source if it is there already.
///
/// # Errors
/// When `rustc` cannot be asked where its toolchain lies.
pub(crate) fn cached(cache: &Path) -> Result<Option<RustSource>> {
    let sysroot = run::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/Cargo.lock")
        .is_file()
    {
        return Ok(Some(RustSource::Toolchain));
    }
    let dir = dir(cache)?;
    Ok(dir
        .join("library/Cargo.lock")
        .is_file()
        .then(|| RustSource::Cache(dir.join("library"))))
}

/// Fetches the source.
///
/// # Errors
/// When neither rustup nor Debian has it for this toolchain.
pub(crate) fn fetch(cache: &Path, pin: &Package) -> Result<RustSource> {
    // Without a network rustup tries for minutes; `timeout` is part of coreutils.
    let rustup = Command::new("timeout")
        .args(["120", "rustup", "component", "add", "rust-src"])
        .output();
    if rustup.is_ok_and(|output| output.status.success())
        && let Some(found) = cached(cache)?
    {
        return Ok(found);
    }
    let release = toolchain_release()?;
    let by_hand = format!(
        "the source of core for Rust {release} cannot be had; by hand: `rustup component add rust-src`, or unpack \
         Debian's package {} {release} and copy its folder usr/src/rustc-{release}/library to {}",
        pin.package,
        dir(cache)?.join("library").display()
    );
    fetch_from_debian(cache, pin, &release).context(by_hand)
}

fn fetch_from_debian(cache: &Path, pin: &Package, release: &str) -> Result<RustSource> {
    let suite = Suite::open(cache, &pin.suite)?;
    let pinned = pin.version.starts_with(&format!("{release}+"));
    let file = if pinned {
        suite.download(&pin.package, &pin.version, Some(&pin.sha256))?
    } else {
        let Some(version) = version_for(&suite, pin, release)? else {
            bail!("Debian {} carries no {} {release}", pin.suite, pin.package);
        };
        suite.download(&pin.package, &version, None)?
    };
    let dir = dir(cache)?;
    let unpacked = dir.with_extension("partial");
    run::remove_dir(&unpacked)?;
    apt::unpack(&file, &unpacked)?;
    run::remove_dir(&dir)?;
    fs::create_dir_all(&dir)?;
    fs::rename(
        unpacked.join(format!("usr/src/rustc-{release}/library")),
        dir.join("library"),
    )
    .context("the package is laid out differently than expected")?;
    run::remove_dir(&unpacked)?;
    apt::discard_downloads(cache, &pin.suite)?;
    Ok(RustSource::Cache(dir.join("library")))
}

/// The newest packaging of exactly this release.
fn version_for(suite: &Suite, pin: &Package, release: &str) -> Result<Option<String>> {
    Ok(suite
        .versions(&pin.package)?
        .into_iter()
        .find(|version| version.starts_with(&format!("{release}+"))))
}

fn dir(cache: &Path) -> Result<PathBuf> {
    Ok(cache.join("rust-src").join(toolchain_release()?))
}

/// The release of the toolchain in use, such as `1.95.0`.
fn toolchain_release() -> Result<String> {
    let text = run::output(Command::new("rustc").arg("-vV"))?;
    let release = text.lines().find_map(|line| line.strip_prefix("release: "));
    release
        .map(str::to_owned)
        .context("`rustc -vV` names no release")
}
