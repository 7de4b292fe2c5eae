//! Chance that can be had again: the same seed, the same throws.

use std::time::Duration;

/// A generator of numbers (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice of one of many throwers.
    pub(crate) fn new(seed: u64, thrower: u64) -> Self {
        let mixed = (seed ^ thrower.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut dice = Self(mixed | 1);
        // Neighbouring seeds begin alike.
        for _ in 0..8 {
            dice.next();
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit.max(1)
    }

    /// One of them, by its weight; `None` where none has any.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[(u64, T)]) -> Option<T> {
        let sum: u64 = of.iter().map(|(weight, _)| weight).sum();
        if sum == 0 {
            return None;
        }
        let mut throw = self.below(sum);
        of.iter().find_map(|(weight, one)| {
            if throw < *weight {
                return Some(*one);
            }
            throw -= weight;
            None
        })
    }

    /// A time shorter than `most`.
    pub(crate) fn moment(&mut self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.below(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_and_weights_of_nothing_are_never_picked() {
        let throws = |seed, who| {
            let mut dice = Dice::new(seed, who);
            (0..50).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(throws(1, 0), throws(1, 0));
        assert_ne!(throws(1, 0), throws(2, 0));
        assert_ne!(throws(1, 0), throws(1, 1));
        let mut dice = Dice::new(7, 0);
        let of = [(0, 'a'), (1, 'b'), (3, 'c')];
        let picked: Vec<char> = (0..200).filter_map(|_| dice.pick(&of)).collect();
        assert!(picked.contains(&'b') && picked.contains(&'c') && !picked.contains(&'a'));
        assert_eq!(dice.pick(&[(0, 'a')]), None);
    }
}
