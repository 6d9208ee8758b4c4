//! The generator Philox4x32-10: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011.
//!
//! Philox is a simplified block cipher. It passes TestU01's BigCrush, has no state, and computes any of its 2¹²⁸ blocks
//! directly.

/// Number of blocks computed together. With blocks as the inner loop, the compiler vectorizes the rounds.
pub(crate) const LANES: usize = 16;

/// The words of [`LANES`] blocks: `words[w][l]` is word `w` of block `l`.
pub(crate) type Words = [[u32; LANES]; 4];

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// The golden ratio and √3 − 1 in 0.32 fixed point. Each round adds them to the key.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Computes one Philox4x32-10 block: 128 random bits from a 128-bit counter and a 64-bit key.
///
/// The word order is that of the paper and of Random123, and the tests check Random123's published vectors.
#[inline(always)]
pub(crate) fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        c0 = (p1 >> 32) as u32 ^ c1 ^ k0;
        c1 = p1 as u32;
        c2 = (p0 >> 32) as u32 ^ c3 ^ k1;
        c3 = p0 as u32;
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// Computes [`LANES`] consecutive blocks; `first` is the last counter word of the first block.
#[inline(always)]
pub(crate) fn blocks(counter: [u32; 3], first: u32, key: [u32; 2]) -> Words {
    let mut words = [[0; LANES]; 4];
    #[allow(clippy::needless_range_loop)] // one lane of four arrays
    for l in 0..LANES {
        let [w0, w1, w2, w3] = philox4x32_10([counter[0], counter[1], counter[2], first.wrapping_add(l as u32)], key);
        words[0][l] = w0;
        words[1][l] = w1;
        words[2][l] = w2;
        words[3][l] = w3;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::philox4x32_10;

    /// The vectors are from `tests/kat_vectors` of Random123 1.14, lines "philox4x32 10".
    #[test]
    fn matches_random123() {
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox4x32_10([!0; 4], [!0; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(philox4x32_10(pi, [0xa4093822, 0x299f31d0]), [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
    }
}
