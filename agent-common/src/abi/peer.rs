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
    /// How much there is against the path: [`Peer::FAILURE`] for each connection on which none was, less one for each on which one was.
    pub failures: u32,
    /// Times that the path was given up, as far as that is not made up for.
    pub pauses: u32,
    /// Connections on which one was acknowledged, since the last one on which none was.
    pub passes: u32,
}

impl Peer {
    /// A connection whose trial did not end by then has nothing to tell.
    const TRIAL_NS: u64 = 2_000_000_000;
    /// What one failure weighs, in connections that pass. Behind one address there may be several paths, of which one passes no options: a path is given up
    /// where more than one in 21 connections fails.
    const FAILURE: u32 = 20;
    /// What is enough to give up a path which is known to pass options: three failures in a row, since a peer may go down, too.
    const ENOUGH: u32 = 3 * Self::FAILURE;
    /// So many passes in a row make up for having been given up once.
    const MADE_UP: u32 = 100;
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
    pub const fn acknowledged(&mut self) {
        self.proven = 1;
        self.trial_ns = 0;
    }

    /// And nothing has answered it with a reset.
    #[inline(always)]
    pub const fn passed(&mut self) {
        self.acknowledged();
        self.failures = self.failures.saturating_sub(1);
        self.passes = self.passes.saturating_add(1);
        if self.passes >= Self::MADE_UP {
            self.passes = 0;
            self.pauses = self.pauses.saturating_sub(1);
        }
    }

    /// The connection that began to try the path at this time has found out nothing: the next one may.
    #[inline(always)]
    pub const fn released(&mut self, trial_ns: u64) {
        if self.trial_ns == trial_ns {
            self.trial_ns = 0;
        }
    }

    /// Whether nothing is known of the path, neither good nor bad.
    #[must_use]
    #[inline(always)]
    pub const fn is_unknown(&self) -> bool {
        self.proven == 0 && self.pauses == 0
    }

    /// A connection ended, or goes on without, because none was, or because one was answered with a reset. `pause_ns` is the first pause. Whether the path is given up for that.
    #[must_use]
    #[inline(always)]
    pub const fn failed(&mut self, now_ns: u64, pause_ns: u64) -> bool {
        if self.is_paused(now_ns) {
            return false;
        }
        self.trial_ns = 0;
        self.passes = 0;
        self.failures = self.failures.saturating_add(Self::FAILURE);
        if self.proven != 0 && self.failures < Self::ENOUGH {
            return false;
        }
        let doubled = if self.pauses < Self::DOUBLED {
            self.pauses
        } else {
            Self::DOUBLED
        };
        self.proven = 0;
        // One more is enough, until 21 have passed.
        self.failures = Self::ENOUGH;
        self.pauses = self.pauses.saturating_add(1);
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
        // It passes, but not for long.
        for _ in 0..20 {
            peer.passed();
        }
        let mut better = peer;
        better.passed();
        assert!(peer.failed(now, PAUSE) && !better.failed(now, PAUSE));
    }

    #[test]
    fn what_was_given_up_is_made_up_for_by_many_passes_in_a_row() {
        let mut peer = Peer::default();
        let mut now = 100 * SECOND;
        for minutes in [1, 2, 4] {
            assert!(peer.failed(now, PAUSE));
            now += minutes * PAUSE;
        }
        for _ in 0..300 {
            peer.passed();
        }
        assert!(peer.proven == 1 && peer.pauses == 0);
        // As if nothing had been.
        assert!(!peer.failed(now, PAUSE) && !peer.failed(now, PAUSE));
        assert!(peer.failed(now, PAUSE));
        assert!(!peer.is_paused(now + PAUSE));
    }

    #[test]
    fn a_peer_where_one_of_three_paths_passes_none_is_given_up_for_longer_and_longer() {
        let mut peer = Peer::default();
        let (mut now, mut harmed) = (100 * SECOND, 0);
        // A day of one connection each second.
        for second in 0..86_400u64 {
            now += SECOND;
            if !peer.admits(now) {
                continue;
            }
            if second % 3 == 0 {
                harmed += 1;
                let _ = peer.failed(now, PAUSE);
            } else {
                peer.passed();
            }
        }
        assert!(harmed < 40, "{harmed} of 28,800");
        // One in a hundred is what peers do on their own.
        let mut peer = Peer::default();
        for connection in 1..100_000u64 {
            peer.passed();
            assert!(connection % 100 != 0 || !peer.failed(now, PAUSE));
        }
    }

    #[test]
    fn who_has_found_out_nothing_makes_room_for_the_next_one() {
        let mut peer = Peer::default();
        assert!(peer.admits(100 * SECOND));
        peer.released(99 * SECOND);
        assert!(!peer.admits(100 * SECOND + 1), "it was not that one's");
        peer.released(100 * SECOND);
        assert!(peer.admits(100 * SECOND + 1));
    }

    #[test]
    fn a_path_that_was_given_up_is_not_unknown() {
        let mut peer = Peer::default();
        assert!(peer.is_unknown());
        assert!(peer.failed(SECOND, PAUSE));
        assert!(!peer.is_unknown());
        let mut peer = Peer::default();
        peer.passed();
        assert!(!peer.is_unknown());
    }

    #[test]
    fn a_path_that_passes_is_given_up_after_three_failures_in_a_row() {
        let mut peer = Peer::default();
        peer.passed();
        for _ in 0..10 {
            assert!(!peer.failed(SECOND, PAUSE));
            assert!(!peer.failed(SECOND, PAUSE));
            for _ in 0..40 {
                peer.passed();
            }
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
