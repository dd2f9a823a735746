//! Finds the Debian mirrors in the machine's own apt settings and names other suites of the same mirrors.
//!
//! Input: the text of `sources.list` (one line per source) and of `*.sources` files (deb822, see sources.list(5)).
//! Output: source lines for another suite. Third-party archives are left out: a mirror is an entry for a suite of
//! this machine's own release whose components include `main`.

/// A place that serves Debian packages, as the machine's apt settings name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// Base address of the archive.
    pub(crate) uri: String,
    /// Whether it carries security updates instead of the archive itself.
    pub(crate) security: bool,
    /// Key file that signs it, where the entry names one.
    pub(crate) signed_by: Option<String>,
}

/// An entry of either format.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

/// The mirrors that a text of apt sources names, in its order; `codename` is that of this machine's release.
pub(crate) fn mirrors(text: &str, deb822: bool, codename: &str) -> Vec<Mirror> {
    let entries = if deb822 {
        parse_deb822(text)
    } else {
        parse_lines(text)
    };
    let mut found = Vec::new();
    for entry in entries {
        if !entry.components.iter().any(|c| c == "main") {
            continue;
        }
        for suite in &entry.suites {
            let Some(security) = is_security(suite, codename) else {
                continue;
            };
            for uri in &entry.uris {
                let mirror = Mirror {
                    uri: uri.clone(),
                    security,
                    signed_by: entry.signed_by.clone(),
                };
                if !found.contains(&mirror) {
                    found.push(mirror);
                }
            }
        }
    }
    found
}

/// The source lines that open `suite` on these mirrors: the archive, and its security suite where one exists.
pub(crate) fn lines_for(mirrors: &[Mirror], suite: &str) -> String {
    let mut lines = String::new();
    for mirror in mirrors {
        let suite = match (mirror.security, suite.contains('-')) {
            (false, _) => suite.to_owned(),
            (true, false) => format!("{suite}-security"),
            (true, true) => continue,
        };
        let options = mirror
            .signed_by
            .as_ref()
            .map(|key| format!("[signed-by={key}] "))
            .unwrap_or_default();
        lines.push_str(&format!("deb {options}{} {suite} main\n", mirror.uri));
    }
    lines
}

/// Whether a suite is this release's archive (`Some(false)`), its security suite (`Some(true)`) or neither.
fn is_security(suite: &str, codename: &str) -> Option<bool> {
    let rest = suite.strip_prefix(codename)?;
    match rest.trim_end_matches('/') {
        "" | "-updates" | "-backports" => Some(false),
        "-security" | "/updates" => Some(true),
        _ => None,
    }
}

fn parse_lines(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line
            .strip_prefix("deb ")
            .or_else(|| line.strip_prefix("deb\t"))
        else {
            continue;
        };
        let mut rest = rest.trim_start();
        let mut signed_by = None;
        if let Some(after) = rest.strip_prefix('[') {
            let Some((options, after)) = after.split_once(']') else {
                continue;
            };
            signed_by = options
                .split_whitespace()
                .find_map(|o| o.strip_prefix("signed-by="))
                .map(str::to_owned);
            rest = after;
        }
        let mut words = rest.split_whitespace().map(str::to_owned);
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            entries.push(Entry {
                uris: vec![uri],
                suites: vec![suite],
                components: words.collect(),
                signed_by,
            });
        }
    }
    entries
}

fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let field = |name: &str| {
            fields
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.as_str())
        };
        let words = |name| {
            field(name)
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let binary = words("types").iter().any(|kind| kind == "deb");
        let enabled = !field("enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        if binary && enabled {
            // A key that is written out instead of named cannot go on one line; apt's own keyrings serve then.
            let signed_by =
                field("signed-by").filter(|key| key.starts_with('/') && !key.contains(' '));
            entries.push(Entry {
                uris: words("uris"),
                suites: words("suites"),
                components: words("components"),
                signed_by: signed_by.map(str::to_owned),
            });
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
# made by the installer
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm
  bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/key.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://third.example/debian
Suites: bookworm
Components: stable

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://src.example/debian
Suites: bookworm
Components: main
";

    fn mirror(uri: &str, security: bool, key: Option<&str>) -> Mirror {
        Mirror {
            uri: uri.into(),
            security,
            signed_by: key.map(str::to_owned),
        }
    }

    #[test]
    fn deb822_gives_the_archive_and_security_but_no_third_party() {
        assert_eq!(
            mirrors(DEB822, true, "bookworm"),
            [
                mirror(
                    "http://mirror.example/debian",
                    false,
                    Some("/usr/share/keyrings/key.gpg")
                ),
                mirror("http://security.example/debian-security", true, None),
            ]
        );
    }

    #[test]
    fn one_line_format_with_options_and_comments() {
        let text = "\
# deb http://old.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian bookworm main contrib # archive
deb-src http://a.example/debian bookworm main
deb http://s.example/debian-security bookworm-security main
deb http://pg.example/apt bookworm-pgdg main
deb http://broken.example
deb [unclosed http://x.example bookworm main
";
        assert_eq!(
            mirrors(text, false, "bookworm"),
            [
                mirror("http://a.example/debian", false, Some("/k.gpg")),
                mirror("http://s.example/debian-security", true, None),
            ]
        );
    }

    #[test]
    fn old_name_of_the_security_suite_is_known() {
        let text = "deb http://s.example/debian-security buster/updates main";
        assert_eq!(
            mirrors(text, false, "buster"),
            [mirror("http://s.example/debian-security", true, None)]
        );
    }

    #[test]
    fn another_suite_keeps_mirror_and_key() {
        let found = mirrors(DEB822, true, "bookworm");
        assert_eq!(
            lines_for(&found, "trixie"),
            "deb [signed-by=/usr/share/keyrings/key.gpg] http://mirror.example/debian trixie main\n\
             deb http://security.example/debian-security trixie-security main\n"
        );
    }

    #[test]
    fn backports_have_no_security_suite() {
        let found = mirrors(DEB822, true, "bookworm");
        assert_eq!(
            lines_for(&found, "trixie-backports"),
            "deb [signed-by=/usr/share/keyrings/key.gpg] http://mirror.example/debian trixie-backports main\n"
        );
    }
}
