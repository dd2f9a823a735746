//! Recordings: everything that the pipeline consumes, in the order in which it consumed it.
//!
//! A file is read by [`Recording`] and written by [`Recorder`]. The records of the kernel stand in it as they left the ring buffer, before
//! decoding, so that a replay begins where the live agent does. Bytes of users are in it, unless they were blanked: the mode is 0600.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `utrecord` |
//! | 2, 2, 4 | ABI version, format version, length of the description |
//! | ... | [`Description`], JSON |
//! | 4, 4, ... | kind of a chunk, length, the chunk itself; again and again |
//!
//! The description and each chunk are padded with zeros to a multiple of eight bytes. Integers are little endian.

mod read;
mod write;

use serde::{Deserialize, Serialize};

pub use self::{
    read::{Entry, Recording, Replayed, replay},
    write::Recorder,
};

/// The first bytes of a recording.
const MAGIC: &[u8; 8] = b"utrecord";

/// Version of the chunks' own layout.
const FORMAT_VERSION: u16 = 1;

/// Longest description and longest chunk, bytes.
const MAX_CHUNK: usize = 1 << 20;

/// What a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum ChunkKind {
    /// A record of the ring buffer.
    Record = 1,
    /// Facts of a process, JSON.
    Process = 2,
    /// Two u64: monotonic and real time.
    Clock = 3,
    /// `LiveRequest`s.
    Live = 4,
    /// One u64: monotonic time.
    Tick = 5,
    /// One u64: number of chunks before it. The recording was finished in order.
    End = 6,
}

impl ChunkKind {
    const fn from_u32(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::Record,
            2 => Self::Process,
            3 => Self::Clock,
            4 => Self::Live,
            5 => Self::Tick,
            6 => Self::End,
            _ => return None,
        })
    }
}

/// Where a recording was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Version of the agent.
    pub agent_version: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// `/proc/sys/kernel/random/boot_id`, empty when it could not be read.
    pub boot_id: String,
    /// Name and value of every read-only global of the kernel programs.
    pub globals: Vec<(String, u32)>,
    /// Whether payload bytes were blanked.
    pub payload_stripped: bool,
}

impl Description {
    /// This machine and this agent.
    #[must_use]
    pub fn of_this_machine(globals: Vec<(String, u32)>, payload_stripped: bool) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Self {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            boot_id: boot_id.unwrap_or_default().trim().to_owned(),
            globals,
            payload_stripped,
        }
    }
}

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be made, or is there already.
    #[error("cannot create {path}")]
    Create {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Writing failed, for instance on a full disk.
    #[error("cannot write the recording")]
    Write {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A value that has no place in a recording.
    #[error("{what} of {bytes} bytes does not fit in a recording")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{path} is not a recording of undertrace: give a file that `undertrace record` wrote")]
    NotARecording {
        /// The file.
        path: String,
    },
    /// Another version of the records or of the file's own layout.
    #[error(
        "{path} was recorded with ABI version {abi}.{format}, this undertrace reads {}.{FORMAT_VERSION}: \
         replay it with the version that recorded it",
        agent_common::abi::ABI_VERSION
    )]
    Version {
        /// The file.
        path: String,
        /// Its ABI version.
        abi: u16,
        /// Version of its layout.
        format: u16,
    },
    /// The description or a chunk contradicts itself.
    #[error("{path} is damaged at byte {offset}: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// Where the damaged part begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The file ends before its end mark: the recorder was killed, or the disk was full.
    #[error(
        "{path} ends at byte {offset} without its end mark: the recorder was stopped before it could finish the file"
    )]
    Truncated {
        /// The file.
        path: String,
        /// End of the last complete chunk.
        offset: u64,
    },
}

#[cfg(test)]
mod tests;
