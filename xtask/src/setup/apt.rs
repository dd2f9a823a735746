//! Fetches packages of any Debian suite without touching the machine's own package lists.
//!
//! Each suite has lists, state and downloads of its own in the cache; only mirrors and keys are the machine's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::sources::{self, Mirror};
use crate::run;

/// One suite of the Debian archive, opened through the machine's own mirrors.
#[derive(Debug)]
pub(crate) struct Suite {
    name: String,
    dir: PathBuf,
}

impl Suite {
    /// Opens a suite and fetches its package lists.
    ///
    /// # Errors
    /// When the machine names no Debian mirror, or the mirror does not serve the suite.
    pub(crate) fn open(cache: &Path, name: &str) -> Result<Self> {
        let mirrors = machine_mirrors()?;
        let dir = cache.join("apt").join(name);
        for part in ["lists/partial", "cache/archives/partial", "download"] {
            fs::create_dir_all(dir.join(part))?;
        }
        fs::write(dir.join("sources.list"), sources::lines_for(&mirrors, name))?;
        let suite = Self {
            name: name.to_owned(),
            dir,
        };
        // A suite may lack its security part; what counts is whether the wanted package is found afterwards.
        let updated = suite.run(suite.tool("apt-get").arg("update"));
        if updated.is_err() && !suite.has_lists() {
            return updated.map(|_| suite);
        }
        Ok(suite)
    }

    /// Downloads one package and returns its file.
    ///
    /// # Errors
    /// When the version is not there, or the file's checksum differs from the pinned one.
    pub(crate) fn download(
        &self,
        package: &str,
        version: &str,
        sha256: Option<&str>,
    ) -> Result<PathBuf> {
        let dir = self.dir.join("download").join(package);
        run::remove_dir(&dir)?;
        fs::create_dir_all(&dir)?;
        self.run(
            self.tool("apt-get")
                .current_dir(&dir)
                .arg("download")
                .arg(format!("{package}={version}")),
        )?;
        let file = fs::read_dir(&dir)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .with_context(|| format!("apt-get left no package file for {package}"))?;
        if let Some(wanted) = sha256 {
            verify(&file, wanted)?;
        }
        Ok(file)
    }

    /// Names of all packages that begin with `prefix`.
    ///
    /// # Errors
    /// When the package lists cannot be read.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self
            .run(self.tool("apt-cache").args(["pkgnames", prefix]))?
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// All versions of a package that the suite has, newest first.
    ///
    /// # Errors
    /// When the package lists cannot be read.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = self.run(self.tool("apt-cache").args(["madison", package]))?;
        let versions = table.lines().filter_map(|line| line.split('|').nth(1));
        Ok(versions.map(|version| version.trim().to_owned()).collect())
    }

    /// Runs a tool of apt; its own reasons make the error, not the long command line.
    fn run(&self, command: &mut Command) -> Result<String> {
        run::output(command).map_err(|error| {
            let text = format!("{error:#}");
            let reasons: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix("E: "))
                .collect();
            if reasons.is_empty() {
                error
            } else {
                anyhow!("Debian {}: {}", self.name, reasons.join("; "))
            }
        })
    }

    fn has_lists(&self) -> bool {
        fs::read_dir(self.dir.join("lists")).is_ok_and(|entries| {
            entries
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().contains("Packages"))
        })
    }

    fn tool(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        let dir = self.dir.display();
        for option in [
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("Dir::State={dir}"),
            format!("Dir::State::lists={dir}/lists"),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={dir}/cache"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // Suites past their end of life stop being re-signed; packages are held against pinned checksums.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
            .arg("-qq")
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// Removes what was downloaded from a suite.
///
/// # Errors
/// When it is there and cannot be removed.
pub(crate) fn discard_downloads(cache: &Path, suite: &str) -> Result<()> {
    run::remove_dir(&cache.join("apt").join(suite).join("download"))
}

/// A package file that the user put into the cache's folder `debs`, for machines whose mirror lacks it.
pub(crate) fn by_hand(cache: &Path, package: &str) -> Option<PathBuf> {
    let begin = format!("{package}_");
    fs::read_dir(cache.join("debs"))
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name.starts_with(&begin) && name.ends_with(".deb")
        })
}

/// Holds a file against its pinned checksum.
///
/// # Errors
/// When it differs.
pub(crate) fn verify(file: &Path, sha256: &str) -> Result<()> {
    let sum = run::output(Command::new("sha256sum").arg(file))?;
    // A name with odd characters makes sha256sum begin its line with a backslash.
    if !sum.trim_start_matches('\\').starts_with(sha256) {
        bail!(
            "{} has another checksum than xtask/versions.json says: refused",
            file.display()
        );
    }
    Ok(())
}

/// Unpacks a package file into a folder without installing it.
///
/// # Errors
/// When `dpkg` is missing or the file is damaged.
pub(crate) fn unpack(package: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    run::output(Command::new("dpkg").arg("-x").arg(package).arg(into)).map(drop)
}

/// Whether version `a` is newer than `b` in Debian's order.
pub(crate) fn is_newer(a: &str, b: &str) -> bool {
    Command::new("dpkg")
        .args(["--compare-versions", a, "gt", b])
        .status()
        .is_ok_and(|status| status.success())
}

/// The Debian mirrors of this machine's own apt settings.
fn machine_mirrors() -> Result<Vec<Mirror>> {
    let release =
        fs::read_to_string("/etc/os-release").context("cannot tell this machine's release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release names no VERSION_CODENAME")?;
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut more: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        more.sort();
        files.extend(more);
    }
    let mut mirrors = Vec::new();
    for file in files {
        let deb822 = match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => true,
            Some("list") => false,
            _ => continue,
        };
        if let Ok(text) = fs::read_to_string(&file) {
            mirrors.extend(sources::mirrors(&text, deb822, &codename));
        }
    }
    if !mirrors.iter().any(|mirror| !mirror.security) {
        bail!("the apt sources of this machine name no Debian mirror for {codename}");
    }
    Ok(mirrors)
}
