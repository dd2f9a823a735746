//! Birth, change and death of processes. Thread group level: [`Fork`] is sent for new processes, not for new threads.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Header;

/// A process runs a new program: what was known of its executable no longer holds.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Exec {
    /// Kind [`Kind::Exec`](super::Kind::Exec); connection and position are 0.
    pub header: Header,
    /// Start time of the thread group, nanoseconds since boot.
    pub process_start_ns: u64,
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Thread group id of the parent.
    pub parent_tgid: u32,
}

/// A process ended: its last thread is gone.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Exit {
    /// Kind [`Kind::Exit`](super::Kind::Exit); connection and position are 0.
    pub header: Header,
    /// Start time of the thread group, nanoseconds since boot.
    pub process_start_ns: u64,
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Exit code as `wait` reports it.
    pub exit_code: u32,
}

/// A process began as a copy of its parent.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Fork {
    /// Kind [`Kind::Fork`](super::Kind::Fork); connection and position are 0.
    pub header: Header,
    /// Start time of the child's thread group, nanoseconds since boot.
    pub process_start_ns: u64,
    /// Thread group id of the child in the initial pid namespace.
    pub tgid: u32,
    /// Thread group id of the parent.
    pub parent_tgid: u32,
}

const _: () =
    assert!(size_of::<Exec>() == 56 && size_of::<Exit>() == 56 && size_of::<Fork>() == 56);
