//! Which headers carry trace context besides `traceparent`: the propagators of the OpenTelemetry specification, by name, and pairs of header names.

use std::str::FromStr;

use agent_common::wire::propagator::{Field, NAME_LIMIT, Table, part};
use serde::Deserialize;

use super::ConfigError;

/// A propagator.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Propagator {
    /// `traceparent` and `tracestate`: always understood, before all others.
    TraceContext,
    /// `baggage`: it says nothing of a parent, and is left as it is.
    Baggage,
    /// `b3`.
    B3,
    /// `X-B3-TraceId` and its like.
    B3Multi,
    /// `uber-trace-id`.
    Jaeger,
    /// Names of the headers of a trace id and of a span id.
    Pair(String, String),
}

/// What a list of propagators may hold.
pub const EXPECTED: &str = "among tracecontext, baggage, b3, b3multi, jaeger, and pairs of headers such as X-Trace-Id/X-Parent-Span-ID (names of at most 23 characters)";

/// No propagator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} must be {EXPECTED}")]
pub struct PropagatorError {
    text: String,
}

impl FromStr for Propagator {
    type Err = PropagatorError;

    fn from_str(text: &str) -> Result<Self, PropagatorError> {
        let wrong = || PropagatorError {
            text: text.to_owned(),
        };
        match text.trim() {
            "tracecontext" => Ok(Self::TraceContext),
            "baggage" => Ok(Self::Baggage),
            "b3" => Ok(Self::B3),
            "b3multi" => Ok(Self::B3Multi),
            "jaeger" => Ok(Self::Jaeger),
            pair => {
                let (trace, span) = pair.split_once('/').ok_or_else(wrong)?;
                let usable = is_name(trace) && is_name(span) && !trace.eq_ignore_ascii_case(span);
                usable
                    .then(|| Self::Pair(trace.to_owned(), span.to_owned()))
                    .ok_or_else(wrong)
            }
        }
    }
}

impl TryFrom<String> for Propagator {
    type Error = PropagatorError;

    fn try_from(text: String) -> Result<Self, PropagatorError> {
        text.parse()
    }
}

fn is_name(text: &str) -> bool {
    let fits = !text.is_empty() && text.len() <= NAME_LIMIT;
    let character = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    fits && text.bytes().all(character) && !text.eq_ignore_ascii_case("traceparent")
}

/// The headers of these propagators; `None` where `traceparent` is the only one.
///
/// # Errors
/// They have more headers than the kernel looks for.
pub fn resolve(propagators: &[Propagator]) -> Result<Option<Table>, ConfigError> {
    let mut fields = Vec::new();
    for (rank, propagator) in (1..).zip(propagators) {
        let field = |name, part| Field::new(name, part, rank);
        fields.extend(match propagator {
            Propagator::TraceContext | Propagator::Baggage => vec![],
            Propagator::B3 => vec![field("b3", part::B3)],
            Propagator::B3Multi => vec![
                field("x-b3-traceid", part::TRACE_ID),
                field("x-b3-spanid", part::SPAN_ID),
                field("x-b3-sampled", part::SAMPLED),
                field("x-b3-flags", part::DEBUG),
            ],
            Propagator::Jaeger => vec![field("uber-trace-id", part::JAEGER)],
            Propagator::Pair(trace, span) => {
                vec![field(trace, part::TRACE_ID), field(span, part::SPAN_ID)]
            }
        });
    }
    let mut table = Table::default();
    if fields.len() > table.len() {
        let given = format!("{} headers in all", fields.len());
        let expected = format!("propagators with at most {} headers", table.len());
        return Err(ConfigError::value("OTEL_PROPAGATORS", &given, expected));
    }
    for (place, field) in table.iter_mut().zip(fields.iter().flatten()) {
        *place = *field;
    }
    Ok((!fields.is_empty()).then_some(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> Vec<Propagator> {
        let names = list.split(',').filter(|name| !name.is_empty());
        names
            .map(|name| name.parse().expect("a propagator"))
            .collect()
    }

    /// Parts and ranks of the fields, in their order.
    fn fields(list: &str) -> Vec<(u32, u32)> {
        let table = resolve(&parsed(list)).expect("few enough headers");
        let fields = table.into_iter().flatten();
        fields
            .filter(|field| field.part != part::NONE)
            .map(|field| (field.part, field.rank))
            .collect()
    }

    #[test]
    fn needs_no_table_for_what_is_always_understood() {
        for list in ["", "tracecontext", "tracecontext,baggage"] {
            assert_eq!(resolve(&parsed(list)).expect("no header"), None, "{list:?}");
        }
    }

    #[test]
    fn ranks_propagators_in_the_order_given() {
        assert_eq!(
            fields("tracecontext,jaeger,b3"),
            [(part::JAEGER, 2), (part::B3, 3)]
        );
        assert_eq!(
            fields("b3multi,X-Trace-Id/X-Parent-Span-ID"),
            [
                (part::TRACE_ID, 1),
                (part::SPAN_ID, 1),
                (part::SAMPLED, 1),
                (part::DEBUG, 1),
                (part::TRACE_ID, 2),
                (part::SPAN_ID, 2)
            ]
        );
    }

    #[test]
    fn refuses_what_it_does_not_know_and_names_what_it_does() {
        for text in [
            "",
            "xray",
            "none",
            "B3",
            "a/",
            "/b",
            "a/A",
            "a b/c",
            "traceparent/x",
            "x-name-of-24-characters./y",
        ] {
            let error = text.parse::<Propagator>().expect_err(text).to_string();
            assert!(error.contains("tracecontext, baggage, b3, b3multi, jaeger"));
        }
    }

    #[test]
    fn refuses_more_headers_than_the_kernel_looks_for() {
        let twelve = "a/b,c/d,e/f,g/h,i/j,k/l";
        assert_eq!(fields(twelve).len(), 12);
        let error = resolve(&parsed(&format!("{twelve},b3"))).expect_err("13 headers");
        assert!(error.to_string().contains("at most 12 headers"), "{error}");
    }
}
