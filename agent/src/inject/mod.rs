//! Writing trace context into requests: whether this kernel may, and who does it.
//!
//! Input: the configuration and this machine. Output: an [`Injector`] to be loaded beside the other programs, or the reason why headers are not
//! written. A kernel that fails a self-test gets none.

pub mod selftest;

use crate::{
    config::Fault,
    kernel::{features::Features, quirks},
    probe::inject::{Bench, InjectError},
};

/// Proves on sockets of our own that this kernel can write headers without harm.
///
/// # Errors
/// The first proof that failed, or what is missing.
pub fn prove(features: &Features, faults: &[Fault]) -> Result<(), InjectError> {
    if features.cgroup2.is_none() {
        return Err(InjectError::NoCgroup);
    }
    if faults.contains(&Fault::SelfTestFails) {
        return Err(selftest::Failure::Forced.into());
    }
    let own = features.processes.own().unwrap_or(std::process::id());
    selftest::run(&mut Bench::new()?, own)?;
    // The table refuses what a test may have missed.
    let quirk = features.version.into_iter().flat_map(quirks::of).next();
    match quirk {
        Some(quirk) => Err(selftest::Failure::Known(quirk.consequence).into()),
        None => Ok(()),
    }
}
