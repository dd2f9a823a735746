//! Memory of the daemon itself.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "a call of the C library that has no safe form")
)]

/// Returns freed memory to the system. The kernel's type information takes tens of megabytes while programs are loaded; the C library would
/// keep them for ever.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes a number, touches only memory that is free, and is thread-safe (malloc_trim(3)).
        unsafe { libc::malloc_trim(0) };
    }
}
