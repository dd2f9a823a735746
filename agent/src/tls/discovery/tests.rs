use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::*;
use crate::{
    image::testing::{image, library},
    process::fixture::ProcFolder,
};

const FUNCTIONS: [&str; 4] = [
    "SSL_read",
    "SSL_write",
    "SSL_free",
    "SSL_get_early_data_reason",
];

/// A folder shaped like `/proc` with one process, whose root holds these files, all of them mapped.
struct Container {
    proc: ProcFolder,
}

const PID: u32 = 7;

impl Container {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let proc = ProcFolder::new();
        let root = proc.path().join("root");
        let program = root.join("app");
        fs::create_dir_all(&root).expect("the folder is writable");
        proc.add(PID, 1, &program.to_string_lossy(), &["app"]);
        let link = proc.path().join(PID.to_string()).join("root");
        std::os::unix::fs::symlink(&root, link).expect("the folder is writable");
        let container = Self { proc };
        for (path, bytes) in files {
            container.write(path, bytes);
        }
        container.map(files.iter().map(|(path, _)| *path));
        container
    }

    fn path(&self, path: &str) -> PathBuf {
        self.proc.path().join("root").join(path)
    }

    /// Puts a file into the place of the one that is there, as upgrades do.
    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("writable");
        let next = path.with_extension("next");
        fs::write(&next, bytes).expect("the folder is writable");
        fs::rename(&next, &path).expect("the folder is writable");
    }

    fn map<'a>(&self, paths: impl Iterator<Item = &'a str>) {
        let line = |path: &str| {
            let inode = rustix::fs::stat(self.path(path))
                .expect("it is there")
                .st_ino;
            format!("1000-2000 r-xp 00000000 fe:00 {inode} /{path}\n")
        };
        let maps: String = paths.map(line).collect();
        self.proc.write(PID, "maps", maps.as_bytes());
    }

    fn discovery(&self) -> Discovery {
        Discovery::new(self.proc.path())
    }
}

/// The libraries of a process of which every file could be opened.
fn seen(look: Look) -> Vec<Located> {
    match look {
        Look::Seen {
            libraries,
            unopened,
        } if unopened.is_empty() => libraries,
        other => panic!("{other:?}"),
    }
}

/// Path, whether it is the program, and what it is.
fn libraries(look: Look) -> Vec<(String, bool, &'static str)> {
    let libraries = seen(look);
    let of = |located: Located| {
        let path = located.path.to_string_lossy().into_owned();
        (path, located.built_in, located.finding.library)
    };
    libraries.into_iter().map(of).collect()
}

#[test]
fn finds_libraries_through_the_root_of_a_process() {
    let container = Container::new(&[
        ("app", &library(&FUNCTIONS)),
        (
            "lib/libgnutls.so.30",
            &library(&["gnutls_record_recv", "gnutls_record_send"]),
        ),
        ("lib/libc.so.6", &library(&["read"])),
    ]);
    let mut discovery = container.discovery();
    let expected = [
        ("/app".to_owned(), true, "BoringSSL"),
        ("/lib/libgnutls.so.30".to_owned(), false, "GnuTLS"),
    ];
    assert_eq!(libraries(discovery.look(PID)), expected);
    assert_eq!(discovery.examined(), 3);
    assert_eq!(libraries(discovery.look(PID)), expected);
    assert_eq!(discovery.examined(), 3, "each file is examined once");
}

#[test]
fn notices_a_library_that_is_loaded_later() {
    let container = Container::new(&[("app", &library(&["main"]))]);
    let mut discovery = container.discovery();
    assert!(libraries(discovery.look(PID)).is_empty());
    container.write("lib/libssl.so.3", &library(&FUNCTIONS));
    container.map(["app", "lib/libssl.so.3"].into_iter());
    let found = libraries(discovery.look(PID));
    assert_eq!(found, [("/lib/libssl.so.3".to_owned(), false, "BoringSSL")]);
    assert_eq!(discovery.examined(), 2, "what was known is not read again");
}

#[test]
fn examines_a_library_again_when_it_was_replaced() {
    let container = Container::new(&[
        ("app", &library(&["main"])),
        ("lib/libssl.so.3", &library(&FUNCTIONS)),
    ]);
    let mut discovery = container.discovery();
    let entry = |look: Look| {
        let libraries = seen(look);
        libraries[0]
            .finding
            .probes
            .as_ref()
            .expect("it can be seen")[0]
            .entry
    };
    assert_eq!(entry(discovery.look(PID)), 0);
    let newer: Vec<&str> = ["main"].into_iter().chain(FUNCTIONS).collect();
    container.write("lib/libssl.so.3", &library(&newer));
    // The process runs the old one, of which nothing is there any more but what it has mapped.
    let unknown = Look::Seen {
        libraries: Vec::new(),
        unopened: vec!["/lib/libssl.so.3".into()],
    };
    assert_eq!(
        discovery.look(PID),
        unknown,
        "the new one is not what it has mapped"
    );
    container.map(["app", "lib/libssl.so.3"].into_iter());
    assert_eq!(entry(discovery.look(PID)), 16, "it was started again");
}

#[test]
fn remembers_no_more_files_than_it_may() {
    let mut discovery = Discovery::new("/nonexistent");
    let id = |inode| FileId {
        device: 0,
        inode,
        changed: (0, 0),
    };
    for inode in 0..=MAX_WITHOUT as u64 {
        discovery.remember_without(id(inode));
        assert!(discovery.without.len() <= MAX_WITHOUT);
    }
    assert!(
        discovery.without.contains(&id(MAX_WITHOUT as u64)),
        "the newest"
    );
}

#[test]
fn a_process_that_vanishes_is_no_error() {
    let container = Container::new(&[("app", &library(&FUNCTIONS))]);
    let mut discovery = container.discovery();
    assert_eq!(discovery.look(8), Look::Gone);
    fs::remove_file(container.path("app")).expect("it is there");
    let unknown = Look::Seen {
        libraries: Vec::new(),
        unopened: vec!["/app".into()],
    };
    assert_eq!(discovery.look(PID), unknown, "its file is gone");
    container.proc.remove(PID);
    assert_eq!(discovery.look(PID), Look::Gone);
}

#[test]
fn says_when_a_program_is_no_image_of_this_machine() {
    let mut narrow = image(&[]);
    narrow[4] = 1;
    let container = Container::new(&[("app", &narrow), ("lib/libssl.so.3", &library(&FUNCTIONS))]);
    assert_eq!(
        container.discovery().look(PID),
        Look::Unreadable(ImageError::Foreign)
    );
    let container = Container::new(&[("app", &library(&["main"])), ("lib/odd.so", &narrow)]);
    assert!(libraries(container.discovery().look(PID)).is_empty());
}

#[test]
fn takes_the_version_from_the_part_that_tells_it() {
    let names = "\0SSL_read\0SSL_write\0OPENSSL_3.0.0\0";
    let symbols = [
        vec![0; 24],
        crate::image::testing::symbol(1, 0x4000, 16),
        crate::image::testing::symbol(10, 0x4010, 16),
    ]
    .concat();
    let mut definition = [1_u16, 0, 2, 1].map(u16::to_le_bytes).concat();
    definition.extend([0_u32, 20, 0, 20, 0].map(u32::to_le_bytes).concat());
    let ssl = image(&[
        (".dynsym", &symbols),
        (".dynstr", names.as_bytes()),
        (".gnu.version", &[0, 0, 2, 0, 2, 0]),
        (".gnu.version_d", &definition),
    ]);
    let [crypto_symbols, crypto_names] = crate::image::testing::tables(&["OpenSSL_version_num"]);
    let crypto = image(&[
        (".rodata", b"OpenSSL 3.0.19 27 Jan 2026\0"),
        (".dynsym", &crypto_symbols),
        (".dynstr", &crypto_names),
    ]);
    let version = |files: &[(&str, &[u8])]| {
        let libraries = seen(Container::new(files).discovery().look(PID));
        libraries[0].finding.version.clone()
    };
    let app = library(&["main"]);
    let ssl = ("lib/libssl.so.3", ssl.as_slice());
    assert_eq!(
        version(&[("app", &app), ssl]).as_deref(),
        Some("3.0.0 or later")
    );
    let beside = ("lib/libcrypto.so.3", crypto.as_slice());
    assert_eq!(
        version(&[("app", &app), ssl, beside]).as_deref(),
        Some("3.0.19")
    );
    let elsewhere = ("opt/libcrypto.so.3", crypto.as_slice());
    assert_eq!(
        version(&[("app", &app), ssl, elsewhere]).as_deref(),
        Some("3.0.0 or later")
    );
}

/// A process of our own that does what is asked of it, line by line.
struct Running(Child);

impl Running {
    /// `None` where there is no such program.
    fn start(program: &str, arguments: &[&str]) -> Option<Self> {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        child.ok().map(Self)
    }

    /// Whether it has answered.
    fn says(&mut self, line: &str) -> bool {
        let out = self.0.stdout.as_mut().expect("it has a pipe");
        let mut text = String::new();
        BufReader::new(out)
            .read_line(&mut text)
            .is_ok_and(|_| text.trim() == line)
    }

    fn go_on(&mut self) {
        let into = self.0.stdin.as_mut().expect("it has a pipe");
        into.write_all(b"\n").expect("it reads");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Python loads OpenSSL when it is first asked for.
#[test]
fn sees_a_real_library_when_a_real_process_loads_it() {
    const SCRIPT: &str = "print('ready', flush=True); input(); import ssl; print(ssl.OPENSSL_VERSION.split()[1], flush=True); input()";
    let Some(mut python) = Running::start("python3", &["-c", SCRIPT]) else {
        println!("skipped: there is no Python here");
        return;
    };
    assert!(python.says("ready"));
    let mut discovery = Discovery::new(Path::new("/proc"));
    let tgid = python.0.id();
    let before = libraries(discovery.look(tgid));
    assert!(before.is_empty(), "{before:?}");
    python.go_on();
    let out = python.0.stdout.as_mut().expect("it has a pipe");
    let mut told = String::new();
    BufReader::new(out)
        .read_line(&mut told)
        .expect("it answers");
    if told.is_empty() {
        println!("skipped: this Python has no ssl");
        return;
    }
    let found = seen(discovery.look(tgid));
    let openssl: Vec<_> = found
        .iter()
        .filter(|located| located.finding.library == "OpenSSL")
        .collect();
    assert_eq!(openssl.len(), 1, "{found:?}");
    assert_eq!(openssl[0].finding.version.as_deref(), Some(told.trim()));
    let probes = openssl[0].finding.probes.as_ref().expect("it can be seen");
    let functions: Vec<_> = probes.iter().map(|probe| probe.function).collect();
    for name in [
        "SSL_read",
        "SSL_write",
        "SSL_read_ex",
        "SSL_write_ex",
        "SSL_free",
    ] {
        assert!(functions.contains(&name), "{functions:?}");
    }
}

#[test]
fn sees_what_node_has_in_itself() {
    const SCRIPT: &str = "console.log(process.versions.openssl); process.stdin.resume()";
    let Some(mut node) = Running::start("node", &["-e", SCRIPT]) else {
        println!("skipped: there is no Node here");
        return;
    };
    let out = node.0.stdout.as_mut().expect("it has a pipe");
    let mut told = String::new();
    BufReader::new(out)
        .read_line(&mut told)
        .expect("it answers");
    let found = seen(Discovery::new("/proc").look(node.0.id()));
    let openssl: Vec<_> = found
        .iter()
        .filter(|located| located.finding.library == "OpenSSL")
        .collect();
    assert_eq!(openssl.len(), 1, "{found:?}");
    assert_eq!(openssl[0].finding.version.as_deref(), Some(told.trim()));
    assert!(openssl[0].finding.probes.is_ok());
}
