//! What the fuzz targets do, as plain functions: the workspace `fuzz` hands them whatever libFuzzer makes up, and the host tests here
//! a bounded number of damaged samples. No part of the agent: built for tests only.
//!
//! Input: any bytes. Output: whether they were taken for what the target reads, so that a test can tell work from refusal. A target panics
//! where a promise does not hold: that a parser is total and bounded, that it does not matter where bytes are cut, that what is written can be
//! read back, that kernel and user space read the same. Targets that take more than one thing find the numbers in front of the bytes.

mod context;
mod head;
mod image;
mod kernel;
mod machine;
mod record;
mod stream;
#[cfg(test)]
mod tests;
mod user;

/// A target: whether the bytes were taken.
pub type Target = fn(&[u8]) -> bool;

macro_rules! targets {
    ($($module:ident::$name:ident,)+) => {
        $(pub use self::$module::$name;)+

        /// Every target by its name.
        pub const TARGETS: &[(&str, Target)] = &[$((stringify!($name), $name),)+];
    };
}

targets! {
    context::traceparent,
    context::tcp_option,
    context::tracestate,
    head::head_scan,
    head::propagators,
    image::elf,
    image::maps,
    image::tls_image,
    machine::btf,
    machine::cgroup,
    machine::config,
    record::event_decode,
    record::recording,
    stream::chunk_framing,
    stream::chunked_body,
    stream::messages,
}

/// The number in the first two bytes, lowest byte first, and what is behind it; bytes that are not there are zero.
fn number(data: &[u8]) -> (usize, &[u8]) {
    let (low, data) = byte(data);
    let (high, data) = byte(data);
    (low | high << 8, data)
}

/// The first byte as a number, and what is behind it.
fn byte(data: &[u8]) -> (usize, &[u8]) {
    data.split_first()
        .map_or((0, data), |(first, rest)| (usize::from(*first), rest))
}

/// White space in one place that the kernel's scanner skips, with the CR of the line's end.
const BLANKS: usize = 16;

/// Whether a value has more white space in one place than that.
fn has_gap(value: &[u8]) -> bool {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    value.windows(BLANKS).any(|run| run.iter().all(blank))
}

/// The bytes in two pieces.
fn cut(bytes: &[u8], at: usize) -> [&[u8]; 2] {
    let (first, second) = bytes.split_at(at.min(bytes.len()));
    [first, second]
}
