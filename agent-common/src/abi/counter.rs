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
    /// Connections put into the sockhash.
    InjectSockets = 25, "inject_sockets";
    /// Connections not put there, because their peer is in none of the configured networks.
    InjectUntrusted = 26, "inject_untrusted";
    /// Connections that the kernel did not take there.
    InjectSocketsRefused = 27, "inject_sockets_refused";
    /// Connections not put there because `INJECTIONS` was full.
    InjectionsFull = 28, "injections_full";
    /// Sends of a request on a connection of the sockhash: each ends in one of the counters that follow.
    InjectRequests = 29, "inject_requests";
    /// Requests that got a header.
    InjectInserted = 30, "inject_inserted";
    /// Requests whose forwarded header got another parent id.
    InjectRewritten = 31, "inject_rewritten";
    /// Requests with a context of their own, or with a `tracestate` alone.
    InjectOwnContext = 32, "inject_own_context";
    /// Requests whose start was not proven.
    InjectUnproven = 33, "inject_unproven";
    /// Requests whose place lay in an earlier send.
    InjectSplit = 34, "inject_split";
    /// Requests whose lines do not end with CRLF.
    InjectLineEnds = 35, "inject_line_ends";
    /// CONNECT requests, and requests behind one.
    InjectTunnel = 36, "inject_tunnel";
    /// Requests for which the send buffer might not have had room, or on a socket that was about to close or to encrypt.
    InjectNoRoom = 37, "inject_no_room";
    /// Requests of one send beyond those that get a header, or too far inside it.
    InjectBeyondLimit = 38, "inject_beyond_limit";
    /// Headers of a send that the kernel did not begin.
    InjectUnsent = 39, "inject_unsent";
    /// Headers meant for another send than the one that came.
    InjectOtherSend = 40, "inject_other_send";
    /// Headers not written because the bytes had changed since they were looked at.
    InjectChanged = 41, "inject_changed";
    /// Headers that the kernel did not let us write.
    InjectRefused = 42, "inject_refused";
    /// Bytes put into streams.
    InjectBytes = 43, "inject_bytes";
    /// Requests whose `traceparent` was not taken, because their peer is in none of the trusted networks.
    ContextsUntrusted = 44, "contexts_untrusted";
    /// Server requests given up because they were open for too long.
    RequestsExpired = 45, "requests_expired";
    /// Attempts to close a server request while another CPU did; where each left it to the other, it stays counted until the connection's next request.
    RequestsContended = 46, "requests_contended";
    /// Chunked bodies whose lines could not be followed to their end, so that their size without framing is left out.
    ChunkFramingLost = 47, "chunk_framing_lost";
    /// Segments with bytes that TCP sent again on followed connections: each is a record, or one more lost to a full ring buffer.
    RetransmissionsSeen = 48, "retransmissions_seen";
    /// Segments sent again that carry no bytes of a message: SYN and FIN.
    RetransmissionsEmpty = 49, "retransmissions_empty";
    /// Requests without a `traceparent` whose context in another propagator's headers is malformed.
    PropagatorMalformed = 50, "propagator_malformed";
    /// `tracestate` lines written beside a `traceparent`.
    InjectStates = 51, "inject_states";
    /// Requests whose `tracestate` is not carried on: malformed, longer than 256 bytes, in several lines, or cut.
    InjectStatesDropped = 52, "inject_states_dropped";
    /// Sends and receives whose program found nothing to go on with: seen by nobody.
    BodiesMissing = 53, "bodies_missing";
    /// Copies of processes that are sampled by the general rule because `RULES` was full.
    RulesFull = 54, "rules_full";
    /// Traces that began here and are kept; counted only where their rate is limited.
    RootsSampled = 55, "roots_sampled";
    /// Requests whose `tracestate` is not carried on because `STATES` was full.
    InjectStatesFull = 56, "inject_states_full";
    /// Requests that carry our context without its `tracestate`: they brought the `traceparent` alone, another request follows in their send, or it
    /// was replaced or gone before it was written. Requests that get nothing are not among them.
    InjectStatesWithheld = 57, "inject_states_withheld";
    /// Connections whose requests get a TCP option.
    OptionSockets = 58, "option_sockets";
    /// Connections whose requests do not, because their peer is in none of the configured networks.
    OptionSocketsUntrusted = 59, "option_sockets_untrusted";
    /// Connections whose requests do not, because `OFFERS` was full or the kernel refused the callback.
    OptionSocketsRefused = 60, "option_sockets_refused";
    /// Requests on the connections that get options; when they are over each is in one of the three counters that follow.
    OptionRequests = 61, "option_requests";
    /// Requests whose context went out in an option.
    OptionsWritten = 62, "options_written";
    /// Requests for whose option no segment had room.
    OptionsNoRoom = 63, "options_no_room";
    /// Requests whose option no segment carried: none began with their first byte, one held more than was known to be theirs, or another connection was
    /// finding out whether options arrive at all.
    OptionsUnsent = 64, "options_unsent";
    /// Segments that carried an option: more than requests, where some were sent again.
    OptionSegments = 65, "option_segments";
    /// Options that arrived with a request.
    OptionsReceived = 66, "options_received";
    /// Options that are malformed.
    OptionsMalformed = 67, "options_malformed";
    /// Options from peers in none of the trusted networks.
    OptionsUntrusted = 68, "options_untrusted";
    /// Options not kept because `BROUGHT` was full.
    OptionsFull = 69, "options_full";
    /// Options that no request had taken when four more had come on their connection, or when it was over.
    OptionsUnread = 70, "options_unread";
    /// Requests that got their parent from an option.
    OptionsTaken = 71, "options_taken";
    /// Connections whose requests get no option any more, because one was never acknowledged with its option, and then without.
    OptionSocketsGivenUp = 72, "option_sockets_given_up";
    /// Requests of traces that are not sampled, of which user space hears nothing: neither of them nor of their responses.
    RequestsHidden = 73, "requests_hidden";
    /// Of those, the ones that failed: by the status of their response, or because the connection ended without one.
    RequestsHiddenFailed = 74, "requests_hidden_failed";
    /// Bytes of hidden messages.
    HiddenBytes = 75, "hidden_bytes";
    /// How often hidden messages of a connection could not be told from others any more: requests that waited then are given up, and failures and bytes of
    /// hidden ones are not counted.
    HidingLost = 76, "hiding_lost";
    /// Connections that ended before the first segment with an option was acknowledged, by a reset or by a process that had waited long enough for it; or after
    /// that by a reset, before anything was received.
    OptionSocketsFailed = 77, "option_sockets_failed";
    /// Connections whose requests get no option, because options do not seem to arrive at their peer: it is tried again later.
    OptionSocketsPaused = 78, "option_sockets_paused";
    /// Times that no option was written to some peer for a while, because none seemed to arrive.
    OptionPeersPaused = 79, "option_peers_paused";
    /// Connections whose requests get no option, because none of their first segments began one.
    OptionSocketsQuiet = 80, "option_sockets_quiet";
    /// Times that no option was written for a while to any peer of which nothing is known, because none seemed to arrive at those that were tried.
    OptionPauses = 81, "option_pauses";
    /// Sessions of TLS libraries that were bound to a connection.
    TlsSessions = 82, "tls_sessions";
    /// Sessions that were not, because `SESSIONS` was full: their connections are not traced.
    TlsSessionsFull = 83, "tls_sessions_full";
    /// Sessions inside whose calls two connections were seen: they are not traced any more.
    TlsAmbiguous = 84, "tls_ambiguous";
    /// Calls of TLS libraries that were not followed because `CALLS` was full.
    TlsCallsFull = 85, "tls_calls_full";
    /// Calls of TLS libraries that moved bytes of a session of which no connection is known; not counted where ports are selected.
    TlsUnproven = 86, "tls_unproven";
}

impl Counter {
    /// Entries of `COUNTERS`; some room for growth.
    pub const CAPACITY: u32 = 96;
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
