//! A file of OTLP JSON lines: each line is one `ExportTraceServiceRequest` (OTLP specification, "File Exporter").

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use tracing::warn;

use super::{Sink, otlp::encode::Encoder};
use crate::{span::Span, telemetry::Counters};

/// Spans to a file. Writes go to the page cache; lines are complete after each tick, so that a reader can follow.
#[derive(Debug)]
pub struct FileSink<W: Write + Send> {
    out: BufWriter<W>,
    encoder: Encoder,
    counters: Arc<Counters>,
    failed: bool,
}

impl FileSink<File> {
    /// Creates the file, or empties it. Mode 0600: span attributes name hosts and paths.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path, counters: &Arc<Counters>) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self::new(file, counters))
    }
}

impl<W: Write + Send> FileSink<W> {
    /// A sink that writes to `out`.
    pub fn new(out: W, counters: &Arc<Counters>) -> Self {
        Self {
            out: BufWriter::new(out),
            encoder: Encoder::default(),
            counters: Arc::clone(counters),
            failed: false,
        }
    }

    fn note_error(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failed, true) {
            warn!(%error, "cannot write spans to the file; will keep trying");
        }
    }
}

impl<W: Write + Send> Sink for FileSink<W> {
    fn push(&mut self, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let mut line = serde_json::to_vec(&self.encoder.message(&spans))
            .expect("OTLP messages have string keys only");
        line.push(b'\n');
        match self.out.write_all(&line) {
            Ok(()) => {
                self.failed = false;
                self.counters.spans_exported.add(count);
            }
            Err(error) => {
                self.counters.spans_dropped_export.add(count);
                self.note_error(&error);
            }
        }
    }

    fn tick(&mut self, _now_ns: u64) {
        if let Err(error) = self.out.flush() {
            self.note_error(&error);
        }
    }

    fn finish(&mut self) {
        self.tick(0);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

    use super::*;
    use crate::export::otlp::testing::{resource, span};

    #[test]
    fn writes_one_request_per_line_in_otlp_json() {
        let counters = Arc::new(Counters::default());
        let mut sink = FileSink::new(Vec::new(), &counters);
        let mut child = span(2);
        child.parent_span_id = Some([0, 0, 0, 0, 0, 0, 0, 1]);
        let other = Span {
            resource: resource("db"),
            ..span(3)
        };
        let pushed = [vec![span(1), child.clone()], vec![other]];
        for spans in pushed.clone() {
            sink.push(spans);
        }
        sink.finish();
        let text = String::from_utf8(sink.out.into_inner().expect("a Vec takes everything"))
            .expect("JSON is UTF-8");

        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        for (line, spans) in lines.iter().zip(pushed) {
            let read: ExportTraceServiceRequest =
                serde_json::from_str(line).expect("OTLP JSON reads back");
            assert_eq!(read, Encoder::default().message(&spans));
        }
        let json: serde_json::Value = serde_json::from_str(lines[0]).expect("JSON");
        let span = &json["resourceSpans"][0]["scopeSpans"][0]["spans"][1];
        assert_eq!(span["traceId"], "01010101010101010101010101010101");
        assert_eq!(span["spanId"], "0000000000000002");
        assert_eq!(span["parentSpanId"], "0000000000000001");
        assert_eq!(span["startTimeUnixNano"], "1000000000");
        assert_eq!(span["kind"], 2);
        assert_eq!(counters.spans_exported.get(), 3);
    }

    #[test]
    fn counts_spans_that_cannot_be_written() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let counters = Arc::new(Counters::default());
        let mut sink = FileSink::new(Full, &counters);
        sink.push((0..100).map(span).collect());
        assert_eq!(counters.spans_dropped_export.get(), 100);
        assert_eq!(counters.spans_exported.get(), 0);
    }
}
