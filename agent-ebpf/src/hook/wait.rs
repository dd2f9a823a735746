//! Threads that go to wait for events: `do_epoll_wait` (fs/eventpoll.c), `do_sys_poll` and `core_sys_select` (fs/select.c). Their arguments
//! differ between kernels and are not read.

use aya_ebpf::{macros::fentry, programs::FEntryContext};

use crate::{context, kernel::task, select};

#[fentry(function = "do_epoll_wait")]
pub fn do_epoll_wait_enter(_ctx: FEntryContext) -> i32 {
    wait();
    0
}

#[fentry(function = "do_sys_poll")]
pub fn do_sys_poll_enter(_ctx: FEntryContext) -> i32 {
    wait();
    0
}

#[fentry(function = "core_sys_select")]
pub fn core_sys_select_enter(_ctx: FEntryContext) -> i32 {
    wait();
    0
}

#[inline(always)]
fn wait() {
    let pid_tgid = task::pid_tgid();
    if select::is_selected(pid_tgid) {
        context::wait(pid_tgid);
    }
}
