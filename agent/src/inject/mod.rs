//! Writing trace context into requests: whether this kernel may, and who does it.
//!
//! Input: the configuration and this machine. Output: an [`Injector`](crate::probe::inject::Injector) to be loaded beside the other programs, or the
//! reason why headers are not written. A kernel that fails a self-test gets none, also when it fails one later.

pub mod enrolment;
pub mod older;
pub mod selftest;
pub mod watch;

use std::{path::Path, time::Duration};

use self::selftest::Passed;
use crate::{
    config::Fault,
    kernel::{features::Features, quirks},
    probe::{
        inject::{Bench, InjectError},
        option::Bench as OptionBench,
    },
};

/// Proves on sockets of our own that this kernel can write headers without harm; the host's `/proc` is mounted at `proc`.
///
/// # Errors
/// The first proof that failed, or what is missing.
pub fn prove(features: &Features, proc: &Path, faults: &[Fault]) -> Result<Passed, InjectError> {
    if features.cgroup2.is_none() {
        return Err(InjectError::NoCgroup);
    }
    if faults.contains(&Fault::SelfTestFails) {
        return Err(selftest::Failure::Forced.into());
    }
    let passed = selftest::run(&mut Bench::new(&[])?, proc)?;
    // The table refuses what a test may have missed.
    let quirk = features.version.into_iter().flat_map(quirks::of).next();
    match quirk {
        Some(quirk) => Err(selftest::Failure::Known(quirk.consequence).into()),
        None => Ok(passed),
    }
}

/// Proves on sockets of our own that this kernel carries trace context in a TCP option, and tells how long that took.
///
/// # Errors
/// The first proof that failed, or what is missing.
pub fn prove_option(cgroup: Option<&Path>, faults: &[Fault]) -> Result<Duration, InjectError> {
    let cgroup = cgroup.ok_or(InjectError::NoCgroup)?;
    if faults.contains(&Fault::SelfTestFails) {
        return Err(selftest::Failure::Forced.into());
    }
    Ok(selftest::option::carries(&mut OptionBench::new(cgroup)?)?)
}
