//! The YAML file. Its keys are the long flags with `_` for `-`, and a section `otlp`; a key that is not known is an error.

use std::path::Path;

use super::{ConfigError, layer::Layer};

/// Reads and parses a file.
///
/// # Errors
/// It cannot be read, or is not the YAML that is expected; then with line and column.
pub fn read(path: &Path) -> Result<Layer, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        name: "--config".to_owned(),
        path: path.to_owned(),
        source,
    })?;
    parse(&text, path)
}

/// Parses the text of a file; `path` is for messages only. An empty file says nothing.
///
/// # Errors
/// It is not the YAML that is expected.
pub fn parse(text: &str, path: &Path) -> Result<Layer, ConfigError> {
    let is_blank = text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    });
    if is_blank {
        return Ok(Layer::default());
    }
    serde_saphyr::from_str(text).map_err(|error| {
        let error = error.without_snippet();
        let location = error.location();
        let reason = error.to_string();
        let reason = reason.lines().next().unwrap_or_default();
        ConfigError::Yaml {
            path: path.to_owned(),
            line: location.map_or(0, |at| at.line()),
            column: location.map_or(0, |at| at.column()),
            reason: without_position(reason).to_owned(),
        }
    })
}

/// The library's own mention of the position, before or behind its sentence, is left out: it stands before the sentence already.
fn without_position(reason: &str) -> &str {
    let reason = reason.strip_prefix("error: ").unwrap_or(reason);
    let reason = match reason.split_once(": ") {
        Some((position, rest)) if position.starts_with("line ") => rest,
        _ => reason,
    };
    match reason.rsplit_once(" at line ") {
        Some((sentence, position)) if position.starts_with(|c: char| c.is_ascii_digit()) => {
            sentence
        }
        _ => reason,
    }
}
