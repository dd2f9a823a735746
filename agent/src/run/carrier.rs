//! Sets up the carrying of trace context in a TCP option, where that is wanted.
//!
//! Input: the configuration. Output: the object at work, or nothing: then one warning says why, and tracing goes on without.

use std::path::Path;

use tracing::{info, warn};

use crate::{
    config::Config,
    probe::{
        inject::{InjectError, SharedMaps},
        option::Carrier,
    },
};

/// Prepares maps for several objects, unless that was done, where the option is wanted.
pub(super) fn share(config: &Config, done: Option<SharedMaps>) -> Option<SharedMaps> {
    if done.is_some() || config.option_to.is_empty() {
        return done;
    }
    or_say_why(SharedMaps::new())
}

/// Loads the object.
pub(super) fn load(shared: Option<&SharedMaps>, config: &Config) -> Option<Carrier> {
    if config.option_to.is_empty() {
        return None;
    }
    or_say_why(Carrier::new(shared?, &config.option_to, &config.faults))
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
