//! The objects with the kernel programs, as this binary carries them.
//!
//! `cargo xtask build` compiles agent-ebpf and hands the objects over; any other build carries none, and says so.

/// A file of kernel programs and maps, loaded as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// Name of the binary target in agent-ebpf.
    pub name: &'static str,
    /// ELF file, aligned to 8 bytes.
    pub bytes: &'static [u8],
}

/// What to tell a user whose binary carries no kernel programs.
pub const MISSING: &str =
    "this binary was built without kernel programs; build it with `cargo xtask build`";

/// Lists each object by its name.
macro_rules! objects {
    ($($name:literal),+ $(,)?) => {
        /// Every object that this binary carries; empty if it was built without kernel programs.
        #[cfg(not(no_ebpf_objects))]
        pub const OBJECTS: &[Object] = &[$(Object {
            name: $name,
            bytes: aya::include_bytes_aligned!(concat!(env!("UNDERTRACE_EBPF_DIR"), "/", $name)),
        }),+];

        /// Every object that this binary carries; empty if it was built without kernel programs.
        #[cfg(no_ebpf_objects)]
        pub const OBJECTS: &[Object] = &[];
    };
}

objects!("capture", "inject", "option");

/// The object of this name, if the binary carries it.
#[must_use]
pub fn find(name: &str) -> Option<Object> {
    OBJECTS.iter().copied().find(|object| object.name == name)
}
