//! The queue between the pipeline and an exporter: bounded by spans and by bytes, filled without waiting, drained in batches.
//!
//! When it is full the **newest** spans are dropped: traces that are already queued stay whole, and it is what the OpenTelemetry SDKs'
//! batch processor does, so nobody is surprised.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::span::Span;

/// Bounds of a queue and of what is taken from it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Spans held at most.
    pub spans: usize,
    /// Bytes held at most, by [`estimated_bytes`].
    pub bytes: usize,
    /// Spans in a batch at most.
    pub batch_spans: usize,
    /// Bytes in a batch at most, by [`estimated_bytes`]; a single larger span is a batch of its own. Receivers refuse messages over 4 MiB
    /// by default (gRPC), and the estimate is above the encoded size.
    pub batch_bytes: usize,
    /// How long the first span of a batch waits for company.
    pub delay: Duration,
}

impl Default for Limits {
    /// 16,384 spans, 8 MiB; batches of 512 spans, 1 MiB, one second.
    fn default() -> Self {
        Self {
            spans: 16_384,
            bytes: 8 << 20,
            batch_spans: 512,
            batch_bytes: 1 << 20,
            delay: Duration::from_secs(1),
        }
    }
}

/// Memory that a span holds, in bytes, near enough to bound a queue by it; never less than what OTLP encodes it to.
#[must_use]
pub fn estimated_bytes(span: &Span) -> usize {
    256 + span.name.len()
        + span.trace_state.as_deref().map_or(0, str::len)
        + span.attributes.encoded().len()
        + span
            .events
            .iter()
            .map(|event| 64 + event.name.len() + event.attributes.encoded().len())
            .sum::<usize>()
        + span
            .links
            .iter()
            .map(|link| 64 + link.attributes.encoded().len())
            .sum::<usize>()
}

/// A bounded queue of spans with one consumer.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// As they were pushed, so that no span is moved; none is empty.
    chunks: VecDeque<Chunk>,
    /// Spans in all of them.
    spans: usize,
    /// Their bytes.
    bytes: usize,
    /// When the oldest span of an otherwise empty queue came.
    waiting_since: Option<Instant>,
    closed: bool,
}

#[derive(Debug)]
struct Chunk {
    spans: Vec<Span>,
    bytes: usize,
}

/// Spans that leave together, in order.
#[derive(Debug, Default)]
pub struct Batch(Vec<Vec<Span>>);

impl Batch {
    /// Its spans.
    pub fn iter(&self) -> impl Iterator<Item = &Span> {
        self.0.iter().flatten()
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Takes as many spans as there is room for, in order; returns how many were dropped. Never waits for the consumer.
    pub fn push(&self, mut spans: Vec<Span>) -> usize {
        let mut state = self.lock();
        let was_empty = state.spans == 0;
        let pushed = spans.len();
        let mut bytes = spans.iter().map(estimated_bytes).sum();
        if state.closed
            || state.spans + spans.len() > self.limits.spans
            || state.bytes.saturating_add(bytes) > self.limits.bytes
        {
            bytes = self.retain_fitting(&state, &mut spans);
        }
        let count = spans.len();
        if spans.capacity() > 2 * count {
            spans.shrink_to_fit();
        }
        if count > 0 {
            state.spans += count;
            state.bytes += bytes;
            state.chunks.push_back(Chunk { spans, bytes });
        }
        if was_empty && count > 0 {
            state.waiting_since = Some(Instant::now());
        }
        if was_empty || self.is_batch(&state) {
            self.changed.notify_one();
        }
        pushed - count
    }

    /// Leaves out the spans for which there is no room; gives the bytes of the others.
    fn retain_fitting(&self, state: &State, spans: &mut Vec<Span>) -> usize {
        let (mut count, mut bytes) = (state.spans, state.bytes);
        spans.retain(|span| {
            let with_it = bytes.saturating_add(estimated_bytes(span));
            let fits = !state.closed && count < self.limits.spans && with_it <= self.limits.bytes;
            if fits {
                count += 1;
                bytes = with_it;
            }
            fits
        });
        bytes - state.bytes
    }

    /// The next batch: as soon as there is a full one, or when the first span has waited long enough, or at once after [`Queue::close`].
    /// `None` when the queue is closed and empty.
    pub async fn next_batch(&self) -> Option<Batch> {
        loop {
            let changed = self.changed.notified();
            let waiting_since = {
                let mut state = self.lock();
                if state.closed && state.spans == 0 {
                    return None;
                }
                let due = state
                    .waiting_since
                    .is_some_and(|since| since.elapsed() >= self.limits.delay);
                if state.spans > 0 && (state.closed || due || self.is_batch(&state)) {
                    return Some(self.take(&mut state));
                }
                state.waiting_since
            };
            match waiting_since {
                Some(since) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(since + self.limits.delay) => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    /// No more spans are taken; the consumer drains what is there and then gets `None`.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Spans in the queue now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().spans
    }

    /// Whether the queue holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn is_batch(&self, state: &State) -> bool {
        state.spans >= self.limits.batch_spans || state.bytes >= self.limits.batch_bytes
    }

    fn take(&self, state: &mut State) -> Batch {
        let mut batch = Batch::default();
        let (mut count, mut bytes) = (0, 0);
        while let Some(chunk) = state.chunks.pop_front() {
            let whole = count + chunk.spans.len() <= self.limits.batch_spans
                && bytes + chunk.bytes <= self.limits.batch_bytes;
            let (taken, rest) = if whole {
                (chunk, None)
            } else {
                self.split(chunk, count, bytes)
            };
            count += taken.spans.len();
            bytes += taken.bytes;
            batch.0.push(taken.spans);
            if !whole {
                if let Some(rest) = rest {
                    state.chunks.push_front(rest);
                }
                break;
            }
        }
        state.spans -= count;
        state.bytes -= bytes;
        state.waiting_since = (state.spans > 0).then(Instant::now);
        batch
    }

    /// What of a chunk belongs to a batch that has so many spans and bytes, and the rest, if there is any.
    fn split(&self, mut chunk: Chunk, count: usize, bytes: usize) -> (Chunk, Option<Chunk>) {
        let mut taken = 0;
        let mut taken_bytes = 0;
        for span in chunk.spans.iter().take(self.limits.batch_spans - count) {
            let size = estimated_bytes(span);
            if count + taken > 0 && bytes + taken_bytes + size > self.limits.batch_bytes {
                break;
            }
            taken += 1;
            taken_bytes += size;
        }
        let rest = Chunk {
            spans: chunk.spans.split_off(taken),
            bytes: chunk.bytes - taken_bytes,
        };
        chunk.bytes = taken_bytes;
        (chunk, (!rest.spans.is_empty()).then_some(rest))
    }

    /// A panic while the lock was held leaves counts and spans consistent: both change together, without a call between.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::otlp::testing::span;

    fn limits() -> Limits {
        Limits {
            spans: 4,
            bytes: 1 << 20,
            batch_spans: 2,
            batch_bytes: 1 << 20,
            delay: Duration::from_secs(3600),
        }
    }

    #[test]
    fn drops_the_newest_beyond_the_span_limit() {
        let queue = Queue::new(limits());
        let dropped = queue.push((0..6).map(span).collect());
        assert_eq!((dropped, queue.len()), (2, 4));
    }

    #[test]
    fn drops_what_exceeds_the_byte_limit() {
        let one = estimated_bytes(&span(0));
        let queue = Queue::new(Limits {
            bytes: 2 * one,
            ..limits()
        });
        assert_eq!(queue.push((0..3).map(span).collect()), 1);
    }

    #[tokio::test]
    async fn gives_full_batches_without_delay_and_the_rest_when_closed() {
        let queue = Queue::new(limits());
        queue.push((0..3).map(span).collect());
        let ids = |batch: Option<Batch>| {
            batch.map(|spans| spans.iter().map(|span| span.span_id[7]).collect::<Vec<_>>())
        };
        assert_eq!(ids(queue.next_batch().await), Some(vec![0, 1]));
        queue.close();
        assert_eq!(ids(queue.next_batch().await), Some(vec![2]));
        assert_eq!(ids(queue.next_batch().await), None);
        assert_eq!(queue.push(vec![span(9)]), 1);
    }

    #[tokio::test]
    async fn gives_a_partial_batch_when_its_first_span_has_waited() {
        let delay = Duration::from_millis(20);
        let queue = Queue::new(Limits { delay, ..limits() });
        let before = Instant::now();
        queue.push(vec![span(1)]);
        let batch = queue.next_batch().await;
        assert_eq!(batch.map(|batch| batch.len()), Some(1));
        assert!(before.elapsed() >= delay);
    }

    #[tokio::test]
    async fn a_span_larger_than_a_batch_travels_alone() {
        let queue = Queue::new(Limits {
            batch_bytes: 1,
            ..limits()
        });
        queue.push(vec![span(1), span(2)]);
        assert_eq!(queue.next_batch().await.map(|batch| batch.len()), Some(1));
        assert_eq!(queue.next_batch().await.map(|batch| batch.len()), Some(1));
    }
}
