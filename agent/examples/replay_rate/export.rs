//! The export of spans up to the bytes that would be sent.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Runtime};
use undertrace::{
    export::{
        otlp::encode::Encoder,
        queue::{Limits, Queue},
    },
    span::Span,
};

use crate::{Cost, Meter};

/// A queue and an encoder, as the agent has them, and what they took.
pub(crate) struct Exporter {
    queue: Queue,
    encoder: Encoder,
    runtime: Runtime,
    meter: Meter,
    pub(crate) cost: Cost,
    pub(crate) encoded_bytes: u64,
}

impl Exporter {
    pub(crate) fn new(meter: Meter) -> Result<Self> {
        let limits = Limits {
            delay: Duration::ZERO,
            ..Limits::default()
        };
        Ok(Self {
            queue: Queue::new(limits),
            encoder: Encoder::default(),
            runtime: Builder::new_current_thread()
                .enable_time()
                .build()
                .context("cannot make a runtime")?,
            meter,
            cost: Cost::default(),
            encoded_bytes: 0,
        })
    }

    /// Encodes these spans in batches, and forgets the bytes.
    #[inline(never)]
    pub(crate) fn export(&mut self, spans: &mut Vec<Span>) {
        let before = self.meter.read();
        self.queue.push(std::mem::take(spans));
        while !self.queue.is_empty() {
            if let Some(batch) = self.runtime.block_on(self.queue.next_batch()) {
                self.encoded_bytes += self.encoder.encode(batch.iter()).len() as u64;
            }
        }
        self.cost.add(self.meter.read().since(before));
    }
}
