//! What a control-group path tells of a process: container, pod, systemd unit.
//!
//! Input: the text of `/proc/PID/cgroup`, of either hierarchy version (cgroups(7)). Output: [`Place`]. It asks no
//! container runtime and no API, so it knows ids and never names of containers.

/// Where a process runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Path in the unified hierarchy; where there is none, in systemd's. Begins with `/`.
    pub path: String,
    /// Id of the innermost container, as its runtime prints it: 64 hex digits (ECS: 32, a dash, digits).
    pub container_id: Option<String>,
    /// Uid of the pod, with dashes; 32 hex digits for a static pod.
    pub pod_uid: Option<String>,
    /// Name of the systemd service without `.service`; none for sessions, user slices and containers.
    pub unit: Option<String>,
}

impl Place {
    /// Reads `/proc/PID/cgroup`: lines of `id:controllers:path`.
    pub fn parse(text: &str) -> Self {
        let mut place = Self::default();
        let mut rank = 0;
        for line in text.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            if !path.starts_with('/') {
                continue;
            }
            let path = path.strip_suffix(" (deleted)").unwrap_or(path);
            let path = below_common_group(path);
            place.take(path);
            // With both versions mounted the unified path is often just `/`: the deeper of the two says more.
            let this = match controllers {
                _ if path == "/" => 1,
                "" => 3,
                "name=systemd" => 2,
                _ => 1,
            };
            if this > rank {
                rank = this;
                path.clone_into(&mut place.path);
            }
        }
        place
    }

    /// Takes what one path tells; the first path that tells wins.
    fn take(&mut self, path: &str) {
        let (mut container, mut pod, mut unit) = (None, None, None);
        for part in path.split('/') {
            // An inner container or pod replaces an outer one, and a unit outside a container is the runtime's.
            if let Some(uid) = pod_uid(part) {
                (pod, container, unit) = (Some(uid), None, None);
            }
            // No `else`: with containerd's own naming one part has both.
            if let Some(id) = container_id(part) {
                (container, unit) = (Some(id), None);
            } else if let Some(service) = part.strip_suffix(".service") {
                unit = Some(unescaped(service));
            }
        }
        let session = path.split('/').any(|part| part == "user.slice");
        self.container_id = self
            .container_id
            .take()
            .or_else(|| container.map(str::to_owned));
        self.pod_uid = self.pod_uid.take().or(pod);
        if !session {
            self.unit = self.unit.take().or(unit);
        }
    }
}

/// Without the leading `/..`s by which a reader in a control-group namespace of its own is led to a group outside it: they say only
/// how deep the reader is (cgroup_namespaces(7)).
fn below_common_group(mut path: &str) -> &str {
    while let Some(rest) = path.strip_prefix("/..") {
        match rest {
            "" => return "/",
            _ if rest.starts_with('/') => path = rest,
            _ => break,
        }
    }
    path
}

/// The id in `<id>`, `docker-<id>.scope`, `cri-containerd-<id>.scope`, `crio-<id>`, `libpod-<id>.scope`,
/// `kubepods-...:cri-containerd:<id>`, or ECS's `<task>-<number>`.
fn container_id(part: &str) -> Option<&str> {
    // Podman and CRI-O run a monitor beside each container, in a group that has the container's id too.
    if part.contains("conmon") {
        return None;
    }
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let part = part.rsplit(':').next().unwrap_or(part);
    let ecs = part.split_once('-').filter(|(task, number)| {
        task.len() == 32
            && is_hex(task)
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    let id = if ecs.is_some() {
        part
    } else {
        part.rsplit('-').next().unwrap_or(part)
    };
    (ecs.is_some() || id.len() == 64 && is_hex(id)).then_some(id)
}

/// The uid in `pod<uid>` (cgroupfs driver) or `kubepods-burstable-pod<uid with underscores>.slice` (systemd driver).
fn pod_uid(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    // containerd's own naming puts slice and container into one component.
    let part = part.split(':').next().unwrap_or(part);
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match part.rsplit_once("-pod") {
        Some((before, uid)) if before.starts_with("kube") => uid,
        _ => part.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uid.bytes().filter(|byte| *byte == b'-').count();
    (digits == 32 && digits + dashes == uid.len() && (dashes == 0 || dashes == 4)).then_some(uid)
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

/// Undoes systemd's escaping of unit names: `\x2d` is a dash (systemd.unit(5)).
fn unescaped(unit: &str) -> String {
    let mut plain = String::new();
    let mut rest = unit;
    while let Some((before, after)) = rest.split_once("\\x") {
        plain.push_str(before);
        let code = after
            .get(..2)
            .and_then(|code| u8::from_str_radix(code, 16).ok())
            .filter(u8::is_ascii_graphic);
        let Some(code) = code else {
            plain.push_str("\\x");
            rest = after;
            continue;
        };
        plain.push(char::from(code));
        rest = &after[2..];
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "4a6f1e9b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7";
    const UID: &str = "0f3c8e1a-77d2-4b4e-9c55-1d2e3f405162";

    fn place(lines: &str) -> Place {
        let lines = lines
            .replace("UID_", &UID.replace('-', "_"))
            .replace("UID", UID);
        Place::parse(&lines.replace("ID", ID))
    }

    #[test]
    fn finds_the_container_in_the_path_of_each_runtime() {
        let paths = [
            "0::/docker/ID",
            "0::/system.slice/docker-ID.scope",
            "0::/system.slice/containerd.service/kubepods-besteffort-podUID_.slice:cri-containerd:ID",
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/cri-containerd-ID.scope",
            "0::/kubepods.slice/kubepods-podUID_.slice/crio-ID.scope",
            "0::/kubepods/burstable/podUID/ID",
            "12:cpu,cpuacct:/kubepods/podUID/ID\n1:name=systemd:/kubepods/podUID/ID\n0::/",
            "0::/machine.slice/libpod-ID.scope/container",
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            "0::/../../docker-ID.scope",
        ];
        for path in paths {
            let place = place(path);
            assert_eq!(place.container_id.as_deref(), Some(ID), "{path}");
            assert_eq!(place.unit, None, "{path}");
            assert_eq!(
                place.pod_uid.as_deref(),
                path.contains("UID").then_some(UID),
                "{path}"
            );
        }
        let ecs = place(
            "9:memory:/ecs/4a6f1e9b2c3d4e5f60718293a4b5c6d7/4a6f1e9b2c3d4e5f60718293a4b5c6d7-1234567890",
        );
        assert_eq!(
            ecs.container_id.as_deref(),
            Some("4a6f1e9b2c3d4e5f60718293a4b5c6d7-1234567890")
        );
    }

    #[test]
    fn takes_the_innermost_container() {
        let outer = "f".repeat(64);
        let place = place(&format!(
            "0::/docker/{outer}/kubelet.slice/kubelet-kubepods-podUID_.slice/cri-containerd-ID.scope"
        ));
        assert_eq!(place.container_id.as_deref(), Some(ID));
        assert_eq!(place.pod_uid.as_deref(), Some(UID));
    }

    #[test]
    fn does_not_take_a_monitor_for_its_container() {
        assert_eq!(
            place("0::/machine.slice/libpod-conmon-ID.scope").container_id,
            None
        );
        assert_eq!(
            place("0::/kubepods.slice/kubepods-podUID_.slice/crio-conmon-ID.scope").container_id,
            None
        );
    }

    #[test]
    fn knows_a_static_pod_by_the_hash_of_its_configuration() {
        let hash = "0123456789abcdef0123456789abcdef";
        let place = place(&format!(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{hash}.slice/cri-containerd-ID.scope"
        ));
        assert_eq!(place.pod_uid.as_deref(), Some(hash));
    }

    #[test]
    fn names_systemd_services_and_nothing_that_belongs_to_a_session() {
        let unit = |path: &str| place(path).unit;
        assert_eq!(
            unit("0::/system.slice/nginx.service").as_deref(),
            Some("nginx")
        );
        assert_eq!(
            unit("0::/system.slice/nginx.service/workers").as_deref(),
            Some("nginx")
        );
        assert_eq!(
            unit("0::/system.slice/system-postgresql.slice/postgresql@15-main.service").as_deref(),
            Some("postgresql@15-main")
        );
        assert_eq!(
            unit(r"0::/system.slice/my\x2dshop.service").as_deref(),
            Some("my-shop")
        );
        assert_eq!(
            unit("3:cpu:/\n1:name=systemd:/system.slice/ssh.service\n0::/").as_deref(),
            Some("ssh")
        );
        assert_eq!(
            unit("0::/docker/ID/system.slice/app.service").as_deref(),
            Some("app"),
            "systemd inside a container"
        );
        for none in [
            "0::/user.slice/user-1000.slice/session-3.scope",
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/gnome-terminal-server.service",
            "0::/init.scope",
            "0::/",
            "",
        ] {
            assert_eq!(unit(none), None, "{none}");
        }
    }

    #[test]
    fn keeps_the_unified_path_unless_it_says_nothing() {
        assert_eq!(place("1:name=systemd:/a\n0::/b").path, "/b");
        assert_eq!(
            place("1:name=systemd:/system.slice/a.service\n0::/").path,
            "/system.slice/a.service"
        );
        assert_eq!(place("0::/").path, "/");
        assert_eq!(place("0::a.service"), Place::default(), "no path");
        assert_eq!(
            place("0::/system.slice/a.service (deleted)").path,
            "/system.slice/a.service"
        );
    }

    #[test]
    fn leaves_out_the_way_to_the_common_group() {
        assert_eq!(
            place("0::/../../docker-ID.scope").path,
            format!("/docker-{ID}.scope")
        );
        assert_eq!(place("0::/..").path, "/");
        assert_eq!(place("0::/..hidden/a").path, "/..hidden/a");
        assert_eq!(place("0::/a/../b").path, "/a/../b");
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).*", unit in r"(\\x|\\|[0-9a-z]|é){0,20}") {
            let _ = Place::parse(&text);
            let _ = Place::parse(&format!("0::/system.slice/{unit}.service"));
        }
    }
}
