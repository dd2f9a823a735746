//! Temporary folders shaped like `/proc`, for tests.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::source::Proc;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A folder shaped like `/proc`; removed when dropped.
pub(crate) struct ProcFolder(PathBuf);

impl ProcFolder {
    pub(crate) fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("undertrace-proc-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn source(&self) -> Proc {
        Proc::new(&self.0)
    }

    /// A line of `/proc/PID/stat` as the kernel writes it.
    pub(crate) fn stat(tgid: u32, comm: &str, flags: u32, start_ticks: u64) -> String {
        format!(
            "{tgid} ({comm}) S 1 {tgid} {tgid} 0 -1 {flags} 100 0 0 0 10 5 0 0 20 0 1 0 {start_ticks} 10000000 500 \
             18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        )
    }

    /// A process with an executable and arguments, without environment, in the root control group.
    pub(crate) fn add(&self, tgid: u32, start_ticks: u64, exe: &str, args: &[&str]) {
        let comm: String = exe
            .rsplit('/')
            .next()
            .unwrap_or(exe)
            .chars()
            .take(15)
            .collect();
        self.write(
            tgid,
            "stat",
            Self::stat(tgid, &comm, 0x40_0100, start_ticks).as_bytes(),
        );
        let line: String = args.iter().flat_map(|arg| [*arg, "\0"]).collect();
        self.write(tgid, "cmdline", line.as_bytes());
        self.write(tgid, "environ", b"");
        self.write(tgid, "cgroup", b"0::/\n");
        let link = self.0.join(tgid.to_string()).join("exe");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(exe, link).expect("the folder is writable");
    }

    pub(crate) fn write(&self, tgid: u32, file: &str, contents: &[u8]) {
        let folder = self.0.join(tgid.to_string());
        fs::create_dir_all(&folder).expect("the folder is writable");
        fs::write(folder.join(file), contents).expect("the folder is writable");
    }

    pub(crate) fn remove(&self, tgid: u32) {
        fs::remove_dir_all(self.0.join(tgid.to_string())).expect("the process was added");
    }
}

impl Drop for ProcFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
