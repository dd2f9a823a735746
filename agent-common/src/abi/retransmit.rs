//! Bytes that TCP sent again.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Header;

/// TCP sent bytes again: they, or what the peer said of them, were lost, late or taken for lost.
///
/// [`Header::position`] is the place behind the last of them in the stream of what the process sends: where their first one is cannot be told if
/// something was put in among them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Retransmit {
    /// Kind [`Kind::Retransmit`](super::Kind::Retransmit); flags are 0.
    pub header: Header,
    /// How many, those that were put in included; never 0: a SYN or a FIN alone makes no record.
    pub length: u32,
    #[doc(hidden)]
    pub reserved: [u8; 4],
}

const _: () = assert!(size_of::<Retransmit>() == 48);
