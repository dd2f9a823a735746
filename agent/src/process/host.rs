//! The machine as its services' Resources name it.
//!
//! Input: the host's `/proc`, files of this root folder, `uname`. Output: [`Host`], read once at start. No cloud's metadata service is asked.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// What all processes of a machine have in common.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Host {
    /// `host.name`.
    pub name: String,
    /// `host.id`: the machine id, 32 hex digits; none where there is none.
    pub id: Option<String>,
    /// `host.arch`, spelled as the OpenTelemetry conventions do.
    pub arch: String,
    /// Random id of this boot, a UUID; empty where it cannot be read.
    pub boot_id: String,
}

impl Host {
    /// Reads the facts of this machine, whose `/proc` is mounted at `proc`.
    #[must_use]
    pub fn read(proc: &Path) -> Self {
        let name = rustix::system::uname();
        let node = std::env::var("NODE_NAME").ok();
        Self::read_under(
            Path::new("/"),
            proc,
            &name.nodename().to_string_lossy(),
            &name.machine().to_string_lossy(),
            node.as_deref(),
        )
    }

    /// `own_name` is the name that this process sees, which inside a container is the container's.
    fn read_under(
        root: &Path,
        proc: &Path,
        own_name: &str,
        machine: &str,
        node: Option<&str>,
    ) -> Self {
        let line = |path: PathBuf| {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().next()?.trim().to_owned();
            (!line.is_empty()).then_some(line)
        };
        // The first process of the machine is in the host's namespaces; where it may be looked at, its view counts.
        let link = |path: &str| fs::read_link(proc.join(path)).ok();
        let shares_name = match (link("1/ns/uts"), link("self/ns/uts")) {
            (Some(first), Some(own)) => first == own,
            _ => true,
        };
        let foreign = || {
            node.map(str::to_owned)
                .or_else(|| line(proc.join("1/root/etc/hostname")))
        };
        let name = if shares_name { None } else { foreign() };
        let id = [
            proc.join("1/root/etc/machine-id"),
            root.join("etc/machine-id"),
            root.join("var/lib/dbus/machine-id"),
        ]
        .into_iter()
        .find_map(line);
        let arch = match machine {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            name: name.unwrap_or_else(|| own_name.to_owned()),
            id,
            arch: arch.to_owned(),
            boot_id: line(proc.join("sys/kernel/random/boot_id")).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::ProcFolder;

    /// A root folder whose first process is in UTS namespace `first`, and this process in `own`.
    fn root(first: &str, own: &str) -> ProcFolder {
        let root = ProcFolder::new();
        for (process, namespace) in [("1", first), ("self", own)] {
            let folder = root.path().join("proc").join(process).join("ns");
            fs::create_dir_all(&folder).expect("the temporary folder is writable");
            std::os::unix::fs::symlink(namespace, folder.join("uts"))
                .expect("the folder is writable");
        }
        let etc = root.path().join("proc/1/root/etc");
        fs::create_dir_all(&etc).expect("the temporary folder is writable");
        fs::write(etc.join("hostname"), "node-7\n").expect("the folder is writable");
        fs::write(etc.join("machine-id"), "0123456789abcdef0123456789abcdef\n")
            .expect("the folder is writable");
        root
    }

    fn read(root: &Path, own_name: &str, machine: &str, node: Option<&str>) -> Host {
        Host::read_under(root, &root.join("proc"), own_name, machine, node)
    }

    #[test]
    fn takes_the_hosts_name_and_not_its_containers() {
        let inside = root("uts:[1]", "uts:[2]");
        assert_eq!(read(inside.path(), "b3c4", "x86_64", None).name, "node-7");
        assert_eq!(
            read(inside.path(), "b3c4", "x86_64", Some("node-8")).name,
            "node-8"
        );
        let host = root("uts:[1]", "uts:[1]");
        assert_eq!(
            read(host.path(), "web-1", "x86_64", Some("node-8")).name,
            "web-1"
        );
    }

    #[test]
    fn reads_ids_and_does_without() {
        let host = root("uts:[1]", "uts:[1]");
        let host = read(host.path(), "web-1", "aarch64", None);
        assert_eq!(host.id.as_deref(), Some("0123456789abcdef0123456789abcdef"));
        assert_eq!(host.arch, "arm64");
        let bare = read(Path::new("/nonexistent"), "web-1", "riscv64", None);
        assert_eq!(
            (
                bare.name.as_str(),
                bare.id,
                bare.arch.as_str(),
                bare.boot_id.as_str()
            ),
            ("web-1", None, "riscv64", "")
        );
    }
}
