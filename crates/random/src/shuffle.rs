//! A pseudo-random permutation that is computed element by element instead of stored.
//!
//! It is a Feistel network with modular addition instead of XOR, so that its domain `a·b` is only slightly larger than
//! `n`. Results outside `0..n` are permuted again until they fall inside (cycle walking): J. Black, P. Rogaway,
//! "Ciphers with arbitrary finite domains", CT-RSA 2002. Each round is invertible, so the result is a bijection for any
//! round function.

use crate::{Random, Stream};

/// Number of rounds. Twelve make the permutations of tiny sets uniform (see the tests); large sets would need fewer.
const ROUNDS: u32 = 12;

impl Random {
    /// Returns element `i` of a pseudo-random permutation of `0..n`. Each `epoch` (< 2³²) has its own permutation.
    ///
    /// It takes constant time and no memory: a data set of any size is shuffled without a list of its indices, and
    /// training resumes at any position.
    ///
    /// # Panics
    /// If `i >= n`, or `epoch` does not fit in 32 bits.
    pub fn shuffled(&self, epoch: u64, n: u64, i: u64) -> u64 {
        assert!(i < n, "shuffled: position {i} is out of range; the permutation has {n} elements");
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
