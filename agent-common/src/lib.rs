//! What the kernel programs and the daemon share: the records that cross the kernel boundary ([`abi`]), the decisions taken on bytes
//! ([`wire`]) and the table of kernel struct members ([`kernel_fields`]).
//!
//! Built for the BPF target and for the host: no I/O, no allocation, no clock.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod kernel_fields;
pub mod wire;
