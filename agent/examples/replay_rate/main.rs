//! How many exchanges a second one core takes from decode to span and from span to export bytes, and how often it allocates for each.
//!
//! Input: a recording (`undertrace record`), or none: then conversations as nginx has them on kept connections are made up, the same request again and
//! again or each another one. Everything is in
//! memory before the clock starts, reading and sending are no part of it. Time is that of this thread alone, so other work of the machine
//! hardly shows. `cargo xtask bench` runs this; one pass (`--seconds 0`) under callgrind counts instructions: `pass` is all of it,
//! `Exporter::export` the second stage.

mod allocations;
mod export;
mod made_up;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_common::abi::LiveRequest;
use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use export::Exporter;
use made_up::Conversations;
use rustix::time::{ClockId, clock_gettime};
use undertrace::{
    event::{
        ClockPair, Input,
        decode::decode_counted,
        recording::{Entry, Recording},
    },
    pipeline::{Pipeline, PipelineConfig},
    process::ProcessFacts,
    telemetry::Counters,
};

/// Measures the way from record to span.
#[derive(Debug, Parser)]
struct Arguments {
    /// Recording to push through the pipeline again and again; made up if there is none
    recording: Option<PathBuf>,
    /// Seconds for it; 0 makes one pass without a clock
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Of made-up conversations: each request is another one
    #[arg(long, conflicts_with = "recording")]
    varied: bool,
}

/// One input, ready to be pushed.
#[derive(Debug)]
enum Step {
    /// A record: its words, so that it is aligned, and its length in bytes.
    Record(Box<[u64]>, usize),
    Process(ProcessFacts),
    Clock(ClockPair),
    Live(Vec<LiveRequest>),
    Tick(u64),
}

/// What a stage took.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    elapsed: Duration,
    allocations: allocations::Count,
}

/// Reads what this thread took so far.
#[derive(Clone, Copy, Debug)]
struct Meter {
    /// False under valgrind, where the call that rustix makes for the clock crashes.
    timed: bool,
}

impl Meter {
    fn read(self) -> Cost {
        Cost {
            elapsed: if self.timed {
                thread_time()
            } else {
                Duration::ZERO
            },
            allocations: allocations::so_far(),
        }
    }
}

impl Cost {
    /// What came after an earlier reading.
    fn since(self, earlier: Self) -> Self {
        Self {
            elapsed: self.elapsed.saturating_sub(earlier.elapsed),
            allocations: self.allocations.since(earlier.allocations),
        }
    }

    fn add(&mut self, more: Self) {
        self.elapsed += more.elapsed;
        self.allocations.calls += more.allocations.calls;
        self.allocations.bytes += more.allocations.bytes;
    }

    fn print(self, stage: &str, exchanges: f64) {
        println!(
            "  {stage:<14}  {:>10.0} ns  {:>7.2} allocations  {:>7.0} bytes allocated",
            self.elapsed.as_nanos() as f64 / exchanges,
            self.allocations.calls as f64 / exchanges,
            self.allocations.bytes as f64 / exchanges,
        );
    }
}

/// One pass over all inputs.
#[derive(Clone, Copy, Debug)]
struct Pass {
    exchanges: u64,
    records: u64,
    encoded_bytes: u64,
    /// From record to span.
    pipeline: Cost,
    /// From span to the bytes of export requests.
    export: Cost,
}

impl Pass {
    fn elapsed(&self) -> Duration {
        self.pipeline.elapsed + self.export.elapsed
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (steps, origin) = match &arguments.recording {
        Some(path) => {
            let mut recording = Recording::open(path)?;
            (steps(&mut recording)?, path.display().to_string())
        }
        None => {
            let conversations = if arguments.varied {
                Conversations::Varied
            } else {
                Conversations::Repeated
            };
            let bytes = made_up::recording(conversations)?;
            let mut recording = Recording::begin(bytes.as_slice(), "made up".to_owned())?;
            (steps(&mut recording)?, "made-up conversations".to_owned())
        }
    };

    let meter = Meter {
        timed: arguments.seconds > 0,
    };
    let deadline = Instant::now() + Duration::from_secs(arguments.seconds);
    let mut passes = vec![pass(&steps, meter)?];
    while Instant::now() < deadline {
        passes.push(pass(&steps, meter)?);
    }
    ensure!(passes[0].exchanges > 0, "there is no exchange in {origin}");
    passes.sort_by_key(Pass::elapsed);
    let median = passes[passes.len() / 2];
    let exchanges = median.exchanges as f64;
    println!(
        "replay of {origin}: {} exchanges, {} records, {} passes",
        median.exchanges,
        median.records,
        passes.len()
    );
    println!(
        "  {:.0} exchanges per second and core; {:.0} bytes are exported for each; one exchange takes",
        exchanges / median.elapsed().as_secs_f64(),
        median.encoded_bytes as f64 / exchanges
    );
    median.pipeline.print("record to span", exchanges);
    median.export.print("span to bytes", exchanges);
    Ok(())
}

/// Everything in a recording.
fn steps(recording: &mut Recording<impl std::io::Read>) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    while let Some(entry) = recording
        .next_entry()
        .context("the recording cannot be read to its end")?
    {
        steps.push(match entry {
            Entry::Record(bytes) => {
                let mut words = vec![0_u64; bytes.len().div_ceil(8)].into_boxed_slice();
                zerocopy::IntoBytes::as_mut_bytes(&mut *words)[..bytes.len()]
                    .copy_from_slice(bytes);
                Step::Record(words, bytes.len())
            }
            Entry::Process(facts) => Step::Process(facts),
            Entry::Clock(pair) => Step::Clock(pair),
            Entry::Live(answers) => Step::Live(answers.to_vec()),
            Entry::Tick(now_ns) => Step::Tick(now_ns),
        });
    }
    Ok(steps)
}

/// Pushes every step through a new pipeline, and its spans through a queue and the encoder.
#[inline(never)]
fn pass(steps: &[Step], meter: Meter) -> Result<Pass> {
    let counters = Arc::new(Counters::default());
    let mut pipeline = Pipeline::new(PipelineConfig::default(), Arc::clone(&counters));
    let mut exporter = Exporter::new(meter)?;
    let mut spans = Vec::new();
    let before = meter.read();
    for step in steps {
        match step {
            Step::Record(words, length) => {
                let bytes = zerocopy::IntoBytes::as_bytes(&**words);
                if let Some(event) = decode_counted(&bytes[..*length], &counters) {
                    pipeline.push(&Input::Event(event));
                }
            }
            Step::Process(facts) => pipeline.push(&Input::Process(facts)),
            Step::Clock(pair) => pipeline.push(&Input::Clock(*pair)),
            Step::Live(answers) => pipeline.push(&Input::Live(answers)),
            Step::Tick(now_ns) => {
                pipeline.push(&Input::Tick(*now_ns));
                pipeline.drain_spans(&mut spans);
                exporter.export(&mut spans);
            }
        }
    }
    pipeline.finish();
    pipeline.drain_spans(&mut spans);
    exporter.export(&mut spans);
    let all = meter.read().since(before);
    Ok(Pass {
        pipeline: all.since(exporter.cost),
        export: exporter.cost,
        encoded_bytes: exporter.encoded_bytes,
        exchanges: counters.exchanges.get(),
        records: counters.records.get(),
    })
}

/// Time for which this thread has run.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
