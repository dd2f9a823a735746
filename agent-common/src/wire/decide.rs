//! Which context a request gets, and which open request caused an outgoing one.
//!
//! Input: what the kernel found out about a message and its thread. Output: a choice. It looks nothing up and makes no ids.

use crate::abi::{Method, Source, decision_flags};

/// A trace context. Ids are words whose bytes in memory are in the order of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Context {
    /// Trace id.
    pub trace_id: [u64; 2],
    /// Span id.
    pub span_id: u64,
    /// W3C trace flags.
    pub flags: u64,
}

impl Context {
    /// Whether it is one: absent ones are all zero, and no valid trace id is.
    #[must_use]
    #[inline(always)]
    pub const fn exists(&self) -> bool {
        self.trace_id[0] | self.trace_id[1] != 0
    }
}

/// What a request inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// Its trace, its parent and its flags; all zero for a root.
    pub context: Context,
    /// Where that comes from.
    pub source: Source,
    /// [`decision_flags`].
    pub flags: u8,
}

impl Inherited {
    /// Whether there is a parent.
    #[must_use]
    #[inline(always)]
    pub const fn has_parent(&self) -> bool {
        !matches!(self.source, Source::Root)
    }
}

/// Bit of a same-kernel record's flags, above those of W3C: the request carries a context that its sender was given and did not trust, so what
/// its header says does not count.
pub const RESTARTED: u64 = 1 << 8;

/// Bits of a same-kernel record's flags that say when it was stored, in units of 2^30 nanoseconds.
const STORED_SHIFT: u32 = 32;
const UNIT_SHIFT: u32 = 30;

/// Flags of a same-kernel record that is stored at `now_ns`.
#[must_use]
#[inline(always)]
pub const fn stored_at(flags: u64, now_ns: u64) -> u64 {
    flags | (now_ns >> UNIT_SHIFT) << STORED_SHIFT
}

/// How long ago a record with these flags was stored, nanoseconds, to one second; 0 when that is in the future.
#[must_use]
pub const fn stored_for(flags: u64, now_ns: u64) -> u64 {
    let units = (now_ns >> UNIT_SHIFT).saturating_sub(flags >> STORED_SHIFT);
    units << UNIT_SHIFT
}

/// The context of an incoming request, from the sender's record in this kernel and its own header.
///
/// The record is nearer, so its span is the parent, with the header's flags; where the two name different traces, the header wins. A header from
/// an address that is not `trusted` is not taken; what this kernel's own record says is. One that is not there is all zero.
#[must_use]
#[inline(always)]
pub fn server(record: Context, header: Context, trusted: bool) -> Inherited {
    // Plain words and no options: 5.10 and 6.1 refuse copies of what a variant without a payload never set.
    let (has_record, has_header) = (record.exists(), header.exists());
    let restarted = has_record && record.flags & RESTARTED != 0;
    let same = has_record && has_header && record.trace_id == header.trace_id;
    let takes_header = has_header && trusted && !restarted;
    let mut flags = 0;
    if has_header {
        flags |= decision_flags::HAS_TRACEPARENT;
        if takes_header && has_record && !same {
            flags |= decision_flags::RECORD_DIFFERS;
        }
        if !trusted && !restarted && !same {
            flags |= decision_flags::UNTRUSTED;
        }
    }
    let by_header = takes_header && !same;
    let chosen = if by_header { header } else { record };
    Inherited {
        source: if by_header {
            Source::Header
        } else if has_record {
            Source::SameKernel
        } else {
            Source::Root
        },
        context: Context {
            flags: if takes_header {
                header.flags
            } else {
                chosen.flags & 0xff
            },
            ..chosen
        },
        flags,
    }
}

/// Bits of a process's value in the map `RUNTIMES`: what its event loop does between two reads.
pub mod event_loop {
    /// It ends the callback of one event before it handles the next, and a word of its stack tells whether it handles events or does something
    /// else, such as running timers ([`EventLoop`](crate::abi::EventLoop)).
    pub const IN_ORDER: u64 = 1;
    /// It runs callbacks that no read begins (timers, names looked up by other threads): what was read last says nothing.
    pub const DEFERS: u64 = 2;
}

/// What is known of the thread that sends a request, and of the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Situation {
    /// Open requests whose heads this thread completed; one more where a handler may be at work for a request that is over, unless there is no other.
    pub open: u64,
    /// The thread has had several at one time before.
    pub had_several: bool,
    /// This is the connection's first request, and this thread connected it.
    pub first_after_connect: bool,
    /// When it did, a request was current.
    pub connect_known: bool,
    /// Distinct requests that the thread read something of since it last waited.
    pub epoch_reads: u64,
    /// The thread read this connection's previous response since it last waited.
    pub own_response_in_epoch: bool,
    /// And it has read nothing else since.
    pub own_response_last: bool,
    /// The process is known to finish each callback before the next event, and runs one that an event began.
    pub callback_ordered: bool,
    /// Since it read last, the thread has made a call, or met an event that is no read.
    pub read_is_spent: bool,
    /// The process is known to run callbacks that no read begins.
    pub defers: bool,
    /// The thread was cloned while a request was the only one of its thread, and has served nothing yet.
    pub descends: bool,
    /// Open requests of the whole process; needed only where `descends` is set.
    pub process_open: u64,
}

/// The request that caused an outgoing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The only open request of the thread.
    Only(Method),
    /// The request that was current when the connection was made.
    Connect,
    /// The request of which the thread read last.
    LastRead,
    /// The request that was open when the thread was cloned.
    Ancestor,
    /// None is possible.
    Nothing,
    /// Several are possible: none is taken.
    Several,
}

/// Applies rules 2 to 4, most exact first. The request that results must still be open, or there is no link.
#[must_use]
#[inline(always)]
pub fn cause(situation: &Situation) -> Cause {
    let connected = situation.first_after_connect && situation.connect_known;
    if situation.open == 0 {
        return match (situation.descends, situation.process_open) {
            (false, _) | (true, 0) => Cause::Nothing,
            (true, 1) => Cause::Ancestor,
            (true, _) => Cause::Several,
        };
    }
    if connected {
        return Cause::Connect;
    }
    if situation.open == 1 {
        return Cause::Only(if situation.had_several {
            Method::OnlyOpen
        } else {
            Method::SameContext
        });
    }
    // A pooled connection that has just become free may carry somebody's queued request. Where a callback ends before the next read, only
    // until that read.
    let may_be_queued = if situation.callback_ordered {
        situation.own_response_last
    } else {
        situation.own_response_in_epoch
    };
    // A new connection's first bytes may go out long after the callback that wanted it.
    if situation.first_after_connect || may_be_queued || situation.defers {
        return Cause::Several;
    }
    let is_told = if situation.callback_ordered {
        // The callback of an event that is no read (a connection that failed) may follow that of the read; it calls on behalf of another
        // request. That one has not called yet is the rule, and a second call of one callback is the exception that is left out.
        situation.epoch_reads != 0 && !situation.read_is_spent
    } else {
        situation.epoch_reads == 1
    };
    if is_told {
        Cause::LastRead
    } else {
        Cause::Several
    }
}

/// How sure a link made by a rule is, percent.
#[must_use]
#[inline(always)]
pub const fn confidence(method: Method) -> u8 {
    match method {
        Method::None => 0,
        Method::Forwarded | Method::Runtime => 100,
        Method::SameContext => 99,
        Method::Connect => 95,
        Method::Descendant => 90,
        Method::LastRead => 80,
        Method::OnlyOpen => 85,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Context = Context {
        trace_id: [1, 2],
        span_id: 3,
        flags: 1,
    };
    const B: Context = Context {
        trace_id: [1, 2],
        span_id: 4,
        flags: 0,
    };
    const OTHER: Context = Context {
        trace_id: [9, 9],
        span_id: 5,
        flags: 1,
    };
    const NONE: Context = Context {
        trace_id: [0; 2],
        span_id: 0,
        flags: 0,
    };

    #[test]
    fn prefers_the_nearer_span_of_the_same_trace_with_the_flags_of_the_header() {
        let inherited = server(A, B, true);
        assert_eq!(inherited.source, Source::SameKernel);
        assert_eq!(inherited.context, Context { flags: 0, ..A });
        assert_eq!(inherited.flags, decision_flags::HAS_TRACEPARENT);
    }

    #[test]
    fn lets_the_header_win_over_a_record_of_another_trace() {
        let inherited = server(OTHER, B, true);
        assert_eq!((inherited.source, inherited.context), (Source::Header, B));
        assert_eq!(
            inherited.flags,
            decision_flags::HAS_TRACEPARENT | decision_flags::RECORD_DIFFERS
        );
    }

    #[test]
    fn takes_what_there_is() {
        assert_eq!(server(A, NONE, true).context, A);
        assert_eq!(server(NONE, B, true).source, Source::Header);
        assert_eq!(server(NONE, NONE, true).source, Source::Root);
    }

    #[test]
    fn takes_no_context_from_an_untrusted_address() {
        let outside = server(NONE, B, false);
        assert_eq!(
            (outside.source, outside.context),
            (Source::Root, Context::default())
        );
        let flags = decision_flags::HAS_TRACEPARENT | decision_flags::UNTRUSTED;
        assert_eq!(outside.flags, flags);
        let ours = server(OTHER, B, false);
        assert_eq!((ours.source, ours.context), (Source::SameKernel, OTHER));
        assert_eq!(ours.flags, flags);
        // The record vouches for the header; the bit is the record's.
        let same = server(A, B, false);
        assert_eq!((same.source, same.context), (Source::SameKernel, A));
        assert_eq!(same.flags, decision_flags::HAS_TRACEPARENT);
        assert_eq!(server(NONE, NONE, false).flags, 0);
    }

    #[test]
    fn takes_the_record_of_a_sender_that_forwards_what_it_did_not_trust() {
        let restarted = Context {
            flags: OTHER.flags | RESTARTED,
            ..OTHER
        };
        let inherited = server(restarted, B, true);
        assert_eq!(inherited.source, Source::SameKernel);
        assert_eq!(inherited.context, OTHER);
        assert_eq!(inherited.flags, decision_flags::HAS_TRACEPARENT);
        assert_eq!(server(restarted, NONE, true).context, OTHER);
    }

    #[test]
    fn tells_the_age_of_a_record() {
        const SECOND: u64 = 1_000_000_000;
        let flags = stored_at(RESTARTED | 1, 400 * SECOND);
        assert_eq!(flags & 0xffff_ffff, RESTARTED | 1);
        assert_eq!(stored_for(flags, 400 * SECOND), 0);
        assert_eq!(stored_for(flags, 399 * SECOND), 0);
        let age = stored_for(flags, 700 * SECOND);
        assert!(age.abs_diff(300 * SECOND) < 2 * SECOND, "{age}");
        let record = Context { flags, ..A };
        let inherited = server(record, NONE, true);
        assert_eq!(inherited.context.flags, 1);
    }

    #[test]
    fn takes_no_parent_where_two_are_possible() {
        let two = Situation {
            open: 2,
            ..Situation::default()
        };
        assert_eq!(cause(&two), Cause::Several);
        let two_read = Situation {
            epoch_reads: 2,
            ..two
        };
        assert_eq!(cause(&two_read), Cause::Several);
        let queued = Situation {
            epoch_reads: 1,
            own_response_in_epoch: true,
            ..two
        };
        assert_eq!(cause(&queued), Cause::Several);
        let queued_in_order = Situation {
            own_response_last: true,
            callback_ordered: true,
            ..queued
        };
        assert_eq!(cause(&queued_in_order), Cause::Several);
        let deferred = Situation {
            epoch_reads: 1,
            defers: true,
            ..two
        };
        assert_eq!(cause(&deferred), Cause::Several);
        let called_before = Situation {
            epoch_reads: 1,
            callback_ordered: true,
            read_is_spent: true,
            ..two
        };
        assert_eq!(cause(&called_before), Cause::Several);
        let late = Situation {
            epoch_reads: 1,
            first_after_connect: true,
            ..two
        };
        assert_eq!(cause(&late), Cause::Several);
        let pool = Situation {
            descends: true,
            process_open: 2,
            ..Situation::default()
        };
        assert_eq!(cause(&pool), Cause::Several);
    }

    #[test]
    fn takes_the_most_exact_rule() {
        let two = Situation {
            open: 2,
            epoch_reads: 1,
            ..Situation::default()
        };
        assert_eq!(cause(&two), Cause::LastRead);
        let ordered = Situation {
            epoch_reads: 5,
            callback_ordered: true,
            ..two
        };
        assert_eq!(cause(&ordered), Cause::LastRead);
        let unordered = Situation {
            read_is_spent: true,
            ..two
        };
        assert_eq!(
            cause(&unordered),
            Cause::LastRead,
            "a callback that calls twice"
        );
        let freed_before = Situation {
            own_response_in_epoch: true,
            ..ordered
        };
        assert_eq!(cause(&freed_before), Cause::LastRead);
        let connected = Situation {
            first_after_connect: true,
            connect_known: true,
            ..two
        };
        assert_eq!(cause(&connected), Cause::Connect);
        let one = Situation { open: 1, ..two };
        assert_eq!(cause(&one), Cause::Only(Method::SameContext));
        let loops = Situation {
            had_several: true,
            ..one
        };
        assert_eq!(cause(&loops), Cause::Only(Method::OnlyOpen));
        let child = Situation {
            descends: true,
            process_open: 1,
            ..Situation::default()
        };
        assert_eq!(cause(&child), Cause::Ancestor);
        assert_eq!(cause(&Situation::default()), Cause::Nothing);
    }
}
