//! The table of hooks: which program belongs on which place in the kernel, and what it is for.
//!
//! Adding a hook is one entry here. Nothing is decided: [`plan`](super::plan) does that from this table and the kernel's BTF.

use serde::Serialize;

pub use super::feature::Feature;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "target", rename_all = "snake_case")]
pub enum Attach {
    /// Entry of a kernel function (fentry, since Linux 5.5).
    Entry(&'static str),
    /// Return from a kernel function (fexit, since Linux 5.5).
    Exit(&'static str),
    /// A tracepoint with typed arguments (tp_btf, since Linux 5.5).
    Tracepoint(&'static str),
    /// Nowhere: user space runs it (BPF_PROG_TEST_RUN of a raw tracepoint program, since Linux 5.10).
    Run,
    /// Functions of the files that processes have mapped (uprobe and uretprobe), as such files are found.
    Library,
}

impl Attach {
    /// The kernel function whose prototype matters; tracepoints have none in BTF that can be looked up by name.
    #[must_use]
    pub const fn function(self) -> Option<&'static str> {
        match self {
            Self::Entry(function) | Self::Exit(function) => Some(function),
            Self::Tracepoint(_) | Self::Run | Self::Library => None,
        }
    }
}

impl std::fmt::Display for Attach {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Entry(function) => write!(to, "fentry {function}"),
            Self::Exit(function) => write!(to, "fexit {function}"),
            Self::Tracepoint(name) => write!(to, "tp_btf {name}"),
            Self::Run => to.write_str("attached nowhere, run by the agent"),
            Self::Library => to.write_str("functions of libraries"),
        }
    }
}

/// Order of attachment: state is cleaned up from the first moment, and data comes when everything else is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Deletes state of things that end.
    Cleanup,
    /// Says who and when.
    Context,
    /// Stands in for what sees data: the kernel runs programs of one function in the opposite order.
    Spare,
    /// Sends and receives.
    Data,
}

/// One program and the place it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name of the program in the object.
    pub program: &'static str,
    /// Where it is attached.
    pub attach: Attach,
    /// Argument types of the function as the program reads them; a function with others is refused. Empty: the program reads none.
    pub arguments: &'static [&'static str],
    /// What it is for.
    pub feature: Feature,
    /// When it is attached.
    pub stage: Stage,
    /// The program in whose place it may stand: it is used where that one does not fit.
    pub instead_of: Option<&'static str>,
    /// The program array of the body it goes on with.
    pub goes_on_in: Option<&'static str>,
    /// Where newer kernels lead what passes the function now.
    pub until: Option<Until>,
}

/// The end of a kernel function: which one came in its place, and what that one calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until {
    /// A kernel that has this function needs the hook no more.
    pub function: &'static str,
    /// A function with a hook of its own, which sees all of it then.
    pub through: &'static str,
}

/// Stands for an argument that the program does not read, whatever its type.
pub const UNREAD: &str = "_";

const SEND: &[&str] = &["struct socket *", "struct msghdr *", "size_t"];
const RECEIVE: &[&str] = &["struct socket *", "struct msghdr *", "size_t", "int"];

/// From Linux 6.5 on sendfile and splice call the same function as any send.
const PAGE: &[&str] = &["struct socket *", "struct page *", "int", "size_t", "int"];
const PAGES: Until = Until {
    function: "splice_to_socket",
    through: "unix_stream_sendmsg",
};

/// The address became a `struct sockaddr_unsized *` in Linux 6.19.
const UNIX_CONNECT: &[&str] = &["struct socket *", UNREAD, "int", "int"];

/// Every hook of the object `capture`. Prototypes: Linux net/ipv4/af_inet.c, net/ipv6/af_inet6.c, net/unix/af_unix.c,
/// net/ipv4/inet_connection_sock.c, fs/eventpoll.c, fs/select.c, 5.10 to 7.2.
pub const HOOKS: &[Hook] = &[
    Hook::new(
        "inet_sock_destruct_enter",
        Attach::Entry("inet_sock_destruct"),
        Feature::Inet,
        Stage::Cleanup,
    )
    .reads(&["struct sock *"]),
    Hook::new(
        "unix_release_sock_enter",
        Attach::Entry("unix_release_sock"),
        Feature::Unix,
        Stage::Cleanup,
    )
    .reads(&["struct sock *", "int"]),
    Hook::new(
        "sched_process_exit",
        Attach::Tracepoint("sched_process_exit"),
        Feature::Processes,
        Stage::Cleanup,
    ),
    Hook::new(
        "sched_process_exec",
        Attach::Tracepoint("sched_process_exec"),
        Feature::Processes,
        Stage::Context,
    ),
    Hook::new(
        "sched_process_fork",
        Attach::Tracepoint("sched_process_fork"),
        Feature::Processes,
        Stage::Context,
    ),
    // Their arguments differ between kernels and are not read.
    Hook::new(
        "do_epoll_wait_enter",
        Attach::Entry("do_epoll_wait"),
        Feature::Waits,
        Stage::Context,
    ),
    Hook::new(
        "do_sys_poll_enter",
        Attach::Entry("do_sys_poll"),
        Feature::Waits,
        Stage::Context,
    ),
    Hook::new(
        "core_sys_select_enter",
        Attach::Entry("core_sys_select"),
        Feature::Waits,
        Stage::Context,
    ),
    Hook::new(
        "inet_sock_set_state",
        Attach::Tracepoint("inet_sock_set_state"),
        Feature::Connects,
        Stage::Context,
    ),
    Hook::new(
        "inet_csk_accept_exit",
        Attach::Exit("inet_csk_accept"),
        Feature::Accepts,
        Stage::Context,
    ),
    Hook::new(
        "unix_stream_connect_exit",
        Attach::Exit("unix_stream_connect"),
        Feature::UnixConnects,
        Stage::Context,
    )
    .reads(UNIX_CONNECT),
    Hook::new(
        "live_positions",
        Attach::Run,
        Feature::LivePositions,
        Stage::Context,
    ),
    Hook::new(
        "tcp_retransmit_skb",
        Attach::Tracepoint("tcp_retransmit_skb"),
        Feature::Retransmissions,
        Stage::Context,
    ),
    Hook::new("tls_read", Attach::Library, Feature::Tls, Stage::Context),
    Hook::new(
        "tls_read_stored",
        Attach::Library,
        Feature::Tls,
        Stage::Context,
    ),
    Hook::new("tls_write", Attach::Library, Feature::Tls, Stage::Context).goes_on_in("TLS_CALL"),
    Hook::new(
        "tls_write_stored",
        Attach::Library,
        Feature::Tls,
        Stage::Context,
    )
    .goes_on_in("TLS_CALL"),
    Hook::new(
        "tls_handshake",
        Attach::Library,
        Feature::Tls,
        Stage::Context,
    ),
    Hook::new("tls_free", Attach::Library, Feature::Tls, Stage::Context),
    Hook::new("tls_return", Attach::Library, Feature::Tls, Stage::Context).goes_on_in("TLS_CALL"),
    Hook::new(
        "inet_sock_set_state_spare",
        Attach::Tracepoint("inet_sock_set_state"),
        Feature::Spares,
        Stage::Spare,
    ),
    Hook::new(
        "inet_recvmsg_spare",
        Attach::Exit("inet_recvmsg"),
        Feature::Spares,
        Stage::Spare,
    )
    .reads(RECEIVE)
    .goes_on_in("INET_RECEIVE"),
    Hook::new(
        "inet6_recvmsg_spare",
        Attach::Exit("inet6_recvmsg"),
        Feature::Spares,
        Stage::Spare,
    )
    .reads(RECEIVE)
    .goes_on_in("INET6_RECEIVE"),
    Hook::new(
        "unix_stream_recvmsg_spare",
        Attach::Exit("unix_stream_recvmsg"),
        Feature::Spares,
        Stage::Spare,
    )
    .reads(RECEIVE)
    .goes_on_in("UNIX_RECEIVE"),
    Hook::new(
        "unix_stream_sendmsg_exit_spare",
        Attach::Exit("unix_stream_sendmsg"),
        Feature::Spares,
        Stage::Spare,
    )
    .reads(SEND),
    Hook::new(
        "unix_stream_sendpage_spare",
        Attach::Exit("unix_stream_sendpage"),
        Feature::Spares,
        Stage::Spare,
    )
    .reads(PAGE)
    .until(PAGES),
    Hook::new(
        "inet_sendmsg_spare",
        Attach::Entry("inet_sendmsg"),
        Feature::Spares,
        Stage::Spare,
    )
    .reads(SEND)
    .goes_on_in("INET_SEND"),
    Hook::new(
        "inet6_sendmsg_spare",
        Attach::Entry("inet6_sendmsg"),
        Feature::Spares,
        Stage::Spare,
    )
    .reads(SEND)
    .goes_on_in("INET6_SEND"),
    Hook::new(
        "unix_stream_sendmsg_spare",
        Attach::Entry("unix_stream_sendmsg"),
        Feature::Spares,
        Stage::Spare,
    )
    .reads(SEND)
    .goes_on_in("UNIX_SEND"),
    Hook::new(
        "inet_recvmsg_exit",
        Attach::Exit("inet_recvmsg"),
        Feature::Inet,
        Stage::Data,
    )
    .reads(RECEIVE)
    .goes_on_in("INET_RECEIVE"),
    Hook::new(
        "inet6_recvmsg_exit",
        Attach::Exit("inet6_recvmsg"),
        Feature::Inet6,
        Stage::Data,
    )
    .reads(RECEIVE)
    .goes_on_in("INET6_RECEIVE"),
    Hook::new(
        "unix_stream_recvmsg_exit",
        Attach::Exit("unix_stream_recvmsg"),
        Feature::Unix,
        Stage::Data,
    )
    .reads(RECEIVE)
    .goes_on_in("UNIX_RECEIVE"),
    Hook::new(
        "unix_stream_sendmsg_exit",
        Attach::Exit("unix_stream_sendmsg"),
        Feature::Unix,
        Stage::Data,
    )
    .reads(SEND),
    Hook::new(
        "unix_stream_sendpage_exit",
        Attach::Exit("unix_stream_sendpage"),
        Feature::UnixFiles,
        Stage::Data,
    )
    .reads(PAGE)
    .until(PAGES),
    Hook::new(
        "inet_sendmsg_enter",
        Attach::Entry("inet_sendmsg"),
        Feature::Inet,
        Stage::Data,
    )
    .reads(SEND)
    .goes_on_in("INET_SEND"),
    Hook::new(
        "inet6_sendmsg_enter",
        Attach::Entry("inet6_sendmsg"),
        Feature::Inet6,
        Stage::Data,
    )
    .reads(SEND)
    .goes_on_in("INET6_SEND"),
    Hook::new(
        "unix_stream_sendmsg_enter",
        Attach::Entry("unix_stream_sendmsg"),
        Feature::Unix,
        Stage::Data,
    )
    .reads(SEND)
    .goes_on_in("UNIX_SEND"),
];

impl Hook {
    const fn new(program: &'static str, attach: Attach, feature: Feature, stage: Stage) -> Self {
        Self {
            program,
            attach,
            arguments: &[],
            feature,
            stage,
            instead_of: None,
            goes_on_in: None,
            until: None,
        }
    }

    const fn reads(self, arguments: &'static [&'static str]) -> Self {
        Self { arguments, ..self }
    }

    const fn goes_on_in(self, array: &'static str) -> Self {
        Self {
            goes_on_in: Some(array),
            ..self
        }
    }

    const fn until(self, until: Until) -> Self {
        Self {
            until: Some(until),
            ..self
        }
    }

    /// The program for which this hook was meant: its own, or the one it may replace.
    #[must_use]
    pub fn role(&self) -> &'static str {
        self.instead_of.unwrap_or(self.program)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn has_each_program_once_and_a_hook_for_each_feature() {
        let programs: HashSet<_> = HOOKS.iter().map(|hook| hook.program).collect();
        assert_eq!(programs.len(), HOOKS.len());
        for feature in Feature::ALL {
            assert!(
                HOOKS.iter().any(|hook| hook.feature == *feature),
                "{feature:?}"
            );
        }
    }

    #[test]
    fn names_programs_by_what_they_attach_to() {
        let spare = |hook: &Hook| hook.feature == Feature::Spares;
        for hook in HOOKS.iter().filter(|hook| spare(hook)) {
            assert!(hook.program.ends_with("_spare"), "{}", hook.program);
        }
        let named = |hook: &&Hook| hook.instead_of.is_none() && !spare(hook);
        for hook in HOOKS.iter().filter(named) {
            let expected = match hook.attach {
                Attach::Entry(function) => format!("{function}_enter"),
                Attach::Exit(function) => format!("{function}_exit"),
                Attach::Tracepoint(name) => name.to_owned(),
                Attach::Run | Attach::Library => hook.program.to_owned(),
            };
            assert_eq!(hook.program, expected);
        }
    }

    /// Of programs on one function the kernel runs the one that was attached last first (`bpf_trampoline_link_prog`), of those on one tracepoint the
    /// one that was attached first (`tracepoint_add_func`).
    #[test]
    fn spares_run_behind_the_programs_that_they_stand_in_for() {
        for (position, spare) in HOOKS.iter().enumerate() {
            if spare.feature != Feature::Spares {
                continue;
            }
            let mut others = HOOKS.iter().enumerate();
            let first = others
                .find(|(_, hook)| hook.attach == spare.attach && hook.feature != Feature::Spares);
            let (first, _) = first.expect("a spare stands in for a program");
            let is_tracepoint = matches!(spare.attach, Attach::Tracepoint(_));
            assert_eq!(first < position, is_tracepoint, "{}", spare.program);
        }
    }

    #[test]
    fn replaces_only_programs_that_come_before() {
        for (position, hook) in HOOKS.iter().enumerate() {
            let Some(replaced) = hook.instead_of else {
                continue;
            };
            let earlier = HOOKS[..position]
                .iter()
                .find(|other| other.program == replaced);
            assert_eq!(
                earlier.map(|other| (other.feature, other.stage)),
                Some((hook.feature, hook.stage))
            );
        }
    }
}
