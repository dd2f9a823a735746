//! Who the processes are: which are traced, facts read once per process, and the OTLP Resource made of them.
//!
//! Input: `/proc` (or the facts of a recording), changes told by the kernel, selectors. Output: [`Resource`]s, verdicts,
//! runtimes. It reads processes and executable images; it never writes to, attaches to or signals one.

pub mod cgroup;
pub mod connections;
pub mod dispatch;
#[cfg(test)]
pub(crate) mod fixture;
pub mod glob;
pub mod host;
pub mod identity;
pub mod kubernetes;
pub mod mapped;
pub mod program;
mod resource;
pub mod runtime;
pub mod selection;
pub mod source;
pub mod table;

pub use self::{
    dispatch::Dispatch,
    glob::Glob,
    host::Host,
    identity::IdentityOptions,
    resource::{ProcessFacts, ProcessKey, Resource},
    runtime::Runtime,
    selection::{Choice, PortRange, Selection, Selectors},
    source::{NoProc, Proc, ProcSource, StartTicks},
    table::{ProcessChange, ProcessTable},
};
