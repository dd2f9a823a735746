//! Kernel programs: which are used, how they are loaded, where they are attached.

pub mod objects;
