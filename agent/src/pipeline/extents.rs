//! Ends of messages, told by the kernel before anybody knows the protocol.

use agent_common::abi::Direction;

use crate::protocol::Extent;

/// Ends of messages that nobody could be told of yet: the newest few.
#[derive(Debug, Default)]
pub(super) struct Extents(Vec<(Direction, Extent)>);

impl Extents {
    const LIMIT: usize = 8;

    pub(super) fn push(&mut self, direction: Direction, extent: Extent) {
        self.0
            .retain(|(of, known)| *of != direction || known.start != extent.start);
        if self.0.len() >= Self::LIMIT {
            self.0.remove(0);
        }
        self.0.push((direction, extent));
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<(Direction, Extent)> {
        std::mem::take(&mut self.0)
    }
}
