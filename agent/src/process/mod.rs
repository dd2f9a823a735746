//! Who the processes are: facts read once per process, and the OTLP Resource made of them.

mod resource;

pub use self::resource::{ProcessFacts, ProcessKey, Resource};
