//! Members, sizes and enumerators by name.
//!
//! Input: names as C spells them. Output: offsets, widths and values, or why there is none. Types of one name that differ in the answer give none.

use super::{
    Btf,
    types::{Kind, Type},
};

/// Structs inside structs; the kernel's own limit is 32 (`MAX_RESOLVE_DEPTH`).
const MAX_DEPTH: usize = 32;
/// Members looked at for one question: the bound on cyclic anonymous members.
const MAX_STEPS: usize = 1 << 20;

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

impl<'a> Btf<'a> {
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
}

/// Whether an integer fills its bytes: BTF states its width in bits and where it starts.
fn is_whole(int: &Type<'_>) -> bool {
    let [encoding] = int.entry(0);
    encoding & 0xff == int.size_or_type.saturating_mul(8) && encoding >> 16 & 0xff == 0
}
