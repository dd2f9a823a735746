//! What the callback that writes TCP options knows of the path to a peer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `PEERS` (key: address of the peer, IPv4 ones mapped): whether segments with an option arrive there. And of `PATHS`: whether they do anywhere.
///
/// Nobody knows it before one was acknowledged. Until then one connection at a time tries it, so that where options do not pass it is one request that
/// waits or fails for it, and not all of them. Written by callbacks on several CPUs without a lock: what is lost then is one step of a count.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Peer {
    /// Nothing is carried there before this time.
    pub until_ns: u64,
    /// When the connection that tries it began to, as far as it has not been told how that ended; 0 when none does.
    pub trial_ns: u64,
    /// 1: a segment with an option was acknowledged, and the path was not given up since.
    pub proven: u32,
    /// Connections on which none was, since the last one on which one was.
    pub failures: u32,
    /// Times that the path was given up since then.
    pub pauses: u32,
    /// Zero.
    pub reserved: u32,
}

impl Peer {
    /// A connection whose trial did not end by then has nothing to tell.
    const TRIAL_NS: u64 = 2_000_000_000;
    /// Connections in a row that fail on a path which is known to pass options, before it is given up: a peer may go down, too.
    const ENOUGH: u32 = 3;
    /// The pause after the first time doubles so often.
    const DOUBLED: u32 = 6;

    /// Whether the path is given up for now.
    #[must_use]
    #[inline(always)]
    pub const fn is_paused(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns
    }

    /// Whether a connection that has carried no option yet may do so now.
    #[must_use]
    #[inline(always)]
    pub const fn admits(&mut self, now_ns: u64) -> bool {
        if self.is_paused(now_ns) {
            return false;
        }
        if self.proven == 0 {
            if self.trial_ns != 0 && now_ns.saturating_sub(self.trial_ns) < Self::TRIAL_NS {
                return false;
            }
            self.trial_ns = now_ns;
        }
        true
    }

    /// A segment with an option was acknowledged.
    #[inline(always)]
    pub const fn passed(&mut self) {
        self.proven = 1;
        self.trial_ns = 0;
        self.failures = 0;
        self.pauses = 0;
    }

    /// A connection ended, or goes on without, because none was. `pause_ns` is the first pause. Whether the path is given up for that.
    #[must_use]
    #[inline(always)]
    pub const fn failed(&mut self, now_ns: u64, pause_ns: u64) -> bool {
        if self.is_paused(now_ns) {
            return false;
        }
        self.trial_ns = 0;
        self.failures = self.failures.wrapping_add(1);
        if self.proven != 0 && self.failures < Self::ENOUGH {
            return false;
        }
        let doubled = if self.pauses < Self::DOUBLED {
            self.pauses
        } else {
            Self::DOUBLED
        };
        self.proven = 0;
        self.failures = 0;
        self.pauses = self.pauses.wrapping_add(1);
        self.until_ns = now_ns.saturating_add(pause_ns << doubled);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const PAUSE: u64 = 60 * SECOND;

    #[test]
    fn one_connection_at_a_time_tries_a_path_that_is_not_known() {
        let mut peer = Peer::default();
        assert!(peer.admits(100 * SECOND));
        assert!(!peer.admits(100 * SECOND + 1));
        // The first one has nothing to tell.
        assert!(peer.admits(102 * SECOND));
        assert!(!peer.admits(102 * SECOND + 1));
        peer.passed();
        assert!(peer.admits(103 * SECOND) && peer.admits(103 * SECOND));
    }

    #[test]
    fn a_path_that_was_never_known_to_pass_is_given_up_at_once_for_longer_and_longer() {
        let mut peer = Peer::default();
        let mut now = 100 * SECOND;
        for minutes in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert!(peer.admits(now));
            assert!(peer.failed(now, PAUSE));
            assert!(!peer.failed(now + 1, PAUSE), "it is given up already");
            let end = now + minutes * PAUSE;
            assert!(!peer.admits(end - 1), "{minutes}");
            assert!(peer.is_paused(end - 1) && !peer.is_paused(end));
            now = end;
        }
        assert!(peer.admits(now));
        peer.passed();
        // From the beginning again.
        for _ in 0..3 {
            assert!(peer.admits(now));
            let _ = peer.failed(now, PAUSE);
        }
        assert!(!peer.is_paused(now + PAUSE));
    }

    #[test]
    fn a_path_that_passes_is_given_up_after_three_failures_in_a_row() {
        let mut peer = Peer::default();
        peer.passed();
        for _ in 0..10 {
            assert!(!peer.failed(SECOND, PAUSE));
            assert!(!peer.failed(SECOND, PAUSE));
            peer.passed();
        }
        assert!(!peer.failed(SECOND, PAUSE));
        assert!(!peer.failed(SECOND, PAUSE));
        assert!(peer.failed(SECOND, PAUSE));
        assert!(!peer.admits(2 * SECOND));
        // Afterwards one tries it, as in the beginning.
        assert!(peer.admits(100 * SECOND));
        assert!(!peer.admits(100 * SECOND));
    }
}
