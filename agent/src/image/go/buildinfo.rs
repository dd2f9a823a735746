//! The version of Go that built a program.
//!
//! Format: `debug/buildinfo` of Go's standard library. Since Go 1.18 the text itself stands in the program; before, a pointer to it.

use crate::image::{Image, ReadAt, read::exactly, read::search};

/// What the information begins with, at a multiple of 16.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Bytes of the writable data that are searched where no section has the name.
const MAX_SEARCHED: u64 = 1 << 20;
/// Bytes in front of the text.
const HEADER: usize = 32;
/// Bytes of a version: `devel go1.27-0123456789 Tue Jan 2 15:04:05 2026 +0000` is a long one.
const MAX_VERSION: usize = 100;
/// Set where the text itself follows.
const INLINE: u8 = 2;

/// The version, `go1.24.3` for instance, `Some("")` for a Go program that does not tell it like this; `None` where it is no Go program.
#[must_use]
pub fn version<R: ReadAt + ?Sized>(image: &Image<'_, R>) -> Option<String> {
    let place = match image.section(".go.buildinfo") {
        Some(section) => section.range(),
        None => {
            let mut segments = image.segments.iter().filter(|part| part.is_writable());
            segments.next()?.range()
        }
    };
    let end = place.end.min(place.start.saturating_add(MAX_SEARCHED));
    let mut header = None;
    search(
        image.bytes,
        place.start..end,
        &[MAGIC],
        0,
        |piece, at, _| {
            let at = piece.offset + at as u64;
            if (at - place.start).is_multiple_of(16) {
                header = Some(at);
            }
            header.is_none()
        },
    );
    let header = exactly(image.bytes, header?, HEADER + 1 + MAX_VERSION)
        .or_else(|| exactly(image.bytes, header?, HEADER + 1));
    let Some(header) = header.filter(|header| header[15] & INLINE != 0) else {
        return Some(String::new());
    };
    let length = usize::from(header[HEADER]);
    let text = header.get(HEADER + 1..HEADER + 1 + length);
    let text = text.and_then(|text| std::str::from_utf8(text).ok());
    let plain = |text: &&str| length <= MAX_VERSION && !text.contains(char::is_control);
    Some(text.filter(plain).unwrap_or_default().to_owned())
}
