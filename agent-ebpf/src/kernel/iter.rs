//! The bytes of a send or receive: where an `iov_iter` has them.
//!
//! At entry of a send the iterator stands at the first byte. At exit of a receive it has advanced past the last one, so the first byte is found
//! by going back as many bytes as were read.

use super::field;
use crate::globals::global;
use agent_common::kernel_fields::ABSENT;

/// Buffers of a vector that are walked. A vector with more is counted.
pub(crate) const WALK_LIMIT: u32 = 16;

/// Bytes of a `struct iovec`: address and length.
pub(crate) const IOVEC: u64 = 16;

/// What kind of iterator it is.
pub(crate) mod kind {
    /// Lengths only.
    pub(crate) const OPAQUE: u32 = 0;
    /// One user buffer.
    pub(crate) const BUFFER: u32 = 1;
    /// An array of user buffers.
    pub(crate) const VECTOR: u32 = 2;
}

/// Where a segment's bytes are.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Place {
    /// Address of the first byte (BUFFER), or of the `iovec` it lies in (VECTOR).
    pub(crate) base: u64,
    /// Offset of the first byte in that `iovec`.
    pub(crate) offset: u64,
    /// A [`kind`].
    pub(crate) kind: u32,
    #[doc(hidden)]
    pub(crate) reserved: u32,
}

/// Fills `place` from the iterator of a `struct msghdr` whose type the verifier knows; nothing is computed yet.
///
/// Addresses pass through memory: 6.1 types the `iovec` pointer that it sees loaded, and refuses arithmetic on it.
#[inline(always)]
pub(crate) fn note(message: *const u8, place: &mut Place) {
    let iterator = global!(O_MSGHDR_MSG_ITER);
    let type_at = iterator + global!(O_IOV_ITER_ITER_TYPE);
    let number = if global!(W_ITER_TYPE) == 1 {
        u32::from(field::load::<u8>(message, type_at))
    } else {
        field::load::<u32>(message, type_at) & !1
    };
    place.offset = field::load(message, iterator + global!(O_IOV_ITER_IOV_OFFSET));
    place.kind = kind::OPAQUE;
    if global!(O_IOV_ITER_UBUF) != ABSENT && number == global!(V_ITER_UBUF) {
        place.kind = kind::BUFFER;
        place.base = field::load(message, iterator + global!(O_IOV_ITER_UBUF));
    } else if number == global!(V_ITER_IOVEC) {
        place.kind = kind::VECTOR;
        place.base = field::load(message, iterator + global!(O_IOV_ITER_IOV));
    }
}

/// Moves a single buffer's place back over the `length` bytes that a receive has put into it; false when it cannot have.
#[inline(always)]
pub(crate) fn rewind_buffer(place: &mut Place, length: u64) -> bool {
    if place.offset < length {
        return false;
    }
    place.base = place.base.wrapping_add(place.offset - length);
    place.offset = 0;
    true
}

/// The same for an array of buffers: step by step.
#[inline(always)]
pub(crate) fn rewind_vector(place: &mut Place, length: u64) -> bool {
    let mut base = place.base;
    let mut offset = place.offset;
    let mut rest = length;
    for _ in 0..WALK_LIMIT {
        if rest <= offset {
            place.base = base;
            place.offset = offset - rest;
            return true;
        }
        rest -= offset;
        base = base.wrapping_sub(IOVEC);
        offset = field::read(base, 8);
    }
    false
}

/// Prepares `place` for a send: a single buffer begins at its offset.
#[inline(always)]
pub(crate) fn settle(place: &mut Place) {
    if place.kind == kind::BUFFER {
        place.base = place.base.wrapping_add(place.offset);
        place.offset = 0;
    }
}
