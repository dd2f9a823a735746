//! One type as BTF writes it.
//!
//! Input: the bytes from its header on. Output: the header decoded, and the words of its details. It follows no reference.

use super::BtfError;

/// The kinds of BTF that this reader tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Pointer,
    Array,
    Struct,
    Union,
    Enum,
    Enum64,
    Forward,
    /// Typedef, volatile, const, restrict, type tag: a name for another type.
    Alias,
    Function,
    Prototype,
    Float,
    /// Variable, data section, declaration tag: nothing here asks for them.
    Other,
}

impl Kind {
    /// Kind and the bytes that follow the 12-byte header; `None` for a kind that is not known.
    fn of(number: u8, count: usize) -> Option<(Self, usize)> {
        Some(match number {
            1 => (Self::Int, 4),
            2 => (Self::Pointer, 0),
            3 => (Self::Array, 12),
            4 => (Self::Struct, count * 12),
            5 => (Self::Union, count * 12),
            6 => (Self::Enum, count * 8),
            7 => (Self::Forward, 0),
            8..=11 | 18 => (Self::Alias, 0),
            12 => (Self::Function, 0),
            13 => (Self::Prototype, count * 8),
            14 | 17 => (Self::Other, 4),
            15 => (Self::Other, count * 12),
            16 => (Self::Float, 0),
            19 => (Self::Enum64, count * 12),
            _ => return None,
        })
    }
}

/// One type: its header decoded, its details still bytes.
#[derive(Clone, Copy)]
pub(super) struct Type<'a> {
    pub(super) kind: Kind,
    pub(super) number: u8,
    pub(super) name: u32,
    pub(super) count: usize,
    pub(super) flag: bool,
    /// `size` or `type` of `struct btf_type`, as the kind has it.
    pub(super) size_or_type: u32,
    pub(super) details: &'a [u8],
}

impl<'a> Type<'a> {
    /// Reads the type at the start of `bytes`.
    pub(super) fn read(bytes: &'a [u8], id: u32) -> Result<Self, BtfError> {
        let truncated = BtfError::Truncated { what: "a type" };
        let (Some(name), Some(info), Some(size_or_type)) =
            (word(bytes, 0), word(bytes, 4), word(bytes, 8))
        else {
            return Err(truncated);
        };
        // 7.x widens the count to 24 bits and the kind to 7; older kernels leave those bits zero.
        let count = (info & 0xff_ffff) as usize;
        let number = (info >> 24) as u8 & 0x7f;
        let (kind, length) = Kind::of(number, count).ok_or(BtfError::Kind { kind: number, id })?;
        let details = bytes.get(12..12 + length).ok_or(truncated)?;
        Ok(Self {
            kind,
            number,
            name,
            count,
            flag: info >> 31 == 1,
            size_or_type,
            details,
        })
    }

    /// The entry at `index` of members, enumerators or parameters, each `words` words long.
    pub(super) fn entry<const WORDS: usize>(&self, index: usize) -> [u32; WORDS] {
        let at = index * WORDS * 4;
        std::array::from_fn(|position| word(self.details, at + position * 4).unwrap_or_default())
    }
}

/// The 32-bit word at `at`, in the machine's byte order.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u32::from_ne_bytes(*chunk))
}
