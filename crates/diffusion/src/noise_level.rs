//! Noise levels: α and σ of x_t = α·x_0 + σ·ε.

use serde::{Deserialize, Serialize};

/// The scales of signal and noise in x_t = α·x_0 + σ·ε.
///
/// Variance-preserving chains (Ho et al. 2020) have α² + σ² = 1; EDM (Karras et al. 2022) has α = 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NoiseLevel {
    /// α, the factor of x_0.
    pub alpha: f64,
    /// σ, the factor of ε.
    pub sigma: f64,
}

impl NoiseLevel {
    /// The level of the data itself: no noise.
    pub const DATA: Self = Self { alpha: 1.0, sigma: 0.0 };

    /// Returns the level (√ᾱ, √(1−ᾱ)) of a variance-preserving chain (Ho et al. 2020, eq. 4).
    pub fn variance_preserving(alpha_cumprod: f64) -> Self {
        Self { alpha: alpha_cumprod.sqrt(), sigma: (1.0 - alpha_cumprod).sqrt() }
    }

    /// Returns the variance-preserving level with a given σ/α.
    pub fn from_noise_ratio(ratio: f64) -> Self {
        let alpha = 1.0 / (1.0 + ratio * ratio).sqrt();
        Self { alpha, sigma: ratio * alpha }
    }

    /// Returns λ = ln(α/σ), half the log-SNR; −∞ without signal, ∞ without noise.
    pub fn lambda(self) -> f64 {
        (self.alpha / self.sigma).ln()
    }

    /// Returns the signal-to-noise ratio α²/σ².
    pub fn snr(self) -> f64 {
        self.alpha * self.alpha / (self.sigma * self.sigma)
    }

    /// Returns ln(α²/σ²).
    pub fn log_snr(self) -> f64 {
        2.0 * self.lambda()
    }

    /// Returns σ/α, the noise in x/α, which Karras et al. (2022) call σ.
    pub fn noise_ratio(self) -> f64 {
        self.sigma / self.alpha
    }

    /// Returns ᾱ = α²/(α² + σ²), the signal's share of the variance for data of unit variance.
    pub fn alpha_cumprod(self) -> f64 {
        let (signal, noise) = (self.alpha * self.alpha, self.sigma * self.sigma);
        signal / (signal + noise)
    }

    /// Writes α·x_0 + σ·ε to `out`, in f32.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn q_sample(self, x0: &[f32], epsilon: &[f32], out: &mut [f32]) {
        mix(self.alpha, x0, self.sigma, epsilon, out);
    }
}

/// Writes a·x_0 + b·ε to `out`, with a and b rounded to f32.
pub(crate) fn mix(a: f64, x0: &[f32], b: f64, epsilon: &[f32], out: &mut [f32]) {
    assert!(x0.len() == out.len() && epsilon.len() == out.len(), "x0, epsilon and out have different lengths");
    let (a, b) = (a as f32, b as f32);
    for ((out, x0), epsilon) in out.iter_mut().zip(x0).zip(epsilon) {
        *out = a * x0 + b * epsilon;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_follow_from_alpha_and_sigma() {
        let level = NoiseLevel::variance_preserving(0.36);
        assert_eq!((level.alpha, level.sigma), (0.6, 0.8));
        for (found, expected) in [
            (level.lambda(), 0.75f64.ln()),
            (level.snr(), 0.5625),
            (level.log_snr(), 0.5625f64.ln()),
            (level.noise_ratio(), 4.0 / 3.0),
            (level.alpha_cumprod(), 0.36),
            // EDM's scale: the same ratios whatever the length of (α, σ).
            (NoiseLevel { alpha: 1.0, sigma: 4.0 / 3.0 }.alpha_cumprod(), 0.36),
        ] {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
        let (data, noise) = (NoiseLevel::DATA, NoiseLevel::variance_preserving(0.0));
        assert_eq!((data.alpha_cumprod(), data.noise_ratio(), data.lambda()), (1.0, 0.0, f64::INFINITY));
        assert_eq!((noise.alpha_cumprod(), noise.snr(), noise.lambda()), (0.0, 0.0, f64::NEG_INFINITY));
        assert_eq!(NoiseLevel::variance_preserving(1.0), data);
    }

    #[test]
    fn q_sample_mixes_in_f32() {
        let mut x_t = [0.0; 2];
        NoiseLevel::variance_preserving(0.36).q_sample(&[1.0, -0.5], &[0.25, 2.0], &mut x_t);
        assert_eq!(x_t, [0.6f32 + 0.8f32 * 0.25, 0.6f32 * -0.5 + 0.8f32 * 2.0]);
    }
}
