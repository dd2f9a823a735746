//! The spans of one trace in the order in which a person reads them: parents before children, earlier before later.

use std::collections::HashMap;

use crate::span::Span;

/// One line of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Index of the span.
    pub(super) span: usize,
    /// What is drawn before its text.
    pub(super) branch: String,
    /// Index of its first server child: who answered this call.
    pub(super) answered_by: Option<usize>,
    /// Its parent is known by id but not among the spans.
    pub(super) parent_missing: bool,
}

/// Lines of all spans, each exactly once, however their parents are wired: spans whose parent is missing are roots, and a cycle is cut.
pub(super) fn lines(spans: &[Span]) -> Vec<Line> {
    let by_id: HashMap<[u8; 8], usize> = spans
        .iter()
        .enumerate()
        .map(|(index, span)| (span.span_id, index))
        .collect();
    let parent_of = |index: usize| {
        let parent = spans[index].parent_span_id?;
        by_id
            .get(&parent)
            .copied()
            .filter(|&parent| parent != index)
    };
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); spans.len()];
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|&index| (spans[index].start_unix_ns, spans[index].span_id));
    let mut roots = Vec::new();
    for &index in &order {
        match parent_of(index) {
            Some(parent) => children[parent].push(index),
            None => roots.push(index),
        }
    }

    let mut seen = vec![false; spans.len()];
    let mut lines = Vec::with_capacity(spans.len());
    // Spans in a cycle hang below no root: each cycle is entered at its earliest span.
    for start in roots.into_iter().chain(order) {
        let mut stack = vec![(start, String::new(), String::new())];
        while let Some((index, branch, indent)) = stack.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            lines.push(Line {
                span: index,
                branch,
                answered_by: children[index]
                    .iter()
                    .copied()
                    .find(|&child| spans[child].kind == crate::span::SpanKind::Server),
                parent_missing: spans[index].parent_span_id.is_some() && parent_of(index).is_none(),
            });
            let below = children[index].iter().filter(|&&child| !seen[child]);
            let count = below.clone().count();
            // Pushed last to first, so that the first child is taken next.
            for (position, &child) in below.enumerate().collect::<Vec<_>>().into_iter().rev() {
                let is_last = position + 1 == count;
                let (corner, line) = if is_last {
                    ("└ ", "  ")
                } else {
                    ("├ ", "│ ")
                };
                stack.push((
                    child,
                    format!("{indent}{corner}"),
                    format!("{indent}{line}"),
                ));
            }
        }
    }
    lines
}
