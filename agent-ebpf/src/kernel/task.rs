//! The running task.

use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf,
};

use super::field;
use crate::globals::global;

/// `PF_IO_WORKER | PF_KTHREAD` (include/linux/sched.h): the thread works for another one, or for the kernel.
const PF_WORKER: u32 = 0x10 | 0x0020_0000;
/// `PF_KTHREAD`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// Thread group id << 32 | thread id of the running task.
#[inline(always)]
pub(crate) fn pid_tgid() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_pid_tgid() }
}

/// Address of the running task.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_task() }
}

/// Start of the thread, nanoseconds since boot.
#[inline(always)]
pub(crate) fn start(task: u64) -> u64 {
    field::read(task, global!(O_TASK_STRUCT_START_BOOTTIME))
}

/// Start of the thread group, nanoseconds since boot.
#[inline(always)]
pub(crate) fn process_start(task: u64) -> u64 {
    start(field::read(task, global!(O_TASK_STRUCT_GROUP_LEADER)))
}

/// Whether no thread of the task's process is left, for a task that ends.
#[inline(always)]
pub(crate) fn is_last(task: u64) -> bool {
    let signal: u64 = field::read(task, global!(O_TASK_STRUCT_SIGNAL));
    field::read::<u32>(signal, global!(O_SIGNAL_STRUCT_LIVE)) == 0
}

/// What is asked of the running task more than once.
pub(crate) struct Own {
    /// Start of the thread, nanoseconds since boot.
    pub(crate) start_ns: u64,
    /// Start of its group.
    pub(crate) process_start_ns: u64,
    /// `task_struct.flags`.
    pub(crate) flags: u32,
}

/// The running task. Since Linux 5.11 the kernel says of what type it is, and the loads need no helper.
#[inline(always)]
pub(crate) fn own() -> Own {
    if global!(TYPED_TASK) == 0 {
        let task = current();
        return Own {
            start_ns: start(task),
            process_start_ns: process_start(task),
            flags: field::read(task, global!(O_TASK_STRUCT_FLAGS)),
        };
    }
    // SAFETY: a helper without arguments.
    let task: *const u8 = unsafe { bpf_get_current_task_btf() } as *const u8;
    let leader: *const u8 = field::load(task, global!(O_TASK_STRUCT_GROUP_LEADER));
    Own {
        start_ns: field::load(task, global!(O_TASK_STRUCT_START_BOOTTIME)),
        process_start_ns: field::load(leader, global!(O_TASK_STRUCT_START_BOOTTIME)),
        flags: field::load(task, global!(O_TASK_STRUCT_FLAGS)),
    }
}

/// Whether a task with these flags is a worker of io_uring or of the kernel: what it does says nothing about who wanted it.
#[inline(always)]
pub(crate) fn is_worker(flags: u32) -> bool {
    flags & PF_WORKER != 0
}

/// Whether a task with these flags is a kernel thread.
#[inline(always)]
pub(crate) fn is_kernel_thread(flags: u32) -> bool {
    flags & PF_KTHREAD != 0
}
