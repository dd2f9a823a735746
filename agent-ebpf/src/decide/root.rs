//! Whether a trace that begins here is sampled, and by which rule.
//!
//! Input: the process in which it begins, its trace id. User space writes one rule per process where the user asked for any, and moves their thresholds
//! where the user asked for a limit; without either the threshold is a frozen global.

use agent_common::{abi::Counter, wire::sampling};

use crate::{
    globals::global,
    maps::{ROOTS, RULES, THRESHOLDS, count},
    scratch::Work,
};

/// Whether the running process's new trace is sampled.
#[inline(always)]
pub(super) fn is_sampled(work: &Work, trace_id: &[u8; 16]) -> bool {
    if global!(SAMPLE_BY_PROCESS) == 0 && global!(SAMPLE_LIMITED) == 0 {
        return sampling::is_sampled(trace_id, global!(SAMPLE_THRESHOLD));
    }
    let tgid = (work.pid_tgid >> 32) as u32;
    ut_judge_root(tgid, sampling::randomness(trace_id)) != 0
}

/// Judges a root of this process by what is random in its trace id; 1 when it is sampled.
///
/// A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ut_judge_root(tgid: u32, randomness: u64) -> u32 {
    let rule = if global!(SAMPLE_BY_PROCESS) == 0 {
        0
    } else {
        rule_of(tgid)
    };
    let Some(threshold) = THRESHOLDS.get(rule) else {
        return 0;
    };
    let sampled = sampling::passes(randomness, *threshold);
    if global!(SAMPLE_LIMITED) != 0 {
        if let Some(roots) = ROOTS.get_ptr_mut(rule) {
            // SAFETY: the entry belongs to this CPU; a program that interrupts this one may lose one step.
            unsafe { *roots = (*roots).wrapping_add(1) };
        }
        if sampled {
            count(Counter::RootsSampled);
        }
    }
    u32::from(sampled)
}

/// The rule of a process; 0, that of the sampler, where it has none of its own.
#[inline(always)]
fn rule_of(tgid: u32) -> u32 {
    match RULES.get_ptr(tgid) {
        // SAFETY: a word of the map.
        Some(rule) => unsafe { *rule },
        None => 0,
    }
}

/// A process was copied: its rule holds for the copy until user space has looked at that.
#[inline(always)]
pub(crate) fn copied(parent: u32, child: u32) {
    if global!(SAMPLE_BY_PROCESS) == 0 {
        return;
    }
    let rule = rule_of(parent);
    if rule == 0 {
        let _ = RULES.remove(child);
    } else if RULES.insert(child, rule, 0).is_err() {
        count(Counter::RulesFull);
    }
}

/// A process runs another program, or has ended.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    if global!(SAMPLE_BY_PROCESS) != 0 {
        let _ = RULES.remove(tgid);
    }
}
