//! Vectors of sixteen `f32`. The implementation is chosen at run time: AVX-512, AVX2 with FMA, or plain arrays, which
//! the compiler turns into the vectors of the target (NEON on aarch64, SSE2 on old x86).
//!
//! All three give the same bits: vectors have sixteen lanes everywhere, sums over lanes have one order, and a multiply-add is
//! rounded once, also where the processor has no instruction for it.
//!
//! Kernels are written once, generic over [`Simd`], and [`dispatch!`] makes ordinary functions of them. A value of a
//! `Simd` type proves that the processor has the instructions, so its methods are safe to call. Kernels must be
//! `#[inline(always)]`, because the instructions are only enabled inside the function that `dispatch!` generates.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Lanes of a vector on every processor, so that blocked data have the same layout everywhere.
pub(crate) const LANES: usize = 16;

/// An instruction set of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum InstructionSet {
    /// The target's baseline: SSE2 on x86-64, NEON on aarch64.
    Portable = 1,
    /// AVX2 and FMA: eight lanes per register.
    Avx2 = 2,
    /// AVX-512 F, VL, DQ and BW: sixteen lanes per register.
    Avx512 = 3,
}

static LIMIT: AtomicU8 = AtomicU8::new(u8::MAX);

/// Returns the instruction set in use: the best that the processor supports, up to [`limit_instruction_set`].
pub fn instruction_set() -> InstructionSet {
    static BEST: OnceLock<InstructionSet> = OnceLock::new();
    let best = *BEST.get_or_init(detect);
    match LIMIT.load(Ordering::Relaxed) {
        1 => best.min(InstructionSet::Portable),
        2 => best.min(InstructionSet::Avx2),
        _ => best,
    }
}

/// Limits the kernels of this process to at most `limit`, for tests and for comparing instruction sets.
pub fn limit_instruction_set(limit: InstructionSet) {
    LIMIT.store(limit as u8, Ordering::Relaxed);
}

fn detect() -> InstructionSet {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("fma")
        {
            return InstructionSet::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return InstructionSet::Avx2;
        }
    }
    InstructionSet::Portable
}

/// Sixteen-lane arithmetic of one instruction set. See the documentation of the module.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Sixteen `f32`.
    type V: Copy;
    /// Rows of a matrix-multiplication tile that fit in the registers along with [`Self::TILE_VECTORS`] column vectors.
    const TILE_ROWS: usize;
    /// Column vectors of a tile, 1 or 2.
    const TILE_VECTORS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// Computes a·b + c, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Computes c − a·b, rounded once.
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Returns the larger of `a` and `b`, or `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns the smaller of `a` and `b`, or `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `p`·2ⁿ, where `shifted` = n + 1.5·2²³ holds n in its low bits. Ignores overflow and underflow.
    fn scale_by_power(self, p: Self::V, shifted: Self::V) -> Self::V;

    /// Loads `x`, which has fewer than 16 lanes, and fills the rest with zeros.
    #[inline(always)]
    fn load_partial(self, x: &[f32]) -> Self::V {
        let mut lanes = [0.0; LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// Stores the first `out.len()` lanes, fewer than 16.
    #[inline(always)]
    fn store_partial(self, v: Self::V, out: &mut [f32]) {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        out.copy_from_slice(&lanes[..out.len()]);
    }

    /// Loads up to sixteen lanes of `x` and fills the rest with zeros.
    #[inline(always)]
    fn load_up_to(self, x: &[f32]) -> Self::V {
        match x.first_chunk() {
            Some(whole) => self.load(whole),
            None => self.load_partial(x),
        }
    }

    /// Stores sixteen lanes, or as many as `out` holds.
    #[inline(always)]
    fn store_up_to(self, v: Self::V, out: &mut [f32]) {
        if out.len() < LANES {
            self.store_partial(v, out);
        } else if let Some(whole) = out.first_chunk_mut() {
            self.store(v, whole);
        }
    }

    /// Returns the sum of the lanes, pairwise in a fixed order.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// Returns the largest lane.
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    /// Transposes a square of sixteen vectors.
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        let mut turned = [[0.0; LANES]; LANES];
        for (i, row) in rows.into_iter().enumerate() {
            let mut lanes = [0.0; LANES];
            self.store(row, &mut lanes);
            for j in 0..LANES {
                turned[j][i] = lanes[j];
            }
        }
        let mut columns = rows;
        for (column, lanes) in columns.iter_mut().zip(&turned) {
            *column = self.load(lanes);
        }
        columns
    }

    /// Prefetches the cache line of an address, which need not be valid, if the target supports it.
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: prefetching an address, valid or not, has no effect on the program's state.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }

    /// Loads sixteen floats.
    ///
    /// # Safety
    /// `p` is valid for reading sixteen floats.
    #[inline(always)]
    unsafe fn load_at(self, p: *const f32) -> Self::V {
        // SAFETY: guaranteed by the caller; an array of f32 has the alignment of f32.
        self.load(unsafe { &*p.cast() })
    }

    /// Stores sixteen floats.
    ///
    /// # Safety
    /// `p` is valid for writing sixteen floats, and nothing else refers to them.
    #[inline(always)]
    unsafe fn store_at(self, v: Self::V, p: *mut f32) {
        // SAFETY: guaranteed by the caller; an array of f32 has the alignment of f32.
        self.store(v, unsafe { &mut *p.cast() })
    }
}

/// The portable implementation: plain arrays.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// Computes a·b + c in f32, rounded once, by operations on f64 that processors without an instruction for it have.
///
/// The product of two f32 is exact in f64. Its sum with c is rounded to odd (Boldo & Melquiond 2008, "Emulation of a FMA and
/// correctly rounded sums"): of the two f64 beside an inexact sum, the one with an odd last bit, which no second
/// rounding takes for a tie.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    // What the sum lacks, exactly (Knuth's TwoSum); NaN where the sum is infinite.
    let of_c = sum - product;
    let rest = (product - (sum - of_c)) + (c - of_c);
    let bits = sum.to_bits();
    let is_even_and_inexact = rest.abs() > 0.0 && bits & 1 == 0;
    // Away from zero if the rest has the sign of the sum.
    let away = (rest.to_bits() ^ bits) >> 63 == 0;
    let odd = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    f64::from_bits(if is_even_and_inexact { odd } else { bits }) as f32
}

impl Simd for Portable {
    type V = [f32; LANES];
    const TILE_ROWS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 2 };
    const TILE_VECTORS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        *x
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Without an instruction, `mul_add` is a call of a library for each lane.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| multiply_add(a[i], b[i], c[i]))
        }
    }
    #[inline(always)]
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.fma(a.map(|x| -x), b, c)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn scale_by_power(self, p: Self::V, shifted: Self::V) -> Self::V {
        zip(p, shifted, |p, s| f32::from_bits(p.to_bits().wrapping_add(s.to_bits() << 23)))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Simd};
    use std::arch::x86_64::*;

    /// AVX-512: one register per vector.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(());

    /// AVX2 and FMA: two registers per vector.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(());

    impl Avx512 {
        /// # Safety
        /// The processor has AVX-512 F, VL, DQ and BW, and FMA.
        #[inline(always)]
        pub(crate) unsafe fn assume() -> Self {
            Avx512(())
        }
    }

    impl Avx2 {
        /// # Safety
        /// The processor has AVX2 and FMA.
        #[inline(always)]
        pub(crate) unsafe fn assume() -> Self {
            Avx2(())
        }
    }

    macro_rules! avx512 {
        ($($name:ident($($arg:ident),*) = $body:expr;)*) => {$(
            #[inline(always)]
            fn $name(self, $($arg: __m512),*) -> __m512 {
                // SAFETY: a value of Avx512 exists only where the processor has these instructions.
                unsafe { $body }
            }
        )*};
    }

    impl Simd for Avx512 {
        type V = __m512;
        const TILE_ROWS: usize = 14;
        const TILE_VECTORS: usize = 2;

        avx512! {
            add(a, b) = _mm512_add_ps(a, b);
            sub(a, b) = _mm512_sub_ps(a, b);
            mul(a, b) = _mm512_mul_ps(a, b);
            div(a, b) = _mm512_div_ps(a, b);
            sqrt(a) = _mm512_sqrt_ps(a);
            fma(a, b, c) = _mm512_fmadd_ps(a, b, c);
            fnma(a, b, c) = _mm512_fnmadd_ps(a, b, c);
            max(a, b) = _mm512_max_ps(a, b);
            min(a, b) = _mm512_min_ps(a, b);
            scale_by_power(p, shifted) = _mm512_castsi512_ps(_mm512_add_epi32(
                _mm512_castps_si512(p),
                _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted)),
            ));
        }

        /// Transposes in four steps; each exchanges one bit of the row number with the same bit of the lane number.
        #[inline(always)]
        fn transpose(self, mut rows: [__m512; LANES]) -> [__m512; LANES] {
            const fn lanes(bit: usize, upper: usize) -> [i32; LANES] {
                let (mut lanes, mut lane) = ([0; LANES], 0);
                while lane < LANES {
                    // Lanes of the second operand are numbered from sixteen.
                    let from = if lane & bit == 0 { lane + bit * upper } else { LANES + lane - bit * (1 - upper) };
                    lanes[lane] = from as i32;
                    lane += 1;
                }
                lanes
            }
            macro_rules! step {
                ($bit:literal) => {{
                    const LOWER: [i32; LANES] = lanes($bit, 0);
                    const UPPER: [i32; LANES] = lanes($bit, 1);
                    // SAFETY: a value of Avx512 exists only where the processor has these instructions.
                    unsafe {
                        let lower = _mm512_loadu_si512(LOWER.as_ptr().cast());
                        let upper = _mm512_loadu_si512(UPPER.as_ptr().cast());
                        for i in 0..LANES {
                            if i & $bit == 0 {
                                let (a, b) = (rows[i], rows[i + $bit]);
                                rows[i] = _mm512_permutex2var_ps(a, lower, b);
                                rows[i + $bit] = _mm512_permutex2var_ps(a, upper, b);
                            }
                        }
                    }
                }};
            }
            step!(1);
            step!(2);
            step!(4);
            step!(8);
            rows
        }

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            // SAFETY: a value of Avx512 exists only where the processor has these instructions.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> __m512 {
            // SAFETY: as above; the reference covers the sixteen floats.
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, v: __m512, out: &mut [f32; LANES]) {
            // SAFETY: as above; the reference covers the sixteen floats.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn load_partial(self, x: &[f32]) -> __m512 {
            assert!(x.len() < LANES);
            // SAFETY: as above; masked lanes are not read.
            unsafe { _mm512_maskz_loadu_ps((1u16 << x.len()) - 1, x.as_ptr()) }
        }
        #[inline(always)]
        fn store_partial(self, v: __m512, out: &mut [f32]) {
            assert!(out.len() < LANES);
            // SAFETY: as above; masked lanes are not written.
            unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), (1u16 << out.len()) - 1, v) }
        }
    }

    macro_rules! avx2 {
        ($($name:ident($($arg:ident),*) = $body:expr;)*) => {$(
            #[inline(always)]
            fn $name(self, $($arg: [__m256; 2]),*) -> [__m256; 2] {
                // SAFETY: a value of Avx2 exists only where the processor has these instructions.
                unsafe {
                    let half = |$($arg: __m256),*| $body;
                    [half($($arg[0]),*), half($($arg[1]),*)]
                }
            }
        )*};
    }

    impl Simd for Avx2 {
        type V = [__m256; 2];
        const TILE_ROWS: usize = 6;
        const TILE_VECTORS: usize = 1;

        avx2! {
            add(a, b) = _mm256_add_ps(a, b);
            sub(a, b) = _mm256_sub_ps(a, b);
            mul(a, b) = _mm256_mul_ps(a, b);
            div(a, b) = _mm256_div_ps(a, b);
            sqrt(a) = _mm256_sqrt_ps(a);
            fma(a, b, c) = _mm256_fmadd_ps(a, b, c);
            fnma(a, b, c) = _mm256_fnmadd_ps(a, b, c);
            max(a, b) = _mm256_max_ps(a, b);
            min(a, b) = _mm256_min_ps(a, b);
            scale_by_power(p, shifted) = _mm256_castsi256_ps(_mm256_add_epi32(
                _mm256_castps_si256(p),
                _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted)),
            ));
        }

        #[inline(always)]
        fn splat(self, x: f32) -> Self::V {
            // SAFETY: a value of Avx2 exists only where the processor has these instructions.
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Self::V {
            // SAFETY: as above; the reference covers the sixteen floats.
            unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
        }
        #[inline(always)]
        fn store(self, v: Self::V, out: &mut [f32; LANES]) {
            // SAFETY: as above; the reference covers the sixteen floats.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1]);
            }
        }
    }
}

/// Generates ordinary functions from kernels that are generic over [`Simd`]: `fn name(arguments) = kernel;` calls
/// `kernel(simd, arguments)`, compiled for the best instruction set of the processor.
macro_rules! dispatch {
    ($($(#[$attribute:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $kernel:path;)*) => {$(
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::simd::{Avx2, Avx512, InstructionSet, instruction_set};
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the target features of this function are those that the value stands for.
                    $kernel(unsafe { Avx512::assume() }, $($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the target features of this function are those that the value stands for.
                    $kernel(unsafe { Avx2::assume() }, $($arg),*)
                }
                match instruction_set() {
                    // SAFETY: `instruction_set` has detected these features.
                    InstructionSet::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: `instruction_set` has detected these features.
                    InstructionSet::Avx2 => return unsafe { avx2($($arg),*) },
                    InstructionSet::Portable => {}
                }
            }
            $kernel($crate::simd::Portable, $($arg),*)
        }
    )*};
}
pub(crate) use dispatch;

#[cfg(test)]
mod tests {
    use super::multiply_add;

    /// The standard library's is exact on every machine.
    #[test]
    fn a_product_is_added_with_one_rounding() {
        let same = |a: f32, b: f32, c: f32| {
            let (found, expected) = (multiply_add(a, b, c), a.mul_add(b, c));
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{a:e}·{b:e} + {c:e}"
            );
        };
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        for i in 0..3_000_000u32 {
            let [mut a, mut b, mut c] = [next(), next(), next()].map(f32::from_bits);
            if i % 3 > 0 {
                // Of like exponents and few bits, so that sums cancel and end between two numbers.
                let small = |bits: u32| ((bits >> 8) as f32 - 8_388_608.0) / 8_388_608.0;
                (a, b) = (small(next()), small(next() & 0xfff0_0000));
                c = small(next()) * 2f32.powi(next() as i32 % 30);
            }
            if i % 3 == 2 {
                c = -(a * b) + c * 1e-7;
            }
            same(a, b, c);
        }
        // The product is a little less than half of the last bit of c: its sum in f64 is a tie, which would be rounded up.
        for i in 0..24 {
            let (a, b) = ((1.0 + f32::EPSILON) * 2f32.powi(-i), (1.0 - f32::EPSILON) * 2f32.powi(i - 24));
            for odd in [1.0, 3.0, 12_345.0, 8_388_607.0] {
                let c = 1.0 + odd * f32::EPSILON;
                same(a, b, c);
                same(-a, b, -c);
                assert_eq!(multiply_add(a, b, c), c);
                assert!((f64::from(a) * f64::from(b) + f64::from(c)) as f32 > c);
            }
        }
        let edges =
            [0.0, -0.0, 1.0, -1.0, f32::MIN_POSITIVE, 1e-45, f32::MAX, f32::INFINITY, f32::NAN, 1.0 + f32::EPSILON];
        for a in edges {
            for b in edges {
                for c in edges {
                    same(a, b, c);
                    same(a, b, -c);
                }
            }
        }
    }
}
