//! A pair of programs that do nothing, on the two busiest hooks: the price of being attached at all.
//!
//! `cargo xtask bench` prints it beside the agent's as the limit that no program can go below. The agent does not
//! carry this object.

#![no_std]
#![no_main]

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

#[fentry(function = "inet_sendmsg")]
fn empty_send(_context: FEntryContext) -> i32 {
    0
}

#[fexit(function = "inet_recvmsg")]
fn empty_receive(_context: FExitContext) -> i32 {
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
