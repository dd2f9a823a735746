//! The kernels of the matrix: fetched from Debian, unpacked in the cache, never installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    apt::{self, Suite},
    versions::{KernelPackage, KernelPin},
};
use crate::run;

/// A kernel that lies in the cache, ready to boot.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Kernel {
    /// The series by which commands name it, such as `6.12`.
    pub(crate) series: String,
    /// The release as `uname -r` prints it.
    pub(crate) release: String,
    /// Version of the packages that it came from.
    pub(crate) version: String,
    /// The pinned version at the time; differs from `version` when that one was gone.
    pinned: String,
    /// The image to boot.
    pub(crate) image: PathBuf,
}

impl Kernel {
    /// What `setup` says of it: release, and whether it stands in for the pinned one.
    pub(crate) fn describe(&self) -> String {
        if self.version == self.pinned {
            self.release.clone()
        } else {
            format!(
                "{} (newest of the series: the pinned {} is gone)",
                self.release, self.pinned
            )
        }
    }
}

/// The kernel of this pin if the cache has it.
pub(crate) fn cached(cache: &Path, pin: &KernelPin) -> Option<Kernel> {
    let text = fs::read_to_string(dir(cache, pin).join("kernel.json")).ok()?;
    let kernel: Kernel = serde_json::from_str(&text).ok()?;
    (kernel.pinned == pin.version && kernel.image.is_file()).then_some(kernel)
}

/// Fetches and unpacks a kernel; the newest of its series if the pinned one is gone.
///
/// # Errors
/// When neither can be had.
pub(crate) fn fetch(cache: &Path, pin: &KernelPin) -> Result<Kernel> {
    let found = match laid_down_by_hand(cache, pin)? {
        Some(files) => Found {
            release: pin.release.clone(),
            version: pin.version.clone(),
            files,
        },
        None => download(cache, pin).with_context(|| {
            let names: Vec<String> = pin
                .packages
                .iter()
                .map(|package| format!("{}{} {}", package.prefix, pin.release, pin.version))
                .collect();
            format!(
                "by hand: put the package files of {} into {}",
                names.join(" and "),
                cache.join("debs").display()
            )
        })?,
    };
    let dir = dir(cache, pin);
    run::remove_dir(&dir)?;
    for file in &found.files {
        apt::unpack(file, &dir)?;
    }
    apt::discard_downloads(cache, &pin.suite)?;
    index_modules(&dir, &found.release)?;
    let image = place_image(&dir, &found.release)?;
    let kernel = Kernel {
        series: pin.series.clone(),
        release: found.release,
        version: found.version,
        pinned: pin.version.clone(),
        image,
    };
    fs::write(
        dir.join("kernel.json"),
        serde_json::to_string_pretty(&kernel)?,
    )?;
    Ok(kernel)
}

fn dir(cache: &Path, pin: &KernelPin) -> PathBuf {
    cache.join("kernels").join(&pin.series)
}

/// Package files of one kernel.
struct Found {
    release: String,
    version: String,
    files: Vec<PathBuf>,
}

/// The pinned packages, if the user put all of them into the cache.
fn laid_down_by_hand(cache: &Path, pin: &KernelPin) -> Result<Option<Vec<PathBuf>>> {
    let mut files = Vec::new();
    for package in &pin.packages {
        let name = format!("{}{}", package.prefix, pin.release);
        let Some(file) = apt::by_hand(cache, &name) else {
            return Ok(None);
        };
        apt::verify(&file, &package.sha256)?;
        files.push(file);
    }
    Ok(Some(files))
}

fn download(cache: &Path, pin: &KernelPin) -> Result<Found> {
    let suite = Suite::open(cache, &pin.suite)?;
    match download_release(&suite, &pin.release, &pin.version, &pin.packages, true) {
        Ok(files) => Ok(Found {
            release: pin.release.clone(),
            version: pin.version.clone(),
            files,
        }),
        Err(error) => {
            let Some((release, version)) = newest_of_series(&suite, pin)? else {
                return Err(error);
            };
            let files = download_release(&suite, &release, &version, &pin.packages, false)?;
            Ok(Found {
                release,
                version,
                files,
            })
        }
    }
}

fn download_release(
    suite: &Suite,
    release: &str,
    version: &str,
    packages: &[KernelPackage],
    pinned: bool,
) -> Result<Vec<PathBuf>> {
    packages
        .iter()
        .map(|package| {
            let name = format!("{}{release}", package.prefix);
            suite.download(&name, version, pinned.then_some(package.sha256.as_str()))
        })
        .collect()
}

/// The newest release of the pin's series that its suite carries, and its version.
fn newest_of_series(suite: &Suite, pin: &KernelPin) -> Result<Option<(String, String)>> {
    let prefix = &pin
        .packages
        .first()
        .context("a kernel has at least one package")?
        .prefix;
    let mut newest: Option<(String, String)> = None;
    for name in suite.names(&format!("{prefix}{}", pin.series))? {
        let Some(release) = name
            .strip_prefix(prefix.as_str())
            .filter(|r| is_plain_release(r, &pin.series))
        else {
            continue;
        };
        let Some(version) = suite.versions(&name)?.into_iter().next() else {
            continue;
        };
        if newest
            .as_ref()
            .is_none_or(|(_, best)| apt::is_newer(&version, best))
        {
            newest = Some((release.to_owned(), version));
        }
    }
    Ok(newest)
}

/// Whether a release is of this series and of the plain amd64 flavour: the cloud flavour has no 9p file system, and
/// real-time and unsigned builds are no part of the matrix.
fn is_plain_release(release: &str, series: &str) -> bool {
    let Some(rest) = release
        .strip_prefix(series)
        .and_then(|r| r.strip_suffix("-amd64"))
    else {
        return false;
    };
    let flavoured = ["cloud", "rt", "dbg", "unsigned"]
        .iter()
        .any(|word| rest.split(['-', '.']).any(|p| p == *word));
    rest.starts_with(['.', '-', '+']) && !flavoured
}

/// Puts the image where the VM runner expects it, beside the modules' tree; newer packages ship it among the modules.
fn place_image(dir: &Path, release: &str) -> Result<PathBuf> {
    let image = dir.join(format!("boot/vmlinuz-{release}"));
    let among_modules = dir.join("lib/modules").join(release).join("vmlinuz");
    if !image.is_file() && among_modules.is_file() {
        fs::create_dir_all(dir.join("boot"))?;
        fs::hard_link(among_modules, &image).context("cannot link the kernel's image")?;
    }
    if !image.is_file() {
        bail!("its packages hold no image of {release}");
    }
    Ok(image)
}

/// Makes the module index if the package left that to its installation.
fn index_modules(dir: &Path, release: &str) -> Result<()> {
    // depmod looks in lib/modules; packages of merged-usr releases ship usr/lib/modules.
    let merged = dir.join("usr/lib/modules");
    if merged.is_dir() && !dir.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", dir.join("lib"))?;
    }
    let modules = dir.join("lib/modules").join(release);
    if !modules.is_dir() {
        bail!("its packages hold no modules for {release}");
    }
    let depmod =
        run::find_program("depmod").context("`depmod` is missing: apt-get install kmod")?;
    run::output(Command::new(depmod).arg("-b").arg(dir).arg(release)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_releases_of_the_series_count() {
        for good in ["5.10.0-32-amd64", "5.10.0-46-amd64"] {
            assert!(is_plain_release(good, "5.10"), "{good}");
        }
        assert!(is_plain_release("7.2.12+deb13-amd64", "7.2"));
        for bad in [
            "5.10.0-32-cloud-amd64",
            "5.10.0-32-rt-amd64",
            "5.10.0-32-amd64-unsigned",
            "5.100.1-amd64",
        ] {
            assert!(!is_plain_release(bad, "5.10"), "{bad}");
        }
        assert!(!is_plain_release("6.12.107+deb13-amd64", "6.1"));
    }
}
