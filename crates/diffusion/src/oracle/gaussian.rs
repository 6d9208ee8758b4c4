//! One-dimensional Gaussian data.

use std::f64::consts::PI;

use crate::solver_table::Estimate;
use crate::{Error, Node, NoiseLevel, SolverTable, posterior::Posterior};

/// Gaussian data N(mean, variance) in every dimension, independently.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gaussian {
    /// Mean of each dimension.
    pub mean: f64,
    /// Variance of each dimension; 0 is data at a point.
    pub variance: f64,
}

impl Gaussian {
    /// Returns q(x_t): the data scaled by √ᾱ plus noise of variance 1−ᾱ.
    pub fn marginal(self, alpha_cumprod: f64) -> Self {
        let variance = alpha_cumprod * self.variance + 1.0 - alpha_cumprod;
        Self { mean: alpha_cumprod.sqrt() * self.mean, variance }
    }

    /// Returns the exact denoiser x̂0 = E[x_0 | x_t].
    pub fn sample(self, x_t: f64, alpha_cumprod: f64) -> f64 {
        let Self { mean, variance } = self.marginal(alpha_cumprod);
        self.mean + alpha_cumprod.sqrt() * self.variance / variance * (x_t - mean)
    }

    /// Returns the exact noise prediction ε̂ = E[ε | x_t] = −√(1−ᾱ) ∇ log q(x_t).
    pub fn epsilon(self, x_t: f64, alpha_cumprod: f64) -> f64 {
        let Self { mean, variance } = self.marginal(alpha_cumprod);
        (1.0 - alpha_cumprod).sqrt() * (x_t - mean) / variance
    }

    /// Returns both estimates of each number of x_t at a variance-preserving noise level: a denoiser for
    /// [`SolverTable::run`].
    pub fn denoise(self, x_t: &[f64], level: NoiseLevel) -> Estimate {
        let alpha_cumprod = level.alpha_cumprod();
        Estimate {
            sample: x_t.iter().map(|&x| self.sample(x, alpha_cumprod)).collect(),
            epsilon: x_t.iter().map(|&x| self.epsilon(x, alpha_cumprod)).collect(),
            v: Vec::new(),
        }
    }

    /// Returns M_t = E(x_0 − x̂0)² per dimension, which for Gaussian data is Var[x_0 | x_t] = s²/(1 + SNR s²).
    pub fn mse(self, alpha_cumprod: f64) -> f64 {
        self.variance * (1.0 - alpha_cumprod) / self.marginal(alpha_cumprod).variance
    }

    /// Returns the mutual information of x_0 and x_t in nats per dimension, ½ ln(1 + SNR s²).
    pub fn information(self, alpha_cumprod: f64) -> f64 {
        0.5 * (alpha_cumprod * self.variance / (1.0 - alpha_cumprod)).ln_1p()
    }

    /// Returns the exact reverse kernel q(x_s | x_t).
    pub fn reverse(self, x_t: f64, alpha_cumprod_t: f64, alpha_cumprod_s: f64) -> Self {
        let posterior = Posterior::between(alpha_cumprod_t, alpha_cumprod_s);
        Self {
            mean: posterior.coef_x0 * self.sample(x_t, alpha_cumprod_t) + posterior.coef_xt * x_t,
            variance: posterior.variance + posterior.coef_x0.powi(2) * self.mse(alpha_cumprod_t),
        }
    }

    /// Solves the probability-flow ODE exactly from ᾱ_t to ᾱ_s, in either direction.
    pub fn flow(self, x_t: f64, alpha_cumprod_t: f64, alpha_cumprod_s: f64) -> f64 {
        let (t, s) = (self.marginal(alpha_cumprod_t), self.marginal(alpha_cumprod_s));
        s.mean + (s.variance / t.variance).sqrt() * (x_t - t.mean)
    }

    /// Returns the law of a table's result for x ~ `start` and the exact denoiser. Every row is then affine, so the law
    /// is Gaussian; its variance is the sum of the squared responses to x and to each row's noise.
    ///
    /// # Errors
    /// As [`SolverTable::run`], and if the table clips or its variance is learned.
    pub fn propagate(self, table: &SolverTable, start: Self) -> Result<Self, Error> {
        if table.clip_sample.is_some() {
            return Err(Error::Unsupported("the law is not Gaussian after a table that clips".to_owned()));
        }
        // One run over independent elements: without noise, with x = 1, and with one unit of each row's noise.
        let rows = table.rows.len();
        let unit = |at: usize| (0..rows + 2).map(|i| f64::from(u8::from(i == at))).collect::<Vec<_>>();
        let end = table.run(&unit(1), |x, node: Node| Ok(self.denoise(x, node.level)), |row| unit(row + 2))?;
        let response = |i: usize| (end[i] - end[0]).powi(2);
        Ok(Self {
            mean: end[0] + (end[1] - end[0]) * start.mean,
            variance: response(1) * start.variance + (2..rows + 2).map(response).sum::<f64>(),
        })
    }

    /// Returns ln q(x_t) in nats.
    pub fn log_density(self, x_t: f64, alpha_cumprod: f64) -> f64 {
        let Self { mean, variance } = self.marginal(alpha_cumprod);
        -0.5 * ((x_t - mean).powi(2) / variance + (2.0 * PI * variance).ln())
    }
}
