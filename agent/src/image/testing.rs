//! Images made of what a test wants to be in them; nothing that could run.

/// Address at which the whole file is mapped as code.
pub(crate) const BASE: u64 = 0x4000;
/// Address at which it is mapped again as data that can be written.
pub(crate) const DATA: u64 = 0x1000_0000;
/// Where the contents of the first section are.
pub(crate) const FIRST: u64 = 64 + 2 * 56;

/// An image for x86-64 with these sections, one behind the other.
pub(crate) fn image(sections: &[(&str, &[u8])]) -> Vec<u8> {
    image_for(62, sections)
}

/// An image for a machine, by its number in ELF.
pub(crate) fn image_for(machine: u16, sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut names = b"\0.shstrtab\0".to_vec();
    let mut contents = vec![0_u8; FIRST as usize];
    let mut table = vec![0_u8; 64];
    let number = |wanted: &str| {
        let found = sections.iter().position(|(name, _)| *name == wanted);
        found.map_or(0, |at| at as u32 + 1)
    };
    let mut entry = |name: u32, (kind, link): (u32, u32), offset: usize, size: usize| {
        let mut entry = [0_u8; 64];
        entry[..4].copy_from_slice(&name.to_le_bytes());
        entry[4..8].copy_from_slice(&kind.to_le_bytes());
        entry[16..24].copy_from_slice(&(BASE + offset as u64).to_le_bytes());
        entry[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        entry[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        entry[40..44].copy_from_slice(&link.to_le_bytes());
        table.extend(entry);
    };
    for (name, bytes) in sections {
        let kind = match *name {
            ".symtab" => (2, number(".strtab")),
            ".dynsym" => (11, number(".dynstr")),
            ".strtab" | ".dynstr" => (3, 0),
            ".rela.dyn" => (4, number(".dynsym")),
            ".gnu.version" => (0x6fff_ffff, number(".dynsym")),
            ".gnu.version_d" => (0x6fff_fffd, number(".dynstr")),
            _ if name.starts_with(".note") => (7, 0),
            _ => (1, 0),
        };
        entry(names.len() as u32, kind, contents.len(), bytes.len());
        names.extend(name.bytes().chain([0]));
        contents.extend(*bytes);
    }
    entry(1, (3, 0), contents.len(), names.len());
    contents.extend(&names);
    let count = sections.len() as u16 + 2;
    let start = contents.len() as u64;
    contents.extend(table);
    let size = contents.len() as u64;
    contents[..6].copy_from_slice(b"\x7fELF\x02\x01");
    contents[18..20].copy_from_slice(&machine.to_le_bytes());
    contents[32..40].copy_from_slice(&64_u64.to_le_bytes());
    contents[40..48].copy_from_slice(&start.to_le_bytes());
    contents[54..58].copy_from_slice(&[56, 0, 2, 0]);
    contents[58..60].copy_from_slice(&[64, 0]);
    contents[60..62].copy_from_slice(&count.to_le_bytes());
    contents[62..64].copy_from_slice(&(count - 1).to_le_bytes());
    for (at, (flags, address)) in [(64, (5_u32, BASE)), (120, (6, DATA))] {
        let segment = &mut contents[at..at + 56];
        segment[..4].copy_from_slice(&1_u32.to_le_bytes());
        segment[4..8].copy_from_slice(&flags.to_le_bytes());
        segment[16..24].copy_from_slice(&address.to_le_bytes());
        segment[32..40].copy_from_slice(&size.to_le_bytes());
    }
    contents
}

/// A symbol of a global function that is defined.
pub(crate) fn symbol(name: u32, start: u64, size: u64) -> Vec<u8> {
    let mut symbol = name.to_le_bytes().to_vec();
    symbol.extend([0x12, 0, 14, 0]);
    symbol.extend(start.to_le_bytes());
    symbol.extend(size.to_le_bytes());
    symbol
}

/// The tables `.dynsym` and `.dynstr` of a library with these functions, 16 bytes each from [`BASE`] on.
pub(crate) fn tables(functions: &[&str]) -> [Vec<u8>; 2] {
    let (mut symbols, mut names) = (vec![0; 24], vec![0]);
    for (start, name) in (BASE..).step_by(16).zip(functions) {
        symbols.extend(symbol(names.len() as u32, start, 16));
        names.extend(name.bytes().chain([0]));
    }
    [symbols, names]
}

/// A library that exports these functions.
pub(crate) fn library(functions: &[&str]) -> Vec<u8> {
    let [symbols, names] = tables(functions);
    image(&[
        (".text", &[0xc3; 4096]),
        (".dynsym", &symbols),
        (".dynstr", &names),
    ])
}
