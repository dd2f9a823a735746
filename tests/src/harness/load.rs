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
    numbered_with(port, prefix, count, connections, &|_| String::new())
}

/// The same with further header lines for each id, every one ended by CRLF.
///
/// # Errors
/// As [`numbered`].
pub(crate) fn numbered_with(
    port: u16,
    prefix: &str,
    count: u32,
    connections: u32,
    headers: &(dyn Fn(u32) -> String + Sync),
) -> Result<()> {
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
                        let response =
                            connection.get_with(&format!("{prefix}/{id}"), &headers(id))?;
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

/// The same where requests bring a context along, in the header lines that `headers` gives for each id. A child that hangs below what its own request
/// brought has no link to that request, and no wrong one.
pub(crate) fn judge_with(
    all: &Spans,
    children: &Spans,
    parent_service: &str,
    headers: &dyn Fn(u32) -> String,
) -> Links {
    let by_rules = children.filter(|child| {
        let context = format!("-{}-{}-", child.trace_id(), child.parent_id());
        !id_of(child).is_some_and(|id| headers(id).contains(&context))
    });
    let links = judge(all, &by_rules, parent_service);
    Links {
        missing: links.missing + children.len() - by_rules.len(),
        ..links
    }
}

/// The id in a path like `/f/17` or `/b/17/2`.
pub(crate) fn id_of(span: &Span) -> Option<u32> {
    span.path().split('/').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::trace::v1::Span as OtlpSpan;

    use super::*;

    fn span(id: u8, parent: Option<u8>, service: &str, path: &str) -> Span {
        Span {
            otlp: OtlpSpan {
                trace_id: vec![7; 16],
                span_id: vec![id; 8],
                parent_span_id: parent.map_or(Vec::new(), |parent| vec![parent; 8]),
                ..OtlpSpan::default()
            },
            attributes: [("url.path".to_owned(), path.to_owned())].into(),
            resource: [("service.name".to_owned(), service.to_owned())].into(),
        }
    }

    #[test]
    fn links_are_judged_by_the_id_in_the_path_and_by_what_a_request_brought() {
        let all = Spans(vec![
            span(1, None, "front", "/f/1"),
            span(2, None, "front", "/f/2"),
        ]);
        let brought = |id: u32| {
            let id = id + 0x60;
            format!(
                "traceparent: 00-{}-{}-01\r\n",
                "07".repeat(16),
                format!("{id:02x}").repeat(8)
            )
        };
        for (parent, service, with, without) in [
            (Some(1), "front", [1, 0, 0], [1, 0, 0]),
            (Some(2), "front", [0, 1, 0], [0, 1, 0]),
            (Some(1), "other", [0, 1, 0], [0, 1, 0]),
            (None, "front", [0, 0, 1], [0, 0, 1]),
            // Its own request brought that one, another request this one.
            (Some(0x61), "front", [0, 0, 1], [0, 1, 0]),
            (Some(0x62), "front", [0, 1, 0], [0, 1, 0]),
        ] {
            let children = Spans(vec![span(9, parent, "front", "/b/1/1")]);
            let counts = |links: Links| [links.right, links.wrong, links.missing];
            assert_eq!(
                counts(judge_with(&all, &children, service, &brought)),
                with,
                "{parent:?}"
            );
            assert_eq!(
                counts(judge(&all, &children, service)),
                without,
                "{parent:?}"
            );
        }
    }
}
