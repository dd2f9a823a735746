//! Bytes of the message under way.
//!
//! Input: places in it. Output: those bytes, readable and writable, in terms that the verifier follows.

use core::arch::asm;

use agent_common::wire::inject::Sink;
use aya_ebpf::{helpers::bpf_msg_pull_data, programs::SkMsgContext};

/// `at & 0xffff`, in assembly because LLVM drops a mask where it believes that it knows the bound.
#[inline(always)]
pub(crate) fn bound(at: u32) -> u32 {
    let mut at = u64::from(at);
    // SAFETY: one instruction without effects.
    unsafe { asm!("{0} &= 65535", inout(reg) at, options(pure, nomem, nostack)) };
    at as u32
}

/// Makes bytes `from..to` readable; what lies before them becomes one piece, because the kernel miscounts places behind the first piece
/// (`rsge.offset` in `bpf_msg_push_data`, net/core/filter.c, before 6.13).
#[inline(always)]
pub(crate) fn pull(ctx: &SkMsgContext, from: u32, to: u32) -> bool {
    // SAFETY: the context is the kernel's; every pointer into the message is taken again behind this.
    let joined = unsafe { bpf_msg_pull_data(ctx.msg, 0, to, 0) };
    if joined != 0 {
        return false;
    }
    // SAFETY: as above.
    let narrowed = unsafe { bpf_msg_pull_data(ctx.msg, from, to, 0) };
    narrowed == 0
}

/// The message's readable bytes, if there are at least `length`.
#[inline(always)]
pub(crate) fn bytes(ctx: &SkMsgContext, length: u32) -> Option<*mut u8> {
    let (data, end) = (ctx.data(), ctx.data_end());
    (data + length as usize <= end).then_some(data as *mut u8)
}

/// Bytes of the message. Whoever makes one has checked that there are as many as will be written.
pub(crate) struct Packet(pub(crate) *mut u8);

impl Sink for Packet {
    #[inline(always)]
    fn word(&mut self, at: usize, value: u64) {
        // SAFETY: checked when it was made; the verifier follows the constants.
        unsafe { self.0.wrapping_add(at).cast::<u64>().write_unaligned(value) };
    }

    #[inline(always)]
    fn half(&mut self, at: usize, value: u16) {
        // SAFETY: as above.
        unsafe { self.0.wrapping_add(at).cast::<u16>().write_unaligned(value) };
    }

    #[inline(always)]
    fn byte(&mut self, at: usize, value: u8) {
        // SAFETY: as above.
        unsafe { self.0.wrapping_add(at).write(value) };
    }
}
