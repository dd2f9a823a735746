//! Workloads in languages that are compiled: the clients of the safety suite in Go and Java. Only full runs of the tests have them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{paths, run, setup::progress};

/// Where they lie; the scenarios are told.
pub(crate) fn folder() -> PathBuf {
    paths::target().join("workloads")
}

/// Compiles what is older than its source.
///
/// # Errors
/// When a compiler is missing or fails.
pub(crate) fn build() -> Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let sources = paths::workspace().join("tests/workloads/clients");
    for (source, made, words) in [
        (
            "client.go",
            "client-go",
            &["go", "build", "-o", "client-go"][..],
        ),
        ("Client.java", "Client.class", &["javac", "-d", "."]),
    ] {
        let source = sources.join(source);
        if is_newer(&folder.join(made), &source) {
            continue;
        }
        progress("workloads", &format!("compiling {made}"));
        let mut command = Command::new(words[0]);
        command.current_dir(&folder).args(&words[1..]).arg(&source);
        // Only what the compiler itself brings is used.
        command
            .env("GO111MODULE", "off")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0");
        run::output(&mut command)?;
    }
    Ok(())
}

fn is_newer(made: &Path, source: &Path) -> bool {
    let time = |file: &Path| fs::metadata(file).and_then(|data| data.modified());
    match (time(made), time(source)) {
        (Ok(made), Ok(source)) => made > source,
        _ => false,
    }
}
