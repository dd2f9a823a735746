//! OpenSSL 1.0.2 to 3.x as a library and inside of programs (Node.js has it so), and LibreSSL, which descends from it.
//!
//! Functions: ssl(7), `ssl/ssl_lib.c`. `SSL_peek` moves nothing and is left out. `SSL_write_ex2` (3.3) does the work of `SSL_write_ex`; who calls
//! it directly is not seen.

use agent_common::abi::Direction::{Receive, Send};

use super::{
    Call,
    evidence::{Facts, Text},
    registry::{Function, Library},
};
use crate::image::symbols::Name;

/// What tells the version, in the library's other part.
pub(super) const VERSION: Name = Name::Plain("OpenSSL_version_num");

const READ: Name = Name::Plain("SSL_read");

/// The functions that all descendants have.
pub(super) const FUNCTIONS: [Function; 5] = [
    Function::new("SSL_read", Call::Counted(Receive)),
    Function::new("SSL_write", Call::Counted(Send)),
    Function::new("SSL_do_handshake", Call::Handshake),
    Function::new("SSL_shutdown", Call::Close),
    Function::new("SSL_free", Call::Free),
];

/// A function that only one descendant has; in static programs the linker may have left it out.
pub(super) const BORINGSSL_ONLY: Name = Name::Plain("SSL_get_early_data_reason");

/// A macro in OpenSSL and LibreSSL; a function in `libgnutls-openssl`, which looks like them to programs and calls GnuTLS, which is seen.
const IMITATION_ONLY: Name = Name::Plain("SSL_CTX_sess_connect_renegotiate");

/// OpenSSL itself.
pub(super) const OPENSSL: Library = Library {
    name: "OpenSSL",
    functions: &{
        let [read, write, handshake, shutdown, free] = FUNCTIONS;
        [
            read,
            write,
            Function::new("SSL_read_ex", Call::Stored(Receive)),
            Function::new("SSL_write_ex", Call::Stored(Send)),
            Function::new("SSL_sendfile", Call::SendFile),
            handshake,
            shutdown,
            free,
        ]
    },
    marks: &[],
    is: |facts| kin(facts) == Some(Kin::Open),
    version: |facts| {
        facts
            .version(Text::OpenSsl)
            .or_else(|| Some(facts.defines("OPENSSL_")? + " or later"))
    },
    hidden: None,
};

/// LibreSSL, whose library does not name itself, and what else has the functions and is none of the others. Its `SSL_read_ex` calls `SSL_read`, which is seen.
pub(super) const LIBRESSL: Library = Library {
    name: "LibreSSL or alike",
    functions: &FUNCTIONS,
    marks: &[IMITATION_ONLY],
    is: |facts| kin(facts) == Some(Kin::Libre),
    version: |facts| facts.version(Text::LibreSsl),
    hidden: None,
};

/// Which of the relatives an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kin {
    Open,
    Boring,
    Libre,
}

/// The one of them that an image holds; none where it has no function that reads or writes.
///
/// OpenSSL's library has versions of symbols. In programs BoringSSL has a function of its own, or says that it is "OpenSSL 1.1.1
/// (compatible; BoringSSL)"; the others name themselves.
pub(super) fn kin(facts: &dyn Facts) -> Option<Kin> {
    let mut calls = OPENSSL
        .functions
        .iter()
        .filter(|function| function.call.direction().is_some());
    if !calls.any(|function| facts.has(function.name)) {
        None
    } else if facts.versioned(READ, "OPENSSL_") {
        Some(Kin::Open)
    } else if facts.has(BORINGSSL_ONLY) || facts.says(Text::BoringSsl) || facts.says(Text::AwsLc) {
        Some(Kin::Boring)
    } else if facts.version(Text::OpenSsl).is_some() && !facts.says(Text::LibreSsl) {
        Some(Kin::Open)
    } else {
        (!facts.has(IMITATION_ONLY)).then_some(Kin::Libre)
    }
}
