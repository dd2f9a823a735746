//! Reads processes from `/proc`.
//!
//! Input: a root folder. Output: [`RawProcess`], what was read of one process, checked to be that process from the first
//! byte to the last. Everything is bounded, everything may be missing: processes end while they are read. Of a process's
//! environment only the few variables that name a service are kept.
//!
//! Only the five files that matter are read, under any root, so that tests need no `/proc`.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::process::{cgroup::Place, resource::ProcessKey};

/// `USER_HZ`: /proc counts process start times in hundredths of a second on every architecture that is supported here.
const NS_PER_TICK: u64 = 10_000_000;
/// Set in a kernel thread's flags: `PF_KTHREAD`, Linux `include/linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;
/// Limit for `stat` and `cgroup`.
const MAX_SMALL_BYTES: u64 = 64 << 10;
/// Limit for the command line; a Java class path is long, what it runs stands behind it.
const MAX_COMMAND_BYTES: u64 = 128 << 10;
/// Limit for the environment: `MAX_ARG_STRLEN` times two.
const MAX_ENVIRON_BYTES: u64 = 256 << 10;

/// Variables that are kept of a process's environment.
const VARIABLES: [&str; 3] = ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "HOSTNAME"];

/// When a process began, in ticks of 10 ms since boot (CLOCK_BOOTTIME): the precision of `/proc`.
///
/// The kernel's own records state nanoseconds; both name the same process when their ticks are equal, because a process
/// id does not come round within 10 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StartTicks(u64);

impl StartTicks {
    /// The tick in which `start_ns` (nanoseconds since boot, `task_struct.start_boottime`) lies.
    #[must_use]
    pub const fn of_ns(start_ns: u64) -> Self {
        Self(start_ns / NS_PER_TICK)
    }

    /// Nanoseconds since boot at which the tick begins.
    #[must_use]
    pub const fn ns(self) -> u64 {
        self.0 * NS_PER_TICK
    }
}

/// What `/proc/PID/stat` tells, as far as it is used (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Name of the first thread, at most 15 bytes.
    pub comm: String,
    /// Thread group id of the parent.
    pub parent: u32,
    /// Whether it is a thread of the kernel.
    pub kernel_thread: bool,
    /// When it began.
    pub start: StartTicks,
}

impl Stat {
    /// Reads the one line of the file; the name stands in parentheses and may itself contain them, and spaces.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once('(')?;
        let (comm, rest) = rest.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        // state; then ppid is field 4, flags field 9, starttime field 22.
        let parent = fields.nth(1)?.parse().ok()?;
        let flags: u64 = fields.nth(4)?.parse().ok()?;
        let start = fields.nth(12)?.parse().ok()?;
        let kernel_thread = flags & PF_KTHREAD != 0;
        Some(Self {
            comm: comm.to_owned(),
            parent,
            kernel_thread,
            start: StartTicks(start),
        })
    }
}

/// A file, whatever it is called: the key under which what is known of an executable is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Last change of the contents, seconds and nanoseconds since the epoch.
    pub changed: (i64, i64),
}

/// Everything that is read of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawProcess {
    /// Thread group id in the pid namespace of the `/proc` that was read.
    pub tgid: u32,
    /// The contents of `stat`.
    pub stat: Stat,
    /// Path of the executable as the process sees it; none where it may not be read.
    pub exe: Option<PathBuf>,
    /// Arguments, the program's own name first.
    pub args: Vec<String>,
    /// The variables of its environment that are kept: name and value.
    pub variables: Vec<(&'static str, String)>,
    /// Its control group.
    pub place: Place,
    /// Name of its container in the pod, from the kubelet's mounts.
    pub container_name: Option<String>,
}

impl RawProcess {
    /// Its key, with the start to the precision of `/proc`.
    #[must_use]
    pub fn key(&self) -> ProcessKey {
        ProcessKey {
            tgid: self.tgid,
            start_ns: self.stat.start.ns(),
        }
    }

    /// The value of a variable that is kept; an empty value counts as none, as OpenTelemetry asks.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        let found = self
            .variables
            .iter()
            .find(|(variable, _)| *variable == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Base name of the executable, else empty.
    #[must_use]
    pub fn exe_name(&self) -> String {
        let name = self.exe.as_deref().and_then(Path::file_name);
        name.map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

/// Where processes are read from: a machine, or nothing when a recording is replayed.
pub trait ProcSource {
    /// The process ids that exist now; they may be gone when they are read.
    fn tgids(&self) -> Vec<u32>;

    /// Who has this process id now.
    fn stat(&self, tgid: u32) -> Option<Stat>;

    /// Everything of the process that has this id now; `None` when it ended meanwhile.
    fn process(&self, tgid: u32) -> Option<RawProcess>;

    /// The executable's image, opened for reading even where its path leads elsewhere (another mount namespace).
    fn image(&self, tgid: u32) -> Option<File>;

    /// Another of its files in `/proc`.
    fn open(&self, tgid: u32, name: &str) -> Option<File>;
}

impl<S: ProcSource + ?Sized> ProcSource for Box<S> {
    fn tgids(&self) -> Vec<u32> {
        (**self).tgids()
    }

    fn stat(&self, tgid: u32) -> Option<Stat> {
        (**self).stat(tgid)
    }

    fn process(&self, tgid: u32) -> Option<RawProcess> {
        (**self).process(tgid)
    }

    fn image(&self, tgid: u32) -> Option<File> {
        (**self).image(tgid)
    }

    fn open(&self, tgid: u32, name: &str) -> Option<File> {
        (**self).open(tgid, name)
    }
}

/// No processes at all: for replays, where everything known stands in the recording.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProc;

impl ProcSource for NoProc {
    fn tgids(&self) -> Vec<u32> {
        Vec::new()
    }

    fn stat(&self, _tgid: u32) -> Option<Stat> {
        None
    }

    fn process(&self, _tgid: u32) -> Option<RawProcess> {
        None
    }

    fn image(&self, _tgid: u32) -> Option<File> {
        None
    }

    fn open(&self, _tgid: u32, _name: &str) -> Option<File> {
        None
    }
}

/// A `/proc`.
#[derive(Debug, Clone)]
pub struct Proc {
    folder: PathBuf,
}

impl Proc {
    /// The `/proc` mounted at `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    fn of(&self, tgid: u32) -> PathBuf {
        self.folder.join(tgid.to_string())
    }
}

impl ProcSource for Proc {
    fn tgids(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    fn stat(&self, tgid: u32) -> Option<Stat> {
        Stat::parse(&text(&self.of(tgid).join("stat"), MAX_SMALL_BYTES)?)
    }

    fn process(&self, tgid: u32) -> Option<RawProcess> {
        let folder = self.of(tgid);
        let before = self.stat(tgid)?;
        let mut process = RawProcess {
            tgid,
            stat: before,
            exe: fs::read_link(folder.join("exe")).ok().map(without_deleted),
            args: arguments(&bytes(&folder.join("cmdline"), MAX_COMMAND_BYTES).unwrap_or_default()),
            variables: variables(
                &bytes(&folder.join("environ"), MAX_ENVIRON_BYTES).unwrap_or_default(),
            ),
            place: Place::parse(&text(&folder.join("cgroup"), MAX_SMALL_BYTES).unwrap_or_default()),
            container_name: None,
        };
        if process.place.pod_uid.is_some() {
            let mounts = text(&folder.join("mountinfo"), MAX_ENVIRON_BYTES).unwrap_or_default();
            process.container_name = container_name(&mounts);
        }
        // The id may have gone to another process in between; half of one and half of the other is nobody.
        let after = self.stat(tgid)?;
        (after.start == process.stat.start).then_some(process)
    }

    fn image(&self, tgid: u32) -> Option<File> {
        self.open(tgid, "exe")
    }

    fn open(&self, tgid: u32, name: &str) -> Option<File> {
        File::open(self.of(tgid).join(name)).ok()
    }
}

/// The identity of an open file.
#[must_use]
pub fn file_id(file: &File) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata().ok()?;
    metadata.is_file().then(|| FileId {
        device: metadata.dev(),
        inode: metadata.ino(),
        changed: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

fn bytes(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(limit)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

fn text(path: &Path, limit: u64) -> Option<String> {
    Some(String::from_utf8_lossy(&bytes(path, limit)?).into_owned())
}

/// The kernel appends ` (deleted)` to the path of a file that was replaced, which is what every upgrade does.
pub(super) fn without_deleted(path: PathBuf) -> PathBuf {
    let plain = path.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    plain
        .map(|plain| PathBuf::from(std::ffi::OsStr::from_bytes(plain)))
        .unwrap_or(path)
}

fn arguments(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes
        .split(|byte| *byte == 0)
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect()
}

fn variables(environ: &[u8]) -> Vec<(&'static str, String)> {
    let known = |entry: &[u8]| {
        let entry = std::str::from_utf8(entry).ok()?;
        let (name, value) = entry.split_once('=')?;
        let name = VARIABLES.iter().find(|variable| **variable == name)?;
        Some((*name, value.to_owned()))
    };
    environ.split(|byte| *byte == 0).filter_map(known).collect()
}

/// The container's name in its pod: the kubelet mounts `.../pods/UID/containers/NAME/HASH` over `/dev/termination-log`.
fn container_name(mountinfo: &str) -> Option<String> {
    let of_line = |line: &str| {
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let (_, rest) = root
            .split_once("/pods/")
            .filter(|_| point == "/dev/termination-log")?;
        let name = rest.split_once("/containers/")?.1.split('/').next()?;
        (!name.is_empty()).then(|| name.to_owned())
    };
    mountinfo.lines().find_map(of_line)
}

#[cfg(test)]
mod tests;
