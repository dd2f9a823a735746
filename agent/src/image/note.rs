//! The build id of an image: which build of a program or library it is, whatever it is called.
//!
//! Format: System V gABI, "Note Section"; the note is GNU's (`ld --build-id`).

use super::{Image, ReadAt, read::exactly, word};

/// `PT_NOTE`.
pub(super) const SEGMENT: u32 = 4;
/// `SHT_NOTE`.
const SECTION: u32 = 7;
/// `NT_GNU_BUILD_ID`.
const BUILD_ID: u32 = 3;
/// Bytes of notes that are read in one place, and places.
const MAX_BYTES: u64 = 4096;
const MAX_PLACES: usize = 8;
/// Bytes of an id: SHA-1 has 20.
const MAX_ID: usize = 32;

/// The build id in hex digits; none where the linker wrote none.
#[must_use]
pub fn build_id<R: ReadAt + ?Sized>(image: &Image<'_, R>) -> Option<String> {
    let sections = image.sections.iter().filter(|part| part.kind == SECTION);
    let places = sections
        .map(super::Section::range)
        .chain(image.notes.iter().cloned());
    places.take(MAX_PLACES).find_map(|place| {
        let length = place.end.saturating_sub(place.start).min(MAX_BYTES);
        let notes = exactly(image.bytes, place.start, usize::try_from(length).ok()?)?;
        find(&notes)
    })
}

fn find(notes: &[u8]) -> Option<String> {
    let mut rest = notes;
    while rest.len() >= 12 {
        let (name, length, kind) = (word(rest, 0), word(rest, 4), word(rest, 8));
        let padded = |length: u32| (length as usize).checked_next_multiple_of(4);
        let body = 12_usize.checked_add(padded(name)?)?;
        if kind == BUILD_ID && rest.get(12..16) == Some(b"GNU\0") && name == 4 {
            let id = rest.get(body..)?.get(..length as usize)?;
            let usable = (1..=MAX_ID).contains(&id.len());
            return usable.then(|| id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        rest = rest.get(body.checked_add(padded(length)?)?..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, body: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        note.extend((name.len() as u32).to_le_bytes());
        note.extend((body.len() as u32).to_le_bytes());
        note.extend(kind.to_le_bytes());
        for part in [name, body] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn finds_the_id_among_other_notes() {
        let id = note(b"GNU\0", BUILD_ID, &[0xab, 1, 2]);
        let other = note(b"GNU\0", 5, &[0; 13]);
        let foreign = note(b"Go\0\0", BUILD_ID, b"text");
        let all = [other, foreign, id.clone()].concat();
        assert_eq!(find(&all).as_deref(), Some("ab0102"));
        assert_eq!(find(&id[..15]), None);
        assert_eq!(find(&note(b"GNU\0", BUILD_ID, &[1; 33])), None);
        assert_eq!(find(&note(b"GNU\0", BUILD_ID, &[])), None);
        assert_eq!(find(&[0xff; 64]), None);
    }
}
