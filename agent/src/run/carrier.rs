//! Sets up the carrying of trace context in a TCP option, where that is wanted, and ends it where segments with options do not arrive.
//!
//! Input: the configuration; counters of the kernel. Output: the object at work, or nothing: then one warning says why, and tracing goes on without.

use std::path::Path;

use agent_common::abi::Counter;
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
pub(super) fn attach(mut carrier: Carrier, cgroup: Option<&Path>) -> Option<Carrying> {
    let attached = match cgroup {
        Some(cgroup) => carrier.attach(cgroup),
        None => Err(InjectError::NoCgroup),
    };
    or_say_why(attached)?;
    info!("trace context is carried in a TCP option on connections made from now on");
    Some(Carrying {
        carrier: Some(carrier),
        in_vain: false,
    })
}

/// Context is carried, or was.
pub(super) struct Carrying {
    carrier: Option<Carrier>,
    in_vain: bool,
}

impl Carrying {
    /// Time passed. `count` reads one of the kernel's counters.
    pub(super) fn tick(&mut self, count: impl Fn(Counter) -> u64) {
        let given_up = count(Counter::OptionSocketsGivenUp);
        if self.carrier.is_none()
            || given_up < FEW
            || !is_in_vain(given_up, count(Counter::OptionSockets))
        {
            return;
        }
        self.carrier = None;
        self.in_vain = true;
        warn!(
            connections = given_up,
            "no trace context is carried in a TCP option any more: segments with one are not acknowledged, so something on the path seems to drop them"
        );
    }

    /// The agent ends.
    pub(super) fn end(&mut self) {
        self.carrier = None;
    }

    /// Whether it has not ended before the agent does.
    pub(super) const fn holds(&self) -> bool {
        !self.in_vain
    }
}

/// Fewer connections say nothing: they may have met a bad moment of the network.
const FEW: u64 = 3;

/// Whether so many of the connections have given the option up that the path is to blame: each of them has waited for that.
const fn is_in_vain(given_up: u64, sockets: u64) -> bool {
    given_up >= FEW && given_up.saturating_mul(20) >= sockets
}

fn or_say_why<T>(result: Result<T, InjectError>) -> Option<T> {
    result
        .inspect_err(|error| warn!(reason = %error, "no trace context is carried in a TCP option"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_where_one_connection_in_twenty_gives_up_but_for_few() {
        assert!(!is_in_vain(0, 0));
        assert!(!is_in_vain(2, 2));
        assert!(is_in_vain(3, 3));
        assert!(is_in_vain(3, 60));
        assert!(!is_in_vain(3, 61));
        assert!(is_in_vain(50, 1_000));
        assert!(is_in_vain(u64::MAX, u64::MAX));
    }
}
