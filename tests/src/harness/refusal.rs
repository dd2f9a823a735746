//! How the agent says that it cannot do what it was asked: one sentence on the standard error, with the next step, and an exit code that says
//! whose turn it is.

use super::agent::Ended;

/// The command line or the configuration is to be changed.
pub(crate) const USAGE: i32 = 2;
/// The machine or the rights are to be changed.
pub(crate) const CANNOT_RUN_HERE: i32 = 3;

impl Ended {
    /// Fails unless it ended with this code, said exactly `sentence` and nothing else, and `next_step` is a part of that sentence.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub(crate) fn assert_refused(&self, code: i32, sentence: &str, next_step: &str) {
        if let Some(difference) = self.differs(code, sentence, next_step) {
            panic!("{difference}: {self:#?}\nexpected with code {code}: {sentence}");
        }
    }

    fn differs(&self, code: i32, sentence: &str, next_step: &str) -> Option<&'static str> {
        let names_next_step = !next_step.is_empty() && sentence.contains(next_step);
        let is_line = self.errors.ends_with('\n') && self.errors.lines().count() == 1;
        let said = self.errors.strip_prefix("undertrace: ");
        let checks = [
            (self.code == Some(code), "another exit code"),
            (self.output.is_empty(), "something on the standard output"),
            (is_line, "not one line on the standard error"),
            (said.is_some(), "it does not say who speaks"),
            (
                said.map(str::trim_end) == Some(sentence),
                "another sentence",
            ),
            (names_next_step, "no next step in it"),
        ];
        checks
            .into_iter()
            .find_map(|(holds, difference)| (!holds).then_some(difference))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, output: &str, errors: &str) -> Ended {
        Ended {
            code: Some(code),
            output: output.to_owned(),
            errors: errors.to_owned(),
        }
    }

    #[test]
    fn a_refusal_is_one_whole_sentence_with_its_next_step() {
        let sentence = "CAP_BPF is missing: run as root";
        let good = ended(3, "", "undertrace: CAP_BPF is missing: run as root\n");
        assert_eq!(good.differs(3, sentence, "run as root"), None);
        for (bad, difference) in [
            (ended(2, "", &good.errors), "another exit code"),
            (
                Ended {
                    code: None,
                    ..ended(3, "", &good.errors)
                },
                "another exit code",
            ),
            (
                ended(3, "tracing\n", &good.errors),
                "something on the standard output",
            ),
            (
                ended(3, "", &format!("{}{}", good.errors, good.errors)),
                "not one line on the standard error",
            ),
            (
                ended(3, "", good.errors.trim_end()),
                "not one line on the standard error",
            ),
            (
                ended(3, "", "CAP_BPF is missing: run as root\n"),
                "it does not say who speaks",
            ),
            (
                ended(3, "", "undertrace: CAP_BPF is missing\n"),
                "another sentence",
            ),
            (
                ended(3, "", "undertrace: CAP_BPF is missing: run as root now\n"),
                "another sentence",
            ),
        ] {
            assert_eq!(
                bad.differs(3, sentence, "run as root"),
                Some(difference),
                "{bad:?}"
            );
        }
        for step in ["", "use sudo"] {
            assert_eq!(good.differs(3, sentence, step), Some("no next step in it"));
        }
    }
}
