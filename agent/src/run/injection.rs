//! Sets up the writing of trace context into requests, where that is wanted.
//!
//! Input: the configuration and what this machine is. Output: the object at work, or nothing: then one warning says why, and tracing goes on without.

use std::path::Path;

use tracing::{info, warn};

use crate::{
    config::Config,
    inject,
    kernel::{features::Features, offsets::Offsets},
    probe::inject::{InjectError, Injector, SharedMaps},
};

/// Proves that headers can be written here, and prepares maps for two objects.
pub(super) fn prepare(config: &Config, features: &Features) -> Option<SharedMaps> {
    if config.inject_to.is_empty() {
        return None;
    }
    let passed = or_say_why(inject::prove(features, &config.proc_root, &config.faults))?;
    let milliseconds = u64::try_from(passed.took.as_millis()).unwrap_or(u64::MAX);
    match passed.without_veth {
        None => info!(milliseconds, "self-test of header injection passed"),
        Some(reason) => info!(
            milliseconds,
            without = reason,
            "self-test of header injection passed on loopback alone"
        ),
    }
    or_say_why(SharedMaps::new())
}

/// Loads the object that writes them.
pub(super) fn load(shared: &SharedMaps, config: &Config, offsets: &Offsets) -> Option<Injector> {
    // A member without which nothing is traced.
    let write_seq = offsets.get("O_TCP_SOCK_WRITE_SEQ")?;
    or_say_why(Injector::new(
        shared,
        &config.inject_to,
        &config.faults,
        write_seq,
    ))
}

/// Attaches it to the control group whose processes make the connections.
pub(super) fn attach(mut injector: Injector, cgroup: Option<&Path>) -> Option<Injector> {
    let attached = match cgroup {
        Some(cgroup) => injector.attach(cgroup),
        None => Err(InjectError::NoCgroup),
    };
    or_say_why(attached)?;
    info!("trace context is written into requests on connections made from now on");
    Some(injector)
}

fn or_say_why<T>(result: Result<T, InjectError>) -> Option<T> {
    result
        .inspect_err(|error| warn!(reason = %error, "no trace context is written into requests"))
        .ok()
}
