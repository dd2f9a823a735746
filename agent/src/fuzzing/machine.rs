//! What the machine and its user tell: type information, control groups, the configuration file.

use std::path::Path;

use agent_common::kernel_fields::{ABSENT, globals};

use crate::{
    config::{Config, file::parse},
    kernel::{btf::Btf, offsets::Offsets},
    process::cgroup::Place,
};

/// Type information of a kernel, with the questions that the daemon asks. Taken is what answers all that is required.
pub fn btf(bytes: &[u8]) -> bool {
    let Ok(btf) = Btf::parse(bytes) else {
        return false;
    };
    // Every type has a header of 12 bytes: what is kept of them is bounded by the file.
    assert!(btf.len() * 12 <= bytes.len());
    for structure in ["sock", "sock_common", "task_struct", "pt_regs", ""] {
        for path in ["__sk_common.skc_dport", "skc_net.net", "pid", ""] {
            let _ = btf.member(structure, path);
        }
        let _ = btf.structure_size(structure);
    }
    for name in ["tcp_sendmsg", "inet_sendmsg", "release", ""] {
        if let Some(prototype) = btf.function(name) {
            assert!(prototype.args.len() * 8 <= bytes.len());
        }
    }
    let _ = btf.enumerator("iter_type", "ITER_IOVEC");
    let Ok(offsets) = Offsets::resolve(&btf) else {
        return false;
    };
    assert!(offsets.globals.iter().map(|(name, _)| *name).eq(globals()));
    let absent = |(_, value): &&(&str, u32)| *value == ABSENT;
    assert_eq!(
        offsets.globals.iter().filter(absent).count(),
        offsets.missing.len()
    );
    true
}

/// `/proc/<pid>/cgroup`. Taken is one that names a container, a pod or a unit.
pub fn cgroup(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let place = Place::parse(&text);
    assert!(place.path.is_empty() || place.path.starts_with('/'));
    assert!(text.contains(&place.path));
    if let Some(id) = &place.container_id {
        assert!(text.contains(id.as_str()));
        assert!(id.len() >= 34);
        assert!(
            id.bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        );
    }
    if let Some(uid) = &place.pod_uid {
        let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
        assert!(digits == 32 && uid.len() <= 36);
    }
    if let Some(unit) = &place.unit {
        assert!(unit.len() <= text.len());
    }
    place.container_id.is_some() || place.pod_uid.is_some() || place.unit.is_some()
}

/// The YAML file. What is refused is refused in one line that a terminal can show.
pub fn config(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let mut layer = match parse(&text, Path::new("f")) {
        Ok(layer) => layer,
        Err(error) => {
            one_line(&error.to_string());
            return false;
        }
    };
    // Files that the bytes name are none of ours to open.
    if let Some(otlp) = &mut layer.otlp {
        (otlp.certificate, otlp.client_certificate, otlp.client_key) = (None, None, None);
    }
    match Config::resolve(layer, &|_| None) {
        Ok(_) => true,
        Err(error) => {
            one_line(&error.to_string());
            false
        }
    }
}

fn one_line(message: &str) {
    assert!(!message.is_empty());
    assert!(!message.contains(char::is_control), "{message:?}");
}
