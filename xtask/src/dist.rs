//! `cargo xtask dist`: the release binary with what is needed to install it, as a folder and as an archive.
//!
//! Input: the folder `dist/` of the workspace and the licences. Output: `target/dist/undertrace-VERSION-ARCH/`, the same as
//! `.tar.gz`, and its SHA-256. Nothing is installed and no image is built.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{build, paths, run, setup::Setup};

/// What goes beside the binary, from the root of the workspace.
const FILES: [&str; 8] = [
    "dist/undertrace.service",
    "dist/undertrace-inject.conf",
    "dist/undertrace.env",
    "dist/Containerfile",
    "dist/daemonset.yaml",
    "dist/daemonset-inject.yaml",
    "LICENSE",
    "agent-ebpf/LICENSE-GPL-2.0",
];

/// What was made.
#[derive(Debug)]
pub(crate) struct Distribution {
    /// The folder with everything in it.
    pub(crate) folder: PathBuf,
    /// The same as an archive.
    pub(crate) archive: PathBuf,
    /// The oldest C library that the binary runs with, if that can be told.
    pub(crate) libc: Option<String>,
}

/// Builds the release binary and puts the distribution together.
///
/// # Errors
/// When the build fails, a file is missing, or the binary does not say its version.
pub(crate) fn run(setup: &Setup) -> Result<Distribution> {
    let built = build::run(setup, true)?;
    let version = run::output(Command::new(&built.agent).arg("version"))
        .context("the binary does not say its version")?;
    let Some(version) = version.trim().strip_prefix("undertrace ") else {
        bail!("the binary calls its version `{}`", version.trim());
    };
    let name = format!("undertrace-{version}-{}", std::env::consts::ARCH);
    let parent = paths::target().join("dist");
    run::remove_dir(&parent)?;
    let folder = parent.join(&name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    copy(&built.agent, &folder)?;
    for file in FILES {
        copy(&paths::workspace().join(file), &folder)?;
    }
    let archive = parent.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    // The same content makes the same archive, whoever packs it and when.
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "--mode=u=rwX,go=rX",
    ]);
    tar.args(["--use-compress-program", "gzip -n9", "--create", "--file"]);
    run::output(tar.arg(&archive).arg("--directory").arg(&parent).arg(&name))?;
    let sum = run::output(
        Command::new("sha256sum")
            .current_dir(&parent)
            .arg(format!("{name}.tar.gz")),
    )?;
    fs::write(parent.join(format!("{name}.tar.gz.sha256")), sum)?;
    let libc = fs::read(&built.agent)
        .ok()
        .and_then(|binary| newest_libc(&binary));
    Ok(Distribution {
        folder,
        archive,
        libc,
    })
}

fn copy(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().context("a file has a name")?;
    fs::copy(file, folder.join(name))
        .map(drop)
        .with_context(|| format!("cannot copy {}", file.display()))
}

/// The newest `GLIBC_x.y` that stands in a binary's table of version names.
fn newest_libc(binary: &[u8]) -> Option<String> {
    let newest = binary
        .split(|byte| *byte == 0)
        .filter_map(|text| std::str::from_utf8(text.strip_prefix(b"GLIBC_")?).ok())
        .filter_map(|version| {
            let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
            Some((parts.next()??, parts.next()??))
        })
        .max()?;
    Some(format!("glibc {}.{}", newest.0, newest.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str) -> String {
        fs::read_to_string(paths::workspace().join(file)).expect("the file is there")
    }

    /// The capabilities of a line of the unit, without their prefix.
    fn unit_capabilities(unit: &str, key: &str) -> Vec<String> {
        let line = unit.lines().find_map(|line| line.strip_prefix(key));
        let words = line.expect("the unit has this line").split_whitespace();
        words
            .map(|word| word.trim_start_matches("CAP_").to_owned())
            .collect()
    }

    #[test]
    fn unit_and_manifest_grant_the_same_capabilities_and_no_more() {
        let unit = read("dist/undertrace.service");
        let ambient = unit_capabilities(&unit, "AmbientCapabilities=");
        assert_eq!(ambient, unit_capabilities(&unit, "CapabilityBoundingSet="));
        assert_eq!(ambient, added(&read("dist/daemonset.yaml")));
        assert!(!ambient.iter().any(|name| name == "SYS_ADMIN"));
    }

    /// The capabilities that a manifest adds.
    fn added(manifest: &str) -> Vec<String> {
        manifest
            .lines()
            .skip_while(|line| !line.trim().starts_with("add:"))
            .skip(1)
            .map_while(|line| line.trim().strip_prefix("- "))
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect()
    }

    #[test]
    fn writing_headers_adds_the_same_capabilities_to_unit_and_manifest() {
        let drop_in = read("dist/undertrace-inject.conf");
        let more = unit_capabilities(&drop_in, "AmbientCapabilities=");
        assert_eq!(more, unit_capabilities(&drop_in, "CapabilityBoundingSet="));
        assert!(!more.is_empty());
        // The unit's list grows, the manifest's is replaced.
        let all = [added(&read("dist/daemonset.yaml")), more].concat();
        assert_eq!(all, added(&read("dist/daemonset-inject.yaml")));
    }

    #[test]
    fn manifest_is_not_privileged_and_sees_the_nodes_processes() {
        let manifest = read("dist/daemonset.yaml");
        assert!(manifest.contains("privileged: false\n"));
        assert!(!manifest.contains("privileged: true"));
        assert!(manifest.contains("hostPID: true"));
        assert!(manifest.contains("drop: [\"ALL\"]"));
    }

    #[test]
    fn every_file_of_the_distribution_is_in_the_tree() {
        for file in FILES {
            assert!(paths::workspace().join(file).is_file(), "{file}");
        }
    }

    #[test]
    fn newest_c_library_is_compared_by_number() {
        let table = b"\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBC_PRIVATE\0puts\0";
        assert_eq!(newest_libc(table).as_deref(), Some("glibc 2.34"));
        assert_eq!(newest_libc(b"\0puts\0"), None);
    }
}
