//! Counters of the kernel side: one per place where something can be lost, refused or left out.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $index:literal, $text:literal;)+) => {
        /// Index into the per-CPU array `COUNTERS` (u64 each).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Counter { $($(#[doc = $doc])+ $name = $index,)+ }

        impl Counter {
            /// All counters, in index order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Name in metrics and on the console, snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

counters! {
    /// Records lost because the ring buffer was full.
    RingFull = 0, "ring_full";
    /// Connections not followed because `SOCKETS` was full.
    SocketsFull = 1, "sockets_full";
    /// Execution contexts not followed because `THREADS` was full.
    ThreadsFull = 2, "threads_full";
    /// Cut heads whose scan state found no room: their context is unknown.
    HeadsFull = 3, "heads_full";
    /// Same-kernel records not stored because the table was full.
    HandoversFull = 4, "handovers_full";
    /// Scratch was in use by an interrupted program: a segment without payload.
    ScratchBusy = 5, "scratch_busy";
    /// Payload bytes that could not be read from the process.
    UnreadableBytes = 6, "unreadable_bytes";
    /// Sends and receives whose iterator gives lengths only.
    LengthsOnly = 7, "lengths_only";
    /// Requests in one segment beyond those the kernel decides.
    DecisionsBeyondLimit = 8, "decisions_beyond_limit";
    /// Outgoing requests for which several parents were possible.
    LinksAmbiguous = 9, "links_ambiguous";
    /// Heads longer than 16 KiB, or with a part unseen: their context is unknown.
    HeadsUnseen = 10, "heads_unseen";
    /// `traceparent` values that are malformed.
    TraceparentMalformed = 11, "traceparent_malformed";
    /// Same-kernel record and header named different traces.
    RecordDiffers = 12, "record_differs";
    /// Same-kernel records that were found by their reader.
    HandoversFound = 13, "handovers_found";
    /// Same-kernel records stored.
    HandoversStored = 14, "handovers_stored";
    /// Server requests still open when their connection or thread ended.
    RequestsAbandoned = 15, "requests_abandoned";
    /// Sends and receives whose iterator has more segments than are walked.
    IteratorTooLong = 16, "iterator_too_long";
    /// A kernel read failed where it must not: the event was left out.
    KernelReadFailed = 17, "kernel_read_failed";
    /// Connections judged not to speak a protocol the kernel knows.
    ConnectionsNotRecognised = 18, "connections_not_recognised";
    /// Server requests the kernel decided.
    ServerDecisions = 19, "server_decisions";
    /// Client requests the kernel decided.
    ClientDecisions = 20, "client_decisions";
    /// Forwarded identities not remembered because the table was full.
    ForwardsFull = 21, "forwards_full";
    /// Segments (records of sends and receives) written.
    Segments = 22, "segments";
    /// Decisions written, inlined or as records of their own.
    Decisions = 23, "decisions";
    /// Runs in place of a program that the kernel skipped because another task was inside it on the same CPU.
    ProgramsStoodIn = 24, "programs_stood_in";
}

impl Counter {
    /// Entries of `COUNTERS`; some room for growth.
    pub const CAPACITY: u32 = 64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_dense_and_within_capacity() {
        for (expected, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, expected);
        }
        assert!(Counter::ALL.len() <= Counter::CAPACITY as usize);
    }
}
