//! Tests of the reader of `/proc`.

use proptest::prelude::*;

use super::*;
use crate::process::fixture::ProcFolder;

#[test]
fn reads_a_process() {
    let proc = ProcFolder::new();
    proc.add(41, 12_345, "/usr/bin/python3.11", &["python3", "app.py"]);
    proc.write(
        41,
        "environ",
        b"PATH=/bin\0OTEL_SERVICE_NAME=shop\0SECRET=x\0HOSTNAME=\0",
    );
    proc.write(41, "cgroup", b"0::/system.slice/shop.service\n");
    let process = proc.source().process(41).expect("the process is there");
    assert_eq!(process.stat.start.ns(), 123_450_000_000);
    assert_eq!(process.stat.start, StartTicks::of_ns(123_459_999_999));
    assert_eq!(
        process.exe.as_deref(),
        Some(Path::new("/usr/bin/python3.11"))
    );
    assert_eq!(process.args, ["python3", "app.py"]);
    assert_eq!(process.variable("OTEL_SERVICE_NAME"), Some("shop"));
    assert_eq!(
        process.variable("HOSTNAME"),
        None,
        "empty counts as not set"
    );
    assert_eq!(
        process.variables.len(),
        2,
        "nothing else of the environment is kept"
    );
    assert_eq!(process.place.unit.as_deref(), Some("shop"));
}

#[test]
fn reads_what_is_left_of_a_process_that_hides_the_rest() {
    let proc = ProcFolder::new();
    proc.write(7, "stat", ProcFolder::stat(7, "a) (b", 0, 99).as_bytes());
    let process = proc.source().process(7).expect("stat is enough");
    assert_eq!(process.stat.comm, "a) (b");
    assert_eq!(
        (process.exe, process.args.len(), process.variables.len()),
        (None, 0, 0)
    );
    assert_eq!(proc.source().process(8), None);
}

#[test]
fn knows_kernel_threads_and_skips_what_is_no_process() {
    let proc = ProcFolder::new();
    proc.write(
        2,
        "stat",
        ProcFolder::stat(2, "kthreadd", 0x0020_8040, 0).as_bytes(),
    );
    proc.add(3, 1, "/bin/true", &["true"]);
    fs::create_dir_all(proc.path().join("sys")).expect("a folder in the temporary folder");
    let mut tgids = proc.source().tgids();
    tgids.sort_unstable();
    assert_eq!(tgids, [2, 3]);
    assert!(proc.source().stat(2).is_some_and(|stat| stat.kernel_thread));
    assert!(
        proc.source()
            .stat(3)
            .is_some_and(|stat| !stat.kernel_thread)
    );
}

#[test]
fn takes_the_path_of_an_executable_that_was_replaced() {
    assert_eq!(
        without_deleted("/usr/sbin/nginx (deleted)".into()),
        Path::new("/usr/sbin/nginx")
    );
    assert_eq!(
        without_deleted("/usr/sbin/nginx".into()),
        Path::new("/usr/sbin/nginx")
    );
}

#[test]
fn finds_the_name_that_the_kubelet_gave_a_container() {
    let line = "1 2 8:1 /var/lib/kubelet/pods/0f3c/containers/web/1a2b3c /dev/termination-log rw - ext4 /dev/sda1 rw";
    assert_eq!(container_name(line).as_deref(), Some("web"));
    assert_eq!(
        container_name("1 2 8:1 / / rw - ext4 /dev/sda1 rw\n\nx"),
        None
    );
}

#[test]
fn reads_this_very_process() {
    let own = Proc::new("/proc")
        .process(std::process::id())
        .expect("this process is running");
    assert!(!own.args.is_empty() && own.exe.is_some() && !own.stat.kernel_thread);
    let image = Proc::new("/proc")
        .image(std::process::id())
        .expect("its own image is readable");
    assert!(file_id(&image).is_some());
}

proptest! {
    #[test]
    fn never_panics(line in ".*", raw in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Stat::parse(&line);
        let _ = (arguments(&raw), variables(&raw), container_name(&line));
    }

    #[test]
    fn reads_any_name_of_a_thread(comm in "[^\n\0]{0,15}", start in 0..u64::MAX / NS_PER_TICK) {
        let stat = Stat::parse(&ProcFolder::stat(1, &comm, 0, start)).expect("a line as the kernel writes it");
        prop_assert_eq!((stat.comm, stat.start), (comm, StartTicks(start)));
    }
}
