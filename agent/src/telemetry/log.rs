//! The agent's own log: to standard error, filtered by UNDERTRACE_LOG (`warn`, `debug`, `undertrace::probe=trace`, ...).

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Begins to log; a second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("UNDERTRACE_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,undertrace=info"));
    // Somebody who logs already keeps doing so.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(stderr_color())
        .with_target(false)
        .try_init();
}

/// Whether standard error is a terminal that may be coloured.
#[must_use]
pub fn stderr_color() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
