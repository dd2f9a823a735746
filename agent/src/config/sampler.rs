//! Which traces are kept: the samplers of the OpenTelemetry specification, by name.
//!
//! The parent's decision always wins here, also with the samplers that do not say so by name: the kernel takes the decision before user space
//! hears of the request, and a trace of which a part was kept must not lose the rest.
//!
//! Services may have ratios of their own, which hold for the traces that begin in them.

use std::str::FromStr;

use agent_common::{abi, wire::sampling};
use serde::Deserialize;

use super::ConfigError;
use crate::process::Glob;

/// The share of traces that are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// 0 to 1.
    pub ratio: f64,
}

impl Sampler {
    /// Names that are known.
    pub const NAMES: [&'static str; 6] = [
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ];

    /// The rejection threshold for the kernel: 0 keeps all, 2^56 none.
    #[must_use]
    pub fn threshold(self) -> u64 {
        sampling::threshold(self.ratio)
    }
}

/// The share of the traces beginning in some services that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ServiceRule {
    service: Glob,
    /// As that of [`Sampler::threshold`].
    pub threshold: u64,
}

/// What a rule for services may be.
pub const EXPECTED: &str =
    "a pattern for service.name and a number from 0 to 1, such as checkout=0.1 or api-*=1";

/// No rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} must be {EXPECTED}")]
pub struct RuleError {
    text: String,
}

impl FromStr for ServiceRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = || RuleError {
            text: text.to_owned(),
        };
        // A service's name may hold the sign, a number does not.
        let (service, ratio) = text.rsplit_once('=').ok_or_else(wrong)?;
        Ok(Self {
            service: service.trim().parse().map_err(|_| wrong())?,
            threshold: sampling::threshold(ratio_of(ratio).ok_or_else(wrong)?),
        })
    }
}

impl TryFrom<String> for ServiceRule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

/// All rules for services, of which the first one that matches holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRules(Vec<ServiceRule>);

impl ServiceRules {
    /// Rules that there may be: the kernel has a table of them, whose first entry is the sampler's.
    pub const LIMIT: usize = abi::THRESHOLDS as usize - 1;

    /// These rules.
    ///
    /// # Errors
    /// There are too many.
    pub fn new(rules: Vec<ServiceRule>) -> Result<Self, ConfigError> {
        if rules.len() > Self::LIMIT {
            let number = rules.len().to_string();
            let expected = format!("at most {} rules", Self::LIMIT);
            return Err(ConfigError::value("--sample", &number, expected));
        }
        Ok(Self(rules))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The thresholds, in order.
    pub fn thresholds(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|rule| rule.threshold)
    }

    /// The place of the rule for this service; `None` where the sampler holds.
    #[must_use]
    pub fn find(&self, service: &str) -> Option<usize> {
        self.0.iter().position(|rule| rule.service.matches(service))
    }

    /// The threshold for the traces that begin in this service; `None` where the sampler's holds.
    #[must_use]
    pub fn threshold(&self, service: &str) -> Option<u64> {
        self.find(service).map(|index| self.0[index].threshold)
    }
}

/// A share of traces.
fn ratio_of(text: &str) -> Option<f64> {
    let ratio = text.trim().parse().ok()?;
    (0.0..=1.0).contains(&ratio).then_some(ratio)
}

/// The sampler of this name and this argument; `parentbased_always_on` when there is no name.
///
/// # Errors
/// An unknown name, or a ratio that is none.
pub fn resolve(name: Option<&str>, ratio: Option<&str>) -> Result<Sampler, ConfigError> {
    let name = name.unwrap_or("parentbased_always_on");
    let plain = name.strip_prefix("parentbased_").unwrap_or(name);
    let ratio = match plain {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => match ratio {
            None => 1.0,
            Some(text) => ratio_of(text).ok_or_else(|| {
                ConfigError::value("OTEL_TRACES_SAMPLER_ARG", text, "a number from 0 to 1")
            })?,
        },
        _ => {
            let known = format!("one of {}", Sampler::NAMES.join(", "));
            return Err(ConfigError::value("OTEL_TRACES_SAMPLER", name, known));
        }
    };
    Ok(Sampler { ratio })
}
