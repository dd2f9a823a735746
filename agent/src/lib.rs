//! The daemon of undertrace as a library: every stage from the ring buffer to the exporters.
//!
//! Data flows one way, one type per arrow: abi record → [`event::Event`] → stream chunk → message → exchange → correlated exchange →
//! [`span::Span`] → sink. Only the pipeline knows every stage.

pub mod config;
pub mod event;
pub mod export;
pub mod kernel;
pub mod probe;
pub mod process;
pub mod span;
pub mod telemetry;
