//! What the kernel tells of the life of processes.
//!
//! Input: records. Output: [`ProcessChange`], free of the records' layout, so that tests and other sources can make one.

use agent_common::abi;

use crate::process::resource::ProcessKey;

/// What happened to a process, as the kernel tells it. Times are CLOCK_MONOTONIC nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessChange {
    /// It runs another program: nothing that was known of it holds, but for its id.
    Exec {
        /// Which process.
        key: ProcessKey,
    },
    /// It began as a copy of its parent.
    Fork {
        /// The new process.
        key: ProcessKey,
        /// Thread group id of the parent.
        parent_tgid: u32,
    },
    /// It ended.
    Exit {
        /// Which process.
        key: ProcessKey,
        /// When.
        time_ns: u64,
    },
}

impl From<&abi::Exec> for ProcessChange {
    fn from(record: &abi::Exec) -> Self {
        Self::Exec {
            key: ProcessKey {
                tgid: record.tgid,
                start_ns: record.process_start_ns,
            },
        }
    }
}

impl From<&abi::Fork> for ProcessChange {
    fn from(record: &abi::Fork) -> Self {
        let key = ProcessKey {
            tgid: record.tgid,
            start_ns: record.process_start_ns,
        };
        Self::Fork {
            key,
            parent_tgid: record.parent_tgid,
        }
    }
}

impl From<&abi::Exit> for ProcessChange {
    fn from(record: &abi::Exit) -> Self {
        let key = ProcessKey {
            tgid: record.tgid,
            start_ns: record.process_start_ns,
        };
        Self::Exit {
            key,
            time_ns: record.header.time_ns,
        }
    }
}
