//! Sets up the carrying of trace context in a TCP option, where that is wanted, and tells where segments with options do not arrive.
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
        option::{Carrier, Machine},
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
pub(super) fn load(shared: &SharedMaps, config: &Config, machine: Machine) -> Option<Carrier> {
    or_say_why(Carrier::new(
        shared,
        &config.option_to,
        &config.faults,
        machine,
    ))
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
        paused: Paused::default(),
    })
}

/// Context is carried.
pub(super) struct Carrying {
    carrier: Option<Carrier>,
    paused: Paused,
}

impl Carrying {
    /// Time passed. `count` reads one of the kernel's counters.
    pub(super) fn tick(&mut self, now_ns: u64, count: impl Fn(Counter) -> u64) {
        let Some(peers) = self.paused.news(now_ns, count) else {
            return;
        };
        warn!(
            peers,
            "no trace context is carried in a TCP option to some peers for now: segments with an option do not seem to arrive there; it is tried again later"
        );
    }

    /// The agent ends.
    pub(super) fn end(&mut self) {
        self.carrier = None;
    }
}

/// What was told of peers to which nothing is written for a while. The kernel's program decides that, at once; here it is only told.
#[derive(Debug, Default)]
struct Paused {
    next_ns: u64,
    told: u64,
}

/// Time between two looks, and between two warnings.
const LOOK_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60_000_000_000;

impl Paused {
    /// How often peers were given up since that was told last; none where they were not, and within a minute of the last time.
    fn news(&mut self, now_ns: u64, count: impl Fn(Counter) -> u64) -> Option<u64> {
        if now_ns < self.next_ns {
            return None;
        }
        self.next_ns = now_ns + LOOK_NS;
        let paused = count(Counter::OptionPeersPaused);
        let peers = paused.saturating_sub(self.told);
        if peers == 0 {
            return None;
        }
        self.told = paused;
        self.next_ns = now_ns + MINUTE_NS;
        Some(peers)
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

    fn look(paused: &mut Paused, second: u64, times: u64) -> Option<u64> {
        paused.news(second * SECOND, |counter| {
            assert_eq!(counter, Counter::OptionPeersPaused);
            times
        })
    }

    #[test]
    fn tells_each_pause_once_and_not_more_often_than_each_minute() {
        let mut paused = Paused::default();
        assert_eq!(look(&mut paused, 100, 0), None);
        assert_eq!(look(&mut paused, 101, 2), Some(2));
        assert_eq!(look(&mut paused, 102, 3), None, "told soon");
        assert_eq!(look(&mut paused, 160, 5), None);
        assert_eq!(look(&mut paused, 161, 5), Some(3));
        assert_eq!(look(&mut paused, 300, 5), None);
    }

    #[test]
    fn looks_once_a_second() {
        let mut paused = Paused::default();
        assert_eq!(look(&mut paused, 100, 0), None);
        let at_once = paused.news(100 * SECOND + 1, |_| panic!("it does not look"));
        assert_eq!(at_once, None);
    }
}
