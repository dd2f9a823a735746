//! What is done when the agent is to end.
//!
//! Input: an agent whose loop is over. Output: the last records read, spans of what is open, outputs closed, and the result.

use std::time::Duration;

use agent_common::abi::Counter;
use tracing::warn;

use super::{Agent, stood_in};
use crate::{
    event::{clock, reader::Reader},
    run::{RunError, outputs::Outputs},
};

/// Looks at the ring buffer after all programs were detached, and the time between them.
const LAST_LOOKS: u32 = 20;
const LAST_LOOK: Duration = Duration::from_millis(5);

impl Agent {
    /// Ends the programs, and takes what they have left.
    pub(super) fn detach(&mut self, mut reader: Reader, outputs: &mut Outputs) {
        if let Some(injection) = &mut self.inner.injection {
            injection.end();
        }
        if let Some(carrying) = &mut self.inner.carrying {
            carrying.end();
        }
        self.stood_in_last = self.kernel_counters.one(Counter::ProgramsStoodIn).ok();
        self.inner.tls = None;
        self.attached.detach();
        self.drain(&mut reader);
        let now_ns = clock::monotonic_ns();
        self.guard(now_ns);
        self.tick(now_ns, outputs);
        self.publish(outputs, reader.largest_batch_bytes());
    }

    /// Reads all that the programs wrote, also those that were running when they were detached.
    fn drain(&mut self, reader: &mut Reader) {
        for _ in 0..LAST_LOOKS {
            while !reader.drain(|record| self.inner.record(record)).emptied {}
            let written = self.kernel_counters.one(Counter::Segments).unwrap_or(0);
            if written == self.inner.counters.segments_read.get() {
                break;
            }
            std::thread::sleep(LAST_LOOK);
        }
    }

    /// Detaches, ends what is open, and lets everything out.
    pub(super) fn finish(self, mut outputs: Outputs) -> Result<(), RunError> {
        let read = self.kernel_counters.read().unwrap_or_default();
        let lost = self.missed(stood_in(&read)) > 0;
        let Self {
            mut inner,
            attached,
            ..
        } = self;
        for stats in attached.stats().iter().filter(|_| lost) {
            if let Some(missed) = stats.missed.filter(|missed| *missed > 0) {
                warn!(
                    program = stats.program,
                    missed, "was skipped by the kernel while it was active on the same CPU"
                );
            }
        }
        drop(attached);
        for selector in inner.table.selection().unmatched() {
            warn!(selector, "matched nothing");
        }
        inner.pipeline.finish();
        let mut spans = Vec::new();
        inner.pipeline.drain_spans(&mut spans);
        outputs.push(spans);
        let recorded = match inner.recorder.take() {
            Some(recorder) => recorder.finish().map(drop),
            None => Ok(()),
        };
        outputs.close(inner.pipeline.balance())?;
        Ok(recorded?)
    }
}
