//! Bodies, and where they end.
//!
//! Input: bytes of a chunked body, or how far a side is. Output: the end of the message. Bytes of other bodies are only counted, by the caller.

use super::Http1Parser;
use crate::protocol::{
    End, Item, Mark, Side,
    http1::{chunked::Fed, half::Phase},
};

impl Http1Parser {
    pub(super) fn chunked_bytes(
        &mut self,
        side: Side,
        mark: Mark,
        bytes: &[u8],
        items: &mut Vec<Item>,
    ) -> usize {
        let half = self.half_mut(side);
        let Phase::Chunked(mut chunked) = half.phase else {
            return bytes.len();
        };
        let fed = chunked.feed(bytes);
        half.phase = Phase::Chunked(chunked);
        match fed {
            Fed::Ended(length) => {
                half.next += length as u64;
                let position = half.next;
                self.end(side, position, mark.time_ns, items);
                length
            }
            Fed::All => {
                half.next += bytes.len() as u64;
                bytes.len()
            }
            Fed::Malformed => {
                half.next += bytes.len() as u64;
                half.phase = Phase::UntilTurn;
                bytes.len()
            }
        }
    }

    /// Ends a body of known length that is complete.
    pub(super) fn end_if_reached(&mut self, side: Side, time_ns: u64, items: &mut Vec<Item>) {
        let half = self.half(side);
        if let Phase::Length { end } | Phase::Told { end, .. } = half.phase
            && end <= half.next
        {
            self.end(side, end, time_ns, items);
        }
    }

    /// A request whose end cannot be told has ended when its final response begins.
    pub(super) fn turn_request(&mut self, time_ns: u64, items: &mut Vec<Item>) {
        if self.request.phase == Phase::UntilTurn {
            let half = &self.request;
            let (next, last_ns) = (half.next, half.last_ns.min(time_ns));
            self.end(Side::Request, next, last_ns, items);
        }
    }

    pub(super) fn end(&mut self, side: Side, position: u64, time_ns: u64, items: &mut Vec<Item>) {
        let synced = self.synced;
        let half = self.half_mut(side);
        let end = half.end_at(position, time_ns);
        half.phase = if synced { Phase::Start } else { Phase::Lost };
        items.push(message_end(side, end));
    }
}

pub(super) const fn message_end(side: Side, end: End) -> Item {
    match side {
        Side::Request => Item::RequestEnd(end),
        Side::Response => Item::ResponseEnd(end),
    }
}
