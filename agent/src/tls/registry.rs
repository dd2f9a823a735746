//! The libraries that are known.

use super::{
    Call, Hidden,
    boringssl::BORINGSSL,
    evidence::Facts,
    gnutls::GNUTLS,
    openssl::{LIBRESSL, OPENSSL},
    other,
    rustls::RUSTLS,
};
use crate::image::symbols::Name;

/// A library whose functions are found by their symbols.
pub(super) struct Library {
    /// Its name.
    pub(super) name: &'static str,
    /// The functions that plaintext passes, and those that end a session; none where it is only recognised.
    pub(super) functions: &'static [Function],
    /// Other functions that tell it from its relatives.
    pub(super) marks: &'static [Name],
    /// Whether it is this one, where any of these functions is there.
    pub(super) is: fn(&dyn Facts) -> bool,
    /// Its version, as far as it tells.
    pub(super) version: fn(&dyn Facts) -> Option<String>,
    /// Why it cannot be seen, where that is so whatever its symbols say.
    pub(super) hidden: Option<Hidden>,
}

/// A function of a library.
pub(super) struct Function {
    /// Its symbol.
    pub(super) name: Name,
    /// Its shape.
    pub(super) call: Call,
    /// A function that it calls to do its work, and that would be seen as well.
    pub(super) unless: Option<Name>,
}

impl Function {
    pub(super) const fn new(name: &'static str, call: Call) -> Self {
        Self {
            name: Name::Plain(name),
            call,
            unless: None,
        }
    }
}

impl Library {
    /// Every name that tells something about it.
    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        let functions = self.functions.iter().map(|function| function.name);
        let others = self.functions.iter().filter_map(|function| function.unless);
        functions.chain(others).chain(self.marks.iter().copied())
    }
}

/// Every library. Of relatives the first that fits counts for their functions; the others say themselves that they are not it.
pub(super) const LIBRARIES: &[Library] = &[
    BORINGSSL,
    OPENSSL,
    LIBRESSL,
    GNUTLS,
    RUSTLS,
    other::NSS,
    other::MBEDTLS,
    other::WOLFSSL,
    other::S2N,
    other::JAVA,
];
