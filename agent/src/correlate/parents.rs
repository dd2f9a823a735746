//! What is known of server requests that may be parents: whether they exist, and when they were answered.

use std::collections::VecDeque;

use crate::conn::IdMap;

/// How long an answered request is remembered: longer than the states of a connection need to arrive.
const REMEMBERED_NS: u64 = 5_000_000_000;

/// Whether a request can be a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing speaks against it.
    Plausible,
    /// It was answered before.
    Answered,
    /// There is no such request.
    Unknown,
}

impl Verdict {
    /// Value of `undertrace.link.reason` of a rejected parent.
    #[must_use]
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Plausible => None,
            Self::Answered => Some("parent_answered"),
            Self::Unknown => Some("parent_unknown"),
        }
    }
}

/// Server requests by span id.
#[derive(Debug)]
pub struct Parents {
    /// When each was answered; `u64::MAX` while it is open.
    answered: IdMap<u64, u64>,
    leaving: VecDeque<(u64, u64)>,
    limit: usize,
    incomplete: bool,
}

impl Parents {
    /// Remembers up to `limit` requests.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            answered: IdMap::default(),
            leaving: VecDeque::new(),
            limit,
            incomplete: false,
        }
    }

    /// The kernel decided a server request: it is open.
    pub fn open(&mut self, span_id: [u8; 8]) {
        if self.answered.len() < self.limit {
            self.answered.insert(u64::from_be_bytes(span_id), u64::MAX);
        } else {
            self.incomplete = true;
        }
    }

    /// Its response's last byte was offered, or nobody will answer it.
    pub fn answer(&mut self, span_id: [u8; 8], time_ns: u64, now_ns: u64) {
        let key = u64::from_be_bytes(span_id);
        if let Some(answered) = self.answered.get_mut(&key)
            && *answered == u64::MAX
        {
            *answered = time_ns;
            self.leaving.push_back((now_ns, key));
        }
    }

    /// Whether a request whose first byte passed at `time_ns` can have this parent.
    #[must_use]
    pub fn judge(&self, span_id: [u8; 8], time_ns: u64) -> Verdict {
        match self.answered.get(&u64::from_be_bytes(span_id)) {
            Some(answered) if *answered < time_ns => Verdict::Answered,
            Some(_) => Verdict::Plausible,
            None if self.incomplete => Verdict::Plausible,
            None => Verdict::Unknown,
        }
    }

    /// Whether it was answered before `time_ns`, as far as it is still remembered.
    #[must_use]
    pub fn was_answered(&self, span_id: [u8; 8], time_ns: u64) -> bool {
        let answered = self.answered.get(&u64::from_be_bytes(span_id));
        answered.is_some_and(|answered| *answered < time_ns)
    }

    /// Forgets requests that were answered some time ago.
    pub fn tick(&mut self, now_ns: u64) {
        while let Some((since, key)) = self.leaving.front().copied()
            && since.saturating_add(REMEMBERED_NS) < now_ns
        {
            self.leaving.pop_front();
            self.answered.remove(&key);
        }
        if self.answered.is_empty() {
            self.incomplete = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_who_had_answered_or_never_was() {
        let mut parents = Parents::new(2);
        parents.open([1; 8]);
        assert_eq!(parents.judge([1; 8], 100), Verdict::Plausible);
        parents.answer([1; 8], 50, 60);
        assert_eq!(parents.judge([1; 8], 50), Verdict::Plausible);
        assert_eq!(parents.judge([1; 8], 51), Verdict::Answered);
        assert_eq!(parents.judge([2; 8], 51), Verdict::Unknown);
    }

    #[test]
    fn forgets_after_a_while_and_judges_nobody_it_had_no_room_for() {
        let mut parents = Parents::new(1);
        parents.open([1; 8]);
        parents.open([2; 8]);
        assert_eq!(parents.judge([2; 8], 1), Verdict::Plausible);
        parents.answer([1; 8], 50, 60);
        parents.tick(61 + REMEMBERED_NS);
        assert_eq!(parents.judge([1; 8], 51), Verdict::Unknown);
    }
}
