//! Reads the last lines of the verifier's log (`print_verification_stats` of Linux kernel/bpf/verifier.c).
//!
//! Input: a log, and the instructions that it speaks of. Output: numbers.

use aya_obj::generated::bpf_insn;

/// `BPF_JMP | BPF_CALL` (Linux include/uapi/linux/bpf.h).
const CALL: u8 = 0x85;
/// Source register of a call to a function of the same program.
const PSEUDO_CALL: u8 = 1;
/// The kernel counts each frame in multiples of this (`check_max_stack_depth`).
const FRAME: u64 = 32;
/// Frames in a chain (`MAX_CALL_FRAMES`).
const MAX_FRAMES: usize = 8;

/// What the log says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    /// Instructions walked, on all paths.
    pub(super) processed: Option<u64>,
    /// Bytes of stack in the deepest chain of calls, as the kernel counts them against its limit of 512.
    pub(super) stack_bytes: Option<u64>,
}

impl Statistics {
    pub(super) fn of(log: &str, instructions: &[bpf_insn]) -> Self {
        let mut statistics = Self::default();
        for line in log.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("processed ") {
                let first = rest.split(' ').next().unwrap_or_default();
                statistics.processed = first.parse().ok();
            } else if let Some(rest) = line.strip_prefix("stack depth ") {
                // One number for each function; newer kernels add words behind them.
                let depths = rest.split(' ').next().unwrap_or_default();
                let depths = depths.split('+').map_while(|depth| depth.parse().ok());
                statistics.stack_bytes = Some(deepest(&depths.collect::<Vec<u64>>(), instructions));
            }
        }
        statistics
    }
}

/// The deepest chain; the sum of all functions where the log does not speak of the same functions (the kernel leaves out dead ones).
fn deepest(depths: &[u64], instructions: &[bpf_insn]) -> u64 {
    let frames: Vec<u64> = depths
        .iter()
        .map(|depth| depth.max(&1).next_multiple_of(FRAME))
        .collect();
    let calls: Vec<(usize, usize)> = calls(instructions).collect();
    let mut starts: Vec<usize> = calls.iter().map(|(_, to)| *to).chain([0]).collect();
    starts.sort_unstable();
    starts.dedup();
    if starts.len() != frames.len() {
        return frames.iter().sum();
    }
    let function_of = |at: usize| {
        starts
            .partition_point(|start| *start <= at)
            .saturating_sub(1)
    };
    let edges: Vec<(usize, usize)> = calls
        .iter()
        .map(|(from, to)| (function_of(*from), function_of(*to)))
        .collect();
    // After each round a function's number is the deepest chain of that many calls below it.
    let mut chains = frames.clone();
    for _ in 1..MAX_FRAMES {
        let below = |function: usize| {
            let called = edges.iter().filter(|(from, _)| *from == function);
            called.map(|(_, to)| chains[*to]).max().unwrap_or(0)
        };
        chains = (0..frames.len())
            .map(|function| frames[function] + below(function))
            .collect();
    }
    chains.first().copied().unwrap_or(0)
}

/// Calls of functions of the same program: (instruction, first instruction of the function).
fn calls(instructions: &[bpf_insn]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let is_call = |insn: &bpf_insn| insn.code == CALL && insn.src_reg() == PSEUDO_CALL;
    let calls = instructions.iter().enumerate();
    calls
        .filter(move |(_, insn)| is_call(insn))
        .filter_map(|(at, insn)| Some((at, at.checked_add_signed(insn.imm as isize + 1)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of `length` instructions, with calls (instruction, first instruction of the function).
    fn program(length: usize, calls: &[(usize, usize)]) -> Vec<bpf_insn> {
        let filler = bpf_insn {
            code: 0xb7,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
            off: 0,
            imm: 0,
        };
        let mut program = vec![filler; length];
        for (at, to) in calls {
            program[*at] = bpf_insn {
                code: CALL,
                _bitfield_1: bpf_insn::new_bitfield_1(0, PSEUDO_CALL),
                imm: *to as i32 - *at as i32 - 1,
                ..filler
            };
        }
        program
    }

    fn stack(log: &str, program: &[bpf_insn]) -> Option<u64> {
        Statistics::of(log, program).stack_bytes
    }

    #[test]
    fn reads_the_statistics_of_old_and_new_kernels() {
        let old = "verification time 90 usec\nstack depth 64\nprocessed 1234 insns (limit 1000000) max_states_per_insn 4 total_states 90 peak_states 90 mark_read 12\n";
        let expected = Statistics {
            processed: Some(1234),
            stack_bytes: Some(64),
        };
        assert_eq!(Statistics::of(old, &program(4, &[])), expected);
        assert_eq!(Statistics::of("processed many", &[]), Statistics::default());
    }

    #[test]
    fn adds_up_the_frames_of_the_deepest_chain() {
        // Function 0 calls 1 and 2; 2 calls 3; frames are counted in multiples of 32.
        let calls = [(1, 10), (2, 20), (21, 30)];
        let program = program(40, &calls);
        assert_eq!(stack("stack depth 8+200+64+40", &program), Some(32 + 224));
        assert_eq!(
            stack("stack depth 8+16+64+140", &program),
            Some(32 + 64 + 160)
        );
    }

    #[test]
    fn adds_up_everything_when_functions_are_not_known() {
        assert_eq!(stack("stack depth 32+32+32", &program(5, &[])), Some(96));
    }

    #[test]
    fn survives_calls_that_lead_nowhere_and_circles() {
        let circle = program(6, &[(1, 3), (4, 3), (5, 0)]);
        assert!(stack("stack depth 8+8", &circle).is_some());
        let outside = bpf_insn {
            imm: i32::MIN,
            ..program(1, &[(0, 5)])[0]
        };
        assert!(stack("stack depth 8+8", &[outside]).is_some());
    }
}
