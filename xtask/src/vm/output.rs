//! Passes on what the guest writes, without the kernel's talk while it boots.

use std::{
    fs,
    io::{self, Read, Write},
    path::PathBuf,
    process::Child,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};

use super::guest::BEGIN;
use crate::run;

/// Lines of the boot that are shown when the command never began.
const BOOT_LINES: usize = 30;

/// Where the guest's output goes.
#[derive(Debug)]
pub(crate) enum Output {
    /// To this process's own standard output and error.
    Inherit,
    /// Both appended to one file.
    File(PathBuf),
}

/// Copies both pipes of a child until they close; the threads end then.
///
/// QEMU reopens its standard output by path, which would truncate a regular file: it must always get pipes.
///
/// # Errors
/// When the file cannot be opened.
pub(super) fn copy(child: &mut Child, output: &Output) -> Result<[JoinHandle<()>; 2]> {
    let stdout = child.stdout.take().expect("standard output is piped");
    let stderr = child.stderr.take().expect("standard error is piped");
    Ok(match output {
        Output::Inherit => [
            thread::spawn(move || pass_on(stdout, io::stdout())),
            thread::spawn(move || pass_on_after_boot(stderr, io::stderr())),
        ],
        Output::File(path) => {
            let file = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            let same = file.try_clone()?;
            [
                thread::spawn(move || pass_on(stdout, same)),
                thread::spawn(move || pass_on_after_boot(stderr, file)),
            ]
        }
    })
}

fn pass_on(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 8192];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        // A reader that went away must not stop the machine: its output is drained on.
        let _ = to.write_all(&buffer[..count]).and_then(|()| to.flush());
    }
}

/// Leaves out what comes before the command; if that never begins, shows the end of it.
fn pass_on_after_boot(mut from: impl Read, mut to: impl Write) {
    let marker = format!("{BEGIN}\n");
    let mut boot = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        boot.extend_from_slice(&buffer[..count]);
        if let Some(at) = boot
            .windows(marker.len())
            .position(|window| window == marker.as_bytes())
        {
            let _ = to
                .write_all(&boot[at + marker.len()..])
                .and_then(|()| to.flush());
            return pass_on(from, to);
        }
    }
    let text = String::from_utf8_lossy(&boot);
    let _ = writeln!(to, "{}", run::tail(&text, BOOT_LINES));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed_on(text: &str) -> String {
        let mut out = Vec::new();
        pass_on_after_boot(text.as_bytes(), &mut out);
        String::from_utf8(out).expect("it is text")
    }

    #[test]
    fn boot_is_left_out_and_the_rest_kept() {
        assert_eq!(
            passed_on(&format!("[0.0] Linux\n{BEGIN}\nwarning: a\nb\n")),
            "warning: a\nb\n"
        );
        assert_eq!(passed_on(&format!("{BEGIN}\n")), "");
    }

    #[test]
    fn end_of_the_boot_is_shown_when_the_command_never_began() {
        assert_eq!(
            passed_on("[0.0] Linux\nKernel panic\n"),
            "[0.0] Linux\nKernel panic\n"
        );
    }
}
