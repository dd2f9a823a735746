//! What nobody takes away: same-kernel records whose reader never came.
//!
//! A record is deleted by its reader, by the next request of its connection, or with the connection. What is left by none of them (a sender that pipelines
//! towards a service that is not traced) goes here, so that the table does not fill up.

use std::time::Duration;

use tracing::warn;

use crate::{probe::maps::Handovers, telemetry::Counters};

/// Deletes old records, now and then.
pub(super) struct Sweep {
    handovers: Handovers,
    lifetime_ns: u64,
    due_ns: u64,
    /// Records found the last time that were young enough to stay.
    pub(super) held: u64,
}

impl Sweep {
    /// Sweeps away what is older than `lifetime`, five times in that time.
    pub(super) fn new(handovers: Handovers, lifetime: Duration) -> Self {
        Self {
            handovers,
            lifetime_ns: lifetime.as_nanos() as u64,
            due_ns: 0,
            held: 0,
        }
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now_ns: u64, counters: &Counters) {
        if now_ns < self.due_ns {
            return;
        }
        self.due_ns = now_ns + self.lifetime_ns / 5;
        match self.handovers.sweep(now_ns, self.lifetime_ns) {
            Ok((deleted, held)) => {
                counters.handovers_expired.add(deleted);
                self.held = held;
            }
            Err(error) => {
                warn!(%error, "cannot look through the same-kernel records now; old ones stay until the next time");
            }
        }
    }
}
