//! What is known of a process, and the OTLP Resource that stands for it.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

/// Identity of a process: a reused pid has another start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessKey {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Start time of the thread group as the kernel gives it (`start_boottime`, nanoseconds since boot). `/proc` knows it to
    /// 10 ms only: compare a key made from it through [`StartTicks`](super::StartTicks).
    pub start_ns: u64,
}

/// What was read of a process when it was examined; serialised into recordings, so that a replay needs no /proc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Which process.
    pub key: ProcessKey,
    /// The Resource of its spans.
    pub resource: Resource,
}

/// Attributes of one service instance, in the order in which they are exported. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    attributes: Arc<[(Cow<'static, str>, String)]>,
}

impl Resource {
    /// A Resource of these attributes.
    #[must_use]
    pub fn new(attributes: Vec<(Cow<'static, str>, String)>) -> Self {
        Self {
            attributes: attributes.into(),
        }
    }

    /// The attributes, in export order.
    #[must_use]
    pub fn attributes(&self) -> &[(Cow<'static, str>, String)] {
        &self.attributes
    }

    /// The value of an attribute.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// `service.name`, or `unknown_service` as the OpenTelemetry specification asks.
    #[must_use]
    pub fn service_name(&self) -> &str {
        self.get("service.name").unwrap_or("unknown_service")
    }

    /// A number that stands for this handle and its clones, and for no other handle as long as one of them lives.
    #[must_use]
    pub fn handle(&self) -> u64 {
        Arc::as_ptr(&self.attributes).addr() as u64
    }
}
