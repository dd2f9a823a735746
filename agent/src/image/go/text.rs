//! Where the code of a Go program begins: what its table of functions counts from.
//!
//! Up to Go 1.25 the table's header tells it, afterwards only the runtime's description of the program (`moduledata`). In programs that the
//! loader moves both may be zero in the file, and stand in the loader's list of what it has to put in. Who links C code
//! into the program has it in front of Go's. So there are several places to look at, and what they say is believed only where a
//! function begins as Go's compiler begins them.

use super::pclntab::Pclntab;
use crate::image::{
    Image, Machine, ReadAt, long,
    read::{Forward, pieces},
    word,
};

/// Where `moduledata.text` is in `.go.module`, which linkers write since Go 1.26 (`runtime/symtab.go`): behind a pointer, six
/// slices, and three more pointers.
const MODULE_TEXT: u64 = 8 + 6 * 24 + 3 * 8;
/// `SHT_RELA`, and bytes of an entry.
const RELOCATIONS: u32 = 4;
const RELOCATION: usize = 24;
/// Bytes of relocations that are passed; programs of 100 MB have some 20 MB.
const MAX_RELOCATIONS: u64 = 64 << 20;
/// `R_X86_64_RELATIVE`, `R_AARCH64_RELATIVE`.
const RELATIVE: [u32; 2] = [8, 1027];

/// Places at which the code may begin, the most probable first.
pub(super) fn starts<R: ReadAt + ?Sized>(image: &Image<'_, R>, table: &Pclntab) -> Vec<u64> {
    let mut starts = vec![table.text_start];
    let module = image.section(".go.module");
    let module = module.and_then(|module| module.offset.checked_add(MODULE_TEXT));
    if let Some(at) = module {
        starts.extend(Forward::new(image.bytes).take(at).map(u64::from_le_bytes));
    }
    starts.extend(image.section(".text").map(|text| text.address));
    let moved = [table.offset.checked_add(24), module];
    for place in moved.into_iter().flatten() {
        let address = image.address(place);
        starts.extend(address.and_then(|address| relocated(image, address)));
    }
    starts.retain(|start| *start != 0);
    starts
}

/// What the loader puts in at an address, as the image states addresses.
fn relocated<R: ReadAt + ?Sized>(image: &Image<'_, R>, address: u64) -> Option<u64> {
    let mut sections = image.sections.iter();
    let section = sections.find(|section| section.kind == RELOCATIONS && section.address != 0)?;
    let size = section.size.min(MAX_RELOCATIONS);
    let range = section.offset..section.offset.saturating_add(size);
    let mut found = None;
    let mut skipped = 0;
    pieces(image.bytes, range, RELOCATION, |piece| {
        let from = piece.body.start + skipped;
        let body = piece.body.end.saturating_sub(from);
        let count = body.div_ceil(RELOCATION);
        let entries = piece.bytes[from.min(piece.bytes.len())..]
            .as_chunks::<24>()
            .0;
        let entry = entries
            .iter()
            .take(count)
            .find(|entry| long(*entry, 0) == address && RELATIVE.contains(&word(*entry, 8)));
        found = entry.map(|entry| long(entry, 16));
        skipped = count * RELOCATION - body;
        found.is_none()
    });
    found
}

/// Whether code begins as Go's compiler begins functions that may need more stack: by comparing the stack pointer with the limit
/// that stands 16 bytes into the goroutine's descriptor (`cmd/internal/obj/x86/obj6.go`, `cmd/internal/obj/arm64/obj7.go`).
pub(super) fn begins_a_function(machine: Machine, code: &[u8]) -> bool {
    match machine {
        Machine::X86_64 => {
            // cmp rsp, [r14+16]
            let small = code.starts_with(b"\x49\x3b\x66\x10");
            // lea r12, [rsp-n]; cmp r12, [r14+16]
            let compare = b"\x4d\x3b\x66\x10";
            let large = |lea: &[u8], size: usize| {
                code.starts_with(lea)
                    && code
                        .get(size..)
                        .is_some_and(|code| code.starts_with(compare))
            };
            small || large(b"\x4c\x8d\x64\x24", 5) || large(b"\x4c\x8d\xa4\x24", 8)
        }
        // ldr x16, [x28, #16]
        Machine::Aarch64 => code.starts_with(&0xf940_0b90_u32.to_le_bytes()),
        Machine::Other => false,
    }
}
