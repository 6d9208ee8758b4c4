//! A pseudo-random permutation that is addressed, not stored.
//!
//! A Feistel network whose halves add modulo two numbers instead of by exclusive or, so that its domain `a·b` is hardly
//! larger than `n`, and which is applied again where it leads outside `0..n` (cycle walking): J. Black, P. Rogaway,
//! "Ciphers with arbitrary finite domains", CT-RSA 2002. Each step can be undone, so the whole is a bijection whatever
//! the round function is.

use crate::{Random, Stream};

/// Enough that the permutations of tiny sets come out evenly (see the tests); an epoch of a large one needs fewer.
const ROUNDS: u32 = 12;

impl Random {
    /// The element at position `i` of a pseudo-random permutation of `0..n`, another one for each `epoch` (< 2³²).
    ///
    /// Constant time and no memory: a data set of any size is shuffled without a list of its indices, and training
    /// resumes at any position.
    ///
    /// # Panics
    /// If `i >= n`, or `epoch` does not fit 32 bits.
    pub fn shuffled(&self, epoch: u64, n: u64, i: u64) -> u64 {
        assert!(i < n, "position {i} of a permutation of {n} elements");
        let root = n.isqrt();
        let a = if root * root < n { root + 1 } else { root };
        let b = n.div_ceil(a);
        let mut x = u128::from(i);
        loop {
            let (mut left, mut right) = ((x % u128::from(a)) as u64, (x / u128::from(a)) as u64);
            for round in 0..ROUNDS {
                let (half, other, modulus) = if round % 2 == 0 { (&mut left, right, a) } else { (&mut right, left, b) };
                let [low, high, ..] = self.block(Stream::Shuffle, other, epoch, round);
                let shift = crate::multiply_shift(low, high, modulus);
                *half = ((u128::from(*half) + u128::from(shift)) % u128::from(modulus)) as u64;
            }
            x = u128::from(left) + u128::from(a) * u128::from(right);
            if x < u128::from(n) {
                return x as u64;
            }
        }
    }
}
