//! Things by connection id, in slots that stay where they are: looked up by id, walked in an order that depends on the input alone.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

/// Hashes ids that are unique numbers already: one multiplication, the same on every run.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut()
                .zip(chunk)
                .for_each(|(to, from)| *to = *from);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        // Fibonacci hashing; the rotation brings the well-mixed high bits to where the table looks.
        self.0 = (self.0 ^ value)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(32);
    }
}

/// A map whose keys are numbers given by the kernel or by a generator.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// A set of such keys.
pub type IdSet<K> = HashSet<K, BuildHasherDefault<IdHasher>>;

/// Slots by connection id.
#[derive(Debug)]
pub struct Table<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    by_id: IdMap<u64, u32>,
    limit: usize,
}

impl<T> Table<T> {
    /// An empty table for at most `limit` entries.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_id: IdMap::default(),
            limit,
        }
    }

    /// The slot of an id.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    /// Puts an entry in; nothing when the table is full.
    pub fn insert(&mut self, id: u64, entry: T) -> Option<u32> {
        if self.by_id.len() >= self.limit {
            return None;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).ok()?
            }
        };
        *self.slots.get_mut(slot as usize)? = Some(entry);
        self.by_id.insert(id, slot);
        Some(slot)
    }

    /// The entry in a slot.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// The entry in a slot.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Takes an entry out.
    pub fn remove(&mut self, id: u64) -> Option<T> {
        let slot = self.by_id.remove(&id)?;
        self.free.push(slot);
        self.slots.get_mut(slot as usize)?.take()
    }

    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// All entries in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(Option::as_ref)
    }

    /// The ids in the order of their slots.
    pub fn slots(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_slots_and_refuses_beyond_its_limit() {
        let mut table = Table::new(2);
        let first = table.insert(7, 'a').expect("room");
        assert!(table.insert(8, 'b').is_some());
        assert_eq!(table.insert(9, 'c'), None);
        assert_eq!(table.remove(7), Some('a'));
        assert_eq!(table.insert(9, 'c'), Some(first));
        assert_eq!(table.iter().collect::<String>(), "cb");
        assert_eq!(table.find(7), None);
    }
}
