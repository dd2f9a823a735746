//! Requests from several connections at once, each with an id in its path, so that what belongs together is known from the outside.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Result, ensure};

use super::{
    http::Connection,
    trace::{Span, Spans},
};

/// Sends requests for `PREFIX/1` to `PREFIX/COUNT` over `connections` keep-alive connections at once; every answer must be 200 and repeat
/// the id in its body.
///
/// # Errors
/// When an answer is another one: then the workload is at fault, not the agent.
pub(crate) fn numbered(port: u16, prefix: &str, count: u32, connections: u32) -> Result<()> {
    let next = AtomicU32::new(1);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut connection = Connection::open(port)?;
                    loop {
                        let id = next.fetch_add(1, Ordering::Relaxed);
                        if id > count {
                            return Ok(());
                        }
                        let response = connection.get(&format!("{prefix}/{id}"))?;
                        ensure!(
                            response.status == 200
                                && response.text().contains(&format!("id={id};")),
                            "request {id} was answered {}: {}",
                            response.status,
                            response.text()
                        );
                    }
                })
            })
            .collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().expect("clients do not panic"))
    })
}

/// How parent links compare with the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// The parent is the request on whose behalf the call was made.
    pub(crate) right: usize,
    /// The parent is another request.
    pub(crate) wrong: usize,
    /// There is no parent.
    pub(crate) missing: usize,
}

/// Judges the links of `children` to their parents among `all`. The truth is the id, the path's second element: a call made on behalf of
/// `/f/17` asks for `/b/17...`. A parent of another service or with another id is wrong.
pub(crate) fn judge(all: &Spans, children: &Spans, parent_service: &str) -> Links {
    let mut links = Links::default();
    for child in &children.0 {
        match all.parent_of(child) {
            None if child.otlp.parent_span_id.is_empty() => links.missing += 1,
            // It has no path to be judged by: its message was missed by the kernel programs, and that is counted.
            Some(parent) if parent.get("error.type") == "unobserved" => links.missing += 1,
            // A parent that was not exported cannot be judged right.
            None => links.wrong += 1,
            Some(parent) if parent.service() == parent_service && id_of(parent) == id_of(child) => {
                links.right += 1;
            }
            Some(_) => links.wrong += 1,
        }
    }
    links
}

/// The id in a path like `/f/17` or `/b/17/2`.
pub(crate) fn id_of(span: &Span) -> Option<u32> {
    span.path().split('/').nth(2)?.parse().ok()
}
