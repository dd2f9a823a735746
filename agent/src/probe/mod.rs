//! Kernel programs: which are used, how they are loaded, where they are attached, and what is read from their maps.
//!
//! The only folder of the daemon with unsafe code: system calls that aya does not offer.
#![allow(
    unsafe_code,
    reason = "system calls that aya does not offer; each has its SAFETY comment"
)]

pub mod attach;
pub mod bodies;
pub mod error;
pub mod examine;
pub mod existing;
pub mod feature;
pub mod hooks;
pub mod inject;
pub mod library;
pub mod live;
pub mod loader;
pub mod log;
pub mod maps;
mod memory;
pub mod namespace;
pub mod objects;
pub mod option;
pub mod plan;
pub mod settings;
pub mod stats;
pub mod verify;
