//! rustls 0.20 to 0.23, in Rust programs that have symbols.
//!
//! Functions: `rustls/src/conn.rs`. They are Rust's, so their names hold a hash and a compiler may inline them; the paths below are
//! what is left of the names. Programs read either through `Read`, or as tokio-rustls does: bytes are lent and then taken. What
//! leads to the session is a value on the stack whose first word is the session's buffer.

use agent_common::abi::Direction::{Receive, Send};

use super::{
    Call,
    evidence::Text,
    registry::{Function, Library},
};
use crate::image::symbols::Name;

const fn function(path: &'static str, call: Call) -> Function {
    Function {
        name: Name::Rust(path),
        call,
        unless: None,
    }
}

/// The library. The module moved with 0.22.
pub(super) const RUSTLS: Library = Library {
    name: "rustls",
    functions: &[
        function(
            "<rustls::conn::connection::Reader as std::io::Read>::read",
            Call::Paired(Receive),
        ),
        function(
            "<rustls::conn::connection::Reader as std::io::BufRead>::fill_buf",
            Call::Lent,
        ),
        function(
            "rustls::conn::connection::Reader::into_first_chunk",
            Call::Lent,
        ),
        function(
            "<rustls::conn::connection::Reader as std::io::BufRead>::consume",
            Call::Taken,
        ),
        function(
            "<rustls::conn::connection::Writer as std::io::Write>::write",
            Call::Paired(Send),
        ),
        function(
            "<rustls::conn::Reader as std::io::Read>::read",
            Call::Paired(Receive),
        ),
        function(
            "<rustls::conn::Writer as std::io::Write>::write",
            Call::Paired(Send),
        ),
    ],
    marks: &[],
    is: |_| true,
    version: |facts| facts.version(Text::Rustls),
    hidden: None,
};
