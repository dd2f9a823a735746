use std::process::{Child, Command};

use super::*;

fn library(name: &'static str, version: Option<&str>, path: &str) -> Library {
    Library {
        library: name,
        version: version.map(str::to_owned),
        path: path.into(),
        built_in: false,
        build_id: None,
        reason: None,
        probes: Vec::new(),
    }
}

fn process(pid: u32, program: &str, libraries: Vec<Library>) -> Process {
    Process {
        pid,
        program: Some(program.into()),
        name: "name".to_owned(),
        libraries,
        unopened: Vec::new(),
        error: None,
    }
}

/// Whoever starts a program chooses its path.
#[test]
fn json_takes_any_path() {
    use std::os::unix::ffi::OsStringExt as _;
    let odd = PathBuf::from(std::ffi::OsString::from_vec(b"/tmp/\xff".to_vec()));
    let mut process = process(7, "/bin/ok", vec![library("OpenSSL", None, "/lib/ok")]);
    process.libraries[0].path = odd.clone();
    process.unopened = vec![odd.clone()];
    process.program = Some(odd);
    let text = serde_json::to_value(process).expect("it is text");
    let odd = "/tmp/\u{fffd}";
    assert_eq!(text["program"], odd);
    assert_eq!(text["unopened"][0], odd);
    assert_eq!(text["libraries"][0]["path"], odd);
}

fn written(processes: Vec<Process>) -> String {
    let report = Processes {
        version: "1.2.3",
        processes,
        files: 21,
        milliseconds: 35,
    };
    let mut out = Vec::new();
    text::write(&report, &mut out).expect("a Vec takes all");
    String::from_utf8(out).expect("text")
}

#[test]
fn lines_up_and_gives_reasons() {
    let openssl = || {
        vec![library(
            "OpenSSL",
            Some("3.0.19"),
            "/usr/lib/x86_64-linux-gnu/libssl.so.3",
        )]
    };
    let mut node = library("OpenSSL", Some("3.0.17+quic"), "/usr/bin/node");
    node.built_in = true;
    let mut java = library(
        "Java (JSSE)",
        None,
        "/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so",
    );
    java.reason = Some("its machine code is made at run time".to_owned());
    let mut closed = process(9, "", Vec::new());
    (closed.program, closed.error) = (None, Some("may not be looked at: run as root".to_owned()));
    let mut processes: Vec<_> = (810..819)
        .map(|pid| process(pid, "/usr/sbin/nginx", openssl()))
        .collect();
    processes.push(process(77, "/usr/bin/java", vec![java]));
    processes.push(process(1033, "/usr/bin/node", vec![node]));
    processes.push(process(5, "/usr/bin/sleep", Vec::new()));
    let mut another = closed.clone();
    (another.pid, another.name) = (10, "else".to_owned());
    processes.extend([closed, another]);
    let expected = "\
undertrace 1.2.3 doctor --processes

TLS in 11 of 14 processes (21 files looked into in 35 ms)
  found    nginx                  OpenSSL 3.0.19, in /usr/lib/x86_64-linux-gnu/libssl.so.3
                                  processes 810, 811, 812, 813, 814, 815 and 3 more
  found    node                   OpenSSL 3.0.17+quic, in the program itself
                                  process 1033
  HIDDEN   java                   Java (JSSE), in
                                  /usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so: its
                                  machine code is made at run time
                                  process 77
  unknown  of other users         may not be looked at: run as root
                                  processes 9, 10

1 process has TLS that cannot be seen inside.

This is what could be seen: `run` does not read inside of TLS yet.
";
    assert_eq!(written(processes), expected);
}

#[test]
fn says_so_when_there_is_nothing() {
    let expected = "\
undertrace 1.2.3 doctor --processes

TLS in 0 of 1 process (21 files looked into in 35 ms)

This is what could be seen: `run` does not read inside of TLS yet.
";
    assert_eq!(
        written(vec![process(5, "/usr/bin/sleep", Vec::new())]),
        expected
    );
}

#[test]
fn says_of_which_files_nothing_is_known() {
    let mut one = process(5, "/usr/bin/sleep", Vec::new());
    one.unopened.push("/usr/lib/libssl.so.3".into());
    let mut many = process(6, "/usr/bin/java", Vec::new());
    many.unopened = vec!["/a.so".into(), "/b.so".into()];
    let expected = "
  unknown  java                   2 mapped files cannot be opened, /a.so among them
                                  process 6
  unknown  sleep                  a mapped file cannot be opened: /usr/lib/libssl.so.3
                                  process 5
";
    let text = written(vec![one, many]);
    assert!(text.contains(expected), "{text}");
}

#[test]
fn shows_nothing_that_a_terminal_would_obey() {
    let odd = process(
        5,
        "/tmp/\x1b[2J",
        vec![library("OpenSSL", None, "/tmp/\x1b]0;x\x07/libssl.so")],
    );
    let text = written(vec![odd]);
    assert!(
        text.chars()
            .all(|character| character == '\n' || !character.is_control()),
        "{text:?}"
    );
}

#[test]
fn looks_at_real_processes() {
    let own = std::process::id();
    let report = examine(Path::new("/proc"), &[own]);
    let [process] = &report.processes[..] else {
        panic!("{report:?}");
    };
    let rustls = process
        .libraries
        .iter()
        .find(|library| library.library == "rustls");
    let rustls = rustls.expect("the exporter speaks TLS");
    assert!(rustls.built_in && rustls.reason.is_none(), "{rustls:?}");
    assert!(rustls.probes.iter().all(|place| place.offset > 0));
    let json = serde_json::to_value(&report).expect("it is only data");
    assert_eq!(json["processes"][0]["pid"], own);
    assert_eq!(json["processes"][0]["libraries"][0]["library"], "rustls");
    assert!(text_of(&report).contains("rustls 0.23."));
}

struct Crowd(Vec<Child>);

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn looks_at_many_processes_and_into_each_file_once() {
    let start = || Command::new("sleep").arg("300").spawn();
    let mut crowd = Crowd(Vec::new());
    for _ in 0..500 {
        crowd.0.push(start().expect("every machine has sleep"));
    }
    let pids: Vec<u32> = crowd.0.iter().map(Child::id).collect();
    let report = examine(Path::new("/proc"), &pids);
    let Processes {
        files,
        milliseconds,
        ..
    } = report;
    println!("500 processes looked at in {milliseconds} ms, into {files} files");
    assert_eq!(report.processes.len(), 500);
    // The program, the loader, a library or a few.
    assert!((1..=8).contains(&files), "{files}");

    // Who is gone is left out.
    let last = crowd.0.last_mut().expect("there are 500");
    last.kill().and_then(|()| last.wait()).expect("it is ours");
    assert_eq!(examine(Path::new("/proc"), &pids).processes.len(), 499);
}

fn text_of(report: &Processes) -> String {
    let mut out = Vec::new();
    text::write(report, &mut out).expect("a Vec takes all");
    String::from_utf8(out).expect("text")
}
