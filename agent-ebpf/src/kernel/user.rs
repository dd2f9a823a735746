//! Memory of the traced process.

use aya_ebpf::helpers::generated::bpf_probe_read_user;

/// Copies `length` bytes of the process to `to`; false when a page is not there.
///
/// # Safety
/// `to` is valid for `length` bytes; the verifier checks it.
#[inline(always)]
pub(crate) unsafe fn read(to: *mut u8, length: u32, from: u64) -> bool {
    // SAFETY: the caller vouches for the destination, the helper checks the source.
    unsafe { bpf_probe_read_user(to.cast(), length, from as *const _) == 0 }
}
