//! Traces for a person: spans are grouped by trace, and a trace is printed as one tree when it is complete.
//!
//! Complete is: a root has ended and nothing came for a moment; or, for a trace whose root is elsewhere, nothing came for longer. What is
//! held is bounded: beyond it the oldest trace is printed as it is. Printing happens on a thread of its own, so that a terminal that is
//! stopped with Ctrl-S stops nobody else.

mod render;
mod tree;

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

pub use self::render::{Style, render};
use super::Sink;
use crate::{span::Span, telemetry::Counters};

/// Silence after which a trace with a root is complete. Spans of one trace arrive within 500 ms of each other's end.
const QUIET_NS: u64 = 700_000_000;
/// Silence after which a trace without a root is printed nevertheless.
const QUIET_WITHOUT_ROOT_NS: u64 = 2_000_000_000;
/// Traces held at most.
const MAX_TRACES: usize = 1_000;
/// Spans held at most, in all traces together.
const MAX_SPANS: usize = 10_000;
/// Printed traces that the output thread may lag behind.
const MAX_BACKLOG: usize = 256;

/// Spans to a terminal, a pipe or a writer of a test.
pub struct ConsoleSink {
    traces: HashMap<[u8; 16], Trace>,
    held_spans: usize,
    now_ns: u64,
    style: Style,
    output: Output,
    counters: Arc<Counters>,
}

struct Trace {
    spans: Vec<Span>,
    first_ns: u64,
    last_ns: u64,
    has_root: bool,
}

enum Output {
    /// Printed elsewhere; what does not fit into its backlog is dropped.
    Thread(Option<SyncSender<String>>, Option<JoinHandle<()>>),
    /// Printed by the caller, nothing is dropped: replays and tests.
    Direct(Box<dyn Write + Send>),
}

impl ConsoleSink {
    /// A sink to standard output that never waits for it.
    ///
    /// # Errors
    /// The output thread cannot be started.
    pub fn stdout(style: Style, counters: &Arc<Counters>) -> io::Result<Self> {
        let (sender, receiver) = sync_channel::<String>(MAX_BACKLOG);
        let thread = std::thread::Builder::new()
            .name("console".to_owned())
            .stack_size(128 << 10)
            .spawn(move || {
                for text in receiver {
                    let mut out = io::stdout().lock();
                    if out
                        .write_all(text.as_bytes())
                        .and_then(|()| out.flush())
                        .is_err()
                    {
                        return;
                    }
                }
            })?;
        let output = Output::Thread(Some(sender), Some(thread));
        Ok(Self::new(output, style, counters))
    }

    /// A sink that writes to `out` and waits for it.
    #[must_use]
    pub fn direct(out: Box<dyn Write + Send>, style: Style, counters: &Arc<Counters>) -> Self {
        Self::new(Output::Direct(out), style, counters)
    }

    fn new(output: Output, style: Style, counters: &Arc<Counters>) -> Self {
        Self {
            traces: HashMap::new(),
            held_spans: 0,
            now_ns: 0,
            style,
            output,
            counters: Arc::clone(counters),
        }
    }

    /// Prints the traces that `is_done` picks, by the start of their first span.
    fn print_where(&mut self, is_done: impl Fn(&Trace) -> bool) {
        let done: Vec<[u8; 16]> = self
            .traces
            .iter()
            .filter(|(_, trace)| is_done(trace))
            .map(|(id, _)| *id)
            .collect();
        let mut traces: Vec<Trace> = done
            .iter()
            .filter_map(|id| self.traces.remove(id))
            .collect();
        traces.sort_by_key(|trace| {
            let first = trace
                .spans
                .iter()
                .map(|span| (span.start_unix_ns, span.span_id));
            first.min()
        });
        for trace in traces {
            self.held_spans -= trace.spans.len();
            self.print(&trace.spans);
        }
    }

    fn print(&mut self, spans: &[Span]) {
        let count = spans.len() as u64;
        let text = render(spans, &self.style);
        let delivered = match &mut self.output {
            Output::Direct(out) => out.write_all(text.as_bytes()).map_err(|_| true),
            Output::Thread(Some(sender), _) => match sender.try_send(text) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(_)) => Err(false),
                Err(TrySendError::Disconnected(_)) => Err(true),
            },
            Output::Thread(None, _) => Err(true),
        };
        match delivered {
            Ok(()) => self.counters.spans_exported.add(count),
            Err(true) => self.counters.spans_dropped_export.add(count),
            Err(false) => self.counters.spans_dropped_queue.add(count),
        }
    }

    /// Keeps what is held within bounds by printing the oldest trace early.
    fn make_room(&mut self) {
        while self.traces.len() > MAX_TRACES || self.held_spans > MAX_SPANS {
            let Some(oldest) = self.traces.values().map(|trace| trace.first_ns).min() else {
                return;
            };
            self.print_where(|trace| trace.first_ns == oldest);
        }
    }
}

impl Sink for ConsoleSink {
    fn push(&mut self, spans: Vec<Span>) {
        let now_ns = self.now_ns;
        for span in spans {
            let trace = self.traces.entry(span.trace_id).or_insert_with(|| Trace {
                spans: Vec::new(),
                first_ns: now_ns,
                last_ns: now_ns,
                has_root: false,
            });
            trace.last_ns = now_ns;
            trace.has_root |= span.parent_span_id.is_none();
            trace.spans.push(span);
            self.held_spans += 1;
        }
        self.make_room();
    }

    fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.print_where(|trace| {
            let quiet = if trace.has_root {
                QUIET_NS
            } else {
                QUIET_WITHOUT_ROOT_NS
            };
            now_ns.saturating_sub(trace.last_ns) >= quiet
        });
    }

    fn finish(&mut self) {
        self.print_where(|_| true);
        match &mut self.output {
            Output::Direct(out) => {
                // Nobody is left to be told; what was not written stays uncounted only if the writer buffers.
                let _ = out.flush();
            }
            Output::Thread(sender, thread) => {
                drop(sender.take());
                if let Some(thread) = thread.take() {
                    let _ = thread.join();
                }
            }
        }
    }
}

/// The style that fits standard output: its width, and colour if it is a terminal and NO_COLOR (no-color.org) is not set.
#[must_use]
pub fn stdout_style() -> Style {
    let stdout = io::stdout();
    let is_terminal = stdout.is_terminal();
    let width = if is_terminal {
        rustix::termios::tcgetwinsize(&stdout)
            .ok()
            .map(|size| usize::from(size.ws_col))
            .filter(|&columns| columns > 0)
    } else {
        None
    };
    let wants_no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Style {
        width: width.unwrap_or(120),
        color: is_terminal && !wants_no_color,
    }
}

#[cfg(test)]
mod tests;
