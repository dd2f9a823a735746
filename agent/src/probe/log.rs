//! What the programs log about themselves: exceptional refusals, never traffic.
//!
//! Input: the map `AYA_LOGS`, which programs fill only when the global `LOG` is 1. Output: events of the daemon's own log, target
//! `undertrace::kernel`.

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::attach::Attached;

/// Target of the events.
const TARGET: &str = "undertrace::kernel";

/// Messages of the programs.
pub struct KernelLog(EbpfLogger<Forward>);

impl Attached {
    /// Takes the messages out; none where the object has no such map, or when they were taken before.
    pub fn take_log(&mut self) -> Option<KernelLog> {
        take(&mut self.ebpf)
    }
}

fn take(ebpf: &mut Ebpf) -> Option<KernelLog> {
    match EbpfLogger::init_with_logger(ebpf, Forward) {
        Ok(logger) => Some(KernelLog(logger)),
        Err(error) => {
            tracing::debug!(%error, "programs have no log");
            None
        }
    }
}

impl KernelLog {
    /// Whether anybody would see the messages: the value for the global `LOG`.
    #[must_use]
    pub fn is_wanted() -> bool {
        tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
    }

    /// Passes on what is there.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

/// From the library's kind of log to ours.
struct Forward;

impl log::Log for Forward {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let program = record.module_path().unwrap_or_default();
        let message = record.args();
        match record.level() {
            log::Level::Error => tracing::error!(target: TARGET, program, %message, "program"),
            log::Level::Warn => tracing::warn!(target: TARGET, program, %message, "program"),
            log::Level::Info => tracing::info!(target: TARGET, program, %message, "program"),
            log::Level::Debug => tracing::debug!(target: TARGET, program, %message, "program"),
            log::Level::Trace => tracing::trace!(target: TARGET, program, %message, "program"),
        }
    }

    fn flush(&self) {}
}
