//! What processes have mapped, and what is in it: files that anybody may have made.

use std::cell::Cell;

use crate::{
    image::{
        self, Image, ImageError, ReadAt, go,
        symbols::{self, Lookup, Name},
    },
    process::{Runtime, mapped, runtime::recognise},
    tls::{self, Exit},
};

/// Bytes that count how many of them are read.
struct Counted<'a> {
    bytes: &'a [u8],
    read: Cell<usize>,
}

impl ReadAt for Counted<'_> {
    fn read_some(&self, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let read = self.bytes.read_some(into, offset)?;
        self.read.set(self.read.get() + read);
        Ok(read)
    }
}

impl<'a> Counted<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            read: Cell::new(0),
        }
    }

    /// Each part of the file is looked at some times, whatever the file says.
    fn is_bounded(&self, times: usize) {
        assert!(self.read.get() <= 4096 + times * self.bytes.len());
    }
}

/// The image of a process, with the questions that tell which runtime it is. Taken is one of a runtime that is known.
pub fn elf(bytes: &[u8]) -> bool {
    let file = Counted::new(bytes);
    match Image::read(&file) {
        Ok(image) => {
            let names = image.sections.iter().map(|section| section.name.len());
            let names: usize = names.sum();
            assert!(names <= 1024 * 768, "{names} bytes of names");
            for section in image.sections.iter().take(8) {
                assert!(image.holds(section, b""));
                let held = image.holds(section, b"uv_run");
                let there = bytes.windows(6).any(|window| window == b"uv_run");
                assert!(there || !held);
            }
            for lookup in symbols::find(&image, &[Name::Plain("uv_run"), Name::Rust("uv::run")]) {
                if let Lookup::Found(symbol) = lookup {
                    assert!(symbol.addresses.start <= symbol.addresses.end);
                    let offset = image.code_offset(symbol.addresses.start);
                    assert!(offset.is_some(), "it is where code is mapped");
                }
            }
            let id = image::build_id(&image);
            assert!(id.is_none_or(|id| (2..=64).contains(&id.len())));
        }
        Err(ImageError::NotElf) => assert!(bytes.len() < 64 || !bytes.starts_with(b"\x7fELF")),
        Err(ImageError::Foreign | ImageError::Damaged) => assert!(bytes.starts_with(b"\x7fELF")),
    }
    let runtime = recognise(&file);
    file.is_bounded(64);
    runtime != Runtime::Other
}

/// An image with the questions that tell which libraries of TLS are in it. Taken is one with a library that can be seen.
pub fn tls_image(bytes: &[u8]) -> bool {
    let file = Counted::new(bytes);
    let Ok(image) = Image::read(&file) else {
        return false;
    };
    if let Some(version) = go::version(&image) {
        assert!(version.len() <= 100 && !version.contains(char::is_control));
    }
    let findings = tls::examine(&image).findings;
    let mut seen = false;
    for finding in &findings {
        if let Some(version) = &finding.version {
            assert!(version.len() <= 100 && !version.contains(char::is_control));
        }
        let Ok(probes) = &finding.probes else {
            continue;
        };
        seen = true;
        let mut places: Vec<u64> = probes.iter().map(|probe| probe.entry).collect();
        for probe in probes {
            if let Exit::Instructions(returns) = &probe.exit {
                assert!(!returns.is_empty() && returns.len() <= 64);
                assert!(returns.iter().all(|place| *place > probe.entry));
                let in_file = |place: &u64| *place < bytes.len() as u64;
                assert!(returns.iter().all(in_file), "they were read there");
            }
        }
        let all = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), all, "no two probes in one place");
    }
    file.is_bounded(256);
    seen
}

/// `/proc/<pid>/maps`. Taken is one that names a file with code.
pub fn maps(bytes: &[u8]) -> bool {
    let files = mapped::parse(bytes).expect("bytes can be read");
    for file in &files {
        assert!(file.path.is_absolute() && file.inode != 0);
        assert!(file.path.as_os_str().len() < bytes.len());
    }
    !files.is_empty()
}
