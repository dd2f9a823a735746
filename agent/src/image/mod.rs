//! Looks into ELF images: which sections and segments they have, what they hold, where their functions are.
//!
//! Input: any file, treated as hostile. Output: names, addresses, offsets in the file. It reads in pieces and keeps no table of the
//! file: memory is bounded by constants, time by the length of what is read, and each part is read once or twice whatever the file
//! says. Only 64-bit little-endian images are known, which is what the supported machines run.
//!
//! Why not a library that parses ELF: those hand out tables as slices, so that the file must be mapped (which ends the agent when
//! somebody cuts it) or a table of any length be read into memory. One of them is what the tests compare with.
//!
//! Format: System V gABI, chapters 4 and 5; `elf(5)`.

pub mod go;
mod note;
mod read;
pub mod returns;
pub mod symbols;
#[cfg(test)]
pub(crate) mod testing;

use std::ops::Range;

pub use self::{note::build_id, read::ReadAt};
use self::{
    read::{exactly, search},
    symbols::Table,
};

/// Section headers that are looked at; real programs have 30 to 60.
const MAX_SECTIONS: usize = 1024;
/// Program headers that are looked at; real programs have about 12.
const MAX_SEGMENTS: usize = 64;
/// Bytes of section names that are read.
const MAX_NAMES: usize = 64 << 10;
/// Bytes of one section's name that are kept: all names may be said to be one and the same long text.
const MAX_NAME: usize = 256;
/// Bytes that are searched for texts; the read-only data of the largest known programs (Node.js, Envoy) takes some 40 MB.
const MAX_SEARCHED: u64 = 64 << 20;

/// `SHT_NOBITS`: the section takes no room in the file.
const NO_BITS: u32 = 8;
/// `PT_LOAD`: the segment is mapped.
const LOAD: u32 = 1;
/// `PF_X`, `PF_W`.
const EXECUTABLE: u32 = 1;
const WRITABLE: u32 = 2;

/// Why a file is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It is no image, or ends within its first header.
    #[error("it is no ELF image")]
    NotElf,
    /// An image that the supported machines do not run as their own.
    #[error("images with 32 bits or with big-endian numbers are not looked at")]
    Foreign,
    /// A table lies outside of the file, or is larger than any real one.
    #[error("its ELF headers contradict the file")]
    Damaged,
}

/// The instruction set of an image (`e_machine`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// `EM_X86_64`.
    X86_64,
    /// `EM_AARCH64`.
    Aarch64,
    /// Anything else.
    Other,
}

/// One section of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, `.rodata` for instance.
    pub name: String,
    /// What it holds (`sh_type`).
    pub kind: u32,
    /// Its address as the image states it; 0 where it is not mapped.
    pub address: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Length in the file, in bytes.
    pub size: u64,
    /// Number of the section that it refers to (`sh_link`).
    link: u32,
    /// Its own number.
    index: u32,
}

impl Section {
    /// Its bytes in the file.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.size)
    }
}

/// A part of the file that is mapped when the image runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Address as the image states it.
    pub address: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Length in the file, in bytes.
    pub size: u64,
    /// `p_flags`.
    flags: u32,
}

impl Segment {
    /// Its bytes in the file.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.size)
    }

    /// Whether it can be run.
    #[must_use]
    pub const fn is_executable(&self) -> bool {
        self.flags & EXECUTABLE != 0
    }

    /// Whether it can be written.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.flags & WRITABLE != 0
    }
}

/// An image whose headers were read.
pub struct Image<'a, R: ReadAt + ?Sized> {
    /// The file.
    bytes: &'a R,
    /// Its instruction set.
    pub machine: Machine,
    /// Where it begins to run: an address as the image states it, before the loader has moved it.
    pub entry: u64,
    /// Its sections that have contents; none where it has no section table.
    pub sections: Vec<Section>,
    /// What of it is mapped.
    pub segments: Vec<Segment>,
    /// Where notes are (`PT_NOTE`).
    notes: Vec<Range<u64>>,
}

impl<'a, R: ReadAt + ?Sized> Image<'a, R> {
    /// Reads the headers.
    ///
    /// # Errors
    /// When it is no image of the supported kind, or its tables cannot be read.
    pub fn read(bytes: &'a R) -> Result<Self, ImageError> {
        let header: [u8; 64] = exactly(bytes, 0, 64)
            .and_then(|header| header.try_into().ok())
            .ok_or(ImageError::NotElf)?;
        if !header.starts_with(b"\x7fELF") {
            return Err(ImageError::NotElf);
        }
        // 64 bits, little endian.
        if header[4..6] != [2, 1] {
            return Err(ImageError::Foreign);
        }
        let machine = match half(&header, 18) {
            62 => Machine::X86_64,
            183 => Machine::Aarch64,
            _ => Machine::Other,
        };
        let mut image = Self {
            bytes,
            machine,
            entry: long(&header, 24),
            sections: Vec::new(),
            segments: Vec::new(),
            notes: Vec::new(),
        };
        image.read_segments(&header).ok_or(ImageError::Damaged)?;
        image.sections = sections(bytes, &header).ok_or(ImageError::Damaged)?;
        Ok(image)
    }

    fn read_segments(&mut self, header: &[u8; 64]) -> Option<()> {
        let (offset, size, count) = (long(header, 32), half(header, 54), half(header, 56));
        if count == 0 {
            return Some(());
        }
        if size != 56 || count > MAX_SEGMENTS {
            return None;
        }
        let table = exactly(self.bytes, offset, count * 56)?;
        for entry in table.as_chunks::<56>().0 {
            let segment = Segment {
                address: long(entry, 16),
                offset: long(entry, 8),
                size: long(entry, 32),
                flags: word(entry, 4),
            };
            match word(entry, 0) {
                LOAD => self.segments.push(segment),
                note::SEGMENT => self.notes.push(segment.range()),
                _ => {}
            }
        }
        Some(())
    }

    /// The first section of a name that has contents.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section> {
        // No linker writes two of one name, and each one that is searched may be said to be the whole file.
        self.sections.iter().find(|section| section.name == name)
    }

    /// Whether a section holds `text` within its first 64 MiB.
    #[must_use]
    pub fn holds(&self, section: &Section, text: &[u8]) -> bool {
        let size = section.size.min(MAX_SEARCHED);
        let range = section.offset..section.offset.saturating_add(size);
        let mut held = text.is_empty();
        if !held {
            search(self.bytes, range, &[text], 0, |_, _, _| {
                held = true;
                false
            });
        }
        held
    }

    /// Where the constant data of the program is in the file, texts among it; at most 64 MiB of it.
    pub(crate) fn constants(&self) -> Vec<Range<u64>> {
        let sections = self.sections.iter().filter(|section| {
            section.name.starts_with(".rodata") || section.name == ".data.rel.ro"
        });
        let mut ranges: Vec<_> = sections.map(Section::range).collect();
        if ranges.is_empty() {
            ranges = self.segments.iter().map(Segment::range).collect();
        }
        let mut left = MAX_SEARCHED;
        for range in &mut ranges {
            range.end = range.end.min(range.start.saturating_add(left));
            left -= range.end - range.start;
        }
        ranges.retain(|range| !range.is_empty());
        ranges
    }

    /// Hands out what stands behind each occurrence of one of `texts` in the constant data, up to 64 bytes, and which text it is.
    pub(crate) fn find_texts(&self, texts: &[&[u8]], mut hit: impl FnMut(usize, &[u8])) {
        const BEHIND: usize = 64;
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        for range in self.constants() {
            search(
                self.bytes,
                range,
                texts,
                longest + BEHIND,
                |piece, at, which| {
                    let behind = &piece.bytes[at + texts[which].len()..];
                    hit(which, &behind[..behind.len().min(BEHIND)]);
                    true
                },
            );
        }
    }

    /// Where the code at an address is in the file; `None` where no code is mapped there.
    #[must_use]
    pub fn code_offset(&self, address: u64) -> Option<u64> {
        let mut code = self.segments.iter().filter(|part| part.is_executable());
        code.find_map(|segment| offset_in(segment, address))
    }

    /// Where the byte at an address is in the file.
    #[must_use]
    pub fn offset(&self, address: u64) -> Option<u64> {
        let mut segments = self.segments.iter();
        segments.find_map(|segment| offset_in(segment, address))
    }

    /// The address at which a byte of the file is mapped.
    #[must_use]
    pub fn address(&self, offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let inside = offset.checked_sub(segment.offset)?;
            (inside < segment.size).then(|| segment.address.checked_add(inside))?
        })
    }

    /// A table of symbols, the first of its kind.
    fn table(&self, table: Table) -> Option<(&Section, &Section)> {
        let symbols = self
            .sections
            .iter()
            .find(|section| section.kind == table as u32)?;
        Some((symbols, self.linked(symbols)?))
    }

    /// The section that another one refers to.
    fn linked(&self, section: &Section) -> Option<&Section> {
        let mut sections = self.sections.iter();
        sections.find(|other| other.index == section.link)
    }
}

fn offset_in(segment: &Segment, address: u64) -> Option<u64> {
    let inside = address.checked_sub(segment.address)?;
    (inside < segment.size).then(|| segment.offset.checked_add(inside))?
}

/// The section table; empty where there is none, `None` where it cannot be read.
fn sections(bytes: &(impl ReadAt + ?Sized), header: &[u8; 64]) -> Option<Vec<Section>> {
    let table = long(header, 40);
    let (size, count, names) = (half(header, 58), half(header, 60), half(header, 62));
    if table == 0 || count == 0 {
        return Some(Vec::new());
    }
    if size != 64 || count > MAX_SECTIONS {
        return None;
    }
    let table = exactly(bytes, table, count * 64)?;
    let (entries, _) = table.as_chunks::<64>();
    let name_table = entries.get(names)?;
    let name_bytes = usize::try_from(long(name_table, 32))
        .unwrap_or(usize::MAX)
        .min(MAX_NAMES);
    let names = exactly(bytes, long(name_table, 24), name_bytes)?;
    let section = |(index, entry): (u32, &[u8; 64])| {
        let name = names.get(word(entry, 0) as usize..)?;
        let name = name.get(..MAX_NAME).unwrap_or(name);
        let name = name.split(|byte| *byte == 0).next()?;
        let kind = word(entry, 4);
        let contents = kind != 0 && kind != NO_BITS;
        contents.then(|| Section {
            name: String::from_utf8_lossy(name).into_owned(),
            kind,
            address: long(entry, 16),
            offset: long(entry, 24),
            size: long(entry, 32),
            link: word(entry, 40),
            index,
        })
    };
    Some((0..).zip(entries).filter_map(section).collect())
}

/// Two bytes as a number; zero behind the end, which callers with arrays never reach.
fn half(bytes: &[u8], at: usize) -> usize {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| usize::from(u16::from_le_bytes(*bytes)))
}

/// Four bytes.
fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Eight bytes.
fn long(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests;
