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
        path: PathTaken::default(),
        in_vain: false,
    })
}

/// Context is carried, or was.
pub(super) struct Carrying {
    carrier: Option<Carrier>,
    path: PathTaken,
    in_vain: bool,
}

impl Carrying {
    /// Time passed. `count` reads one of the kernel's counters.
    pub(super) fn tick(&mut self, now_ns: u64, count: impl Fn(Counter) -> u64) {
        if self.carrier.is_none() || !self.path.drops(now_ns, count) {
            return;
        }
        self.carrier = None;
        self.in_vain = true;
        warn!(
            "no trace context is carried in a TCP option any more: requests arrive only without one, so something on the path drops them"
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

/// What the last minute says of the path that segments take.
#[derive(Debug, Default)]
struct PathTaken {
    next_ns: u64,
    /// When the minute began, and what was counted then.
    since_ns: u64,
    given_up: u64,
    sockets: u64,
}

/// Time between two looks, and for which they are held together.
const LOOK_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60_000_000_000;

/// Fewer connections that gave the option up say nothing: they may have met a bad moment of the network.
const FEW: u64 = 3;

impl PathTaken {
    /// Whether as many connections have given the option up as one in twenty that were made, and a few at least. Each of them has waited for that.
    fn drops(&mut self, now_ns: u64, count: impl Fn(Counter) -> u64) -> bool {
        if now_ns < self.next_ns {
            return false;
        }
        self.next_ns = now_ns + LOOK_NS;
        let given_up = count(Counter::OptionSocketsGivenUp);
        let in_vain = given_up.saturating_sub(self.given_up);
        if in_vain < FEW && now_ns.saturating_sub(self.since_ns) < MINUTE_NS {
            return false;
        }
        let sockets = count(Counter::OptionSockets);
        let made = sockets.saturating_sub(self.sockets);
        if now_ns.saturating_sub(self.since_ns) >= MINUTE_NS {
            (self.since_ns, self.given_up, self.sockets) = (now_ns, given_up, sockets);
        }
        in_vain >= FEW && in_vain.saturating_mul(20) >= made
    }
}

fn or_say_why<T>(result: Result<T, InjectError>) -> Option<T> {
    result
        .inspect_err(|error| warn!(reason = %error, "no trace context is carried in a TCP option"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn look(path: &mut PathTaken, second: u64, given_up: u64, sockets: u64) -> bool {
        path.drops(second * SECOND, |counter| match counter {
            Counter::OptionSocketsGivenUp => given_up,
            Counter::OptionSockets => sockets,
            other => panic!("{other:?} is not asked for"),
        })
    }

    #[test]
    fn one_connection_in_twenty_is_too_many_but_for_few() {
        for (given_up, sockets, expected) in [
            (0, 0, false),
            (2, 2, false),
            (3, 3, true),
            (3, 60, true),
            (3, 61, false),
            (50, 1_000, true),
            (u64::MAX, u64::MAX, true),
        ] {
            let mut path = PathTaken::default();
            assert_eq!(look(&mut path, 100, given_up, sockets), expected);
        }
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let mut path = PathTaken::default();
        assert!(!look(&mut path, 100, 2, 1_000_000));
        assert!(!look(&mut path, 130, 4, 1_000_000), "two in this minute");
        assert!(!look(&mut path, 161, 4, 1_000_000));
        // A path that begins to drop them, under many connections that were made before.
        assert!(look(&mut path, 170, 7, 1_000_010));
    }

    #[test]
    fn looks_once_a_second() {
        let mut path = PathTaken::default();
        assert!(!look(&mut path, 100, 0, 0));
        let at_once = path.drops(100 * SECOND + 1, |_| panic!("it does not look"));
        assert!(!at_once);
    }
}
