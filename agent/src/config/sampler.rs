//! Which traces are kept: the samplers of the OpenTelemetry specification, by name.
//!
//! The parent's decision always wins here, also with the samplers that do not say so by name: the kernel takes the decision before user space
//! hears of the request, and a trace of which a part was kept must not lose the rest.

use agent_common::wire::sampling;

use super::ConfigError;

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
            Some(text) => text
                .trim()
                .parse()
                .ok()
                .filter(|ratio| (0.0..=1.0).contains(ratio))
                .ok_or_else(|| {
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
