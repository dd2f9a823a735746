//! Writes a recording.
//!
//! Input: what the pipeline is about to consume. Output: chunks in a file of mode 0600. It decodes records only to blank payload.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use agent_common::abi::{self, ABI_VERSION, Kind, LiveRequest, StreamState};
use zerocopy::{FromBytes, IntoBytes};

use super::{ChunkKind, Description, FORMAT_VERSION, MAGIC, MAX_CHUNK, RecordingError};
use crate::{event::ClockPair, process::ProcessFacts};

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 18;

/// A recording that grows. Dropped without [`Recorder::finish`] it lacks its end mark, and a replay says so.
#[derive(Debug)]
pub struct Recorder<W: Write = BufWriter<File>> {
    out: W,
    strip_payload: bool,
    chunks: u64,
    scratch: Vec<u8>,
}

impl Recorder {
    /// Begins a recording in a new file that only its owner may read; an existing file is not overwritten.
    /// Payload is blanked when `description` says so.
    ///
    /// # Errors
    /// When the file cannot be created or written.
    pub fn create(path: &Path, description: &Description) -> Result<Self, RecordingError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| RecordingError::Create {
                path: path.display().to_string(),
                source,
            })?;
        Self::begin(BufWriter::with_capacity(BUFFER, file), description)
    }
}

impl<W: Write> Recorder<W> {
    /// Begins a recording in `out`.
    ///
    /// # Errors
    /// When the description cannot be written.
    pub fn begin(out: W, description: &Description) -> Result<Self, RecordingError> {
        let json = serde_json::to_vec(description).map_err(|error| RecordingError::Write {
            source: error.into(),
        })?;
        let length = chunk_length(&json, "a description")?;
        let mut recorder = Self {
            out,
            strip_payload: description.payload_stripped,
            chunks: 0,
            scratch: Vec::new(),
        };
        recorder.put(MAGIC)?;
        recorder.put(&ABI_VERSION.to_le_bytes())?;
        recorder.put(&FORMAT_VERSION.to_le_bytes())?;
        recorder.put(&length.to_le_bytes())?;
        recorder.put_padded(&json)?;
        Ok(recorder)
    }

    /// One record of the ring buffer, as it came.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record(&mut self, record: &[u8]) -> Result<(), RecordingError> {
        if !self.strip_payload {
            return self.chunk(ChunkKind::Record, record, "a record");
        }
        let mut blanked = std::mem::take(&mut self.scratch);
        blanked.clear();
        blanked.extend_from_slice(record);
        blank_record(&mut blanked);
        let written = self.chunk(ChunkKind::Record, &blanked, "a record");
        self.scratch = blanked;
        written
    }

    /// Facts of a process.
    ///
    /// # Errors
    /// When the file cannot be written, or the facts are larger than a chunk.
    pub fn process(&mut self, facts: &ProcessFacts) -> Result<(), RecordingError> {
        let json = serde_json::to_vec(facts).map_err(|error| RecordingError::Write {
            source: error.into(),
        })?;
        self.chunk(ChunkKind::Process, &json, "a process")
    }

    /// A clock pair.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn clock(&mut self, pair: ClockPair) -> Result<(), RecordingError> {
        let words = [pair.monotonic_ns, pair.unix_ns].map(u64::to_le_bytes);
        self.chunk(ChunkKind::Clock, words.as_bytes(), "a clock pair")
    }

    /// Answers of the program `live_positions`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn live(&mut self, answers: &[LiveRequest]) -> Result<(), RecordingError> {
        let mut answers = answers.to_vec();
        if self.strip_payload {
            for answer in &mut answers {
                blank_tail(&mut answer.sent);
                blank_tail(&mut answer.received);
            }
        }
        self.chunk(ChunkKind::Live, answers.as_bytes(), "live positions")
    }

    /// The time of a tick.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn tick(&mut self, now_ns: u64) -> Result<(), RecordingError> {
        self.chunk(ChunkKind::Tick, &now_ns.to_le_bytes(), "a tick")
    }

    /// Writes the end mark and what is still buffered; gives back where it wrote to.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> Result<W, RecordingError> {
        let chunks = self.chunks;
        self.chunk(ChunkKind::End, &chunks.to_le_bytes(), "an end mark")?;
        self.out
            .flush()
            .map_err(|source| RecordingError::Write { source })?;
        Ok(self.out)
    }

    fn chunk(
        &mut self,
        kind: ChunkKind,
        bytes: &[u8],
        what: &'static str,
    ) -> Result<(), RecordingError> {
        let length = chunk_length(bytes, what)?;
        self.put(&(kind as u32).to_le_bytes())?;
        self.put(&length.to_le_bytes())?;
        self.put_padded(bytes)?;
        self.chunks += 1;
        Ok(())
    }

    fn put_padded(&mut self, bytes: &[u8]) -> Result<(), RecordingError> {
        let padding = bytes.len().next_multiple_of(8) - bytes.len();
        self.put(bytes)?;
        self.put(&[0; 8][..padding])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), RecordingError> {
        self.out
            .write_all(bytes)
            .map_err(|source| RecordingError::Write { source })
    }
}

fn chunk_length(bytes: &[u8], what: &'static str) -> Result<u32, RecordingError> {
    u32::try_from(bytes.len())
        .ok()
        .filter(|_| bytes.len() <= MAX_CHUNK)
        .ok_or(RecordingError::TooLarge {
            what,
            bytes: bytes.len(),
        })
}

/// Overwrites every byte that a process sent or received with zero; lengths stay. A record that cannot be understood is blanked behind its
/// header, because payload may stand anywhere in it.
fn blank_record(record: &mut [u8]) {
    let Ok((header, _)) = abi::Header::read_from_prefix(record) else {
        record.fill(0);
        return;
    };
    let known = Kind::from_u16(header.kind).filter(|_| header.version == ABI_VERSION);
    let payload_from = match known {
        Some(Kind::Segment) => rewrite::<abi::Segment>(record, |segment| {
            blank_tail(&mut segment.own);
            blank_tail(&mut segment.peer);
        }),
        Some(Kind::Close) => rewrite::<abi::Close>(record, |close| {
            blank_tail(&mut close.sent);
            blank_tail(&mut close.received);
        }),
        Some(
            Kind::Open
            | Kind::Decision
            | Kind::Exec
            | Kind::Exit
            | Kind::Fork
            | Kind::Release
            | Kind::MessageEnd
            | Kind::Retransmit
            | Kind::Await,
        ) => Some(record.len()),
        None => None,
    };
    let payload_from = payload_from.unwrap_or(size_of::<abi::Header>());
    if let Some(payload) = record.get_mut(payload_from..) {
        payload.fill(0);
    }
}

/// Changes the struct at the start of the bytes, whatever their alignment; where it ends, or `None` when it is not there.
fn rewrite<T: FromBytes + IntoBytes + zerocopy::Immutable>(
    bytes: &mut [u8],
    change: impl FnOnce(&mut T),
) -> Option<usize> {
    let (mut value, _) = T::read_from_prefix(bytes).ok()?;
    change(&mut value);
    value.write_to_prefix(bytes).ok()?;
    Some(size_of::<T>())
}

fn blank_tail(state: &mut StreamState) {
    state.tail.fill(0);
}
