//! Reads the kernel's type information (BTF).
//!
//! Input: the raw bytes of `/sys/kernel/btf/vmlinux`, treated as hostile. Output: offsets and widths of struct members,
//! values of enumerators, prototypes of functions.
//!
//! It keeps no decoded copy: an index of four bytes per type and eight per name stands beside the bytes and goes when
//! the questions are answered. It reads no module's BTF and only the machine's own byte order.
//!
//! Format: Linux `include/uapi/linux/btf.h` and `Documentation/bpf/btf.rst`, 5.10 to 7.2.

#[cfg(test)]
mod kernels;
mod lookup;
mod prototype;
#[cfg(test)]
pub(crate) mod tests;
mod types;

use std::{fs::File, io::Read, path::Path};

use self::types::{Kind, Type, word};
pub use self::{
    lookup::{LookupError, Member},
    prototype::Prototype,
};

/// Where the kernel shows the types it was built with.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Larger files are refused: real ones are 5 to 10 MB.
const MAX_BYTES: u64 = 64 << 20;
/// Typedefs and qualifiers in a row; real chains have at most six.
const MAX_CHAIN: usize = 32;

/// Bytes that are no BTF, or not this machine's.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any kernel's.
    #[error("BTF of more than {MAX_BYTES} bytes")]
    TooLarge,
    /// The first bytes are not those of BTF in this machine's byte order.
    #[error("not BTF in this machine's byte order (magic {magic:#06x})")]
    Magic {
        /// The first two bytes.
        magic: u16,
    },
    /// A layout that this reader does not know.
    #[error("BTF version {version}, only version 1 is known")]
    Version {
        /// The version byte.
        version: u8,
    },
    /// A section or a type reaches past the end.
    #[error("BTF ends in the middle of {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// A kind of type whose size is not known, so that nothing after it can be found.
    #[error("unknown kind {kind} at type {id}")]
    Kind {
        /// The kind's number.
        kind: u8,
        /// Number of the type.
        id: u32,
    },
}

/// Type information of one kernel, over bytes that the caller holds.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Start of type `index + 1` in `types`.
    starts: Vec<u32>,
    /// (hash of name, type number) of structs, unions, enumerations and functions, sorted.
    names: Vec<(u32, u32)>,
}

impl<'a> Btf<'a> {
    /// Indexes `bytes`.
    ///
    /// # Errors
    /// When the bytes are no BTF version 1 in this machine's byte order, or a type reaches past its section.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let truncated = BtfError::Truncated { what: "the header" };
        let Some(&[m0, m1, version, _flags]) = bytes.first_chunk::<4>() else {
            return Err(truncated);
        };
        let magic = u16::from_ne_bytes([m0, m1]);
        if magic != 0xeb9f {
            return Err(BtfError::Magic { magic });
        }
        if version != 1 {
            return Err(BtfError::Version { version });
        }
        let header = word(bytes, 4).ok_or(truncated)?;
        let section = |at: usize, what| {
            let truncated = || BtfError::Truncated { what };
            let offset = u64::from(word(bytes, at).ok_or_else(truncated)?) + u64::from(header);
            let end = offset + u64::from(word(bytes, at + 4).ok_or_else(truncated)?);
            bytes
                .get(
                    usize::try_from(offset).unwrap_or(usize::MAX)
                        ..usize::try_from(end).unwrap_or(usize::MAX),
                )
                .ok_or_else(truncated)
        };
        let mut btf = Self {
            types: section(8, "the types")?,
            strings: section(16, "the strings")?,
            starts: Vec::new(),
            names: Vec::new(),
        };
        btf.index()?;
        Ok(btf)
    }

    /// Notes where each type starts and what the named ones are called.
    fn index(&mut self) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let id = u32::try_from(self.starts.len() + 1).unwrap_or(u32::MAX);
            let kind = Type::read(&self.types[at..], id)?;
            // The section is shorter than MAX_BYTES or at least shorter than 4 GiB: its length is a u32.
            self.starts.push(at as u32);
            if kind.name != 0
                && matches!(
                    kind.kind,
                    Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Function
                )
            {
                self.names.push((hash(self.name_bytes(kind.name)), id));
            }
            at += 12 + kind.details.len();
        }
        self.names.sort_unstable();
        Ok(())
    }

    /// Number of types, `void` not counted.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is no type at all.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The type behind typedefs and qualifiers; `None` for `void`.
    fn plain(&self, mut id: u32) -> Result<Option<Type<'a>>, LookupError> {
        for _ in 0..MAX_CHAIN {
            if id == 0 {
                return Ok(None);
            }
            let found = self.get(id).ok_or(LookupError::Malformed)?;
            if found.kind != Kind::Alias {
                return Ok(Some(found));
            }
            id = found.size_or_type;
        }
        Err(LookupError::Malformed)
    }

    /// Type number `id`; `None` for 0 (`void`) and numbers past the end.
    fn get(&self, id: u32) -> Option<Type<'a>> {
        let start = *self.starts.get((id as usize).checked_sub(1)?)?;
        Type::read(self.types.get(start as usize..)?, id).ok()
    }

    /// Every struct, union, enumeration and function called `name`.
    fn named(&self, name: &str) -> impl Iterator<Item = Type<'a>> {
        let hash = hash(name.as_bytes());
        let first = self.names.partition_point(|entry| entry.0 < hash);
        let same = self.names[first..]
            .iter()
            .take_while(move |entry| entry.0 == hash);
        same.filter_map(|entry| self.get(entry.1))
            .filter(move |found| self.name_bytes(found.name) == name.as_bytes())
    }

    /// The string at `offset`, without its end mark; empty when there is none.
    fn name_bytes(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        // Names in C are short; the bound keeps a missing end mark from costing the section's length each time.
        let rest = &rest[..rest.len().min(512)];
        rest.iter()
            .position(|byte| *byte == 0)
            .map_or(&[], |end| &rest[..end])
    }
}

/// Reads a BTF file whole, for [`Btf::parse`].
///
/// # Errors
/// When it cannot be read or is larger than 64 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, BtfError> {
    let failed = |source| BtfError::Read {
        path: path.display().to_string(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    // sysfs states the true size, which spares growing the buffer by doubling.
    let size = file.metadata().map_err(failed)?.len().min(MAX_BYTES);
    bytes.reserve_exact(usize::try_from(size).unwrap_or_default() + 1);
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        Err(BtfError::TooLarge)
    } else {
        Ok(bytes)
    }
}

/// FNV-1a, 32 bits: names are short and nobody gains by colliding.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}
