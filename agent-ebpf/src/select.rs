//! Who is traced.

use agent_common::abi::{VERDICT_BITS, Verdict};

use crate::{globals::global, maps::SELECTION};

/// What user space has decided about a process.
#[inline(always)]
pub(crate) fn verdict(pid_tgid: u64) -> u8 {
    let tgid = (pid_tgid >> 32) as u32;
    const PER_WORD: u32 = 64 / VERDICT_BITS;
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
    const PER_WORD: u32 = 64 / VERDICT_BITS;
    if let Some(word) = SELECTION.get_ptr_mut(tgid / PER_WORD) {
        let mask = 3u64 << (tgid % PER_WORD * VERDICT_BITS);
        // SAFETY: an aligned word of the map; a concurrent change of a neighbour's bits may be lost, and user space repairs it with its next pass.
        unsafe {
            if *word & mask != 0 {
                *word &= !mask;
            }
        }
    }
}
