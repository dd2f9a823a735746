//! Known kernels on which something misbehaves although it loads.
//!
//! Input: the kernel's version. Output: the defects it is known for. The table only refuses earlier and explains
//! better; a self-test decides on kernels that are not in it.

use serde::Serialize;

use super::version::Version;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// `ioctl(FIONREAD)` on a socket that is in a sockhash answers 0 while bytes are there.
    FionreadInSockhash,
}

/// One defect of a range of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quirk {
    /// What goes wrong.
    pub defect: Defect,
    /// First upstream version that has it.
    pub from: Version,
    /// First upstream version that is known not to have it.
    pub until: Version,
    /// What follows from it for the agent.
    pub consequence: &'static str,
}

const FIONREAD: &str = "FIONREAD is wrong in a sockhash; not used here";

/// Every defect that is known, by series.
///
/// FIONREAD: regression by upstream commit 929e30f93125, in 6.6.128, 6.12.75, 6.18.14 and 6.19. Measured: wrong on
/// 6.12.107 and 6.18.15, right on 6.1.176 and 7.2.12.
pub const QUIRKS: &[Quirk] = &[
    fionread(Version::new(6, 6, 128), Version::new(6, 7, 0)),
    fionread(Version::new(6, 12, 75), Version::new(6, 13, 0)),
    fionread(Version::new(6, 18, 14), Version::new(6, 19, 0)),
    fionread(Version::new(6, 19, 0), Version::new(7, 2, 0)),
];

const fn fionread(from: Version, until: Version) -> Quirk {
    Quirk {
        defect: Defect::FionreadInSockhash,
        from,
        until,
        consequence: FIONREAD,
    }
}

/// The defects that a kernel of this version is known for.
pub fn of(version: Version) -> impl Iterator<Item = &'static Quirk> {
    QUIRKS
        .iter()
        .filter(move |quirk| (quirk.from..quirk.until).contains(&version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_kernels_on_which_fionread_was_measured() {
        let wrong = |major, minor, patch| {
            of(Version::new(major, minor, patch))
                .any(|quirk| quirk.defect == Defect::FionreadInSockhash)
        };
        assert!(wrong(6, 12, 107) && wrong(6, 18, 15));
        assert!(!wrong(6, 1, 176) && !wrong(7, 2, 12) && !wrong(5, 10, 223));
        assert!(!wrong(6, 6, 127) && wrong(6, 6, 128));
        assert!(!wrong(6, 12, 74) && wrong(6, 12, 75) && !wrong(6, 13, 0));
        assert!(wrong(6, 19, 0) && wrong(7, 0, 3));
    }

    #[test]
    fn has_only_ranges_that_hold_something() {
        assert!(QUIRKS.iter().all(|quirk| quirk.from < quirk.until));
    }
}
