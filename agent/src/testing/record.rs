//! Records that own their bytes.
//!
//! Input: the fixed part and the payload. Output: the event, or the bytes as they lie in the ring buffer.

use agent_common::abi::{
    Close, Decision, DecisionRecord, MessageEnd, Open, Retransmit, Segment, SlotKind, segment_flags,
};
use zerocopy::IntoBytes;

use crate::event::Event;

/// One record, owned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fixed {
    Open(Open),
    Segment(Segment),
    Decision(DecisionRecord),
    MessageEnd(MessageEnd),
    Close(Close),
    Retransmit(Retransmit),
}

/// One record with its payload.
#[derive(Clone, Debug)]
pub struct Record {
    pub(super) fixed: Fixed,
    pub(super) payload: Vec<u8>,
}

impl Record {
    /// The record as an event.
    #[must_use]
    pub fn event(&self) -> Event<'_> {
        match &self.fixed {
            Fixed::Open(open) => Event::Open(open),
            Fixed::Segment(segment) => Event::Segment(segment, &self.payload),
            Fixed::Decision(record) => Event::Decision(record),
            Fixed::MessageEnd(record) => Event::MessageEnd(record),
            Fixed::Close(close) => Event::Close(close),
            Fixed::Retransmit(record) => Event::Retransmit(record),
        }
    }

    /// The record as it lies in the ring buffer.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let fixed = match &self.fixed {
            Fixed::Open(open) => open.as_bytes(),
            Fixed::Segment(segment) => segment.as_bytes(),
            Fixed::Decision(record) => record.as_bytes(),
            Fixed::MessageEnd(record) => record.as_bytes(),
            Fixed::Close(close) => close.as_bytes(),
            Fixed::Retransmit(record) => record.as_bytes(),
        };
        [fixed, &self.payload].concat()
    }

    /// The segment that the record is.
    ///
    /// # Panics
    ///
    /// When it is another record.
    pub fn segment_mut(&mut self) -> &mut Segment {
        match &mut self.fixed {
            Fixed::Segment(segment) => segment,
            other => panic!("a segment, not {other:?}"),
        }
    }

    /// More records of the connection were lost before this one.
    pub fn add_dropped(&mut self, records: u32) {
        match &mut self.fixed {
            Fixed::Segment(segment) => segment.dropped += records,
            Fixed::Close(close) => close.dropped += records,
            Fixed::Open(_) | Fixed::Decision(_) | Fixed::MessageEnd(_) | Fixed::Retransmit(_) => {}
        }
    }
}

/// What tests add to a segment after it was written.
pub trait SegmentExt {
    /// The kernel proved that a message begins here.
    fn starts(&mut self) -> &mut Self;

    /// The kernel decided this message.
    fn decided(&mut self, decision: Decision) -> &mut Self;
}

impl SegmentExt for Segment {
    fn starts(&mut self) -> &mut Self {
        self.header.flags |= segment_flags::MESSAGE_START;
        self
    }

    fn decided(&mut self, decision: Decision) -> &mut Self {
        self.slot = SlotKind::Decision as u8;
        self.decision = Decision {
            position: self.header.position,
            direction: self.direction,
            ..decision
        };
        self
    }
}

/// The bytes that an event was decoded from.
#[must_use]
pub fn encoded(event: Event<'_>) -> Vec<u8> {
    match event {
        Event::Segment(segment, payload) => [segment.as_bytes(), payload].concat(),
        Event::Decision(record) => record.as_bytes().to_vec(),
        Event::Open(record) => record.as_bytes().to_vec(),
        Event::Close(record) => record.as_bytes().to_vec(),
        Event::Exec(record) => record.as_bytes().to_vec(),
        Event::Exit(record) => record.as_bytes().to_vec(),
        Event::Fork(record) => record.as_bytes().to_vec(),
        Event::Release(record) | Event::Await(record) => record.as_bytes().to_vec(),
        Event::MessageEnd(record) => record.as_bytes().to_vec(),
        Event::Retransmit(record) => record.as_bytes().to_vec(),
    }
}
