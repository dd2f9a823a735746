//! Every target over a bounded number of damaged samples. The same seed makes the same inputs.

mod image_seeds;
mod mutate;
mod seeds;
mod workspace;

use self::mutate::{Random, mutated};
use super::{TARGETS, Target};

/// Inputs for each target besides the samples themselves.
const INPUTS: u64 = 20_000;

/// Where the numbers begin; each input has its own.
const SEED: u64 = 0x7564_7274_7261_6365;

/// Samples of a target, and whether it takes them.
struct Samples {
    taken: Vec<Vec<u8>>,
    refused: Vec<Vec<u8>>,
}

/// The input at hand; says so when the target panics.
struct Running<'a> {
    name: &'a str,
    seed: Option<u64>,
    input: &'a [u8],
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { name, seed, input } = self;
            let made = seed.map_or("a sample".to_owned(), |seed| format!("seed {seed:#x}"));
            eprintln!("target {name}, {made}: b\"{}\"", input.escape_ascii());
        }
    }
}

fn run(name: &str, target: Target, seed: Option<u64>, input: &[u8]) -> bool {
    let _running = Running { name, seed, input };
    target(input)
}

/// Variable `name` as a number, for longer runs and for one input again.
fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let number = value
        .strip_prefix("0x")
        .map_or_else(|| value.parse(), |digits| u64::from_str_radix(digits, 16));
    Some(number.expect("a number"))
}

fn drive(name: &str, samples: &Samples) {
    let target = TARGETS.iter().find(|(own, _)| *own == name);
    let (_, target) = *target.expect("a target of that name");
    for (sample, taken) in samples
        .taken
        .iter()
        .map(|sample| (sample, true))
        .chain(samples.refused.iter().map(|sample| (sample, false)))
    {
        let found = run(name, target, None, sample);
        assert_eq!(found, taken, "b\"{}\"", sample.escape_ascii());
    }

    let first = variable("UNDERTRACE_FUZZ_SEED").unwrap_or(SEED);
    let inputs = variable("UNDERTRACE_FUZZ_INPUTS").unwrap_or(INPUTS);
    let mut taken = 0;
    for seed in (0..inputs).map(|index| first.wrapping_add(index)) {
        let input = mutated(&mut Random::new(seed), &samples.taken, &samples.refused);
        taken += u64::from(run(name, target, Some(seed), &input));
    }
    // Damage that nothing survives would test refusal only, and damage that changes nothing would test the samples again.
    if inputs >= INPUTS {
        assert!(taken >= inputs / 50, "{taken} of {inputs} were taken");
        assert!(taken <= inputs / 50 * 49, "{taken} of {inputs} were taken");
    }
}

macro_rules! drive {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            drive(stringify!($name), &seeds::$name());
        })+

        #[test]
        fn every_target_is_driven() {
            let mut driven = [$(stringify!($name)),+];
            driven.sort_unstable();
            let mut targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            targets.sort_unstable();
            assert_eq!(driven.as_slice(), targets);
        }
    };
}

drive! {
    traceparent tracestate tcp_option head_scan propagators btf cgroup config elf tls_image maps event_decode recording chunk_framing chunked_body messages
}

#[test]
fn the_same_seed_makes_the_same_input() {
    let samples = seeds::head_scan();
    let made = |seed| mutated(&mut Random::new(seed), &samples.taken, &samples.refused);
    let inputs: Vec<_> = (0..64).map(made).collect();
    assert_eq!(inputs, (0..64).map(made).collect::<Vec<_>>());
    let mut different = inputs.clone();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > 56, "most inputs differ");
}
