//! OpenSSL 1.0.2 to 3.x as a library and inside of programs (Node.js has it so), and LibreSSL, which descends from it.
//!
//! Functions: ssl(7), `ssl/ssl_lib.c`. `SSL_peek` moves nothing and is left out. `SSL_write_ex2` (3.3) does the work of `SSL_write_ex`; who calls
//! it directly is not seen.

use agent_common::abi::Direction::{Receive, Send};

use super::{
    Call,
    evidence::Facts,
    registry::{Function, Library},
};
use crate::image::symbols::Name;

/// What tells the version, in the library's other part.
pub(super) const VERSION: Name = Name::Plain("OpenSSL_version_num");

const READ: Name = Name::Plain("SSL_read");

/// The functions that all descendants have.
pub(super) const FUNCTIONS: [Function; 4] = [
    Function::new("SSL_read", Call::Counted(Receive)),
    Function::new("SSL_write", Call::Counted(Send)),
    Function::new("SSL_shutdown", Call::Close),
    Function::new("SSL_free", Call::Free),
];

/// A function that only one descendant has; in static programs the linker may have left it out.
pub(super) const BORINGSSL_ONLY: Name = Name::Plain("SSL_get_early_data_reason");

/// OpenSSL itself.
pub(super) const OPENSSL: Library = Library {
    name: "OpenSSL",
    functions: &{
        let [read, write, shutdown, free] = FUNCTIONS;
        [
            read,
            write,
            Function::new("SSL_read_ex", Call::Stored(Receive)),
            Function::new("SSL_write_ex", Call::Stored(Send)),
            Function::new("SSL_sendfile", Call::SendFile),
            shutdown,
            free,
        ]
    },
    marks: &[],
    is: is_openssl,
    version: |facts| {
        facts
            .version_behind("OpenSSL ")
            .or_else(|| Some(facts.defines("OPENSSL_")? + " or later"))
    },
    hidden: None,
};

/// LibreSSL, and what else has the functions and is none of the others. Its `SSL_read_ex` calls `SSL_read`, which is seen.
pub(super) const LIBRESSL: Library = Library {
    name: "LibreSSL",
    functions: &FUNCTIONS,
    marks: &[],
    is: |facts| facts.has(READ) && !is_openssl(facts) && !super::boringssl::is_boringssl(facts),
    version: |facts| facts.version_behind("LibreSSL "),
    hidden: None,
};

/// Its library has versions of symbols, programs that hold it have the text; descendants name themselves.
fn is_openssl(facts: &dyn Facts) -> bool {
    let named = || facts.version_behind("OpenSSL ").is_some() && !facts.says("LibreSSL ");
    facts.has(READ)
        && (facts.versioned(READ, "OPENSSL_") || !super::boringssl::is_boringssl(facts) && named())
}
