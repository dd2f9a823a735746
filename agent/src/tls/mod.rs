//! Where plaintext passes in a process that speaks TLS: which functions of which library, in which file, at which place.
//!
//! Input: images that processes have mapped. Output: [`Finding`]s, each with the probes that would have to be set, or the reason why
//! that library's connections cannot be seen. Nothing is set here, and nothing is read but files.
//!
//! A library is a value in [`registry`] and has a file of its own. It is recognised by its functions and not by the name of the
//! file, so that one that is linked into a program, or whose file is called otherwise, is found alike.

mod boringssl;
pub mod discovery;
mod evidence;
mod gnutls;
mod go;
mod openssl;
mod other;
mod registry;
mod rustls;

use agent_common::abi::Direction;

use crate::image::{
    Image, ReadAt,
    go::GoError,
    returns::ReturnsError,
    symbols::{self, Lookup, Name},
};

use self::{
    evidence::{Evidence, Facts as _, Text},
    registry::{LIBRARIES, Library},
};

/// What a function does, and where its arguments and results are.
///
/// "First" is the calling convention's first register for integers, in C and in Rust; Go has its own (`cmd/compile/abi-internal.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// (session, bytes, length) gives how many passed; 0 or less when none.
    Counted(Direction),
    /// (session, bytes, length, where to store how many passed) gives 1 when any did.
    Stored(Direction),
    /// (session, descriptor of a file, offset, length, flags) gives how many bytes of the file were sent; 0 or less when none.
    SendFile,
    /// Rust: (session or what leads to it, bytes, length) gives a pair: 0 and how many passed, or 1 and an error.
    Paired(Direction),
    /// Rust: (what leads to the session) gives a pair: place and length of bytes that were received, or 0 and an error. They are taken by
    /// [`Call::Taken`].
    Lent,
    /// Rust: (what leads to the session, how many) takes so many of the bytes that were lent.
    Taken,
    /// Go: (connection, bytes, length, capacity) gives how many passed, and an error.
    Go(Direction),
    /// (session): moves records, and no plaintext.
    Handshake,
    /// (session): nothing more will be sent.
    Close,
    /// (session): its address means another one from now on.
    Free,
}

impl Call {
    /// Which way its bytes go; none where it moves none.
    #[must_use]
    pub const fn direction(self) -> Option<Direction> {
        match self {
            Self::Counted(direction)
            | Self::Stored(direction)
            | Self::Paired(direction)
            | Self::Go(direction) => Some(direction),
            Self::SendFile => Some(Direction::Send),
            Self::Lent => Some(Direction::Receive),
            Self::Taken | Self::Handshake | Self::Close | Self::Free => None,
        }
    }
}

/// Where results are seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// They are not needed.
    None,
    /// When the function returns, as the kernel arranges it (uretprobe).
    Return,
    /// At these places of the file: the function's return instructions.
    Instructions(Vec<u64>),
}

/// One function that has to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Its name, for a person.
    pub function: &'static str,
    /// Its shape.
    pub call: Call,
    /// Where its first instruction is in the file.
    pub entry: u64,
    /// Where its results are seen.
    pub exit: Exit,
}

/// Why connections of a library cannot be seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Hidden {
    /// Its code is in the file, the names of its functions are not.
    #[error("linked in without symbols (stripped)")]
    NoSymbols,
    /// No function that moves bytes this way can be found.
    #[error("the functions that {} have no symbols (inlined or stripped)", way(.0))]
    Incomplete(Direction),
    /// Several functions have its name, or one has two names.
    #[error("it is not certain which function is {0}")]
    Ambiguous(&'static str),
    /// A Go program whose functions are not known.
    #[error("{0}")]
    Go(#[source] GoError),
    /// A function whose return instructions are not known.
    #[error("{function}: {error}")]
    Returns {
        /// The function.
        function: &'static str,
        /// Why not.
        #[source]
        error: ReturnsError,
    },
    /// A library that is not in the table.
    #[error("this library is not supported")]
    NotSupported,
    /// Code that no file holds.
    #[error("its machine code is made at run time")]
    MadeAtRunTime,
}

const fn way(direction: &Direction) -> &'static str {
    match direction {
        Direction::Send => "write",
        Direction::Receive => "read",
    }
}

/// Whether bytes begin a record of TLS: its type, and the version that all versions since SSL 3.0 write there (RFC 8446 section 5.1).
#[must_use]
pub fn begins_record(bytes: &[u8]) -> bool {
    matches!(bytes, [20..=23, 3, 0..=4, ..])
}

/// A library that an image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its name.
    pub library: &'static str,
    /// Its version, as far as it tells: `3.0.19`, or `3.7.7 or later`.
    pub version: Option<String>,
    /// The probes, or why there are none.
    pub probes: Result<Vec<Probe>, Hidden>,
}

/// What an image tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Examined {
    /// The libraries that it holds.
    pub findings: Vec<Finding>,
    /// The version of OpenSSL, where the image is the part of it that tells it, and no TLS is in it (`libcrypto`).
    pub openssl: Option<String>,
}

/// Looks at an image.
#[must_use]
pub fn examine<R: ReadAt + ?Sized>(image: &Image<'_, R>) -> Examined {
    let mut names: Vec<Name> = LIBRARIES.iter().flat_map(Library::names).collect();
    names.push(openssl::VERSION);
    names.sort_unstable();
    names.dedup();
    let lookups = symbols::find(image, &names);
    let evidence = Evidence::new(image, &names, &lookups);
    let mut findings = Vec::new();
    for library in LIBRARIES {
        if !library.names().any(|name| evidence.has(name)) || !(library.is)(&evidence) {
            continue;
        }
        let probes = match &library.hidden {
            Some(hidden) => Err(hidden.clone()),
            None => probes(image, library, &evidence),
        };
        findings.push(Finding {
            library: library.name,
            version: (library.version)(&evidence),
            probes,
        });
    }
    findings.extend(go::examine(image));
    if findings.is_empty() {
        findings.extend(evidence.without_symbols());
    }
    let tells = findings.is_empty() && evidence.has(openssl::VERSION);
    Examined {
        openssl: tells.then(|| evidence.version(Text::OpenSsl)).flatten(),
        findings,
    }
}

/// The probes of a library whose functions have symbols.
fn probes<R: ReadAt + ?Sized>(
    image: &Image<'_, R>,
    library: &Library,
    evidence: &Evidence<'_, '_, R>,
) -> Result<Vec<Probe>, Hidden> {
    let mut probes: Vec<Probe> = Vec::new();
    for function in library.functions {
        if function.unless.is_some_and(|other| evidence.has(other)) {
            continue;
        }
        let symbol = match evidence.lookup(function.name) {
            Lookup::Absent => continue,
            Lookup::Ambiguous => return Err(Hidden::Ambiguous(function.name.text())),
            Lookup::Found(symbol) => symbol,
        };
        let entry = image.code_offset(symbol.addresses.start);
        let entry = entry.ok_or(Hidden::Ambiguous(function.name.text()))?;
        if probes.iter().any(|other| other.entry == entry) {
            return Err(Hidden::Ambiguous(function.name.text()));
        }
        probes.push(Probe {
            function: function.name.text(),
            call: function.call,
            entry,
            exit: match function.call {
                Call::Taken | Call::Close | Call::Free => Exit::None,
                _ => Exit::Return,
            },
        });
    }
    complete(probes)
}

/// Half of a conversation is worse than none.
fn complete(probes: Vec<Probe>) -> Result<Vec<Probe>, Hidden> {
    for direction in [Direction::Receive, Direction::Send] {
        let mut calls = probes.iter().map(|probe| probe.call.direction());
        if !calls.any(|of| of == Some(direction)) {
            return Err(Hidden::Incomplete(direction));
        }
    }
    Ok(probes)
}

#[cfg(test)]
mod tests;
