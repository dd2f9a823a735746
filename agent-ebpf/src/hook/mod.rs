//! Entry functions, one file per family of attach points. Each reads its arguments, calls one function and returns.

pub(crate) mod body;
pub(crate) mod inet;
pub(crate) mod live;
pub(crate) mod process;
pub(crate) mod retransmit;
pub(crate) mod state;
pub(crate) mod tls;
pub(crate) mod unix;
pub(crate) mod wait;
