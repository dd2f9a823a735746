//! Control groups of a scenario's own, named as container runtimes and Kubernetes name theirs.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::Skip;

/// Where the guest mounts the unified hierarchy.
const ROOT: &str = "/sys/fs/cgroup";

/// One control group, with those around it.
#[derive(Debug)]
pub(crate) struct Group {
    path: String,
}

impl Group {
    /// Makes the group at this path, which begins with a slash, below the mount point.
    ///
    /// # Errors
    /// [`Skip`] when the unified hierarchy is not mounted; otherwise when the group cannot be made.
    pub(crate) fn make(path: &str) -> Result<Self> {
        if !PathBuf::from(ROOT).join("cgroup.controllers").exists() {
            return Err(Skip(format!("no cgroup2 at {ROOT}")).into());
        }
        let folder = format!("{ROOT}{path}");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder}"))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The file that takes the ids of processes.
    pub(crate) fn processes(&self) -> String {
        format!("{ROOT}{}/cgroup.procs", self.path)
    }

    /// Moves a process here.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn take(&self, pid: u32) -> Result<()> {
        let file = self.processes();
        fs::write(&file, pid.to_string()).with_context(|| format!("cannot write to {file}"))
    }
}

/// Removes the group and those around it, as far as nobody else is in them.
impl Drop for Group {
    fn drop(&mut self) {
        let mut path = self.path.as_str();
        while !path.is_empty() && fs::remove_dir(format!("{ROOT}{path}")).is_ok() {
            path = path.rsplit_once('/').map_or("", |(around, _)| around);
        }
    }
}
