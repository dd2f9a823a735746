//! Two machines on one wire: the second one is there for as long as the first one runs.

use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result};

use crate::{
    setup::Setup,
    vm::{Ended, Output, Vm, Wire},
};

/// Tells a machine which end of the wire it has: 1 or 2.
const END: &str = "UNDERTRACE_END_OF_WIRE";

/// Boots two machines like this one, each with its command and its output, and tells how the first one ended.
///
/// # Errors
/// When a machine cannot be started.
pub(super) fn run(
    setup: &Setup,
    like: &Vm<'_>,
    [(first, to), (second, beside)]: [(&str, &Output); 2],
) -> Result<Ended> {
    let folder = Folder::new()?;
    let [one, two] = Wire::pair(&folder.0);
    let machine = |wire, number: &str| {
        let mut env = like.env.clone();
        env.push((END.to_owned(), number.to_owned()));
        Vm {
            wire: Some(wire),
            env,
            ..like.clone()
        }
    };
    let (one, two) = (machine(one, "1"), machine(two, "2"));
    let needed = AtomicBool::new(true);
    thread::scope(|threads| {
        let other = threads.spawn(|| two.run_while(setup, second, beside, &needed));
        let ended = one.run(setup, first, to);
        needed.store(false, Ordering::Release);
        other.join().expect("a machine does not panic")?;
        ended
    })
}

/// A folder of a short path for the wire's sockets, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("undertrace-wire-{}-{number}", process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Two sockets that nobody has open any more.
        let _ = fs::remove_dir_all(&self.0);
    }
}
