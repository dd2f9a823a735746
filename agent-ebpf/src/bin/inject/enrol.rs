//! Which connections get headers.
//!
//! Input: the handshake's callback, and what `capture` has left for the socket. Output: the socket in [`ENROLLED`], if its peer is in
//! one of [`NETWORKS`].

use agent_common::abi::{Counter, InjectionState, switches};
use aya_ebpf::{bindings::BPF_NOEXIST, maps::lpm_trie::Key, programs::SockOpsContext};

use crate::{ENROLLED, NETWORKS, SWITCHES, count, find, tcp_sock};

/// Address families (include/linux/socket.h).
const AF_INET: u32 = 2;

const AF_INET6: u32 = 10;

#[inline(always)]
pub(crate) fn enrol(ctx: &SockOpsContext) -> Option<()> {
    // SAFETY: a load from the context.
    let operations = unsafe { &*ctx.ops };
    // SAFETY: the only member of the union that is a value.
    let sk = unsafe { operations.__bindgen_anon_2.sk };
    let injection = find(tcp_sock(sk.cast())? as u64)?;
    let switched = SWITCHES.get(0).copied().unwrap_or(0);
    if injection.state != InjectionState::Wanted as u32 || switched & switches::STOPPED != 0 {
        return None;
    }
    injection.state = InjectionState::Refused as u32;
    if !is_trusted(ctx) {
        count(Counter::InjectUntrusted, 1);
        return None;
    }
    let connection = injection.connection;
    // SAFETY: the context is the kernel's for as long as the program runs.
    let operations = unsafe { &mut *ctx.ops };
    if ENROLLED
        .update(connection, operations, u64::from(BPF_NOEXIST))
        .is_err()
    {
        count(Counter::InjectSocketsRefused, 1);
        return None;
    }
    injection.state = InjectionState::Enrolled as u32;
    count(Counter::InjectSockets, 1);
    Some(())
}

/// Whether the peer is in one of the networks.
#[inline(always)]
fn is_trusted(ctx: &SockOpsContext) -> bool {
    let mut address = [0u32; 4];
    if ctx.family() == AF_INET {
        address[2] = 0xffff_0000;
        address[3] = ctx.remote_ip4();
    } else if ctx.family() == AF_INET6 {
        for (index, word) in address.iter_mut().enumerate() {
            // SAFETY: a load from the context; the kernel takes those of four bytes only, so each is one of its own.
            *word = unsafe { (&raw const (*ctx.ops).remote_ip6[index]).read_volatile() };
        }
    } else {
        return false;
    }
    NETWORKS.get(Key::new(128, address)).is_some()
}
