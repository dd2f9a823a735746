//! Go's table of functions.
//!
//! Format: `runtime/symtab.go` and `cmd/link/internal/ld/pcln.go` of Go 1.18 to 1.26: a header; names that zeros end; pairs of
//! (distance of the function from the start of Go's code, place of its record), ascending, and a last distance; records that begin with
//! the distance again and the place of the name.

use std::ops::Range;

use super::GoError;
use crate::image::{
    Image, Machine, ReadAt, long,
    read::{Forward, exactly, search},
    symbols::Lookup,
    word,
};

/// What the header begins with, since Go 1.18 and 1.20, and before 1.18.
const MAGICS: [u32; 2] = [0xffff_fff1, 0xffff_fff0];
const OLD: [u32; 2] = [0xffff_fffa, 0xffff_fffb];
/// Bytes of the header.
const HEADER: usize = 72;
/// Functions of a program; the largest known one has 400,000.
const MAX_FUNCTIONS: u64 = 2 << 20;
/// Bytes of the table; those of the largest known program (kubectl's relatives) take 60 MB.
const MAX_BYTES: u64 = 256 << 20;
/// What begins like the table and is none: more of it is no accident.
const MAX_TRIES: u32 = 64;
/// Bytes that are searched for the header where no section has the name.
const MAX_SEARCHED: u64 = 128 << 20;
/// Places of one name that are looked at: another name may end like it.
const MAX_PLACES: usize = 64;

/// A table that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pclntab {
    /// Where it is in the file.
    pub(super) offset: u64,
    /// Where the program's code begins, 0 where the table does not tell (since Go 1.26, and where the loader tells).
    pub(super) text_start: u64,
    functions: u64,
    names: Range<u64>,
    records: u64,
}

/// Looks for the table.
pub(super) fn find<R: ReadAt + ?Sized>(image: &Image<'_, R>) -> Result<Pclntab, GoError> {
    for name in [".gopclntab", ".data.rel.ro.gopclntab"] {
        if let Some(section) = image.section(name) {
            return read(image, section.offset);
        }
    }
    // A foreign linker has put it among other data, or there are no sections.
    let mut outcome = Err(GoError::Layout);
    let quantum = match image.machine {
        Machine::X86_64 => 1,
        Machine::Aarch64 => 4,
        Machine::Other => return outcome,
    };
    let (mut left, mut tries) = (MAX_SEARCHED, MAX_TRIES);
    for segment in image.segments.iter().filter(|part| !part.is_executable()) {
        let size = segment.size.min(left);
        left -= size;
        let range = segment.offset..segment.offset.saturating_add(size);
        // Magic, two zeros, size of the smallest instruction, size of a pointer.
        let starts = MAGICS.map(|magic| {
            let mut start = [0, 0, 0, 0, 0, 0, quantum, 8];
            start[..4].copy_from_slice(&magic.to_le_bytes());
            start
        });
        let starts = [&starts[0][..], &starts[1][..]];
        search(image.bytes, range, &starts, 0, |piece, at, _| {
            if let Ok(table) = read(image, piece.offset + at as u64) {
                outcome = Ok(table);
            }
            tries -= 1;
            outcome.is_err() && tries > 0
        });
        if outcome.is_ok() || tries == 0 {
            break;
        }
    }
    outcome
}

fn read<R: ReadAt + ?Sized>(image: &Image<'_, R>, offset: u64) -> Result<Pclntab, GoError> {
    let header = exactly(image.bytes, offset, HEADER).ok_or(GoError::Damaged)?;
    let magic = word(&header, 0);
    if OLD.contains(&magic) || !MAGICS.contains(&magic) || header[7] != 8 {
        return Err(GoError::Layout);
    }
    let part = |at: usize| {
        let distance = long(&header, at);
        (distance < MAX_BYTES)
            .then(|| offset.checked_add(distance))
            .flatten()
            .ok_or(GoError::Damaged)
    };
    let functions = long(&header, 8);
    let (names, units, records) = (part(32)?, part(40)?, part(64)?);
    if functions == 0 || functions > MAX_FUNCTIONS || names > units {
        return Err(GoError::Damaged);
    }
    Ok(Pclntab {
        offset,
        text_start: long(&header, 24),
        functions,
        names: names..units,
        records,
    })
}

impl Pclntab {
    /// Functions by name: distances of their first byte, and of the next function's, from the start of the program's code.
    pub(super) fn functions<R: ReadAt + ?Sized>(
        &self,
        image: &Image<'_, R>,
        names: &[&str],
    ) -> Result<Vec<Lookup<Range<u32>>>, GoError> {
        let mut found = vec![Lookup::Absent; names.len()];
        let places: Vec<_> = names.iter().map(|name| self.places(image, name)).collect();
        if places.iter().all(Vec::is_empty) {
            return Ok(found);
        }
        let mut pairs = Forward::new(image.bytes);
        let mut records = Forward::new(image.bytes);
        let pair_at = |index: u64| self.records + index * 8;
        let mut start = pairs.take(pair_at(0)).map(u32::from_le_bytes);
        for index in 0..self.functions {
            let place = pairs.take(pair_at(index) + 4).map(u32::from_le_bytes);
            let next = pairs.take(pair_at(index + 1)).map(u32::from_le_bytes);
            let (Some(from), Some(place), Some(end)) = (start, place, next) else {
                return Err(GoError::Damaged);
            };
            if u64::from(place) >= MAX_BYTES || end < from {
                return Err(GoError::Damaged);
            }
            // Records follow each other as the functions do; one that does not, ends it.
            let record = records.take::<8>(self.records + u64::from(place));
            let record = record.ok_or(GoError::Damaged)?;
            if word(&record, 0) != from {
                return Err(GoError::Damaged);
            }
            let name = word(&record, 4);
            for (places, found) in places.iter().zip(&mut found) {
                if places.contains(&name) {
                    *found = match found {
                        Lookup::Absent => Lookup::Found(from..end),
                        _ => Lookup::Ambiguous,
                    };
                }
            }
            start = next;
        }
        Ok(found)
    }

    /// Where a name stands in the table of names: once in real programs.
    fn places<R: ReadAt + ?Sized>(&self, image: &Image<'_, R>, name: &str) -> Vec<u32> {
        let text = [name.as_bytes(), b"\0"].concat();
        let mut places = Vec::new();
        search(
            image.bytes,
            self.names.clone(),
            &[&text],
            0,
            |piece, at, _| {
                let place = piece.offset + at as u64 - self.names.start;
                places.extend(u32::try_from(place));
                places.len() < MAX_PLACES
            },
        );
        places
    }
}
