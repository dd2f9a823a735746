//! Ids for messages without a decision: random, and the same on every replay.

/// A generator of ids: xoshiro256++ (Blackman and Vigna), seeded by splitmix64.
#[derive(Clone, Debug)]
pub struct Ids {
    state: [u64; 4],
}

impl Ids {
    /// A generator that gives the same ids for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut mixed = seed;
        let mut next = || {
            mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut value = mixed;
            value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            value ^ (value >> 31)
        };
        Self {
            state: [next(), next(), next(), next()],
        }
    }

    /// An id that is not zero.
    #[must_use]
    pub fn span_id(&mut self) -> [u8; 8] {
        self.next().max(1).to_be_bytes()
    }

    /// An id that is not zero.
    #[must_use]
    pub fn trace_id(&mut self) -> [u8; 16] {
        let value = u128::from(self.next()) << 64 | u128::from(self.next());
        value.max(1).to_be_bytes()
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let c = c ^ a;
        let d = d ^ b;
        self.state = [a ^ d, b ^ c, c ^ (self.state[1] << 17), d.rotate_left(45)];
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_itself_for_the_same_seed_only() {
        let ids = |seed| {
            let mut ids = Ids::new(seed);
            (ids.trace_id(), ids.span_id(), ids.span_id())
        };
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
        assert_ne!(ids(1).1, ids(1).2);
    }

    /// The reference implementation (prng.di.unimi.it/xoshiro256plusplus.c) from the state 1, 2, 3, 4.
    #[test]
    fn follows_the_reference() {
        let mut ids = Ids {
            state: [1, 2, 3, 4],
        };
        assert_eq!(
            [ids.next(), ids.next(), ids.next()],
            [41_943_041, 58_720_359, 3_588_806_011_781_223]
        );
    }
}
