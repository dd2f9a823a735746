//! A recording through the pipeline to the outputs: no root, no clock, the same spans each time.

use std::{path::Path, sync::Arc};

use tracing::warn;

use super::{
    RunError,
    outputs::{Outputs, Printing},
};
use crate::{
    config::Config,
    event::{
        Input,
        recording::{self, Recording},
    },
    pipeline::{Pipeline, PipelineConfig},
    telemetry::Counters,
};

/// Pushes a recording through the pipeline.
///
/// # Errors
/// The recording cannot be read, or an output cannot be opened.
pub fn replay(path: &Path, config: &Config) -> Result<(), RunError> {
    let counters = Arc::new(Counters::default());
    let mut recording = Recording::open(path)?;
    let mut outputs = Outputs::open(config, &counters, Printing::Waiting)?;
    let mut pipeline = Pipeline::new(
        PipelineConfig {
            seed: super::live::seed_of(&recording.description().globals),
            sampling_threshold: config.sampler.threshold(),
            record_query: config.query,
            ..PipelineConfig::default()
        },
        Arc::clone(&counters),
    );
    let mut spans = Vec::new();
    let replayed = recording::replay(&mut recording, &counters, |input| {
        pipeline.push(&input);
        pipeline.drain_spans(&mut spans);
        if !spans.is_empty() {
            outputs.push(std::mem::take(&mut spans));
        }
        if let Input::Tick(now_ns) = input {
            outputs.tick(now_ns);
        }
    })?;
    if let Some(error) = replayed.stopped_by {
        warn!(%error, "the recording was not read to its end");
    }
    pipeline.finish();
    pipeline.drain_spans(&mut spans);
    outputs.push(spans);
    let discrepancies = pipeline.balance();
    outputs.close(discrepancies)
}
