//! Packages that must be installed on this machine: only the missing ones, through apt-get, each named.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::versions::HostPackage;
use crate::run;

/// The packages of the table whose programs this machine lacks.
pub(crate) fn missing(table: &[HostPackage]) -> Vec<&HostPackage> {
    table
        .iter()
        .filter(|p| {
            p.commands
                .iter()
                .any(|command| run::find_program(command).is_none())
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
    if apt_get(&["install", "--yes", "--no-install-recommends"], &names).is_ok() {
        return Ok(());
    }
    // The first try fails on a machine whose package lists are empty or old.
    apt_get(&["update"], &[]).with_context(|| by_hand.clone())?;
    apt_get(&["install", "--yes", "--no-install-recommends"], &names).context(by_hand)
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
    // Installing nginx must not start it.
    command.env("RUNLEVEL", "1");
    run::output(&mut command).map(drop)
}
