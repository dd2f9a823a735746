use std::fs::File;

use proptest::prelude::*;

use super::{symbols::Name, testing::*, *};

fn read(bytes: &[u8]) -> Image<'_, [u8]> {
    Image::read(bytes).expect("it is an image")
}

#[test]
fn finds_sections_and_what_they_hold() {
    let bytes = image(&[
        (".rodata", b"some nginx version: nginx/1.22"),
        (".text", b"code"),
    ]);
    let image = read(&bytes);
    let names: Vec<_> = image
        .sections
        .iter()
        .map(|section| section.name.as_str())
        .collect();
    assert_eq!(names, [".rodata", ".text", ".shstrtab"]);
    let [rodata, text] = [&image.sections[0], &image.sections[1]];
    assert!(image.holds(rodata, b"nginx version: nginx/"));
    assert!(
        !image.holds(rodata, b"code"),
        "only this section is searched"
    );
    assert!(!image.holds(text, b"code and more"));
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
    let names = bytes[FIRST as usize + 40..table].iter_mut().skip(11);
    names
        .filter(|byte| **byte == 0)
        .for_each(|byte| *byte = b'n');
    let image = read(&bytes);
    assert_eq!(image.sections.len(), 41);
    let mut long = image.sections[..40].iter();
    assert!(long.all(|section| section.name.len() == MAX_NAME));
}

#[test]
fn knows_where_an_address_is_in_the_file() {
    let bytes = image(&[(".text", b"code")]);
    let image = read(&bytes);
    assert_eq!(image.code_offset(BASE + 3), Some(3));
    assert_eq!(image.code_offset(BASE - 1), None);
    assert_eq!(image.code_offset(BASE + bytes.len() as u64), None);
    assert_eq!(image.code_offset(DATA + 3), None, "nothing that runs");
    assert_eq!(image.offset(DATA + 3), Some(3));
    assert_eq!(image.address(3), Some(BASE + 3));
    assert_eq!(image.address(bytes.len() as u64), None);
}

#[test]
fn takes_other_files_for_no_image() {
    let refused = |bytes: &[u8]| Image::read(bytes).err();
    assert_eq!(refused(b"#!/bin/sh\n"), Some(ImageError::NotElf));
    assert_eq!(refused(&[]), Some(ImageError::NotElf));
    let whole = image(&[]);
    assert_eq!(refused(&whole[..63]), Some(ImageError::NotElf));
    let mut narrow = whole.clone();
    narrow[4] = 1;
    assert_eq!(refused(&narrow), Some(ImageError::Foreign));
    let cut = &whole[..whole.len() - 1];
    assert_eq!(
        refused(cut),
        Some(ImageError::Damaged),
        "its section table is cut"
    );
    let mut many = whole.clone();
    many[56] = 65;
    assert_eq!(refused(&many), Some(ImageError::Damaged));
    let mut bare = whole;
    bare[40..48].fill(0);
    assert!(read(&bare).sections.is_empty(), "it has no section table");
}

/// What a library that is made for it says of an image, and what we say.
#[test]
fn says_what_another_reader_says_of_this_very_program() {
    use object::{Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _};
    let file = File::open("/proc/self/exe").expect("its own image is readable");
    let image = Image::read(&file).expect("it runs");
    let cache = object::ReadCache::new(&file);
    let other = object::File::parse(&cache).expect("it runs");

    assert_eq!(image.entry, other.entry());
    let id = other.build_id().expect("it is readable");
    let id = id.map(|id| {
        id.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    });
    assert_eq!(build_id(&image), id);
    for segment in other.segments() {
        let (offset, _) = segment.file_range();
        assert_eq!(image.offset(segment.address()), Some(offset));
    }
    let rodata = other
        .section_by_name(".rodata")
        .expect("every program has one");
    let own = image.section(".rodata").expect("every program has one");
    let range = own.range();
    assert_eq!(
        rodata.file_range(),
        Some((range.start, range.end - range.start))
    );
    assert!(
        image.holds(own, b"says_what_another_reader_says_of_this_very_program"),
        "the names of tests are strings of it"
    );

    let address = |name: &str| {
        let mut symbols = other.symbols();
        symbols
            .find(|symbol| symbol.is_definition() && symbol.name() == Ok(name))
            .map(|symbol| symbol.address())
    };
    for name in ["main", "_start", "rust_eh_personality"] {
        let name: &'static str = name;
        let [found] = &symbols::find(&image, &[Name::Plain(name)])[..] else {
            panic!("one answer for one name");
        };
        let found = match found {
            symbols::Lookup::Found(symbol) => Some(symbol.addresses.start),
            _ => None,
        };
        assert!(found.is_some(), "{name}");
        assert_eq!(found, address(name), "{name}");
    }
}

proptest! {
    #[test]
    fn never_panics_on_damaged_images(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..16),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = image(&[
            (".rodata", b"nginx version: nginx/1.22"),
            (".dynstr", b"\0uv_run\0"),
            (".dynsym", &[1; 48]),
            (".note.gnu.build-id", &[4, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0, 1, 2, 0, 0]),
        ]);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len() + 1));
        if let Ok(image) = Image::read(bytes.as_slice()) {
            for section in &image.sections {
                let _ = image.holds(section, b"uv_run");
            }
            let _ = build_id(&image);
            let _ = symbols::find(&image, &[Name::Plain("uv_run")]);
            image.find_texts(&[b"nginx", b""], |_, behind| assert!(behind.len() <= 64));
        }
    }
}
