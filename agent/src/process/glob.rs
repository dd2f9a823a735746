//! Patterns for paths: `*`, `?` and `**`.
//!
//! Input: a pattern of the configuration. Output: whether a path matches. There are no classes, no braces and no escapes.

use std::{fmt, str::FromStr};

/// Longest pattern, in characters.
const MAX_LENGTH: usize = 1024;

/// A pattern: `?` is one character but no slash, `*` any number of them, `**` any number of characters, slashes too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    tokens: Vec<Token>,
}

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Nothing would match.
    #[error("the pattern is empty")]
    Empty,
    /// The pattern is too long.
    #[error("the pattern has more than {MAX_LENGTH} characters")]
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    One,
    Some,
    Everything,
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        let mut tokens = Vec::new();
        for c in text.chars() {
            match (c, tokens.last()) {
                ('*', Some(Token::Some | Token::Everything)) => {
                    tokens.pop();
                    tokens.push(Token::Everything);
                }
                ('*', _) => tokens.push(Token::Some),
                ('?', _) => tokens.push(Token::One),
                _ => tokens.push(Token::Literal(c)),
            }
            if tokens.len() > MAX_LENGTH {
                return Err(GlobError::TooLong);
            }
        }
        Ok(Self {
            text: text.to_owned(),
            tokens,
        })
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.text)
    }
}

impl Glob {
    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        // reached[n]: the first n tokens can account for what was read. No backtracking: time is tokens times characters.
        let mut reached = vec![false; self.tokens.len() + 1];
        reached[0] = true;
        self.skip_stars(&mut reached);
        for c in text.chars() {
            let mut next = vec![false; reached.len()];
            for (position, token) in self
                .tokens
                .iter()
                .enumerate()
                .filter(|(position, _)| reached[*position])
            {
                match token {
                    Token::Literal(own) => next[position + 1] |= *own == c,
                    Token::One => next[position + 1] |= c != '/',
                    Token::Some => next[position] |= c != '/',
                    Token::Everything => next[position] = true,
                }
            }
            self.skip_stars(&mut next);
            reached = next;
        }
        reached.last().copied().unwrap_or(false)
    }

    /// As [`Glob::matches`]; a pattern without a slash is compared with the last part of the path.
    #[must_use]
    pub fn matches_path(&self, path: &str) -> bool {
        if self.text.contains('/') {
            self.matches(path)
        } else {
            self.matches(super::program::base_name(path))
        }
    }

    /// Stars may stand for nothing.
    fn skip_stars(&self, reached: &mut [bool]) {
        for (position, token) in self.tokens.iter().enumerate() {
            if reached[position] && matches!(token, Token::Some | Token::Everything) {
                reached[position + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        pattern
            .parse::<Glob>()
            .expect("a valid pattern")
            .matches(text)
    }

    #[test]
    fn matches_as_its_description_says() {
        for (pattern, text) in [
            ("/usr/sbin/nginx", "/usr/sbin/nginx"),
            ("/usr/*/nginx", "/usr/sbin/nginx"),
            ("/usr/bin/python3.*", "/usr/bin/python3.11"),
            ("/opt/**/bin/shop", "/opt/a/b/bin/shop"),
            ("**", "/anything/at all"),
            ("***", "/a/b"),
            ("n?inx", "nginx"),
            ("*", ""),
            ("a*b*c", "axxbxxc"),
            ("café?", "cafés"),
        ] {
            assert!(matches(pattern, text), "{pattern} on {text}");
        }
        for (pattern, text) in [
            ("/usr/*", "/usr/sbin/nginx"),
            ("/usr/sbin/nginx", "/usr/sbin/nginx2"),
            ("/usr?sbin", "/usr/sbin"),
            ("a*b", "axxbc"),
            ("?", ""),
            ("A", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern} on {text}");
        }
    }

    #[test]
    fn compares_a_bare_name_with_the_last_part() {
        let glob: Glob = "python3*".parse().expect("a valid pattern");
        assert!(glob.matches_path("/usr/bin/python3.11") && !glob.matches_path("/opt/python3/run"));
        let glob: Glob = "/usr/bin/*".parse().expect("a valid pattern");
        assert!(glob.matches_path("/usr/bin/python3.11") && !glob.matches_path("python3.11"));
    }

    #[test]
    fn refuses_patterns_that_cannot_be_meant() {
        assert_eq!("".parse::<Glob>(), Err(GlobError::Empty));
        assert_eq!("a".repeat(1025).parse::<Glob>(), Err(GlobError::TooLong));
    }

    /// The definition, with backtracking: slow and plainly right.
    fn slowly(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            (['*', '*', rest @ ..], _) => {
                let rest = rest
                    .iter()
                    .position(|c| *c != '*')
                    .map_or(&rest[rest.len()..], |at| &rest[at..]);
                (0..=text.len()).any(|taken| slowly(rest, &text[taken..]))
            }
            (['*', rest @ ..], _) => {
                let end = text.iter().position(|c| *c == '/').unwrap_or(text.len());
                (0..=end).any(|taken| slowly(rest, &text[taken..]))
            }
            (['?', rest @ ..], [c, text @ ..]) => *c != '/' && slowly(rest, text),
            ([own, rest @ ..], [c, text @ ..]) => own == c && slowly(rest, text),
            (rest, text) => rest.is_empty() && text.is_empty(),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_its_definition(pattern in "[ab/*?]{1,8}", text in "[ab/]{0,8}") {
            let chars: (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(matches(&pattern, &text), slowly(&chars.0, &chars.1));
        }
    }
}
