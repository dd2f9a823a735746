use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
macro_rules! t { ($($n:ident $f:path),*) => { $( #[raw_tracepoint] pub fn $n(_c: RawTracePointContext) -> i32 { $f(0) as i32 } )* } }
t!(a_rewind crate::capture::ut_rewind_vector, b_read crate::capture::ut_read_block, c_lines crate::capture::ut_find_lines, d_judge crate::capture::ut_judge, e_emit crate::emit::ut_emit_segment, f_first crate::conn::ut_first_seen, g_complete crate::capture::ut_complete, h_step crate::capture::ut_step, i_segment crate::capture::ut_segment);
