//! `cargo xtask vm`: runs a command in a kernel of the matrix under QEMU.
//!
//! The guest sees this machine's file system: read-only, with overlays that vanish over the usual writable folders.
//! Folders named in [`Vm::share`] are the exception: what is written there stays. The command's output is passed on
//! as it comes and its exit code is returned. Nothing of this touches the machine's own kernel.

use std::{
    fs,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    paths, run,
    setup::{Kernel, Setup, tools, versions::versions},
};

mod guest;
mod output;
mod wire;

pub(crate) use guest::command_line;
pub(crate) use output::Output;
pub(crate) use wire::Wire;

/// Folders that the guest may write in, over this machine's content; what it writes vanishes with it.
const OVERLAYS: [&str; 8] = [
    "/etc", "/home", "/opt", "/root", "/srv", "/tmp", "/usr", "/var",
];

/// Where x86-64 kernels keep modules and compiled programs (Documentation/arch/x86/x86_64/mm.rst), as QEMU writes a range.
const MODULES: &str = "0xffffffffc0000000..0xfffffffffeffffff";

/// A virtual machine to be booted once.
#[derive(Clone, Debug)]
pub(crate) struct Vm<'a> {
    /// Kernel to boot.
    pub(crate) kernel: &'a Kernel,
    /// Number of virtual processors.
    pub(crate) cpus: u32,
    /// Memory as QEMU writes it, such as `2G`.
    pub(crate) memory: String,
    /// Wall-clock limit for boot and command together; past it the machine is ended.
    pub(crate) timeout: Duration,
    /// Use the processor's virtualisation instead of emulation.
    pub(crate) kvm: bool,
    /// Let guest time count guest instructions, 2 ns each, so that figures repeat; needs one processor.
    pub(crate) icount: bool,
    /// Further words for the kernel's command line.
    pub(crate) append: Vec<String>,
    /// Folders of this machine in which the guest may write for good. They must exist.
    pub(crate) share: Vec<PathBuf>,
    /// A file or pipe that gets the blocks of instructions that run where the kernel keeps modules and compiled programs, see QEMU's `-d exec,in_asm`.
    pub(crate) trace: Option<PathBuf>,
    /// A wire to another machine.
    pub(crate) wire: Option<Wire>,
    /// Working folder of the command.
    pub(crate) cwd: PathBuf,
    /// Variables for the command, beside a small fixed set.
    pub(crate) env: Vec<(String, String)>,
}

/// How a boot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The command ended with this exit code.
    Exited(i32),
    /// The time was up, or nobody needed the machine any more, and it was ended.
    TimedOut,
    /// The machine ended before the command did: a kernel panic, or QEMU did not start.
    Died,
}

impl<'a> Vm<'a> {
    /// A machine with one processor and 2 GiB, five minutes and nothing shared.
    ///
    /// # Errors
    /// When the current folder cannot be told.
    pub(crate) fn new(kernel: &'a Kernel) -> Result<Self> {
        Ok(Self {
            kernel,
            cpus: 1,
            memory: "2G".to_owned(),
            timeout: Duration::from_secs(300),
            kvm: false,
            icount: false,
            append: Vec::new(),
            share: Vec::new(),
            trace: None,
            wire: None,
            cwd: std::env::current_dir().context("cannot tell the current folder")?,
            env: Vec::new(),
        })
    }

    /// Boots, runs the command line of a shell, and waits for its end.
    ///
    /// # Errors
    /// When the machine cannot be started at all.
    pub(crate) fn run(&self, setup: &Setup, shell: &str, output: &Output) -> Result<Ended> {
        self.run_while(setup, shell, output, &AtomicBool::new(true))
    }

    /// The same for a machine that is ended as soon as it is not needed any more.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn run_while(
        &self,
        setup: &Setup,
        shell: &str,
        output: &Output,
        needed: &AtomicBool,
    ) -> Result<Ended> {
        if self.icount && (self.cpus != 1 || self.kvm) {
            bail!(
                "--icount counts the instructions of one emulated processor: use it with --cpus 1 and without --kvm"
            );
        }
        let folder = RunFolder::new()?;
        let script = folder.path.join("script");
        let exit_code = folder.path.join("exit-code");
        fs::write(
            &script,
            guest::script(&self.cwd, &self.env, shell, &exit_code),
        )?;
        let mut command = self.command(setup, &folder, &script)?;
        let mut child = command.spawn().context("cannot start virtme-ng")?;
        let copies = output::copy(&mut child, output)?;
        let (status, by_itself) = wait(&mut child, self.timeout, needed)?;
        for copy in copies {
            copy.join().expect("copying output does not panic");
        }
        if let Some(code) = fs::read_to_string(&exit_code)
            .ok()
            .and_then(|text| text.trim().parse().ok())
        {
            return Ok(Ended::Exited(code));
        }
        if !by_itself {
            return Ok(Ended::TimedOut);
        }
        if let Some(signal) = status.signal() {
            eprintln!("the virtual machine was ended by signal {signal}");
        }
        Ok(Ended::Died)
    }

    /// What keeps time right in a machine whose processor does not always get to run.
    fn clock_options(&self) -> &'static [&'static str] {
        // The kernel panics at boot when a few timer interrupts come late, and measures the TSC several times too slow,
        // which makes its time fly; with --icount neither depends on this machine's load.
        if self.kvm {
            &[]
        } else if self.icount {
            &["no_timer_check"]
        } else {
            &["no_timer_check", "tsc=unstable"]
        }
    }

    fn command(&self, setup: &Setup, folder: &RunFolder, script: &Path) -> Result<Command> {
        let modules = tools::virtme_ng(&setup.cache, versions());
        let qemu = run::find_program("qemu-system-x86_64")
            .context("QEMU is missing: apt-get install qemu-system-x86")?;
        // Each process on the way to QEMU dies with its parent, so no machine outlives this one, however it ends.
        let wrapper = folder.path.join("qemu");
        fs::write(
            &wrapper,
            format!(
                "#!/bin/sh\nexec setpriv --pdeathsig KILL {} \"$@\"\n",
                guest::quote(&qemu)
            ),
        )?;
        make_executable(&wrapper)?;

        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(tools::python()?);
        command.args([
            "-c",
            "import sys; from virtme.commands.run import main; sys.exit(main())",
        ]);
        command
            .env("PYTHONPATH", &modules)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        // virtme-ng looks for modprobe and its like, which a user's PATH leaves out.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command
            .arg("--kimg")
            .arg(&self.kernel.image)
            .arg("--qemu-bin")
            .arg(&wrapper);
        command.args([
            "--mods",
            "auto",
            "--user",
            "root",
            "--force-9p",
            "--show-boot-console",
            "--cwd",
            "/",
            "--name",
            "undertrace",
        ]);
        command.args(["--memory", &self.memory, "--cpus", &self.cpus.to_string()]);
        if !self.kvm {
            command.arg("--disable-kvm");
        }
        if self.icount {
            command.args(["--qemu-opt=-icount", "--qemu-opt=shift=1,sleep=off"]);
        }
        if let Some(trace) = &self.trace {
            let options = ["-d", "exec,nochain,in_asm", "-dfilter", MODULES, "-D"];
            command.args(options.map(|word| format!("--qemu-opt={word}")));
            command.arg(format!("--qemu-opt={}", trace.display()));
        }
        for word in self.wire.iter().flat_map(Wire::words) {
            command.arg(format!("--qemu-opt={word}"));
        }
        for dir in OVERLAYS.iter().filter(|dir| Path::new(dir).is_dir()) {
            command.arg(format!("--overlay-rwdir={dir}"));
        }
        for word in self
            .clock_options()
            .iter()
            .copied()
            .chain(self.append.iter().map(String::as_str))
        {
            command.arg(format!("--kopt={word}"));
        }
        for shared in std::iter::once(&folder.path).chain(&self.share) {
            let shared = shared
                .canonicalize()
                .with_context(|| format!("no folder {} to share", shared.display()))?;
            command.arg(format!("--rwdir={}", shared.display()));
        }
        command
            .arg("--script-sh")
            .arg(format!("bash {}", guest::quote(script)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        Ok(command)
    }
}

/// Runs a job for each item, two at a time: as many machines as two processors carry. Results are in the items' order.
pub(crate) fn two_at_a_time<T: Sync, R: Send>(items: &[T], job: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = job(item);
                    results
                        .lock()
                        .expect("no job panics with the lock")
                        .push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no job panics with the lock");
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// A folder for one boot: script, QEMU wrapper and exit code. Removed at the end.
struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = paths::target().join("vm");
        remove_abandoned(&parent);
        let path = parent.join(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self {
            path: path.canonicalize()?,
        })
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // What stays behind is small and lies in the target folder.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders of runs that were ended by force.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Waits for the machine's end, or ends its process group when the time is up or it is not needed any more. Returns
/// whether it ended by itself.
fn wait(child: &mut Child, timeout: Duration, needed: &AtomicBool) -> Result<(ExitStatus, bool)> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, true));
        }
        if Instant::now() >= deadline || !needed.load(Ordering::Acquire) {
            let group = Pid::from_child(child);
            kill_process_group(group, Signal::KILL).context("cannot end the virtual machine")?;
            return Ok((child.wait()?, false));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .context("cannot make a file executable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_keep_the_order_of_their_items() {
        assert_eq!(
            two_at_a_time(&[3, 1, 2, 5, 4], |n| n * 10),
            [30, 10, 20, 50, 40]
        );
        assert_eq!(two_at_a_time(&[] as &[i32], |n| *n), Vec::<i32>::new());
    }
}
