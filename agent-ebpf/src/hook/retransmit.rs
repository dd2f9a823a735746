//! Segments that TCP sends again: `tcp_retransmit_skb(sk, skb)` (include/trace/events/tcp.h), in a soft interrupt or in any task.

use agent_common::{
    abi::{Counter, Kind, PolicyKind, Retransmit},
    kernel_fields::ABSENT,
};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    conn::{self, flags},
    emit,
    globals::global,
    inject,
    kernel::{field, sock},
    maps::count,
};

// since Linux 4.15; newer kernels call it for attempts that failed too, and say so in a third argument that older ones do not have
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    retransmitted(ctx.arg(0), ctx.arg(1));
    0
}

#[inline(always)]
fn retransmitted(sk: u64, skb: u64) {
    let Some(socket) = conn::find(sk) else {
        return;
    };
    let ignored = socket.policy == PolicyKind::Ignore as u8 && !socket.has(flags::CLOSE_TOLD);
    if ignored || socket.has(flags::COUNTED) {
        return;
    }
    if global!(O_SK_BUFF_CB) == ABSENT
        || global!(O_SK_BUFF_LEN) == ABSENT
        || global!(O_TCP_SKB_CB_SEQ) == ABSENT
    {
        count(Counter::KernelReadFailed);
        return;
    }
    let length: u32 = field::read(skb, global!(O_SK_BUFF_LEN));
    if length == 0 || socket.has(flags::CONNECTING) {
        count(Counter::RetransmissionsEmpty);
        return;
    }
    if socket.identity != sock::identity_of(sk).word() {
        // The sock was freed without our hook and is another connection now.
        return;
    }
    count(Counter::RetransmissionsSeen);
    let control = skb.wrapping_add(u64::from(global!(O_SK_BUFF_CB)));
    let sequence: u32 = field::read(control, global!(O_TCP_SKB_CB_SEQ));
    let behind = sequence.wrapping_add(length);
    let mut header = emit::header(
        Kind::Retransmit,
        size_of::<Retransmit>(),
        conn::now(),
        socket.connection,
    );
    header.position = conn::sent_position(socket, behind, inject::inserted(sk, socket, behind));
    emit::record(&Retransmit {
        header,
        length,
        reserved: [0; 4],
    });
}
