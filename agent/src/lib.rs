//! The daemon of undertrace as a library: every stage from the ring buffer to the exporters.
//!
//! Data flows one way, one type per arrow: abi record → [`event::Event`] → stream chunk → message → exchange → correlated exchange →
//! [`span::Span`] → sink. Only the pipeline knows every stage.

pub mod config;
pub mod conn;
pub mod correlate;
pub mod doctor;
pub mod event;
pub mod exchange;
pub mod export;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
pub mod inject;
pub mod kernel;
pub mod pipeline;
pub mod probe;
pub mod process;
pub mod protocol;
pub mod run;
pub mod sample;
pub mod span;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
