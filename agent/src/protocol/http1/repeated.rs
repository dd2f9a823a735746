//! Heads that are the same, byte for byte, as the one before on their connection: those of clients that poll, of checks of health, of responses
//! within a second. They are not read again.
//!
//! Input: bytes at the beginning of a message. Output: what was read of the same bytes the last time.

/// Longest head that is kept, bytes: twice as much for each connection in use.
const LIMIT: usize = 512;

/// The last head of one side, and what was read of it.
pub(super) struct Repeated<H>(Option<Box<(Vec<u8>, H)>>);

impl<H: Clone> Repeated<H> {
    pub(super) const fn new() -> Self {
        Self(None)
    }

    /// What was read of the head that `bytes` begin with, if it is the last one again. Where a head ends depends on nothing behind it.
    pub(super) fn of(&self, bytes: &[u8]) -> Option<H> {
        let (head, read) = &**self.0.as_ref()?;
        bytes.starts_with(head).then(|| read.clone())
    }

    /// Keeps a head, which was read so.
    pub(super) fn keep(&mut self, head: &[u8], read: &H) {
        if head.len() > LIMIT {
            return;
        }
        match &mut self.0 {
            Some(known) => {
                known.0.clear();
                known.0.extend_from_slice(head);
                known.1 = read.clone();
            }
            None => self.0 = Some(Box::new((head.to_vec(), read.clone()))),
        }
    }

    /// Keeps nothing.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_last_head_whatever_follows_it() {
        let mut repeated = Repeated::new();
        assert_eq!(repeated.of(b"ab"), None);
        repeated.keep(b"ab", &1);
        assert_eq!(repeated.of(b"abc"), Some(1));
        assert_eq!(repeated.of(b"a"), None);
        repeated.keep(b"b", &2);
        assert_eq!((repeated.of(b"ab"), repeated.of(b"b")), (None, Some(2)));
        repeated.clear();
        assert_eq!(repeated.of(b"b"), None);
    }

    #[test]
    fn keeps_no_long_head() {
        let mut repeated = Repeated::new();
        let long = vec![b'a'; LIMIT + 1];
        repeated.keep(&long[1..], &1);
        repeated.keep(&long, &2);
        assert_eq!(repeated.of(&long), Some(1));
    }
}
