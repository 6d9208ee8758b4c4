//! The forward posterior q(x_s | x_t, x_0).

/// The forward posterior q(x_s | x_t, x_0) = N(coef_x0·x_0 + coef_xt·x_t, variance·I), Ho et al. eq. 6–7 for any s < t.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Posterior {
    /// Factor of x_0 in the mean: √ᾱ_s β_ts/(1−ᾱ_t), β_ts = 1−ᾱ_t/ᾱ_s.
    pub coef_x0: f64,
    /// Factor of x_t in the mean: √(ᾱ_t/ᾱ_s) (1−ᾱ_s)/(1−ᾱ_t).
    pub coef_xt: f64,
    /// β̃ = (1−ᾱ_s)/(1−ᾱ_t) β_ts; 0 if s is the data.
    pub variance: f64,
    /// ln β̃, with a finite replacement for β̃ = 0: ln β̃_1 in
    /// [`NoiseSchedule::posterior`](crate::NoiseSchedule::posterior) (Ho et al.), ln 1e-20 in [`Posterior::between`]
    /// (diffusers).
    pub log_variance_clipped: f64,
}

impl Posterior {
    /// Returns the posterior of the step from ᾱ_t to ᾱ_s > ᾱ_t; ᾱ_s = 1 is the data.
    pub fn between(alpha_cumprod_t: f64, alpha_cumprod_s: f64) -> Self {
        let alpha = alpha_cumprod_t / alpha_cumprod_s;
        let beta = 1.0 - alpha;
        let (noise_t, noise_s) = (1.0 - alpha_cumprod_t, 1.0 - alpha_cumprod_s);
        let variance = noise_s / noise_t * beta;
        Self {
            coef_x0: alpha_cumprod_s.sqrt() * beta / noise_t,
            coef_xt: alpha.sqrt() * noise_s / noise_t,
            variance,
            log_variance_clipped: variance.max(1e-20).ln(),
        }
    }
}
