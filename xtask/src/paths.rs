//! Where things lie: the workspace, its target folder and the cache that outlives it.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The root of the workspace that this xtask was built from.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the xtask crate lies in a folder of the workspace")
}

/// The target folder of the workspace, `CARGO_TARGET_DIR` if that is set.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// The folder for what setup fetches: `$UNDERTRACE_CACHE`, `$XDG_CACHE_HOME/undertrace` or `~/.cache/undertrace`.
///
/// # Errors
/// When none of the three can be told because `HOME` is unset too.
pub(crate) fn cache() -> Result<PathBuf> {
    let var = |name| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = var("UNDERTRACE_CACHE") {
        return std::path::absolute(&dir).context("UNDERTRACE_CACHE is no usable path");
    }
    if let Some(dir) = var("XDG_CACHE_HOME") {
        return Ok(dir.join("undertrace"));
    }
    let home = var("HOME")
        .context("no place for the cache: set UNDERTRACE_CACHE to a folder with 3 GB free")?;
    Ok(home.join(".cache/undertrace"))
}
