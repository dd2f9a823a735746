//! GnuTLS 3.
//!
//! Functions: `lib/record.c`. `gnutls_record_send` ends with a call of `gnutls_record_send2` (3.6.3), which alone is probed then.
//! Left out: `gnutls_record_recv_packet`, which gives bytes without copying them, and early data.

use agent_common::abi::Direction::{Receive, Send};

use super::{
    Call,
    registry::{Function, Library},
};
use crate::image::symbols::Name;

const RECEIVE: Name = Name::Plain("gnutls_record_recv");

/// The library.
pub(super) const GNUTLS: Library = Library {
    name: "GnuTLS",
    functions: &[
        Function::new("gnutls_record_recv", Call::Counted(Receive)),
        Function::new("gnutls_record_recv_seq", Call::Counted(Receive)),
        Function::new("gnutls_record_send2", Call::Counted(Send)),
        Function {
            name: Name::Plain("gnutls_record_send"),
            call: Call::Counted(Send),
            unless: Some(Name::Plain("gnutls_record_send2")),
        },
        Function::new("gnutls_handshake", Call::Handshake),
        Function::new("gnutls_bye", Call::Close),
        Function::new("gnutls_deinit", Call::Free),
    ],
    marks: &[],
    is: |facts| facts.has(RECEIVE),
    version: |facts| Some(facts.defines("GNUTLS_")? + " or later"),
    hidden: None,
};
