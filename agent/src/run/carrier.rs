//! Sets up the carrying of trace context in a TCP option, where that is wanted.
//!
//! Input: the configuration. Output: the object at work, or nothing: then one warning says why, and tracing goes on without.

use std::path::Path;

use tracing::{info, warn};

use crate::{
    config::Config,
    inject,
    probe::{
        inject::{InjectError, SharedMaps},
        option::Carrier,
    },
};

/// Proves that an option can be carried here, and prepares maps for several objects, unless that was done; whether the option can be carried is the second.
pub(super) fn prepare(
    config: &Config,
    cgroup: Option<&Path>,
    done: Option<SharedMaps>,
) -> (Option<SharedMaps>, bool) {
    if config.option_to.is_empty() {
        return (done, false);
    }
    let Some(took) = or_say_why(inject::prove_option(cgroup, &config.faults)) else {
        return (done, false);
    };
    let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    info!(milliseconds, "self-test of the TCP option passed");
    let shared = done.or_else(|| or_say_why(SharedMaps::new()));
    let can = shared.is_some();
    (shared, can)
}

/// Loads the object.
pub(super) fn load(shared: &SharedMaps, config: &Config) -> Option<Carrier> {
    or_say_why(Carrier::new(shared, &config.option_to, &config.faults))
}

/// Attaches it to the control group whose processes make and accept the connections.
pub(super) fn attach(mut carrier: Carrier, cgroup: Option<&Path>) -> Option<Carrier> {
    let attached = match cgroup {
        Some(cgroup) => carrier.attach(cgroup),
        None => Err(InjectError::NoCgroup),
    };
    or_say_why(attached)?;
    info!("trace context is carried in a TCP option on connections made from now on");
    Some(carrier)
}

fn or_say_why<T>(result: Result<T, InjectError>) -> Option<T> {
    result
        .inspect_err(|error| warn!(reason = %error, "no trace context is carried in a TCP option"))
        .ok()
}
