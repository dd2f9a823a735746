//! Packages that must be installed on this machine: only the missing ones, through apt-get, each named.
//!
//! Only their programs are wanted: a server that comes with its package is neither started nor enabled.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::versions::HostPackage;
use crate::run;

/// The packages of the table whose programs or files this machine lacks.
pub(crate) fn missing(table: &[HostPackage]) -> Vec<&HostPackage> {
    table
        .iter()
        .filter(|p| {
            let mut commands = p.commands.iter();
            commands.any(|command| run::find_program(command).is_none())
                || p.files.iter().any(|file| !file.exists())
        })
        .collect()
}

/// Installs packages.
///
/// # Errors
/// When this is not root, apt-get is missing, or apt-get fails.
pub(crate) fn install(packages: &[&HostPackage]) -> Result<()> {
    let names: Vec<&str> = packages
        .iter()
        .map(|package| package.package.as_str())
        .collect();
    let by_hand = format!(
        "by hand: sudo apt-get install --no-install-recommends {}",
        names.join(" ")
    );
    if run::find_program("apt-get").is_none() {
        bail!(
            "this machine has no apt-get; install what provides these Debian packages: {}",
            names.join(" ")
        );
    }
    if !run::is_root() {
        bail!("packages are missing and only root can install them; {by_hand}");
    }
    let _quiet = NoServiceStart::begin();
    let install = ["install", "--yes", "--no-install-recommends"];
    if apt_get(&install, &names).is_err() {
        // The first try fails on a machine whose package lists are empty or old.
        apt_get(&["update"], &[]).with_context(|| by_hand.clone())?;
        apt_get(&install, &names).context(by_hand)?;
    }
    for service in packages
        .iter()
        .filter_map(|package| package.service.as_ref())
    {
        // Absent or without systemd there is nothing that could be enabled.
        let _ =
            run::output(Command::new("systemctl").args(["--quiet", "disable", service.as_str()]));
    }
    Ok(())
}

/// Keeps installed packages from starting their services, by Debian's own switch for that (see invoke-rc.d(8)).
struct NoServiceStart {
    made: bool,
}

/// What maintainer scripts ask before they start a service; 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServiceStart {
    fn begin() -> Self {
        // A policy that is there already is the administrator's.
        let made = !Path::new(POLICY).exists()
            && fs::write(POLICY, "#!/bin/sh\nexit 101\n").is_ok()
            && fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).is_ok();
        Self { made }
    }
}

impl Drop for NoServiceStart {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(POLICY);
        }
    }
}

fn apt_get(arguments: &[&str], names: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .arg("-qq")
        .args(["-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300"]);
    command
        .args(arguments)
        .args(names)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
    run::output(&mut command).map(drop)
}
