//! Go programs: which version built them, and where their functions are, with or without symbols.
//!
//! Input: an image. Output: the version, functions by name with their code. Go keeps a table of all functions in each program for its
//! stack traces (`pclntab`); `strip` and the linker's `-s` leave it. Its layout since Go 1.18 is known; older programs are refused.

mod buildinfo;
mod pclntab;
mod text;

use super::{Image, ReadAt, read::exactly, returns::MAX_CODE, symbols::Lookup};

pub use self::buildinfo::version;

/// Why the functions of a Go program are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GoError {
    /// Built by Go before 1.18, or by one whose table is laid out otherwise.
    #[error("its table of functions is not that of Go 1.18 or later")]
    Layout,
    /// The table contradicts itself or the file.
    #[error("its table of functions is damaged")]
    Damaged,
    /// A function stands in the table twice.
    #[error("a function stands in its table twice")]
    Ambiguous,
    /// It is not known where the table counts from, or what is there is no code of Go's.
    #[error("what the table of functions says is not where it should be")]
    Text,
}

/// A function of a Go program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Where its first instruction is in the file.
    pub offset: u64,
    /// Its machine code.
    pub code: Vec<u8>,
}

/// Functions by name, in the order of `names`; `None` where the program has none of that name.
///
/// # Errors
/// When the table cannot be read, or it is not certain that what it says is so.
pub fn functions<R: ReadAt + ?Sized>(
    image: &Image<'_, R>,
    names: &[&str],
) -> Result<Vec<Option<Function>>, GoError> {
    let table = pclntab::find(image)?;
    let places = table.functions(image, names)?;
    let mut found = Vec::new();
    let mut base = None;
    for place in places {
        let place = match place {
            Lookup::Absent => {
                found.push(None);
                continue;
            }
            Lookup::Found(place) => place,
            Lookup::Ambiguous => return Err(GoError::Ambiguous),
        };
        let length = (place.end - place.start) as usize;
        if length > MAX_CODE {
            return Err(GoError::Damaged);
        }
        let code_at = |start: u64| {
            let offset = image.code_offset(start.checked_add(u64::from(place.start))?)?;
            let code = exactly(image.bytes, offset, length)?;
            text::begins_a_function(image.machine, &code).then_some(Function { offset, code })
        };
        let function = match base {
            Some(start) => code_at(start),
            None => text::starts(image, &table).into_iter().find_map(|start| {
                let function = code_at(start)?;
                base = Some(start);
                Some(function)
            }),
        };
        found.push(Some(function.ok_or(GoError::Text)?));
    }
    Ok(found)
}

#[cfg(test)]
pub(crate) mod tests;
