//! The kernel programs of undertrace: they read what processes send and receive, decide what cannot wait, and write records.
//!
//! Nothing here changes an application's memory, sockets or bytes, and a program that cannot do its work returns.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod adopt;
mod capture;
mod conn;
mod context;
mod decide;
mod emit;
pub mod globals;
mod hook;
mod inject;
mod kernel;
mod log;
mod maps;
mod option;
mod scratch;
mod select;
mod spare;
mod tls;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
