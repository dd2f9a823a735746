//! Who is traced.

use agent_common::abi::{VERDICT_BITS, Verdict};

use crate::{globals::global, maps::SELECTION, scratch::add};

/// What user space has decided about a process.
#[inline(always)]
pub(crate) fn verdict(pid_tgid: u64) -> u8 {
    let tgid = (pid_tgid >> 32) as u32;
    let word = SELECTION.get(tgid / PER_WORD).copied().unwrap_or(0);
    (word >> (tgid % PER_WORD * VERDICT_BITS)) as u8 & 3
}

/// Whether a process is traced.
#[inline(always)]
pub(crate) fn is_selected(pid_tgid: u64) -> bool {
    let verdict = verdict(pid_tgid);
    verdict == Verdict::Selected as u8
        || (verdict == Verdict::Unknown as u8 && global!(SELECT_UNKNOWN) != 0)
}

/// Forgets what was decided about a process.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    if let Some(word) = SELECTION.get_ptr_mut(tgid / PER_WORD) {
        // SAFETY: an aligned word of the map. A change of a neighbour's bits at the same time may be lost: who runs another program is asked about anew
        // by its record, who is new by that of its fork.
        unsafe { *word &= !mask(tgid) };
    }
}

/// Forgets what was decided about the process that had a new process's id before. Nobody has written anything about the new one yet, so its bits can be
/// taken away in one step that leaves its neighbours alone.
#[inline(always)]
pub(crate) fn forget_former(tgid: u32) {
    if let Some(word) = SELECTION.get_ptr_mut(tgid / PER_WORD) {
        // SAFETY: an aligned word of the map.
        let word = unsafe { &*word };
        let former = *word & mask(tgid);
        if former != 0 {
            add(word, former.wrapping_neg());
        }
    }
}

/// Processes whose verdicts share a word.
const PER_WORD: u32 = 64 / VERDICT_BITS;

/// The bits of a process in its word.
#[inline(always)]
fn mask(tgid: u32) -> u64 {
    3 << (tgid % PER_WORD * VERDICT_BITS)
}
