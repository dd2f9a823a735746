//! Recordings: the same spans again, without root and without a kernel.

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[];
