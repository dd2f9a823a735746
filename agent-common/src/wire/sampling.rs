//! Head sampling by the trace id alone: every part of a trace that sees the same threshold decides alike.
//!
//! Source: OpenTelemetry, "Probability Sampling" (consistent probability sampling): the low 56 bits of a trace id are its randomness, and a
//! trace is sampled when they are at least the rejection threshold. Nothing here is stored or counted, and a parent's decision is not
//! looked at: it wins, elsewhere.

/// Thresholds lie between 0 (all traces are sampled) and this (none is).
pub const NEVER: u64 = 1 << 56;

/// Whether a trace that begins here is sampled.
#[must_use]
#[inline(always)]
pub const fn is_sampled(trace_id: &[u8; 16], threshold: u64) -> bool {
    passes(randomness(trace_id), threshold)
}

/// Whether a trace id with this [`randomness`] is sampled.
#[must_use]
#[inline(always)]
pub const fn passes(randomness: u64, threshold: u64) -> bool {
    randomness >= threshold
}

/// The low 56 bits of a trace id.
#[must_use]
#[inline(always)]
pub const fn randomness(trace_id: &[u8; 16]) -> u64 {
    let id = trace_id;
    u64::from_be_bytes([0, id[9], id[10], id[11], id[12], id[13], id[14], id[15]])
}

/// The threshold that lets through `ratio` of all traces; values outside 0 to 1 count as the nearer end, NaN as 1.
///
/// The kernel gets its result: BPF has no floating point.
#[cfg(not(target_arch = "bpf"))]
#[must_use]
pub fn threshold(ratio: f64) -> u64 {
    if ratio.is_nan() {
        return 0;
    }
    // 2^56 is exact in f64, and a ratio within 0 to 1 keeps the product within u64.
    let accepted = (ratio.clamp(0.0, 1.0) * NEVER as f64) as u64;
    NEVER - accepted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knows_the_ends() {
        assert_eq!(threshold(1.0), 0);
        assert_eq!(threshold(0.0), NEVER);
        assert_eq!(threshold(7.0), 0);
        assert_eq!(threshold(-1.0), NEVER);
        assert_eq!(threshold(f64::NAN), 0);
        assert!(is_sampled(&[0; 16], threshold(1.0)));
        assert!(!is_sampled(&[0xff; 16], threshold(0.0)));
    }

    /// OpenTelemetry, "TraceState: Probability Sampling", rejection thresholds of 25 % (`c`), 10 % (`e6666...`) and 1 % (`fd70a...`).
    #[test]
    fn gives_the_thresholds_of_the_specification() {
        assert_eq!(threshold(0.25), 0xc0_0000_0000_0000);
        assert_eq!(threshold(0.5), 0x80_0000_0000_0000);
        assert_eq!(threshold(0.1) >> 36, 0xe_6666);
        assert_eq!(threshold(0.01) >> 36, 0xf_d70a);
    }

    #[test]
    fn looks_only_at_the_low_56_bits() {
        let mut id = [0xff_u8; 16];
        id[9..].fill(0);
        assert!(is_sampled(&id, 0));
        assert!(!is_sampled(&id, 1));
        assert_eq!(randomness(&[0xff; 16]), NEVER - 1);
    }

    proptest! {
        #[test]
        fn a_larger_ratio_keeps_what_a_smaller_one_kept(
            id in any::<[u8; 16]>(), first in 0.0..=1.0_f64, second in 0.0..=1.0_f64
        ) {
            let (small, large) = (first.min(second), first.max(second));
            if is_sampled(&id, threshold(small)) {
                prop_assert!(is_sampled(&id, threshold(large)));
            }
        }
    }

    /// 65,536 evenly spread ids: the share that is sampled is the ratio, to one id.
    #[test]
    fn lets_the_ratio_through() {
        for ratio in [0.001, 0.1, 0.25, 0.5, 0.9] {
            let sampled = (0..=u16::MAX).filter(|high| {
                let mut id = [0; 16];
                id[9..11].copy_from_slice(&high.to_be_bytes());
                is_sampled(&id, threshold(ratio))
            });
            let share = sampled.count() as f64 / 65_536.0;
            assert!((share - ratio).abs() <= 1.0 / 65_536.0, "{ratio}: {share}");
        }
    }
}
