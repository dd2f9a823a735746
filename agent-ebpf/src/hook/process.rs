//! Processes and threads: tracepoints `sched_process_exec(task, old_pid, bprm)`, `sched_process_exit(task)` and
//! `sched_process_fork(parent, child)` (include/trace/events/sched.h).

use agent_common::abi::{Exec, Exit, Fork, Kind};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    conn, context,
    decide::root,
    emit,
    globals::global,
    kernel::{field, task},
    log,
    maps::{CALLS, THREADS},
    select,
};

#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    exec(ctx.arg(0));
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    exit(ctx.arg(0));
    0
}

#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    fork(ctx.arg(0), ctx.arg(1));
    0
}

#[inline(always)]
fn tgid(task: u64) -> u32 {
    field::read(task, global!(O_TASK_STRUCT_TGID))
}

#[inline(always)]
fn pid(task: u64) -> u32 {
    field::read(task, global!(O_TASK_STRUCT_PID))
}

#[inline(always)]
fn exec(task: u64) {
    let own = tgid(task);
    if own == global!(OWN_TGID) {
        return;
    }
    // What was decided about the old program does not hold for the new one.
    select::forget(own);
    root::forget(own);
    let parent: u64 = field::read(task, global!(O_TASK_STRUCT_REAL_PARENT));
    let reported = emit::urgent(&Exec {
        header: emit::header(Kind::Exec, size_of::<Exec>(), conn::now(), 0),
        process_start_ns: task::process_start(task),
        tgid: own,
        parent_tgid: tgid(parent),
    });
    if !reported {
        log::ut_refused(log::EXEC, own);
    }
}

#[inline(always)]
fn exit(task: u64) {
    let (tgid, pid) = (tgid(task), pid(task));
    let leader = u64::from(tgid) << 32 | u64::from(tgid);
    if global!(TLS) != 0 {
        let _ = CALLS.remove(u64::from(tgid) << 32 | u64::from(pid));
    }
    if tgid != pid {
        let _ = THREADS.remove(u64::from(tgid) << 32 | u64::from(pid));
    }
    // The first thread may end before the others. Two that end at one time may both be the last, and user space hears of it twice.
    if !task::is_last(task) {
        return;
    }
    let _ = THREADS.remove(leader);
    root::forget(tgid);
    emit::record(&Exit {
        header: emit::header(Kind::Exit, size_of::<Exit>(), conn::now(), 0),
        process_start_ns: task::process_start(task),
        tgid,
        exit_code: field::read(task, global!(O_TASK_STRUCT_EXIT_CODE)),
    });
}

#[inline(always)]
fn fork(parent: u64, child: u64) {
    let (parent_tgid, child_tgid) = (tgid(parent), tgid(child));
    if parent_tgid == child_tgid {
        let pid_tgid = task::pid_tgid();
        if select::is_selected(pid_tgid) {
            let child_id = u64::from(child_tgid) << 32 | u64::from(pid(child));
            context::descend(pid_tgid, child_id, task::start(child));
        }
        return;
    }
    // The id may have been another process's.
    select::forget_former(child_tgid);
    root::copied(parent_tgid, child_tgid);
    emit::record(&Fork {
        header: emit::header(Kind::Fork, size_of::<Fork>(), conn::now(), 0),
        process_start_ns: task::process_start(child),
        tgid: child_tgid,
        parent_tgid,
    });
}
