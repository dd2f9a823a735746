//! The kernel's version as its upstream number, which distributions hide in different places.
//!
//! Input: `uname -r`, `uname -v` and Ubuntu's `/proc/version_signature`. Output: three numbers that compare. It is for
//! tables of known defects and for reports; what a kernel can do is tried, not concluded from its number.

use std::fmt;

use serde::Serialize;

/// Upstream version, for instance 6.12.107.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Version {
    /// First number.
    pub major: u16,
    /// Second number.
    pub minor: u16,
    /// Third number, that of the stable update; 0 when it is not stated.
    pub patch: u16,
}

impl Version {
    /// A version from its numbers.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// The version at the start of `text`: `6.12.107+deb13-amd64`, `7.2-rc1`, `6.1.0-37-amd64`.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let mut numbers = text[..end].split('.').map(str::parse::<u16>);
        let major = numbers.next()?.ok()?;
        let minor = numbers.next()?.ok()?;
        let patch = numbers.next().and_then(Result::ok).unwrap_or(0);
        Some(Self {
            major,
            minor,
            patch,
        })
    }

    /// The upstream version of a running kernel.
    ///
    /// Debian up to 12 freezes the release (`6.1.0-37-amd64`) and puts the upstream version into the build string
    /// (`... Debian 6.1.140-1 (...)`); Ubuntu freezes it too (`6.8.0-45-generic`) and has it as the last word of
    /// `signature` (`Ubuntu 6.8.0-45.45-generic 6.8.12`).
    pub fn detect(release: &str, build: &str, signature: Option<&str>) -> Option<Self> {
        let plain = Self::parse(release)?;
        let debian = build
            .split_once("Debian ")
            .and_then(|(_, rest)| Self::parse(rest));
        let ubuntu = signature
            .and_then(|text| text.split_whitespace().last())
            .and_then(Self::parse);
        let same_series =
            |version: &Self| (version.major, version.minor) == (plain.major, plain.minor);
        Some(debian.or(ubuntu).filter(same_series).unwrap_or(plain))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_upstream_version_where_each_distribution_keeps_it() {
        let cases = [
            (
                "6.12.107+deb13-amd64",
                "#1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1 (2026-05-01)",
                None,
                (6, 12, 107),
            ),
            (
                "6.1.0-37-amd64",
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1.140-1 (2025-05-22)",
                None,
                (6, 1, 140),
            ),
            (
                "5.10.0-32-amd64",
                "#1 SMP Debian 5.10.223-1 (2024-08-10)",
                None,
                (5, 10, 223),
            ),
            (
                "6.8.0-45-generic",
                "#45-Ubuntu SMP",
                Some("Ubuntu 6.8.0-45.45-generic 6.8.12\n"),
                (6, 8, 12),
            ),
            ("6.18.44", "#1 SMP PREEMPT_DYNAMIC @0", None, (6, 18, 44)),
            ("7.2-rc1", "#2 SMP", None, (7, 2, 0)),
            // A build string of another series says nothing about this kernel.
            ("6.12.5-custom", "built on Debian 12.1", None, (6, 12, 5)),
        ];
        for (release, build, signature, (major, minor, patch)) in cases {
            assert_eq!(
                Version::detect(release, build, signature),
                Some(Version::new(major, minor, patch)),
                "{release}"
            );
        }
        assert_eq!(Version::detect("unknown", "", None), None);
    }

    proptest! {
        #[test]
        fn never_panics(release in ".*", build in ".*", signature in proptest::option::of(".*")) {
            let _ = Version::detect(&release, &build, signature.as_deref());
        }
    }
}
