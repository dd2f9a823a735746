//! The one table of what setup fetches: `xtask/versions.json`, compiled in.

use std::{path::PathBuf, sync::OnceLock};

use serde::{Deserialize, Serialize};

/// Everything that setup fetches, with versions and checksums.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Versions {
    /// Version of the crate `bpf-linker`; 0.10.4 is the last that uses the LLVM inside rustc.
    pub(crate) bpf_linker: String,
    /// The VM runner, a wheel of the Python package index.
    pub(crate) virtme_ng: Wheel,
    /// Debian's package of the standard library's source, for toolchains without the component.
    pub(crate) rust_src: Package,
    /// The kernel matrix, oldest first.
    pub(crate) kernels: Vec<KernelPin>,
    /// Programs that this machine needs, and the packages they come in.
    pub(crate) host_packages: Vec<HostPackage>,
}

/// A pinned Python package.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wheel {
    /// Exact version.
    pub(crate) version: String,
    /// SHA-256 of the wheel, in hex.
    pub(crate) sha256: String,
}

/// A pinned Debian package.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    /// Suite of the Debian archive.
    pub(crate) suite: String,
    /// Name of the package.
    pub(crate) package: String,
    /// Exact version.
    pub(crate) version: String,
    /// SHA-256 of the package file, in hex.
    pub(crate) sha256: String,
}

/// A pinned kernel of the matrix.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelPin {
    /// The series by which commands name it, such as `6.12`.
    pub(crate) series: String,
    /// Suite of the Debian archive that carries it.
    pub(crate) suite: String,
    /// The release as `uname -r` prints it; package names end with it.
    pub(crate) release: String,
    /// Version of its packages.
    pub(crate) version: String,
    /// Its packages; the first holds the image.
    pub(crate) packages: Vec<KernelPackage>,
}

/// One package of a kernel.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelPackage {
    /// What stands before the release in its name.
    pub(crate) prefix: String,
    /// SHA-256 of the package file, in hex.
    pub(crate) sha256: String,
}

/// Purpose of packages that only `cargo xtask test --full` needs: some are large.
pub(crate) const FULL_RUNS: &str = "workloads of full runs";

/// A package that provides programs which must run on this machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostPackage {
    /// Name of the Debian package.
    pub(crate) package: String,
    /// The programs that are missed without it.
    pub(crate) commands: Vec<String>,
    /// Files that are missed without it, where it brings no program of its own.
    #[serde(default)]
    pub(crate) files: Vec<PathBuf>,
    /// What needs it: `virtual machines`, `workloads` or both; or [`FULL_RUNS`].
    pub(crate) purpose: String,
    /// The service that its installation would enable, which is not wanted.
    #[serde(default)]
    pub(crate) service: Option<String>,
}

/// The table.
pub(crate) fn versions() -> &'static Versions {
    static VERSIONS: OnceLock<Versions> = OnceLock::new();
    VERSIONS.get_or_init(|| {
        serde_json::from_str(include_str!("../../versions.json"))
            .expect("a test checks that versions.json parses")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_parses_and_is_complete() {
        let table = versions();
        assert!(table.kernels.len() >= 4);
        let checksums = table
            .kernels
            .iter()
            .flat_map(|kernel| kernel.packages.iter().map(|package| &package.sha256))
            .chain([&table.virtme_ng.sha256, &table.rust_src.sha256]);
        for checksum in checksums {
            assert_eq!(checksum.len(), 64);
            assert!(checksum.bytes().all(|b| b.is_ascii_hexdigit()));
        }
        for kernel in &table.kernels {
            assert!(kernel.release.starts_with(&kernel.series), "{kernel:?}");
            assert!(!kernel.packages.is_empty(), "{kernel:?}");
        }
        for package in &table.host_packages {
            assert!(
                !package.commands.is_empty() || !package.files.is_empty(),
                "{package:?} would never be missed"
            );
        }
    }
}
