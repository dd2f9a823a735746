//! Whose processes a mounted `/proc` shows.
//!
//! Input: the folder. Output: [`Processes`]. The kernel names processes by the ids of the first pid namespace, so only a `/proc` that
//! was mounted in that namespace says who they are; it may be seen from any other namespace.

use std::{fs, path::Path};

use serde::Serialize;

/// Inode of the first pid namespace, `PROC_PID_INIT_INO` in Linux `include/linux/proc_ns.h`.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// The parent of all kernel threads is the second process of the first pid namespace; other namespaces have no kernel threads.
const KERNEL_THREADS_PARENT: &str = "2 (kthreadd) ";

/// Whose processes a `/proc` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "shown")]
pub enum Processes {
    /// All of this machine, this one with the id `own`.
    Host {
        /// Id of this process in the first pid namespace.
        own: u32,
    },
    /// Those of a container.
    Container,
    /// The folder is no `/proc`.
    Unreadable,
}

impl Processes {
    /// Looks at the `/proc` mounted at `proc`.
    #[must_use]
    pub fn shown_by(proc: &Path) -> Self {
        let link = |path: &str| fs::read_link(proc.join(path)).ok();
        if fs::symlink_metadata(proc.join("self")).is_err() {
            return Self::Unreadable;
        }
        // The link leads nowhere where this process is not in the namespace of the mount.
        let own = link("self").and_then(|own| own.to_str()?.parse().ok());
        let Some(own) = own else {
            return Self::Container;
        };
        let is_first = |path| link(path).map(|ns| ns.as_os_str() == FIRST_PID_NAMESPACE);
        // A process of the first namespace is seen in no other.
        let shows_host = is_first("self/ns/pid") == Some(true)
            || is_first("1/ns/pid").unwrap_or_else(|| {
                // Without CAP_SYS_PTRACE the namespaces of others are closed, their names are not.
                let second = fs::read_to_string(proc.join("2/stat")).unwrap_or_default();
                second.starts_with(KERNEL_THREADS_PARENT)
            });
        if shows_host {
            Self::Host { own }
        } else {
            Self::Container
        }
    }

    /// The id by which the kernel knows this process, where it can be told.
    #[must_use]
    pub fn own(self) -> Option<u32> {
        match self {
            Self::Host { own } => Some(own),
            Self::Container | Self::Unreadable => None,
        }
    }
}

/// The calling thread as the kernel knows it, thread group id << 32 | thread id, where the `/proc` mounted at `proc` is that of the host.
#[must_use]
pub fn own_thread(proc: &Path) -> Option<u64> {
    let link = fs::read_link(proc.join("thread-self")).ok()?;
    let (own, thread) = link.to_str()?.split_once("/task/")?;
    let (own, thread): (u32, u32) = (own.parse().ok()?, thread.parse().ok()?);
    Some(u64::from(own) << 32 | u64::from(thread))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::process::fixture::ProcFolder;

    /// A `/proc` that shows this process as 42, with namespaces of it and of process 1 where they are given.
    fn shown(own: Option<&str>, first: Option<&str>, second: &str) -> Processes {
        let proc = ProcFolder::new();
        symlink("42", proc.path().join("self")).expect("the folder is writable");
        for (tgid, namespace) in [(42, own), (1, first)] {
            proc.add(tgid, 1, "/bin/x", &[]);
            let folder = proc.path().join(tgid.to_string()).join("ns");
            fs::create_dir_all(&folder).expect("the folder is writable");
            if let Some(namespace) = namespace {
                symlink(namespace, folder.join("pid")).expect("the folder is writable");
            }
        }
        let stat = ProcFolder::stat(2, second, 0x20_8040, 1);
        proc.write(2, "stat", stat.as_bytes());
        Processes::shown_by(proc.path())
    }

    #[test]
    fn knows_the_host_from_inside_and_from_a_container() {
        const HOST: Option<&str> = Some(FIRST_PID_NAMESPACE);
        const OTHER: Option<&str> = Some("pid:[4026532301]");
        let host = Processes::Host { own: 42 };
        assert_eq!(shown(HOST, HOST, "kthreadd"), host);
        assert_eq!(shown(HOST, None, "hidden"), host);
        assert_eq!(shown(OTHER, HOST, "hidden"), host);
        assert_eq!(shown(OTHER, None, "kthreadd"), host);
        assert_eq!(shown(OTHER, OTHER, "kthreadd"), Processes::Container);
        assert_eq!(shown(OTHER, None, "sh"), Processes::Container);
    }

    #[test]
    fn does_not_know_itself_in_a_proc_that_does_not_show_it() {
        let proc = ProcFolder::new();
        assert_eq!(Processes::shown_by(proc.path()), Processes::Unreadable);
        symlink("nobody", proc.path().join("self")).expect("the folder is writable");
        assert_eq!(Processes::shown_by(proc.path()), Processes::Container);
        assert_eq!(Processes::Container.own(), None);
    }

    #[test]
    fn knows_the_machine_it_runs_on() {
        if let Processes::Host { own } = Processes::shown_by(Path::new("/proc")) {
            assert_eq!(own, std::process::id());
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            let expected = u64::from(own) << 32 | u64::from(thread.cast_unsigned());
            assert_eq!(own_thread(Path::new("/proc")), Some(expected));
        }
    }

    #[test]
    fn knows_its_thread_by_the_name_that_the_mount_gives_it() {
        let proc = ProcFolder::new();
        assert_eq!(own_thread(proc.path()), None);
        symlink("42/task/43", proc.path().join("thread-self")).expect("the folder is writable");
        assert_eq!(own_thread(proc.path()), Some(42 << 32 | 43));
    }
}
