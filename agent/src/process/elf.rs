//! Looks into an ELF image: which sections it has, whether a section holds a text, and where a function that it exports is.
//!
//! Input: any file, treated as hostile. Output: section headers, yes or no, addresses. It reads in pieces and keeps none of
//! the contents; only 64-bit little-endian images are known, which is what the supported machines run. Notes are not decoded.
//!
//! Format: System V gABI, chapter 4; `elf(5)`.

use std::{fs::File, ops::Range, os::unix::fs::FileExt};

/// Section headers that are looked at; real programs have 30 to 60.
const MAX_SECTIONS: usize = 1024;
/// Bytes of section names that are read.
const MAX_NAMES: usize = 64 << 10;
/// Bytes of one section's name that are kept: all names may be said to be one and the same long text.
const MAX_NAME: usize = 256;
/// Bytes of a section that are searched: the strings of the largest known program (Node.js) take 6 MB.
const MAX_SEARCHED: u64 = 16 << 20;
/// Bytes of the symbols for the loader that are read; nginx has 1,400 symbols of 24 bytes.
const MAX_SYMBOLS: usize = 4 << 20;
/// Bytes read at a time.
const PIECE: usize = 64 << 10;
/// `SHT_NOBITS`: the section takes no room in the file.
const NO_BITS: u32 = 8;

/// Bytes that can be read at any place.
pub trait ReadAt {
    /// Reads some bytes at `offset`; 0 at the end.
    ///
    /// # Errors
    /// Those of the file system.
    fn read_some(&self, into: &mut [u8], offset: u64) -> std::io::Result<usize>;
}

impl ReadAt for File {
    fn read_some(&self, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.read_at(into, offset)
    }
}

impl ReadAt for [u8] {
    fn read_some(&self, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let from = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..))
            .unwrap_or_default();
        let length = from.len().min(into.len());
        into[..length].copy_from_slice(&from[..length]);
        Ok(length)
    }
}

/// One section of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, `.rodata` for instance.
    pub name: String,
    /// First byte in the file.
    pub offset: u64,
    /// Length in the file, in bytes.
    pub size: u64,
}

/// The sections of an image that have contents; none for files that are no image and for images without a section table.
pub fn sections(image: &(impl ReadAt + ?Sized)) -> Vec<Section> {
    headers(image).unwrap_or_default()
}

fn headers(image: &(impl ReadAt + ?Sized)) -> Option<Vec<Section>> {
    let header: [u8; 64] = exactly(image, 0, 64)?.try_into().ok()?;
    // Magic, 64 bits, little endian.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = u64::from_le_bytes(*header[40..].first_chunk()?);
    let half = |at: usize| {
        header[at..]
            .first_chunk()
            .map(|bytes| usize::from(u16::from_le_bytes(*bytes)))
    };
    let (size, count, names) = (half(58)?, half(60)?, half(62)?);
    if size != 64 || count > MAX_SECTIONS || names >= count {
        return None;
    }
    let table = exactly(image, table, count * 64)?;
    let (entries, _) = table.as_chunks::<64>();
    let word = |entry: &[u8; 64], at: usize| {
        entry[at..]
            .first_chunk()
            .map(|bytes| u32::from_le_bytes(*bytes))
    };
    let long = |entry: &[u8; 64], at: usize| {
        entry[at..]
            .first_chunk()
            .map(|bytes| u64::from_le_bytes(*bytes))
    };
    let name_table = entries.get(names)?;
    let name_bytes = usize::try_from(long(name_table, 32)?)
        .unwrap_or(usize::MAX)
        .min(MAX_NAMES);
    let names = exactly(image, long(name_table, 24)?, name_bytes)?;
    let section = |entry: &[u8; 64]| {
        let name = names.get(word(entry, 0)? as usize..)?;
        let name = name.get(..MAX_NAME).unwrap_or(name);
        let name = name.split(|byte| *byte == 0).next()?;
        let kind = word(entry, 4)?;
        let contents = kind != 0 && kind != NO_BITS;
        contents.then_some(Section {
            name: String::from_utf8_lossy(name).into_owned(),
            offset: long(entry, 24)?,
            size: long(entry, 32)?,
        })
    };
    Some(entries.iter().filter_map(section).collect())
}

/// Whether `section` holds `text` within its first 16 MiB.
pub fn holds(image: &(impl ReadAt + ?Sized), section: &Section, text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else {
        return true;
    };
    let end = section
        .offset
        .saturating_add(section.size.min(MAX_SEARCHED));
    let mut piece = vec![0; PIECE + text.len()];
    let (mut at, mut kept) = (section.offset, 0);
    while at < end {
        let wanted = (piece.len() - kept).min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let read = match image.read_some(&mut piece[kept..kept + wanted], at) {
            Ok(read) if read > 0 => read,
            _ => return false,
        };
        at += read as u64;
        let filled = &piece[..kept + read];
        let found = |start: usize| {
            filled
                .get(start + 1..)
                .is_some_and(|after| after.starts_with(rest))
        };
        if filled
            .iter()
            .enumerate()
            .any(|(start, byte)| byte == first && found(start))
        {
            return true;
        }
        // The end of this piece may be the beginning of the text.
        let keep = filled.len().min(rest.len());
        let from = filled.len() - keep;
        piece.copy_within(from..from + keep, 0);
        kept = keep;
    }
    false
}

/// Where an image begins to run: an address as the image states it, before the loader has moved it.
pub fn entry(image: &(impl ReadAt + ?Sized)) -> Option<u64> {
    let header: [u8; 32] = exactly(image, 0, 32)?.try_into().ok()?;
    header.starts_with(b"\x7fELF\x02\x01").then(|| {
        u64::from_le_bytes([
            header[24], header[25], header[26], header[27], header[28], header[29], header[30],
            header[31],
        ])
    })
}

/// The addresses of a function that an image exports, as the image states them.
pub fn function(image: &(impl ReadAt + ?Sized), name: &str) -> Option<Range<u64>> {
    let sections = sections(image);
    let contents = |wanted: &str| {
        let section = sections.iter().find(|section| section.name == wanted)?;
        let size = usize::try_from(section.size).ok()?.min(MAX_SYMBOLS);
        exactly(image, section.offset, size)
    };
    let (symbols, names) = (contents(".dynsym")?, contents(".dynstr")?);
    let (symbols, _) = symbols.as_chunks::<24>();
    let named = |symbol: &&[u8; 24]| {
        let at = u32::from_le_bytes([symbol[0], symbol[1], symbol[2], symbol[3]]) as usize;
        let text = names.get(at..).unwrap_or_default();
        // No search for the name's end: it may be megabytes away, for each symbol.
        text.strip_prefix(name.as_bytes())
            .is_some_and(|rest| matches!(rest.first(), None | Some(0)))
    };
    let symbol = symbols.iter().find(named)?;
    let long = |at: usize| {
        let bytes = symbol[at..].first_chunk::<8>()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let (start, size) = (long(8)?, long(16)?);
    (start != 0 && size != 0).then_some(start..start.checked_add(size)?)
}

/// Exactly `length` bytes at `offset`.
fn exactly(image: &(impl ReadAt + ?Sized), offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match image.read_some(&mut bytes[filled..], offset.checked_add(filled as u64)?) {
            Ok(read) if read > 0 => filled += read,
            _ => return None,
        }
    }
    Some(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An image with these sections, and nothing that could run.
    pub(crate) fn image(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut names = b"\0.shstrtab\0".to_vec();
        let mut contents = vec![0_u8; 64];
        let mut table = vec![0_u8; 64];
        let mut entry = |name: u32, kind: u32, offset: usize, size: usize| {
            let mut entry = [0_u8; 64];
            entry[..4].copy_from_slice(&name.to_le_bytes());
            entry[4..8].copy_from_slice(&kind.to_le_bytes());
            entry[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            entry[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            table.extend(entry);
        };
        for (name, bytes) in sections {
            entry(names.len() as u32, 1, contents.len(), bytes.len());
            names.extend(name.bytes().chain([0]));
            contents.extend(*bytes);
        }
        entry(1, 3, contents.len(), names.len());
        contents.extend(&names);
        let count = sections.len() as u16 + 2;
        let start = contents.len() as u64;
        contents[..6].copy_from_slice(b"\x7fELF\x02\x01");
        contents[40..48].copy_from_slice(&start.to_le_bytes());
        contents[58..64].copy_from_slice(&[64, 0, count as u8, 0, count as u8 - 1, 0]);
        contents.extend(table);
        contents
    }

    #[test]
    fn finds_sections_and_what_they_hold() {
        let bytes = image(&[
            (".rodata", b"some nginx version: nginx/1.22"),
            (".text", b"code"),
        ]);
        let found = sections(bytes.as_slice());
        let names: Vec<_> = found.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(names, [".rodata", ".text", ".shstrtab"]);
        assert!(holds(bytes.as_slice(), &found[0], b"nginx version: nginx/"));
        assert!(
            !holds(bytes.as_slice(), &found[0], b"code"),
            "only this section is searched"
        );
        assert!(!holds(bytes.as_slice(), &found[1], b"code and more"));
    }

    #[test]
    fn finds_exported_functions() {
        let mut symbols = vec![0; 24];
        let mut add = |name: u32, start: u64, size: u64| {
            symbols.extend(name.to_le_bytes());
            symbols.extend([0x12, 0, 14, 0]);
            symbols.extend(start.to_le_bytes());
            symbols.extend(size.to_le_bytes());
        };
        add(1, 0x4000, 0x20);
        add(7, 0, 0);
        add(u32::MAX, 0x5000, 0x20);
        let bytes = image(&[(".dynsym", &symbols), (".dynstr", b"\0first\0second\0")]);
        let of = |name| function(bytes.as_slice(), name);
        assert_eq!(of("first"), Some(0x4000..0x4020));
        assert_eq!(of("second"), None, "it is imported");
        assert_eq!(of("firs"), None);
        let cut = image(&[(".dynsym", &symbols), (".dynstr", b"\0first")]);
        let found = function(cut.as_slice(), "first");
        assert_eq!(found, Some(0x4000..0x4020), "the last name has no end");
        assert_eq!(entry(bytes.as_slice()), Some(0));
        assert_eq!(entry(b"#!/bin/sh\n".as_slice()), None);
    }

    #[test]
    fn keeps_no_more_of_a_name_than_any_section_has() {
        let long = "n".repeat(MAX_NAME + 1);
        let mut bytes = image(&[(long.as_str(), b"?".as_slice()); 40]);
        // All names are the same text, which no zero ends before the last one.
        let table = bytes.len() - 42 * 64;
        for entry in bytes[table + 64..].chunks_exact_mut(64).take(40) {
            entry[..4].copy_from_slice(&11_u32.to_le_bytes());
        }
        let names = bytes[64 + 40..table].iter_mut().skip(11);
        names
            .filter(|byte| **byte == 0)
            .for_each(|byte| *byte = b'n');
        let found = sections(bytes.as_slice());
        assert_eq!(found.len(), 41);
        assert!(
            found[..40]
                .iter()
                .all(|section| section.name.len() == MAX_NAME)
        );
    }

    #[test]
    fn finds_a_text_wherever_a_piece_ends() {
        let text = b"uv_run";
        for at in (PIECE - 20..PIECE + 20).chain([0, 3 * PIECE]) {
            let mut contents = vec![b'u'; at];
            contents.extend(text);
            let bytes = image(&[(".dynstr", &contents)]);
            assert!(
                holds(bytes.as_slice(), &sections(bytes.as_slice())[0], text),
                "at {at}"
            );
            let cut = Section {
                size: contents.len() as u64 - 1,
                ..sections(bytes.as_slice())[0].clone()
            };
            assert!(!holds(bytes.as_slice(), &cut, text), "at {at}, cut");
        }
    }

    #[test]
    fn takes_other_files_for_no_image() {
        assert!(sections(b"#!/bin/sh\n".as_slice()).is_empty());
        assert!(sections([].as_slice()).is_empty());
        let mut narrow = image(&[]);
        narrow[4] = 1;
        assert!(sections(narrow.as_slice()).is_empty(), "32 bits");
    }

    #[test]
    fn reads_the_image_of_this_very_program() {
        let own = File::open("/proc/self/exe").expect("its own image is readable");
        let found = sections(&own);
        let rodata = found
            .iter()
            .find(|section| section.name == ".rodata")
            .expect("every program has one");
        assert!(
            holds(&own, rodata, b"takes_other_files_for_no_image"),
            "the names of tests are strings of it"
        );
    }

    proptest! {
        #[test]
        fn never_panics_on_damaged_images(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..16),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes = image(&[(".rodata", b"nginx version: nginx/1.22"), (".dynstr", b"\0uv_run\0"), (".dynsym", &[1; 48])]);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(end.index(bytes.len() + 1));
            for section in sections(bytes.as_slice()) {
                let _ = holds(bytes.as_slice(), &section, b"uv_run");
            }
            let _ = function(bytes.as_slice(), "uv_run");
        }
    }
}
