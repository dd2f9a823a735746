//! The files whose code a process has mapped: its program, and the libraries that are loaded now.
//!
//! Input: a `/proc`. Output: [`Mapped`] files, and each one opened, wherever its path leads from here: through the process's own mount
//! namespace, and also where it was deleted or replaced meanwhile. Nothing is opened but regular files, and nothing but the very
//! file that is mapped: what a path leads to is in the hands of whoever owns the process.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read as _},
    ops::Range,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

use super::source::without_deleted;

/// Bytes of `maps` that are read: the 262,144 lines that databases ask for, with long paths. What a process loaded first stands last.
const MAX_BYTES: u64 = 64 << 20;
/// Files that are kept of one process; a desktop program has 300.
const MAX_FILES: usize = 1024;

/// A file whose code is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// Its path as the process saw it.
    pub path: PathBuf,
    /// Its device as `maps` states it, which need not be what `stat` says (overlayfs, btrfs).
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Where the first part of its code is mapped.
    pub addresses: Range<u64>,
}

/// The files whose code a process has mapped, each once, in the order of their addresses.
///
/// # Errors
/// When the process is gone, or may not be looked at.
pub fn files(proc: &Path, tgid: u32) -> io::Result<Vec<Mapped>> {
    let maps = File::open(proc.join(tgid.to_string()).join("maps"))?;
    parse(BufReader::new(maps.take(MAX_BYTES)))
}

pub(crate) fn parse(mut maps: impl BufRead) -> io::Result<Vec<Mapped>> {
    let mut files: Vec<Mapped> = Vec::new();
    let mut line = Vec::new();
    while files.len() < MAX_FILES {
        line.clear();
        if maps.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if let Some(file) = mapped(line.strip_suffix(b"\n").unwrap_or(&line))
            && !files.iter().any(|other| {
                (other.device, other.inode, &other.path) == (file.device, file.inode, &file.path)
            })
        {
            files.push(file);
        }
    }
    Ok(files)
}

/// `7f0000001000-7f0000002000 r-xp 00001000 fe:00 1234      /usr/lib/libssl.so.3` (proc_pid_maps(5)).
fn mapped(line: &[u8]) -> Option<Mapped> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let (addresses, rights, _) = (field()?, field()?, field()?);
    let (device, inode) = (field()?, field()?.parse().ok()?);
    if rights.as_bytes().get(2) != Some(&b'x') || inode == 0 {
        return None;
    }
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = addresses.split_once('-')?;
    let (major, minor) = device.split_once(':')?;
    let path = fields.next()?.trim_ascii_start();
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    path.starts_with(b"/").then_some(())?;
    Some(Mapped {
        path: PathBuf::from(OsStr::from_bytes(path)),
        device: number(major)? << 32 | number(minor)?,
        inode,
        addresses: number(start)?..number(end)?,
    })
}

/// Opens a mapped file for reading; `None` where that very file cannot be had.
#[must_use]
pub fn open(proc: &Path, tgid: u32, mapped: &Mapped) -> Option<File> {
    let process = proc.join(tgid.to_string());
    // The kernel's own link to the file; needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
    let Range { start, end } = mapped.addresses;
    let link = process.join(format!("map_files/{start:x}-{end:x}"));
    let place = |path: &Path, flags| {
        rustix::fs::open(path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    };
    let direct = place(&link, OFlags::empty()).ok();
    let file = direct.and_then(|file| regular(&file, None));
    file.or_else(|| {
        let root = place(&process.join("root"), OFlags::DIRECTORY).ok()?;
        let path = mapped.path.strip_prefix("/").ok()?;
        let file = rustix::fs::openat2(
            root,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        regular(&file.ok()?, Some(mapped.inode))
    })
}

/// Opens what a place is, if it is a regular file with this inode: a pipe or a device must not even be opened.
fn regular(place: &OwnedFd, inode: Option<u64>) -> Option<File> {
    let status = rustix::fs::fstat(place).ok()?;
    let is_file = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
    if !is_file || inode.is_some_and(|inode| inode != status.st_ino) {
        return None;
    }
    let again = format!("/proc/self/fd/{}", place.as_raw_fd());
    let file = rustix::fs::openat(CWD, again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    file.ok().map(File::from)
}

/// The path of a process's program, as it saw it; none where it may not be read.
#[must_use]
pub fn program(proc: &Path, tgid: u32) -> Option<PathBuf> {
    let link = fs::read_link(proc.join(tgid.to_string()).join("exe"));
    link.ok().map(without_deleted)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::process::fixture::ProcFolder;

    const MAPS: &[u8] = b"\
55d0c0000000-55d0c0001000 r--p 00000000 fe:00 77                         /usr/bin/curl
55d0c0001000-55d0c0002000 r-xp 00001000 fe:00 77                         /usr/bin/curl
55d0c0003000-55d0c0004000 r-xp 00003000 fe:00 77                         /usr/bin/curl
7f0000000000-7f0000001000 r-xp 00000000 00:2f 18446744073709551615       /opt/my libs/libssl.so.3 (deleted)
7f0000001000-7f0000002000 rwxp 00000000 00:00 0 
7f0000002000-7f0000003000 r-xp 00000000 00:01 12                         /memfd:jit (deleted)
7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0                          [vdso]
7f0000004000-7f0000005000 r-xp 00000000 fe:00 78                         anon_inode:x
not a line
";

    #[test]
    fn lists_each_file_with_code_once() {
        let files = parse(MAPS).expect("it is readable");
        let file = |path: &str, device, inode, addresses| Mapped {
            path: path.into(),
            device,
            inode,
            addresses,
        };
        assert_eq!(
            files,
            [
                file(
                    "/usr/bin/curl",
                    0xfe << 32,
                    77,
                    0x55d0_c000_1000..0x55d0_c000_2000
                ),
                file(
                    "/opt/my libs/libssl.so.3",
                    0x2f,
                    u64::MAX,
                    0x7f00_0000_0000..0x7f00_0000_1000
                ),
                file("/memfd:jit", 1, 12, 0x7f00_0000_2000..0x7f00_0000_3000),
            ]
        );
    }

    #[test]
    fn keeps_no_more_files_than_a_process_has() {
        let mut maps = Vec::new();
        for inode in 1..=2 * MAX_FILES {
            writeln!(maps, "1000-2000 r-xp 0 0:1 {inode} /f").expect("a Vec takes all");
        }
        assert_eq!(parse(maps.as_slice()).expect("readable").len(), MAX_FILES);
    }

    #[test]
    fn opens_the_file_that_is_mapped_and_no_other() {
        let folder = ProcFolder::new();
        let process = folder.path().join("7");
        let root = folder.path().join("container");
        fs::create_dir_all(root.join("lib")).expect("the folder is writable");
        folder.write(7, "maps", b"");
        std::os::unix::fs::symlink(&root, process.join("root")).expect("the folder is writable");
        let path = root.join("lib/libssl.so.3");
        fs::write(&path, b"the library").expect("the folder is writable");
        let inode = rustix::fs::stat(&path).expect("it is there").st_ino;
        let mapped = |inode| Mapped {
            path: "/lib/libssl.so.3".into(),
            device: 0,
            inode,
            addresses: 0x1000..0x2000,
        };
        let opened = |inode| {
            let mut text = String::new();
            open(folder.path(), 7, &mapped(inode))?
                .read_to_string(&mut text)
                .ok()?;
            Some(text)
        };
        assert_eq!(opened(inode).as_deref(), Some("the library"));
        assert_eq!(
            opened(inode + 1),
            None,
            "somebody has put another one there"
        );

        // What leads out of the process's root leads into it.
        fs::rename(&path, root.join("lib/other")).expect("the folder is writable");
        std::os::unix::fs::symlink("/lib/other", &path).expect("the folder is writable");
        assert_eq!(opened(inode).as_deref(), Some("the library"));

        // A pipe is not opened, which would wait for ever.
        fs::remove_file(&path).expect("it is there");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
        let inode = rustix::fs::stat(&path).expect("it is there").st_ino;
        assert_eq!(opened(inode), None);
        assert_eq!(
            open(folder.path(), 8, &mapped(inode)).map(|_| ()),
            None,
            "it is gone"
        );
    }

    #[test]
    fn opens_files_of_this_very_process() {
        let proc = Path::new("/proc");
        let own = std::process::id();
        let files = files(proc, own).expect("it runs");
        let program = program(proc, own).expect("it runs");
        let mapped = files.iter().find(|file| file.path == program);
        let file = open(proc, own, mapped.expect("its code is mapped")).expect("it runs");
        let id = |file: &File| crate::process::source::file_id(file);
        assert_eq!(
            id(&file),
            id(&File::open("/proc/self/exe").expect("it runs"))
        );
    }
}
