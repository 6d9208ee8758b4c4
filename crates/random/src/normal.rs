//! Standard normals from random bits: G. E. P. Box, M. E. Muller, "A note on the generation of random normal deviates",
//! Annals of Mathematical Statistics 29 (1958).
//!
//! `ln`, `sin` and `cos` are computed as series with `+ − × ÷ √` only. IEEE 754 defines the results of these operations
//! to the bit; the platform's libm gives no such guarantee. The code has no branches, so the loop over blocks
//! vectorizes.

use std::f32::consts::LN_2;

/// Returns two independent standard normals `r cos θ` and `r sin θ`, where `r = √(−2 ln u)`, `u = (a + ½) / 2³²` and
/// `θ = 2π b / 2³²`. The largest `r` is √(66 ln 2) = 6.764.
#[inline(always)]
pub(crate) fn box_muller(a: u32, b: u32) -> [f32; 2] {
    let r = minus_two_ln(a).sqrt();
    let [cos, sin] = cos_sin(b);
    [r * cos, r * sin]
}

/// Returns `−2 ln((a + ½) / 2³²)`, which is positive.
#[inline(always)]
fn minus_two_ln(a: u32) -> f32 {
    const SQRT_HALF: i32 = 0x3f35_04f3; // bits of √½

    // a + ½ = 2ᵉ m with m in [√½, √2). If e = 32, then u ≥ √½.
    let bits = (a as f32 + 0.5).to_bits() as i32;
    let e = (bits - SQRT_HALF) >> 23;
    let m = f32::from_bits((bits - (e << 23)) as u32);

    // Near u = 1, rounding a + ½ would lose all digits of m − 1, so it is computed from the complement of a.
    let one_minus_u = (!a as f32 + 0.5) * (1.0 / 4_294_967_296.0);
    let m_minus_one = if e == 32 { -one_minus_u } else { m - 1.0 };

    // ln m = 2 artanh s = 2 (s + s³/3 + s⁵/5 + …) with |s| ≤ 0.1716. The first omitted term is 2e-9 of the sum.
    let s = m_minus_one / (m + 1.0);
    let z = s * s;
    let four_artanh = s * (4.0 + z * (4.0 / 3.0 + z * (4.0 / 5.0 + z * (4.0 / 7.0 + z * (4.0 / 9.0)))));
    (2.0 * LN_2) * (32 - e) as f32 - four_artanh
}

/// Returns the cosine and sine of `2π b / 2³²`.
#[inline(always)]
fn cos_sin(b: u32) -> [f32; 2] {
    const TURN: f32 = (2.0 * std::f64::consts::PI / 4_294_967_296.0) as f32;

    // Removing the nearest quarter turn in integers is exact; |θ| ≤ π/4 remains.
    let quarter = b.wrapping_add(1 << 29) >> 30;
    let theta = b.wrapping_sub(quarter << 30) as i32 as f32 * TURN;

    // Taylor series; the first omitted term of each is 2e-9 of the sum.
    let z = theta * theta;
    let sin = theta + theta * z * (-1.0 / 6.0 + z * (1.0 / 120.0 + z * (-1.0 / 5040.0 + z * (1.0 / 362_880.0))));
    let cos = 1.0
        + z * (-1.0 / 2.0 + z * (1.0 / 24.0 + z * (-1.0 / 720.0 + z * (1.0 / 40_320.0 + z * (-1.0 / 3_628_800.0)))));

    // Rotate by 0, 1, 2 or 3 quarter turns: (c, s), (−s, c), (−c, −s), (s, −c).
    let (x, y) = if quarter & 1 == 0 { (cos, sin) } else { (sin, cos) };
    let flip_x = ((quarter + 1) & 2) << 30;
    let flip_y = (quarter & 2) << 30;
    [f32::from_bits(x.to_bits() ^ flip_x), f32::from_bits(y.to_bits() ^ flip_y)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::philox4x32_10;

    /// Returns edge cases and many random words.
    fn words() -> impl Iterator<Item = u32> {
        let edges = (0..32).flat_map(|k| [1u32 << k, (1u32 << k).wrapping_sub(1), !(1u32 << k), 3u32 << k >> 1]);
        edges.chain((0..200_000).map(|i| philox4x32_10([i, 0, 0, 0], [1, 2])[0]))
    }

    #[test]
    fn radius_matches_f64() {
        for a in words() {
            let expected = (-2.0 * ((f64::from(a) + 0.5) / 4_294_967_296.0).ln()).sqrt();
            let r = f64::from(minus_two_ln(a).sqrt());
            assert!((r - expected).abs() <= 2e-7 * expected, "{a:#x}: r is {r}; expected {expected}");
        }
    }

    #[test]
    fn angle_matches_f64() {
        for b in words() {
            let theta = f64::from(b) * (std::f64::consts::TAU / 4_294_967_296.0);
            let [cos, sin] = cos_sin(b).map(f64::from);
            assert!((cos - theta.cos()).abs() < 1.2e-7, "{b:#x}: cos is {cos}; expected {}", theta.cos());
            assert!((sin - theta.sin()).abs() < 1.2e-7, "{b:#x}: sin is {sin}; expected {}", theta.sin());
        }
    }

    #[test]
    fn extreme_bits_stay_finite() {
        for a in [0, 1, u32::MAX, u32::MAX - 1, 1 << 31, 0x7fff_ffff] {
            for b in [0, 1, u32::MAX, 1 << 29, 1 << 30, 3 << 29, 1 << 31, 0x7fff_ffff] {
                for n in box_muller(a, b) {
                    assert!(n.abs() < 6.77, "{a:#x}, {b:#x} gave {n}");
                }
            }
        }
        assert!((box_muller(0, 0)[0] - 6.7637056).abs() < 1e-6);
        assert!((box_muller(u32::MAX, 0)[0] - 1.5258789e-5).abs() < 1e-11);
    }
}
