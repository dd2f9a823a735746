//! What the programs say about themselves, through `AYA_LOGS`: refusals after which a whole connection or process goes unseen.
//!
//! Input: the refusal and the thread group that it concerns. Nothing is written unless the frozen global `LOG` is 1. What happens
//! to single heads or threads is left to the counters.

use aya_log_ebpf::warn;

use crate::globals::global;

/// A connection is not followed: `SOCKETS` has no room.
pub(crate) const CONNECTION: u32 = 0;
/// A process's new program was not reported: `EVENTS` has no room.
pub(crate) const EXEC: u32 = 1;

/// Says that something was refused; 1 if anybody listens.
///
/// A global function: the verifier checks it once, and leaves out all but the first comparison when nobody listens.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_refused(what: u32, tgid: u32) -> u32 {
    if global!(LOG) == 0 {
        return 0;
    }
    if what == CONNECTION {
        warn!(
            (),
            "no room in SOCKETS: a connection of process {} is not followed", tgid
        );
    } else {
        warn!(
            (),
            "no room in EVENTS: a new program of process {} is not reported", tgid
        );
    }
    1
}
