//! Reads a recording.
//!
//! Input: a file, treated as hostile. Output: what the pipeline consumed when it was made, one entry after the other.

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read},
    path::Path,
};

use agent_common::abi::{ABI_VERSION, LiveRequest};
use zerocopy::{FromBytes, IntoBytes};

use super::{ChunkKind, Description, FORMAT_VERSION, MAGIC, MAX_CHUNK, RecordingError};
use crate::{
    event::{ClockPair, Input, decode::decode_counted},
    process::ProcessFacts,
    telemetry::Counters,
};

/// One thing that the pipeline consumed.
#[derive(Clone, Debug)]
pub enum Entry<'a> {
    /// A record of the ring buffer, not decoded, at a multiple of eight bytes in memory.
    Record(&'a [u8]),
    /// Facts of a process.
    Process(ProcessFacts),
    /// A clock pair.
    Clock(ClockPair),
    /// Answers of the program `live_positions`.
    Live(&'a [LiveRequest]),
    /// The time of a tick.
    Tick(u64),
}

/// A recording that is being read.
#[derive(Debug)]
pub struct Recording<R: Read = BufReader<File>> {
    from: R,
    path: String,
    description: Description,
    /// End of what was read, bytes from the start of the file.
    offset: u64,
    chunks: u64,
    finished: bool,
    /// The chunk at hand, in words so that it is aligned.
    words: Vec<u64>,
}

impl Recording {
    /// Opens a recording.
    ///
    /// # Errors
    /// When it cannot be read, is no recording, or is one of another version.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Self::begin(BufReader::new(file), name),
            Err(source) => Err(RecordingError::Read { path: name, source }),
        }
    }
}

impl<R: Read> Recording<R> {
    /// Reads the beginning of a recording; `path` is its name in errors.
    ///
    /// # Errors
    /// When it cannot be read, is no recording, or is one of another version.
    pub fn begin(from: R, path: String) -> Result<Self, RecordingError> {
        let mut recording = Self {
            from,
            path,
            description: Description {
                agent_version: String::new(),
                kernel_release: String::new(),
                boot_id: String::new(),
                globals: Vec::new(),
                payload_stripped: false,
            },
            offset: 0,
            chunks: 0,
            finished: false,
            words: Vec::new(),
        };
        let not_one = |path: &str| RecordingError::NotARecording {
            path: path.to_owned(),
        };
        let Some([magic, versions]) = recording.words::<2>()? else {
            return Err(not_one(&recording.path));
        };
        if &magic.to_le_bytes() != MAGIC {
            return Err(not_one(&recording.path));
        }
        let [a0, a1, f0, f1, l0, l1, l2, l3] = versions.to_le_bytes();
        let (abi, format) = (u16::from_le_bytes([a0, a1]), u16::from_le_bytes([f0, f1]));
        if (abi, format) != (ABI_VERSION, FORMAT_VERSION) {
            return Err(RecordingError::Version {
                path: recording.path,
                abi,
                format,
            });
        }
        let Some(json) = recording.padded(u32::from_le_bytes([l0, l1, l2, l3]))? else {
            return Err(recording.damaged("its description is cut"));
        };
        let Ok(description) = serde_json::from_slice(json) else {
            return Err(recording.damaged("its description is not understood"));
        };
        recording.description = description;
        Ok(recording)
    }

    /// Where it was made.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The next entry, `None` after the last one.
    ///
    /// # Errors
    /// [`RecordingError::Truncated`] where the file ends without its end mark; all entries before it were complete.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, RecordingError> {
        if self.finished {
            return Ok(None);
        }
        let start = self.offset;
        let truncated = RecordingError::Truncated {
            path: self.path.clone(),
            offset: start,
        };
        let Some([head]) = self.words::<1>()? else {
            return Err(truncated);
        };
        let damaged = |what| RecordingError::Damaged {
            path: self.path.clone(),
            offset: start,
            what,
        };
        let kind = ChunkKind::from_u32(head as u32).ok_or_else(|| damaged("an unknown chunk"))?;
        let length = (head >> 32) as u32;
        if length as usize > MAX_CHUNK {
            return Err(damaged("a chunk longer than any"));
        }
        let path = self.path.clone();
        let chunks = self.chunks;
        self.chunks += 1;
        self.finished = kind == ChunkKind::End;
        let Some(bytes) = self.padded(length)? else {
            return Err(truncated);
        };
        let damaged = |what| RecordingError::Damaged {
            path,
            offset: start,
            what,
        };
        Ok(Some(match kind {
            ChunkKind::Record => Entry::Record(bytes),
            ChunkKind::Process => Entry::Process(
                serde_json::from_slice(bytes)
                    .map_err(|_| damaged("a process that is not understood"))?,
            ),
            ChunkKind::Clock => {
                let [monotonic_ns, unix_ns] =
                    numbers(bytes).ok_or_else(|| damaged("a clock pair of another length"))?;
                Entry::Clock(ClockPair {
                    monotonic_ns,
                    unix_ns,
                })
            }
            ChunkKind::Live => Entry::Live(
                <[LiveRequest]>::ref_from_bytes(bytes)
                    .map_err(|_| damaged("live positions of another length"))?,
            ),
            ChunkKind::Tick => {
                let [now_ns] = numbers(bytes).ok_or_else(|| damaged("a tick of another length"))?;
                Entry::Tick(now_ns)
            }
            ChunkKind::End => {
                return match numbers(bytes) {
                    Some([count]) if count == chunks => Ok(None),
                    _ => Err(damaged("chunks are missing")),
                };
            }
        }))
    }

    /// `length` bytes and their padding, `None` when the file ends before.
    fn padded(&mut self, length: u32) -> Result<Option<&[u8]>, RecordingError> {
        let length = length as usize;
        if length > MAX_CHUNK {
            return Err(self.damaged("a length beyond any"));
        }
        self.words.clear();
        self.words.resize(length.div_ceil(8), 0);
        if !fill(&mut self.from, &self.path, self.words.as_mut_bytes())? {
            return Ok(None);
        }
        self.offset += self.words.len() as u64 * 8;
        Ok(self.words.as_bytes().get(..length))
    }

    /// Numbers, `None` when the file ends before.
    fn words<const N: usize>(&mut self) -> Result<Option<[u64; N]>, RecordingError> {
        let mut words = [0_u64; N];
        let complete = fill(&mut self.from, &self.path, words.as_mut_bytes())?;
        self.offset += if complete { N as u64 * 8 } else { 0 };
        Ok(complete.then(|| words.map(u64::from_le)))
    }

    fn damaged(&self, what: &'static str) -> RecordingError {
        RecordingError::Damaged {
            path: self.path.clone(),
            offset: self.offset,
            what,
        }
    }
}

/// Whether `bytes` could be filled before the file ended.
fn fill(from: &mut impl Read, path: &str, bytes: &mut [u8]) -> Result<bool, RecordingError> {
    match from.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(source) => Err(RecordingError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    <[u64; N]>::read_from_bytes(bytes)
        .ok()
        .map(|numbers| numbers.map(u64::from_le))
}

/// How a replay ended.
#[derive(Debug)]
pub struct Replayed {
    /// Entries that were pushed or refused by the decoder.
    pub entries: u64,
    /// Why the recording could not be read to its end ([`RecordingError::Truncated`], [`RecordingError::Damaged`]); everything before was
    /// pushed.
    pub stopped_by: Option<RecordingError>,
}

/// Pushes everything in a recording into `push`, as the live agent did.
///
/// # Errors
/// When the file cannot be read at all. One that is cut or damaged further on is no error: [`Replayed::stopped_by`] says so.
pub fn replay<R: Read>(
    recording: &mut Recording<R>,
    counters: &Counters,
    mut push: impl FnMut(Input<'_>),
) -> Result<Replayed, RecordingError> {
    let mut entries = 0;
    loop {
        match recording.next_entry() {
            Ok(None) => {
                return Ok(Replayed {
                    entries,
                    stopped_by: None,
                });
            }
            Ok(Some(entry)) => match entry {
                Entry::Record(bytes) => {
                    if let Some(event) = decode_counted(bytes, counters) {
                        push(Input::Event(event));
                    }
                }
                Entry::Process(facts) => push(Input::Process(&facts)),
                Entry::Clock(pair) => push(Input::Clock(pair)),
                Entry::Live(answers) => push(Input::Live(answers)),
                Entry::Tick(now_ns) => push(Input::Tick(now_ns)),
            },
            Err(
                stopped_by @ (RecordingError::Truncated { .. } | RecordingError::Damaged { .. }),
            ) => {
                return Ok(Replayed {
                    entries,
                    stopped_by: Some(stopped_by),
                });
            }
            Err(error) => return Err(error),
        }
        entries += 1;
    }
}
