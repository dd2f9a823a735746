//! What an image shows of the libraries that it holds: symbols, versions of symbols, texts.

use std::cell::OnceCell;

use super::{Finding, Hidden};
use crate::image::{
    Image, ReadAt,
    symbols::{self, Lookup, Name, Symbol},
};

/// A text among the constants of an image that tells something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// Its version follows.
    OpenSsl,
    /// Its version follows.
    LibreSsl,
    /// It says that it is compatible with OpenSSL.
    BoringSsl,
    /// It calls itself so.
    AwsLc,
    /// The path of its source, with the version, which stays in programs that are stripped.
    Rustls,
    /// What every implementation of TLS 1.3 signs (RFC 8446, section 4.4.3).
    Tls13,
}

impl Text {
    const ALL: [(Self, &'static [u8]); 6] = [
        (Self::OpenSsl, b"OpenSSL "),
        (Self::LibreSsl, b"LibreSSL "),
        (Self::BoringSsl, b"(compatible; BoringSSL)"),
        (Self::AwsLc, b"AWS-LC"),
        (Self::Rustls, b"/rustls-"),
        (Self::Tls13, b"TLS 1.3, server CertificateVerify"),
    ];
}

/// Which texts an image holds, in the order of [`Text::ALL`], and the first version behind each.
type Texts = [(bool, Option<String>); Text::ALL.len()];

/// Bytes of a version that are kept.
const MAX_VERSION: usize = 24;

/// Questions that a library asks to tell whether it is the one.
pub(super) trait Facts {
    /// Whether the image has a function of that name.
    fn has(&self, name: Name) -> bool;
    /// Whether a function has a version that begins so.
    fn versioned(&self, name: Name, version: &str) -> bool;
    /// The highest version of symbols that the image defines, behind a prefix, with dots: `3.7.7` of `GNUTLS_3_7_7`.
    fn defines(&self, prefix: &str) -> Option<String>;
    /// Whether the image holds a text.
    fn says(&self, text: Text) -> bool;
    /// The version that stands behind a text.
    fn version(&self, text: Text) -> Option<String>;
}

/// An image, and what became of the names that were looked for in it.
pub(super) struct Evidence<'a, 'b, R: ReadAt + ?Sized> {
    image: &'a Image<'b, R>,
    names: &'a [Name],
    lookups: &'a [Lookup<Symbol>],
    /// Looked for once, when first asked for.
    texts: OnceCell<Texts>,
}

impl<'a, 'b, R: ReadAt + ?Sized> Evidence<'a, 'b, R> {
    /// `names` are in their order.
    pub(super) const fn new(
        image: &'a Image<'b, R>,
        names: &'a [Name],
        lookups: &'a [Lookup<Symbol>],
    ) -> Self {
        Self {
            image,
            names,
            lookups,
            texts: OnceCell::new(),
        }
    }

    /// What became of a name.
    pub(super) fn lookup(&self, name: Name) -> &Lookup<Symbol> {
        let index = self.names.binary_search(&name).ok();
        index
            .and_then(|index| self.lookups.get(index))
            .unwrap_or(&Lookup::Absent)
    }

    /// A library of which the image has no symbols; told by its texts.
    pub(super) fn without_symbols(&self) -> Option<Finding> {
        if !self.says(Text::Tls13) {
            return None;
        }
        // Whoever is compatible with OpenSSL names it, too.
        let libraries = [
            (Text::Rustls, "rustls"),
            (Text::BoringSsl, "BoringSSL"),
            (Text::AwsLc, "AWS-LC"),
            (Text::LibreSsl, "LibreSSL"),
            (Text::OpenSsl, "OpenSSL"),
        ];
        let versioned = |text| !matches!(text, Text::BoringSsl | Text::AwsLc);
        let mut libraries = libraries.into_iter().filter_map(|(text, library)| {
            let version = self.version(text);
            let named = self.says(text) && (version.is_some() || !versioned(text));
            named.then_some((library, version.filter(|_| versioned(text))))
        });
        let (library, version) = libraries.next().unwrap_or(("a TLS library", None));
        Some(Finding {
            library,
            version,
            probes: Err(Hidden::NoSymbols),
        })
    }

    fn texts(&self) -> &Texts {
        self.texts.get_or_init(|| {
            let mut texts = Texts::default();
            self.image
                .find_texts(&Text::ALL.map(|(_, text)| text), |which, behind| {
                    let (there, version) = &mut texts[which];
                    *there = true;
                    if version.is_none() {
                        *version = number(behind);
                    }
                });
            texts
        })
    }
}

impl<R: ReadAt + ?Sized> Facts for Evidence<'_, '_, R> {
    fn has(&self, name: Name) -> bool {
        *self.lookup(name) != Lookup::Absent
    }

    fn versioned(&self, name: Name, version: &str) -> bool {
        match self.lookup(name) {
            Lookup::Found(symbol) => symbol
                .version
                .as_deref()
                .is_some_and(|own| own.starts_with(version)),
            _ => false,
        }
    }

    fn defines(&self, prefix: &str) -> Option<String> {
        let versions = symbols::versions(self.image);
        let numbers = versions.iter().filter_map(|version| {
            let version = version.strip_prefix(prefix)?;
            let parts = version.split(['.', '_']);
            parts
                .map(|part| part.parse().ok())
                .collect::<Option<Vec<u32>>>()
        });
        let parts = numbers.max()?;
        let texts: Vec<String> = parts.iter().map(u32::to_string).collect();
        Some(texts.join("."))
    }

    fn says(&self, text: Text) -> bool {
        self.texts()[text as usize].0
    }

    fn version(&self, text: Text) -> Option<String> {
        self.texts()[text as usize].1.clone()
    }
}

/// A version at the beginning of a text: `1.1.1w`, `3.0.19+quic`. Texts for people name two parts only.
fn number(text: &[u8]) -> Option<String> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b".+-".contains(byte);
    let length = text.iter().take_while(|byte| is_part(byte)).count();
    let version = std::str::from_utf8(text.get(..length.min(MAX_VERSION))?).ok()?;
    let mut parts = version.split('.');
    let mut is_number = || {
        let part = parts.next()?;
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        (digits > 0).then_some(())
    };
    is_number()?;
    is_number()?;
    is_number()?;
    Some(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_stands_at_its_number() {
        for (number, (text, _)) in Text::ALL.into_iter().enumerate() {
            assert_eq!(text as usize, number);
        }
    }

    #[test]
    fn tells_versions_from_other_words() {
        let of = |text: &str| number(text.as_bytes());
        assert_eq!(of("3.0.19 27 Jan 2026").as_deref(), Some("3.0.19"));
        assert_eq!(of("1.1.1w  11 Sep 2023").as_deref(), Some("1.1.1w"));
        assert_eq!(of("3.0.15+quic 3 Sep 2024").as_deref(), Some("3.0.15+quic"));
        assert_eq!(of("0.23.31/src/conn.rs").as_deref(), Some("0.23.31"));
        for other in ["", "3", "3.0 legacy provider", "3.x.y", ".1.1", "%s"] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(
            of(&"1.".repeat(99)).map(|version| version.len()),
            Some(MAX_VERSION)
        );
    }
}
