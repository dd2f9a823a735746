//! Signals as flags that the main loop looks at. SIGINT and SIGTERM ask for the end, a second one of them forces it; SIGUSR1 asks for the
//! counters.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
};

/// Exit code of a process that was ended by SIGINT, as shells report it.
const INTERRUPTED: i32 = 130;

/// What was asked for so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Signals {
    stop: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
}

impl Signals {
    /// Begins to listen on `runtime`.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub(super) fn listen(runtime: &Handle) -> io::Result<Self> {
        let signals = Self::default();
        let _context = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut report = signal(SignalKind::user_defined1())?;
        let asked = signals.clone();
        runtime.spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => asked.stop(),
                    _ = terminate.recv() => asked.stop(),
                    _ = report.recv() => asked.report.store(true, Ordering::Relaxed),
                }
            }
        });
        Ok(signals)
    }

    fn stop(&self) {
        if self.stop.swap(true, Ordering::Relaxed) {
            // Programs detach by themselves when the process ends.
            std::process::exit(INTERRUPTED);
        }
        tracing::info!("stopping; once more forces it");
    }

    /// Whether the end was asked for.
    pub(super) fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the counters were asked for since the last call.
    pub(super) fn take_report(&self) -> bool {
        self.report.swap(false, Ordering::Relaxed)
    }
}
