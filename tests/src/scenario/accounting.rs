//! Every loss has a counter: each is forced once.

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[];
