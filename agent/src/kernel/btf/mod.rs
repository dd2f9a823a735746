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
mod prototype;
#[cfg(test)]
pub(crate) mod tests;

use std::{fs::File, io::Read, path::Path};

pub use prototype::Prototype;

/// Where the kernel shows the types it was built with.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Larger files are refused: real ones are 5 to 10 MB.
const MAX_BYTES: u64 = 64 << 20;
/// Typedefs and qualifiers in a row; real chains have at most six.
const MAX_CHAIN: usize = 32;
/// Structs inside structs; the kernel's own limit is 32 (`MAX_RESOLVE_DEPTH`).
const MAX_DEPTH: usize = 32;
/// Members looked at for one question: the bound on cyclic anonymous members.
const MAX_STEPS: usize = 1 << 20;

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

/// Why a member or an enumerator has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No type of that kind and name.
    #[error("no such type")]
    NoType,
    /// The type has no such member or enumerator.
    #[error("no such member")]
    NoMember,
    /// Types of that name differ in what was asked.
    #[error("several types of that name disagree")]
    Ambiguous,
    /// The member is a bit field, which has no address.
    #[error("the member is a bit field")]
    BitField,
    /// The types contain themselves, dangle, or nest deeper than any kernel's.
    #[error("the type information is malformed")]
    Malformed,
}

/// Where a member lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the outermost struct.
    pub offset: u32,
    /// Width in bytes.
    pub bytes: u32,
}

/// The kinds of BTF that this reader tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
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
struct Type<'a> {
    kind: Kind,
    number: u8,
    name: u32,
    count: usize,
    flag: bool,
    /// `size` or `type` of `struct btf_type`, as the kind has it.
    size_or_type: u32,
    details: &'a [u8],
}

impl<'a> Type<'a> {
    /// Reads the type at the start of `bytes`.
    fn read(bytes: &'a [u8], id: u32) -> Result<Self, BtfError> {
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
    fn entry<const WORDS: usize>(&self, index: usize) -> [u32; WORDS] {
        let at = index * WORDS * 4;
        std::array::from_fn(|position| word(self.details, at + position * 4).unwrap_or_default())
    }
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

    /// Where the member at `path` of the struct or union `structure` lies.
    ///
    /// `path` has one name per step, with dots between them; anonymous structs and unions are entered without a name.
    ///
    /// # Errors
    /// See [`LookupError`]; several structs of one name are fine as long as they agree.
    pub fn member(&self, structure: &str, path: &str) -> Result<Member, LookupError> {
        let mut budget = MAX_STEPS;
        self.agreed(structure, &[Kind::Struct, Kind::Union], |found| {
            let (bits, leaf) = self
                .walk(found, path, 0, MAX_DEPTH, &mut budget)?
                .ok_or(LookupError::NoMember)?;
            if bits % 8 != 0 {
                return Err(LookupError::BitField);
            }
            Ok(Member {
                offset: bits / 8,
                bytes: self.size(leaf, MAX_DEPTH)?,
            })
        })
    }

    /// Width in bytes of the struct or union `name`.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn structure_size(&self, name: &str) -> Result<u32, LookupError> {
        self.agreed(name, &[Kind::Struct, Kind::Union], |found| {
            Ok(found.size_or_type)
        })
    }

    /// Value of `enumerator` in the enumeration `enumeration`; negative values come as their two's complement.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn enumerator(&self, enumeration: &str, enumerator: &str) -> Result<u64, LookupError> {
        self.agreed(enumeration, &[Kind::Enum, Kind::Enum64], |found| {
            let wide = found.kind == Kind::Enum64;
            let value = |index| {
                let [name, low, high] = if wide {
                    found.entry(index)
                } else {
                    let [name, value] = found.entry(index);
                    [
                        name,
                        value,
                        if found.flag && value >> 31 == 1 {
                            u32::MAX
                        } else {
                            0
                        },
                    ]
                };
                (self.name_bytes(name) == enumerator.as_bytes())
                    .then_some(u64::from(high) << 32 | u64::from(low))
            };
            (0..found.count)
                .find_map(value)
                .ok_or(LookupError::NoMember)
        })
    }

    /// The one answer of all types named `name` of one of `kinds`.
    fn agreed<T: PartialEq>(
        &self,
        name: &str,
        kinds: &[Kind],
        mut answer: impl FnMut(Type<'a>) -> Result<T, LookupError>,
    ) -> Result<T, LookupError> {
        let mut agreed = None;
        for found in self.named(name).filter(|found| kinds.contains(&found.kind)) {
            let this = answer(found);
            if agreed.as_ref().is_some_and(|earlier| *earlier != this) {
                return Err(LookupError::Ambiguous);
            }
            agreed = Some(this);
        }
        agreed.unwrap_or(Err(LookupError::NoType))
    }

    /// Bit offset and type number of the member at `path`, counted from `base` bits; `None` when it is not there.
    fn walk(
        &self,
        within: Type<'a>,
        path: &str,
        base: u32,
        depth: usize,
        budget: &mut usize,
    ) -> Result<Option<(u32, u32)>, LookupError> {
        let depth = depth.checked_sub(1).ok_or(LookupError::Malformed)?;
        let (first, rest) = path
            .split_once('.')
            .map_or((path, None), |(first, rest)| (first, Some(rest)));
        for index in 0..within.count {
            *budget = budget.checked_sub(1).ok_or(LookupError::Malformed)?;
            let [name, id, position] = within.entry(index);
            let name = self.name_bytes(name);
            if !name.is_empty() && name != first.as_bytes() {
                continue;
            }
            let (position, width) = if within.flag {
                (position & 0xff_ffff, position >> 24)
            } else {
                (position, 0)
            };
            let bits = base.checked_add(position).ok_or(LookupError::Malformed)?;
            let target = self.plain(id)?;
            let aggregate =
                target.filter(|target| matches!(target.kind, Kind::Struct | Kind::Union));
            let inside = match (name.is_empty(), rest) {
                // Nameless: the path goes on inside it, unchanged.
                (true, _) => path,
                (false, Some(rest)) => rest,
                (false, None) => {
                    // Before kind_flag existed the width of a bit field stood in its integer type.
                    let narrow =
                        target.is_some_and(|target| target.kind == Kind::Int && !is_whole(&target));
                    return if width != 0 || narrow {
                        Err(LookupError::BitField)
                    } else {
                        Ok(Some((bits, id)))
                    };
                }
            };
            let Some(aggregate) = aggregate else { continue };
            if let Some(found) = self.walk(aggregate, inside, bits, depth, budget)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Width of a type in bytes.
    fn size(&self, id: u32, depth: usize) -> Result<u32, LookupError> {
        let depth = depth.checked_sub(1).ok_or(LookupError::Malformed)?;
        let Some(found) = self.plain(id)? else {
            return Ok(0);
        };
        match found.kind {
            Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float => {
                Ok(found.size_or_type)
            }
            Kind::Pointer => Ok(8),
            Kind::Array => {
                let [element, _index, count] = found.entry(0);
                self.size(element, depth)?
                    .checked_mul(count)
                    .ok_or(LookupError::Malformed)
            }
            _ => Err(LookupError::Malformed),
        }
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

/// Whether an integer fills its bytes: BTF states its width in bits and where it starts.
fn is_whole(int: &Type<'_>) -> bool {
    let [encoding] = int.entry(0);
    encoding & 0xff == int.size_or_type.saturating_mul(8) && encoding >> 16 & 0xff == 0
}

/// The 32-bit word at `at`, in the machine's byte order.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u32::from_ne_bytes(*chunk))
}

/// FNV-1a, 32 bits: names are short and nobody gains by colliding.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}
