//! From the bytes of one record to an [`Event`].
//!
//! Input: one record as the ring buffer or a recording hands it out. Output: a typed view of the same bytes, or the reason why there is
//! none. Lengths are checked against the bytes that are there; payload is not looked at.

use agent_common::abi::{self, ABI_VERSION, Header, Kind, SlotKind};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::Event;
use crate::telemetry::Counters;

/// Why a record is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A kind that this version does not know.
    #[error("record of unknown kind {kind}")]
    UnknownKind {
        /// The number in the record.
        kind: u16,
    },
    /// Another ABI version wrote it.
    #[error("record of ABI version {version}, this is {ABI_VERSION}")]
    Version {
        /// The version in the record.
        version: u16,
    },
    /// Shorter than its kind needs or than it says, or not at a multiple of eight bytes in memory.
    #[error("record whose {bytes} bytes do not hold what it says")]
    Length {
        /// Bytes that were there.
        bytes: usize,
    },
    /// It speaks of bytes behind the last position that a stream can have.
    #[error("record of {bytes} bytes at position {position}, where no stream gets to")]
    Position {
        /// Of the first byte.
        position: u64,
        /// Bytes from there.
        bytes: u32,
    },
}

/// The event in `record`, which begins at a multiple of eight bytes in memory. Bytes behind [`Header::length`] are ignored.
///
/// # Errors
/// When the record is of an unknown kind or version, or contradicts itself.
pub fn decode(record: &[u8]) -> Result<Event<'_>, Refused> {
    let length = Refused::Length {
        bytes: record.len(),
    };
    let (header, _) = Header::ref_from_prefix(record).map_err(|_| length)?;
    if header.version != ABI_VERSION {
        return Err(Refused::Version {
            version: header.version,
        });
    }
    let kind = Kind::from_u16(header.kind).ok_or(Refused::UnknownKind { kind: header.kind })?;
    let record = usize::try_from(header.length)
        .ok()
        .and_then(|length| record.get(..length))
        .ok_or(length)?;
    Ok(match kind {
        Kind::Segment => {
            let (segment, rest) = abi::Segment::ref_from_prefix(record).map_err(|_| length)?;
            let payload = usize::try_from(segment.captured)
                .ok()
                .and_then(|captured| rest.get(..captured))
                .ok_or(length)?;
            let (position, bytes) = (header.position, segment.length.max(segment.captured));
            if position.checked_add(bytes.into()).is_none() {
                return Err(Refused::Position { position, bytes });
            }
            Event::Segment(segment, payload)
        }
        Kind::Decision => Event::Decision(view(record).ok_or(length)?),
        Kind::Open => Event::Open(view(record).ok_or(length)?),
        Kind::Close => Event::Close(view(record).ok_or(length)?),
        Kind::Exec => Event::Exec(view(record).ok_or(length)?),
        Kind::Exit => Event::Exit(view(record).ok_or(length)?),
        Kind::Fork => Event::Fork(view(record).ok_or(length)?),
        Kind::Release => Event::Release(view(record).ok_or(length)?),
        Kind::MessageEnd => Event::MessageEnd(view(record).ok_or(length)?),
        Kind::Retransmit => Event::Retransmit(view(record).ok_or(length)?),
        Kind::Await => Event::Await(view(record).ok_or(length)?),
    })
}

/// [`decode`], with what was read and what was refused counted.
pub fn decode_counted<'a>(record: &'a [u8], counters: &Counters) -> Option<Event<'a>> {
    counters.records.increment();
    match decode(record) {
        Ok(event) => {
            match &event {
                Event::Segment(segment, _) => {
                    counters.segments_read.increment();
                    if segment.slot == SlotKind::Decision as u8 {
                        counters.decisions_read.increment();
                    }
                }
                Event::Decision(_) => counters.decisions_read.increment(),
                _ => {}
            }
            Some(event)
        }
        Err(refused) => {
            match refused {
                Refused::UnknownKind { .. } => counters.records_unknown_kind.increment(),
                Refused::Version { .. } | Refused::Length { .. } | Refused::Position { .. } => {
                    counters.records_malformed.increment();
                }
            }
            tracing::trace!(%refused, "record skipped");
            None
        }
    }
}

/// A struct at the start of the bytes; longer records of a known version are fine.
fn view<T: FromBytes + Immutable + KnownLayout>(record: &[u8]) -> Option<&T> {
    T::ref_from_prefix(record).ok().map(|(view, _)| view)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;
    use crate::testing;

    /// Bytes at a multiple of eight, as the ring buffer gives them.
    #[derive(Clone, Debug)]
    pub(in crate::event) struct Aligned {
        words: Vec<u64>,
        length: usize,
    }

    impl Aligned {
        pub(in crate::event) fn new(bytes: &[u8]) -> Self {
            let mut words = vec![0; bytes.len().div_ceil(8)];
            words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
            Self {
                words,
                length: bytes.len(),
            }
        }

        pub(in crate::event) fn bytes(&self) -> &[u8] {
            &self.words.as_bytes()[..self.length]
        }
    }

    fn size_of_kind(kind: Kind) -> usize {
        match kind {
            Kind::Segment => size_of::<abi::Segment>(),
            Kind::Decision => size_of::<abi::DecisionRecord>(),
            Kind::Open => size_of::<abi::Open>(),
            Kind::Close => size_of::<abi::Close>(),
            Kind::Exec => size_of::<abi::Exec>(),
            Kind::Exit => size_of::<abi::Exit>(),
            Kind::Fork => size_of::<abi::Fork>(),
            Kind::Release | Kind::Await => size_of::<Header>(),
            Kind::MessageEnd => size_of::<abi::MessageEnd>(),
            Kind::Retransmit => size_of::<abi::Retransmit>(),
        }
    }

    /// A well-formed record of the kind, its other bytes taken from `fill` in turn, with `payload` behind a segment.
    pub(in crate::event) fn record(kind: Kind, fill: &[u8], payload: &[u8]) -> Aligned {
        let fixed = size_of_kind(kind);
        let payload = if kind == Kind::Segment { payload } else { &[] };
        let mut bytes: Vec<u8> = fill
            .iter()
            .copied()
            .chain([0])
            .cycle()
            .take(fixed)
            .collect();
        bytes[0..2].copy_from_slice(&(kind as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&ABI_VERSION.to_ne_bytes());
        bytes[4..8].copy_from_slice(&((fixed + payload.len()) as u32).to_ne_bytes());
        if kind == Kind::Segment {
            let at = std::mem::offset_of!(abi::Segment, captured);
            bytes[at..at + 4].copy_from_slice(&(payload.len() as u32).to_ne_bytes());
        }
        bytes.extend(payload);
        Aligned::new(&bytes)
    }

    pub(in crate::event) fn kinds() -> impl Strategy<Value = Kind> {
        prop::sample::select(vec![
            Kind::Segment,
            Kind::Decision,
            Kind::Open,
            Kind::Close,
            Kind::Exec,
            Kind::Exit,
            Kind::Fork,
            Kind::Release,
            Kind::MessageEnd,
            Kind::Retransmit,
            Kind::Await,
        ])
    }

    proptest! {
        #[test]
        fn gives_back_the_bytes_of_every_kind(
            kind in kinds(),
            fill in prop::collection::vec(any::<u8>(), 0..300),
            payload in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let record = record(kind, &fill, &payload);
            let again = decode(record.bytes()).map(testing::encoded);
            prop_assert_eq!(again.as_deref().ok(), Some(record.bytes()));
        }

        #[test]
        fn refuses_every_cut_of_a_record(kind in kinds(), payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let record = record(kind, &[7], &payload);
            for length in 0..record.bytes().len() {
                let refused = decode(&record.bytes()[..length]).err();
                prop_assert_eq!(refused, Some(Refused::Length { bytes: length }));
            }
        }

        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0..8_usize) {
            let aligned = Aligned::new(&bytes);
            let counters = Counters::default();
            let event = decode_counted(aligned.bytes(), &counters).is_some();
            let _ = decode(bytes.get(at..).unwrap_or_default());
            let refused = counters.records_malformed.get() + counters.records_unknown_kind.get();
            prop_assert_eq!(u64::from(event) + refused, counters.records.get());
        }

        #[test]
        fn survives_a_damaged_record(kind in kinds(), at in 0..300_usize, byte in any::<u8>()) {
            let record = record(kind, &[1, 2, 3], &[0x55; 40]);
            let mut bytes = record.bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            let damaged = Aligned::new(&bytes);
            if let Ok(event) = decode(damaged.bytes()) {
                prop_assert!(testing::encoded(event).len() <= bytes.len());
            }
        }
    }

    #[test]
    fn counts_what_it_does_not_know() {
        let counters = Counters::default();
        let good = record(Kind::Exit, &[3], &[]);
        let mut unknown = good.bytes().to_vec();
        unknown[0..2].copy_from_slice(&999_u16.to_ne_bytes());
        let mut later = good.bytes().to_vec();
        later[2..4].copy_from_slice(&(ABI_VERSION + 1).to_ne_bytes());
        assert!(decode_counted(good.bytes(), &counters).is_some());
        assert!(decode_counted(Aligned::new(&unknown).bytes(), &counters).is_none());
        assert!(decode_counted(Aligned::new(&later).bytes(), &counters).is_none());
        assert_eq!(counters.records.get(), 3);
        assert_eq!(counters.records_unknown_kind.get(), 1);
        assert_eq!(counters.records_malformed.get(), 1);
    }

    #[test]
    fn refuses_bytes_behind_the_last_position() {
        let mut bytes = record(Kind::Segment, &[0], b"GET /").bytes().to_vec();
        let at = std::mem::offset_of!(Header, position);
        bytes[at..at + 8].copy_from_slice(&(u64::MAX - 5).to_ne_bytes());
        assert!(decode(Aligned::new(&bytes).bytes()).is_ok());
        let position = u64::MAX - 4;
        bytes[at..at + 8].copy_from_slice(&position.to_ne_bytes());
        assert_eq!(
            decode(Aligned::new(&bytes).bytes()).err(),
            Some(Refused::Position { position, bytes: 5 })
        );
    }

    #[test]
    fn refuses_captured_bytes_that_are_not_there() {
        let mut bytes = record(Kind::Segment, &[0], b"GET /").bytes().to_vec();
        let at = std::mem::offset_of!(abi::Segment, captured);
        for captured in [6_u32, u32::MAX] {
            bytes[at..at + 4].copy_from_slice(&captured.to_ne_bytes());
            let record = Aligned::new(&bytes);
            assert_eq!(
                decode(record.bytes()).err(),
                Some(Refused::Length { bytes: bytes.len() })
            );
        }
    }
}
