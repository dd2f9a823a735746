//! Everything that spans and counters leave by, as configured.
//!
//! One sink keeps the books: OTLP, else the file, else the console. The others get every span too, but what they lose is logged, not entered,
//! so that each span is accounted for once.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::runtime::{Builder, Handle, Runtime};
use tracing::{info, warn};

use super::RunError;
use crate::{
    config::{Config, Fault},
    export::{
        Fanout, Sink,
        console::{ConsoleSink, stdout_style},
        file::FileSink,
        otlp::{self, OtlpWorker, retry::Policy},
        queue::Limits,
    },
    span::Span,
    telemetry::{
        Counters,
        log::stderr_color,
        metrics::OwnMetrics,
        report::report,
        stats::{Snapshot, resident_bytes},
    },
};

/// How long queued spans and metrics may take to leave at the end.
const FLUSH: Duration = Duration::from_secs(5);

/// Where spans and counters go.
pub(super) struct Outputs {
    runtime: Runtime,
    sinks: Fanout,
    worker: Option<OtlpWorker>,
    metrics: Option<OwnMetrics>,
    /// Names and counters of sinks that do not keep the books.
    others: Vec<(&'static str, Arc<Counters>)>,
    counters: Arc<Counters>,
    kernel: Arc<Mutex<KernelValues>>,
    pending: Arc<dyn Fn() -> u64 + Send + Sync>,
    config: Config,
}

/// What only the main loop can read of the kernel; the threads of exporters get the last reading.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelValues {
    pub(super) counters: Vec<(&'static str, u64)>,
    pub(super) handovers_held: u64,
    pub(super) map_memory_bytes: u64,
    pub(super) ring_largest_batch_bytes: u64,
    pub(super) processes_known: u64,
    pub(super) headers_written: bool,
    pub(super) options_carried: bool,
}

/// Whether printing may fall behind the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Printing {
    /// Live: a slow terminal drops traces, and stops nobody.
    Apart,
    /// Replay: every trace is printed.
    Waiting,
}

impl Outputs {
    /// Opens everything that is configured.
    ///
    /// # Errors
    /// A file cannot be created, or settings cannot work.
    pub(super) fn open(
        config: &Config,
        counters: &Arc<Counters>,
        printing: Printing,
    ) -> Result<Self, RunError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .thread_name("export")
            .thread_stack_size(512 << 10)
            .enable_all()
            .build()
            .map_err(|source| RunError::System {
                what: "threads for the exporters",
                source,
            })?;
        let mut outputs = Self {
            runtime,
            sinks: Fanout::default(),
            worker: None,
            metrics: None,
            others: Vec::new(),
            counters: Arc::clone(counters),
            kernel: Arc::default(),
            pending: Arc::new(|| 0),
            config: config.clone(),
        };
        outputs.open_sinks(printing)?;
        Ok(outputs)
    }

    fn open_sinks(&mut self, printing: Printing) -> Result<(), RunError> {
        let mut books = Some(Arc::clone(&self.counters));
        if let Some(settings) = self.config.traces.clone() {
            let counters = self.take_books(&mut books, "otlp");
            let mut limits = self.config.queue;
            if self.config.faults.contains(&Fault::QueueFull) {
                limits = Limits { spans: 1, ..limits };
            }
            let (sink, worker) = otlp::start(
                &settings,
                limits,
                Policy::default(),
                &counters,
                self.runtime.handle(),
            )?;
            info!(endpoint = settings.public_endpoint(), protocol = ?settings.protocol, "sending spans");
            self.pending = Arc::new(worker.pending_gauge());
            self.worker = Some(worker);
            self.sinks.add(Box::new(sink));
        }
        if let Some(path) = self.config.file.clone() {
            let counters = self.take_books(&mut books, "file");
            let sink = FileSink::create(&path, &counters)
                .map_err(|source| RunError::File { path, source })?;
            self.sinks.add(Box::new(sink));
        }
        if self.config.console {
            let counters = self.take_books(&mut books, "console");
            let style = stdout_style();
            let sink = match printing {
                Printing::Waiting => ConsoleSink::direct(Box::new(io::stdout()), style, &counters),
                Printing::Apart => {
                    ConsoleSink::stdout(style, &counters).map_err(|source| RunError::System {
                        what: "a thread for the console",
                        source,
                    })?
                }
            };
            self.sinks.add(Box::new(sink));
        }
        if let Some(counters) = books {
            self.sinks.add(Box::new(Nowhere { counters }));
        }
        Ok(())
    }

    /// The counters for the next sink: the books for the first, others of its own for each further one.
    fn take_books(
        &mut self,
        books: &mut Option<Arc<Counters>>,
        name: &'static str,
    ) -> Arc<Counters> {
        books.take().unwrap_or_else(|| {
            let own = Arc::new(Counters::default());
            self.others.push((name, Arc::clone(&own)));
            own
        })
    }

    /// Begins to send the agent's own metrics, if that is configured; to be called when the first kernel values were published.
    ///
    /// # Errors
    /// The settings cannot work.
    pub(super) fn start_metrics(&mut self) -> Result<(), RunError> {
        let Some(settings) = &self.config.metrics else {
            return Ok(());
        };
        let source = self.source();
        self.metrics = Some(OwnMetrics::start(
            settings,
            &self.config.own_attributes,
            &source,
            self.runtime.handle(),
        )?);
        Ok(())
    }

    /// The runtime on which exporters run.
    pub(super) fn runtime(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Hands spans to all sinks; never waits for a network or a terminal.
    pub(super) fn push(&mut self, spans: Vec<Span>) {
        self.sinks.push(spans);
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now_ns: u64) {
        self.sinks.tick(now_ns);
    }

    /// Makes the kernel's values known to whoever reports.
    pub(super) fn publish(&self, values: KernelValues) {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = values;
    }

    /// Prints all counters.
    pub(super) fn report(&self) {
        eprint!("{}", report(&self.source()(), stderr_color()));
    }

    /// Gives out what is held, sends what is queued, prints and writes the counters. `discrepancies` are the pipeline's own.
    ///
    /// # Errors
    /// The file of counters cannot be written.
    pub(super) fn close(mut self, discrepancies: Vec<String>) -> Result<(), RunError> {
        self.sinks.finish();
        if let Some(worker) = self.worker.take() {
            self.runtime.block_on(worker.shut_down(FLUSH));
        }
        if let Some(metrics) = self.metrics.take() {
            metrics.shut_down(FLUSH);
        }
        for (name, counters) in &self.others {
            let lost = counters.spans_dropped_queue.get()
                + counters.spans_dropped_export.get()
                + counters.spans_rejected_partial.get();
            if lost > 0 {
                warn!(
                    output = name,
                    spans = lost,
                    "spans did not reach this output"
                );
            }
        }
        let mut snapshot = self.source()();
        snapshot.discrepancies = discrepancies;
        snapshot.at_rest = true;
        eprint!("{}", report(&snapshot, stderr_color()));
        if let Some(path) = &self.config.stats_json {
            snapshot.write_json(path).map_err(|source| RunError::File {
                path: path.clone(),
                source,
            })?;
        }
        self.runtime.shutdown_background();
        Ok(())
    }

    fn source(&self) -> crate::telemetry::metrics::Source {
        let counters = Arc::clone(&self.counters);
        let kernel = Arc::clone(&self.kernel);
        let pending = Arc::clone(&self.pending);
        Arc::new(move || {
            let kernel = kernel
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            Snapshot {
                kernel: kernel.counters,
                agent: counters.snapshot(),
                gauges: vec![
                    ("spans_pending", pending()),
                    ("handovers_held", kernel.handovers_held),
                    ("processes_known", kernel.processes_known),
                    ("headers_written", u64::from(kernel.headers_written)),
                    ("options_carried", u64::from(kernel.options_carried)),
                    ("ring_largest_batch_bytes", kernel.ring_largest_batch_bytes),
                    ("map_memory_bytes", kernel.map_memory_bytes),
                    ("resident_bytes", resident_bytes()),
                ],
                ..Snapshot::default()
            }
        })
    }
}

/// OTEL_TRACES_EXPORTER=none: spans are made and counted, and go nowhere.
struct Nowhere {
    counters: Arc<Counters>,
}

impl Sink for Nowhere {
    fn push(&mut self, spans: Vec<Span>) {
        self.counters.spans_exported.add(spans.len() as u64);
    }

    fn tick(&mut self, _now_ns: u64) {}

    fn finish(&mut self) {}
}
