//! What an agent counted, from the file of `--stats-json`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// What the agent counted.
#[derive(Debug)]
pub(crate) struct Statistics {
    counters: BTreeMap<String, u64>,
    /// Equations that do not hold; none when the books balance.
    imbalance: Vec<String>,
}

impl Statistics {
    /// What a file of `--stats-json` says.
    ///
    /// # Errors
    /// When there is none, or the books in it do not balance.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).context("the agent left no statistics")?;
        let statistics = Self::parse(&text)?;
        if !statistics.imbalance.is_empty() {
            bail!(
                "the books do not balance:\n{}\n{statistics}",
                statistics.imbalance.join("\n")
            );
        }
        Ok(statistics)
    }

    /// Counters of a machine whose books were looked at there.
    pub(crate) const fn of(counters: BTreeMap<String, u64>) -> Self {
        Self {
            counters,
            imbalance: Vec::new(),
        }
    }

    /// The counters, for another machine.
    pub(crate) fn into_counters(self) -> BTreeMap<String, u64> {
        self.counters
    }

    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("the statistics are no JSON")?;
        let mut counters = BTreeMap::new();
        collect(&value, &mut counters);
        // A name may be there twice.
        for section in ["kernel", "agent", "gauges"] {
            let values = value.get(section).and_then(Value::as_object);
            for (name, value) in values.into_iter().flatten() {
                let value = value.as_u64().context("a counter is no number")?;
                counters.insert(format!("{section}.{name}"), value);
            }
        }
        let equations = value
            .get("balance")
            .and_then(Value::as_array)
            .filter(|equations| !equations.is_empty())
            .context("the statistics have no balance")?;
        let broken = equations
            .iter()
            .filter(|equation| equation.get("holds") != Some(&Value::Bool(true)))
            .map(Value::to_string);
        let details = value
            .get("discrepancies")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let imbalance = broken.chain(details.map(Value::to_string)).collect();
        Ok(Self {
            counters,
            imbalance,
        })
    }

    /// The value of a counter.
    ///
    /// # Panics
    /// When there is no such counter: a scenario that reads a misspelt one must not pass.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> u64 {
        *self
            .counters
            .get(name)
            .unwrap_or_else(|| panic!("no counter {name} in\n{self}"))
    }

    /// Exchanges of unsampled traces: those that the kernel hid, and those that the agent heard of.
    #[track_caller]
    pub(crate) fn unsampled(&self) -> u64 {
        self.get("requests_hidden") + self.get("spans_unsampled")
    }

    /// Of those, the ones that failed.
    #[track_caller]
    pub(crate) fn unsampled_failed(&self) -> u64 {
        self.get("requests_hidden_failed") + self.get("spans_unsampled_failed")
    }

    /// All counters of a section (`kernel`, `agent`, `gauges`), each name with this prefix.
    ///
    /// # Panics
    /// When the section is empty.
    #[track_caller]
    pub(crate) fn section(&self, section: &str, prefix: &str) -> BTreeMap<String, u64> {
        let counters = self.counters.iter();
        let of_section: BTreeMap<_, _> = counters
            .filter_map(|(name, value)| {
                let name = name.strip_prefix(section)?.strip_prefix('.')?;
                Some((format!("{prefix}{name}"), *value))
            })
            .collect();
        assert!(!of_section.is_empty(), "no section {section} in\n{self}");
        of_section
    }
}

impl std::fmt::Display for Statistics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plain = |name: &str| !name.contains('.');
        for (name, value) in &self.counters {
            if plain(name) && *value != 0 {
                writeln!(f, "{name} {value}")?;
            }
        }
        Ok(())
    }
}

/// Takes every number by its own name, however deep the objects are nested.
fn collect(value: &Value, counters: &mut BTreeMap<String, u64>) {
    let Some(object) = value.as_object() else {
        return;
    };
    for (name, value) in object {
        match value.as_u64() {
            Some(number) => {
                counters.insert(name.clone(), number);
            }
            None => collect(value, counters),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_found_at_any_depth() {
        let text = r#"{"kernel":{"ring_full":0},"agent":{"spans":3},"balance":[{"what":"spans","holds":false}]}"#;
        let statistics = Statistics::parse(text).expect("well formed");
        assert_eq!(
            (statistics.get("ring_full"), statistics.get("spans")),
            (0, 3)
        );
        assert_eq!(statistics.imbalance, [r#"{"holds":false,"what":"spans"}"#]);
        assert!(
            Statistics::parse("{}").is_err(),
            "statistics without a balance prove nothing"
        );
    }
}
