//! What the kernel is told of the event loops of processes.
//!
//! Input: runtimes of processes, forks and ends. Output: entries of `RUNTIMES`. A loop that must be looked at while it waits (nginx) counts as
//! one that defers until that was possible.

use std::collections::HashMap;

use agent_common::{abi::EventLoop, wire::decide::event_loop};
use tracing::{debug, warn};

use crate::{
    probe::maps::Runtimes,
    process::{Dispatch, Runtime},
};

/// Time until a process that did not wait is looked at again; doubled after each try.
const FIRST_TRY_NS: u64 = 100_000_000;
/// The longest such time.
const LAST_TRY_NS: u64 = 10_000_000_000;
/// Processes that are looked at in one tick.
const LOOKS: usize = 16;

/// Event loops that the kernel knows of.
pub(super) struct EventLoops {
    map: Runtimes,
    known: HashMap<u32, Known>,
    /// Some process is still to be looked at.
    unseen: bool,
}

struct Known {
    /// What its image says.
    bits: u64,
    /// When it is looked at next, and how long after that; none when it need not be.
    due: Option<(u64, u64)>,
}

impl EventLoops {
    pub(super) fn new(map: Runtimes) -> Self {
        Self {
            map,
            known: HashMap::new(),
            unseen: false,
        }
    }

    /// Notes which runtime a process has.
    pub(super) fn note(&mut self, tgid: u32, runtime: Runtime) {
        self.set(tgid, runtime.event_loop());
    }

    /// A process was copied: its loop is of the same kind, at another place.
    pub(super) fn forked(&mut self, parent: u32, child: u32) {
        if let Some(known) = self.known.get(&parent) {
            self.set(child, known.bits);
        }
    }

    /// A process has ended.
    pub(super) fn forget(&mut self, tgid: u32) {
        self.set(tgid, 0);
    }

    fn set(&mut self, tgid: u32, bits: u64) {
        if self.known.get(&tgid).map_or(0, |known| known.bits) == bits {
            return;
        }
        if bits == 0 {
            self.known.remove(&tgid);
            self.tell(tgid, EventLoop::default());
            return;
        }
        let unseen = bits & event_loop::IN_ORDER != 0;
        let due = unseen.then_some((0, FIRST_TRY_NS));
        self.unseen |= unseen;
        self.known.insert(tgid, Known { bits, due });
        let flags = if unseen { event_loop::DEFERS } else { bits };
        self.tell(
            tgid,
            EventLoop {
                flags,
                ..EventLoop::default()
            },
        );
    }

    /// Looks at processes that were not seen waiting yet.
    pub(super) fn tick(&mut self, now_ns: u64, look: impl Fn(u32) -> Option<Dispatch>) {
        if !self.unseen {
            return;
        }
        self.unseen = self.known.values().any(|known| known.due.is_some());
        let due = self.known.iter_mut().filter_map(|(tgid, known)| {
            let (_, wait_ns) = known.due.filter(|(at_ns, _)| *at_ns <= now_ns)?;
            // The parent of the workers never waits for events itself.
            known.due = Some((now_ns + wait_ns, LAST_TRY_NS.min(wait_ns * 2)));
            Some(*tgid)
        });
        let due: Vec<u32> = due.take(LOOKS).collect();
        for tgid in due {
            let Some(Dispatch { slot, handling }) = look(tgid) else {
                continue;
            };
            debug!(tgid, "its event loop tells events from timers");
            if let Some(known) = self.known.get_mut(&tgid) {
                known.due = None;
            }
            self.tell(
                tgid,
                EventLoop {
                    flags: event_loop::IN_ORDER,
                    slot,
                    handling,
                },
            );
        }
    }

    fn tell(&mut self, tgid: u32, event_loop: EventLoop) {
        if let Err(error) = self.map.set_event_loop(tgid, event_loop) {
            warn!(tgid, %error, "cannot tell the kernel of a runtime; some calls of it will have no parent");
        }
    }
}
