//! Finds functions by their names in the symbol tables of an image.
//!
//! Input: an image and the names that are wanted. Output: for each the one function of that name, or that there is none or more than
//! one. No table is kept: the names are searched first, then the symbols are passed once for those that refer to a place found.
//!
//! Format: System V gABI, "Symbol Table"; Linux Standard Base, "Symbol Versioning".

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    ops::Range,
};

use super::{
    Image, ReadAt, Section, half, long,
    read::{exactly, pieces, search},
    word,
};

/// Bytes of names that are searched in one table; of the largest known program (Envoy with symbols) they take 170 MB.
const MAX_NAMES: u64 = 256 << 20;
/// Symbols that are looked at in one table.
const MAX_SYMBOLS: u64 = 4 << 20;
/// Bytes of a symbol.
const SYMBOL: u64 = 24;
/// Bytes of a name of Rust's.
const MAX_NAME: usize = 512;
/// Places of names that are kept; a linker writes one or a few for each name that is wanted.
const MAX_PLACES: usize = 512;
/// Bytes of the versions that an image defines.
const MAX_VERSIONS: usize = 64 << 10;
/// Versions that an image defines.
const MAX_DEFINITIONS: usize = 256;
/// Bytes of a version's name.
const MAX_VERSION: usize = 64;

/// `SHT_GNU_versym`, `SHT_GNU_verdef`.
const VERSION_OF_SYMBOLS: u32 = 0x6fff_ffff;
const VERSION_DEFINITIONS: u32 = 0x6fff_fffd;
/// `STT_FUNC`.
const FUNCTION: u8 = 2;
/// `STB_LOCAL`.
const LOCAL: u8 = 0;
/// Set where a version is not the one that a linker takes.
const HIDDEN: u16 = 0x8000;

/// The two tables of symbols (`sh_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// `SHT_SYMTAB`: all of them; taken away by `strip`.
    All = 2,
    /// `SHT_DYNSYM`: what the loader needs.
    Dynamic = 11,
}

/// A name that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// As it stands in the table.
    Plain(&'static str),
    /// A path of Rust's, `<rustls::conn::connection::Writer as std::io::Write>::write` for instance, whatever the compiler makes of it.
    Rust(&'static str),
}

impl Name {
    /// The name, or the path.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Plain(text) | Self::Rust(text) => text,
        }
    }

    /// A text that each symbol of that name holds.
    fn mark(self) -> &'static str {
        match self {
            Self::Plain(name) => name.split_inclusive('_').next().unwrap_or(name),
            Self::Rust(path) => {
                let path = path.trim_start_matches('<');
                path.split(':').next().unwrap_or(path)
            }
        }
    }
}

/// A function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Its addresses, as the image states them.
    pub addresses: Range<u64>,
    /// Its version, where its library has versions: `OPENSSL_3.0.0`.
    pub version: Option<String>,
}

/// What became of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// No such function.
    Absent,
    /// This one.
    Found(T),
    /// Several.
    Ambiguous,
}

/// Looks for functions, in the order of `names`.
#[must_use]
pub fn find<R: ReadAt + ?Sized>(image: &Image<'_, R>, names: &[Name]) -> Vec<Lookup<Symbol>> {
    let mut found: Vec<Vec<Candidate>> = vec![Vec::new(); names.len()];
    for table in [Table::Dynamic, Table::All] {
        collect(image, table, names, &mut found);
    }
    let lookups = found
        .into_iter()
        .map(|candidates| choose(image, &candidates));
    lookups.collect()
}

/// The versions that a library defines, in its order.
#[must_use]
pub fn versions<R: ReadAt + ?Sized>(image: &Image<'_, R>) -> Vec<String> {
    let definitions = definitions(image).unwrap_or_default();
    definitions.into_iter().map(|(_, name)| name).collect()
}

/// A symbol whose name is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    table: Table,
    index: u64,
    local: bool,
    addresses: Range<u64>,
}

/// The function that is meant: what the loader sees counts before what the linker saw, and that before what one file saw.
fn choose<R: ReadAt + ?Sized>(image: &Image<'_, R>, candidates: &[Candidate]) -> Lookup<Symbol> {
    let visible = |candidate: &&Candidate| {
        candidate.table == Table::All || version_of(image, candidate.index) & HIDDEN == 0
    };
    let rank = |candidate: &Candidate| match (candidate.table, candidate.local) {
        (Table::Dynamic, _) => 0,
        (Table::All, false) => 1,
        (Table::All, true) => 2,
    };
    let visible: Vec<_> = candidates.iter().filter(visible).collect();
    let Some(best) = visible.iter().min_by_key(|candidate| rank(candidate)) else {
        return Lookup::Absent;
    };
    let mut rivals = visible.iter().filter(|other| rank(other) == rank(best));
    if rivals.any(|other| other.addresses.start != best.addresses.start) {
        return Lookup::Ambiguous;
    }
    let version = (best.table == Table::Dynamic).then(|| {
        let number = version_of(image, best.index);
        let mut all = definitions(image).unwrap_or_default().into_iter();
        all.find_map(|(own, name)| (own == number).then_some(name))
    });
    Lookup::Found(Symbol {
        addresses: best.addresses.clone(),
        version: version.flatten(),
    })
}

fn collect<R: ReadAt + ?Sized>(
    image: &Image<'_, R>,
    table: Table,
    names: &[Name],
    found: &mut [Vec<Candidate>],
) {
    let Some((symbols, texts)) = image.table(table) else {
        return;
    };
    let places = places(image.bytes, texts, names);
    if places.is_empty() {
        return;
    }
    let size = symbols.size.min(MAX_SYMBOLS * SYMBOL) / SYMBOL * SYMBOL;
    let range = symbols.offset..symbols.offset.saturating_add(size);
    let mut index = 0;
    // A symbol may lie across two pieces: the margin holds the rest of it.
    let mut skipped = 0;
    pieces(image.bytes, range, SYMBOL as usize, |piece| {
        let from = piece.body.start + skipped;
        let body = piece.body.end.saturating_sub(from);
        let count = body.div_ceil(SYMBOL as usize);
        for symbol in piece.bytes[from.min(piece.bytes.len())..]
            .as_chunks::<24>()
            .0
            .iter()
            .take(count)
        {
            if let Some(which) = places.get(&word(symbol, 0))
                && let Some(mut candidate) = function(symbol)
                && image.code_offset(candidate.addresses.start).is_some()
            {
                (candidate.table, candidate.index) = (table, index);
                let candidates = &mut found[*which];
                // More than a few are as ambiguous as a few.
                if candidates.len() < 8 {
                    candidates.push(candidate);
                }
            }
            index += 1;
        }
        skipped = count * SYMBOL as usize - body;
        true
    });
}

/// A function that is defined here.
fn function(symbol: &[u8; 24]) -> Option<Candidate> {
    let (info, section) = (symbol[4], half(symbol, 6));
    let (start, size) = (long(symbol, 8), long(symbol, 16));
    let defined = section != 0 && start != 0 && info & 15 == FUNCTION;
    defined.then_some(Candidate {
        table: Table::All,
        index: 0,
        local: info >> 4 == LOCAL,
        addresses: start..start.checked_add(size)?,
    })
}

/// Where in a table of names those that are wanted stand, and which of them it is.
fn places<R: ReadAt + ?Sized>(bytes: &R, texts: &Section, names: &[Name]) -> HashMap<u32, usize> {
    let mut places = HashMap::new();
    let size = texts.size.min(MAX_NAMES);
    let range = texts.offset..texts.offset.saturating_add(size);
    let mut marks: Vec<&str> = names.iter().map(|name| name.mark()).collect();
    marks.sort_unstable();
    marks.dedup();
    let marks: Vec<&[u8]> = marks.into_iter().map(str::as_bytes).collect();
    let mangled = names.iter().any(|name| matches!(name, Name::Rust(_)));
    let mut last = None;
    search(bytes, range, &marks, MAX_NAME, |piece, at, _| {
        let place = |at: usize| u32::try_from(piece.offset + at as u64 - texts.offset).ok();
        let text = &piece.bytes[at..];
        let plain = names.iter().position(|name| match name {
            Name::Plain(name) => text
                .strip_prefix(name.as_bytes())
                // Behind the name the end, or its version.
                .is_some_and(|rest| matches!(rest.first(), None | Some(0 | b'@'))),
            Name::Rust(_) => false,
        });
        if let Some(which) = plain {
            places.extend(place(at).map(|place| (place, which)));
        } else if mangled {
            // No further: who writes the table may have left out the zeros.
            let from = at.saturating_sub(MAX_NAME);
            let before = piece.bytes[from..at].iter().rposition(|byte| *byte == 0);
            let start = before.map_or(from, |zero| from + zero + 1);
            let start_place = place(start);
            // A name may hold the mark many times.
            if start_place != last {
                last = start_place;
                let whole = &piece.bytes[start..];
                let which = rust_name(whole, names);
                places.extend(start_place.zip(which));
            }
        }
        places.len() < MAX_PLACES
    });
    places
}

/// Which of the paths the mangled name is with which a text begins.
fn rust_name(text: &[u8], names: &[Name]) -> Option<usize> {
    if !text.starts_with(b"_R") && !text.starts_with(b"_ZN") {
        return None;
    }
    let end = text.iter().take(MAX_NAME).position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&text[..end]).ok()?;
    // The last part of the path stands in it as it is: most names need no more than this look.
    let last = |path: &str| {
        let last = path.rsplit(':').next().unwrap_or(path);
        text.contains(last)
    };
    let mut wanted = names
        .iter()
        .enumerate()
        .filter_map(|(which, name)| match name {
            Name::Rust(path) if last(path) => Some((which, *path)),
            _ => None,
        });
    let mut path = None;
    wanted.find_map(|(which, wanted)| {
        let path = path.get_or_insert_with(|| demangled(text));
        (path.as_deref() == Some(wanted)).then_some(which)
    })
}

/// The path of a mangled name, without its hash; `None` where it is none, or long.
fn demangled(name: &str) -> Option<String> {
    struct Bounded(String);
    impl fmt::Write for Bounded {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            if self.0.len() + text.len() > MAX_NAME {
                return Err(fmt::Error);
            }
            self.0.push_str(text);
            Ok(())
        }
    }
    let name = rustc_demangle::try_demangle(name).ok()?;
    let mut path = Bounded(String::new());
    write!(path, "{name:#}").ok()?;
    Some(path.0)
}

/// The number of a dynamic symbol's version, with [`HIDDEN`]; 1 where there are none.
fn version_of<R: ReadAt + ?Sized>(image: &Image<'_, R>, index: u64) -> u16 {
    let mut sections = image.sections.iter();
    let number = sections
        .find(|section| section.kind == VERSION_OF_SYMBOLS)
        .and_then(|section| {
            let at = section.offset.checked_add(index * 2)?;
            exactly(image.bytes, at, 2)
        });
    number.map_or(1, |number| half(&number, 0) as u16)
}

/// Versions with their numbers; the first one names the library itself and is left out.
fn definitions<R: ReadAt + ?Sized>(image: &Image<'_, R>) -> Option<Vec<(u16, String)>> {
    let mut sections = image.sections.iter();
    let section = sections.find(|section| section.kind == VERSION_DEFINITIONS)?;
    let texts = image.linked(section)?;
    let length = usize::try_from(section.size).ok()?.min(MAX_VERSIONS);
    let table = exactly(image.bytes, section.offset, length)?;
    let mut found = Vec::new();
    let mut at = 0_usize;
    while found.len() < MAX_DEFINITIONS {
        let Some(entry) = table.get(at..).filter(|entry| entry.len() >= 20) else {
            break;
        };
        // vd_flags (1: the library), vd_ndx, vd_aux, vd_next.
        let (flags, number) = (half(entry, 2), half(entry, 4));
        let (name, next) = (word(entry, 12) as usize, word(entry, 16) as usize);
        if let (0, Some(name)) = (flags & 1, entry.get(name..)) {
            let offset = texts.offset.checked_add(u64::from(word(name, 0)))?;
            let name = text(image.bytes, offset)?;
            found.push((u16::try_from(number).ok()?, name));
        }
        if next == 0 {
            break;
        }
        at = at.checked_add(next)?;
    }
    Some(found)
}

/// A short text that a zero ends.
fn text(bytes: &(impl ReadAt + ?Sized), offset: u64) -> Option<String> {
    let mut buffer = [0; MAX_VERSION];
    let read = bytes.read_some(&mut buffer, offset).ok()?;
    let end = buffer[..read].iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&buffer[..end]).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests;
