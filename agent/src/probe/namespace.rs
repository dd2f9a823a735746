//! Network namespaces of single threads.
#![expect(unsafe_code, reason = "a system call that has no safe form")]

use rustix::thread::UnshareFlags;

/// Puts the calling thread, and no other one, into a new network namespace (unshare(2)). It is gone with the last thread and socket in it.
///
/// # Errors
/// When the process may not (CAP_SYS_ADMIN), or the kernel has no namespaces.
pub fn leave_network() -> rustix::io::Result<()> {
    // SAFETY: the flag leaves the table of file descriptors alone.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
}
