//! Data whose diffusion is known exactly, to hold schedules, bounds and samplers against.
//!
//! For x_0 ~ Σ_k w_k N(m_k, s²_k I) the noised density is Σ_k w_k N(√ᾱ m_k, V_k I), V_k = ᾱ s²_k + 1 − ᾱ, and the
//! denoiser, its error and the reverse kernel follow from Gaussian conditioning. Noise levels are given by ᾱ ∈ [0, 1].

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use crate::{Error, Prediction, SolverTable, schedule::Posterior};

/// Gaussian data N(mean, variance) in every dimension, independently.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gaussian {
    /// Mean of each dimension.
    pub mean: f64,
    /// Variance of each dimension; 0 is data at a point.
    pub variance: f64,
}

impl Gaussian {
    /// q(x_t): the data scaled by √ᾱ plus noise of variance 1−ᾱ.
    pub fn marginal(self, alpha_cumprod: f64) -> Self {
        let variance = alpha_cumprod * self.variance + 1.0 - alpha_cumprod;
        Self { mean: alpha_cumprod.sqrt() * self.mean, variance }
    }

    /// The exact denoiser x̂0 = E[x_0 | x_t].
    pub fn sample(self, x_t: f64, alpha_cumprod: f64) -> f64 {
        let Self { mean, variance } = self.marginal(alpha_cumprod);
        self.mean + alpha_cumprod.sqrt() * self.variance / variance * (x_t - mean)
    }

    /// The exact noise predictor ε̂ = E[ε | x_t] = −√(1−ᾱ) ∇ log q(x_t).
    pub fn epsilon(self, x_t: f64, alpha_cumprod: f64) -> f64 {
        let Self { mean, variance } = self.marginal(alpha_cumprod);
        (1.0 - alpha_cumprod).sqrt() * (x_t - mean) / variance
    }

    /// M_t = E(x_0 − x̂0)² per dimension, here also Var[x_0 | x_t]: s²/(1 + SNR s²).
    pub fn mse(self, alpha_cumprod: f64) -> f64 {
        self.variance * (1.0 - alpha_cumprod) / self.marginal(alpha_cumprod).variance
    }

    /// The mutual information of x_0 and x_t in nats per dimension: ½ ln(1 + SNR s²).
    pub fn information(self, alpha_cumprod: f64) -> f64 {
        0.5 * (alpha_cumprod * self.variance / (1.0 - alpha_cumprod)).ln_1p()
    }

    /// The exact reverse kernel q(x_s | x_t).
    pub fn reverse(self, x_t: f64, alpha_cumprod_t: f64, alpha_cumprod_s: f64) -> Self {
        let posterior = Posterior::between(alpha_cumprod_t, alpha_cumprod_s);
        Self {
            mean: posterior.coef_x0 * self.sample(x_t, alpha_cumprod_t) + posterior.coef_xt * x_t,
            variance: posterior.variance + posterior.coef_x0.powi(2) * self.mse(alpha_cumprod_t),
        }
    }

    /// The probability-flow ODE solved exactly from ᾱ_t to ᾱ_s, either way.
    pub fn flow(self, x_t: f64, alpha_cumprod_t: f64, alpha_cumprod_s: f64) -> f64 {
        let (t, s) = (self.marginal(alpha_cumprod_t), self.marginal(alpha_cumprod_s));
        s.mean + (s.variance / t.variance).sqrt() * (x_t - t.mean)
    }

    /// The law of where a table ends that starts from x ~ `start`, its denoiser exact and nothing clipped. Every row is
    /// affine then, so the law is Gaussian; its variance is the sum of the squared responses to x and to each row's noise.
    ///
    /// # Errors
    /// As [`SolverTable::run`], and for tables that clip or whose variance is learned.
    pub fn walk(self, table: &SolverTable, start: Self) -> Result<Self, Error> {
        if table.clip_sample.is_some() {
            return Err(Error::Unsupported("a table that clips does not keep laws Gaussian".to_owned()));
        }
        // One walk of as many numbers: no noise at all, one unit of x, one unit of each row's noise.
        let rows = table.rows.len();
        let unit = |at: usize| (0..rows + 2).map(|i| f64::from(u8::from(i == at))).collect::<Vec<_>>();
        let mut levels = table.rows.iter().map(|row| row.alpha_cumprod);
        let denoiser = |x: &[f64], _: f64| {
            let alpha_cumprod = levels.next().unwrap_or(1.0);
            x.iter().map(|&x| self.sample(x, alpha_cumprod)).collect()
        };
        let end = table.run(&unit(1), denoiser, Prediction::Sample, |row| unit(row + 2))?;
        let response = |i: usize| (end[i] - end[0]).powi(2);
        Ok(Self {
            mean: end[0] + (end[1] - end[0]) * start.mean,
            variance: response(1) * start.variance + (2..rows + 2).map(response).sum::<f64>(),
        })
    }

    /// ln q(x_t) in nats.
    pub fn log_density(self, x_t: f64, alpha_cumprod: f64) -> f64 {
        let Self { mean, variance } = self.marginal(alpha_cumprod);
        -0.5 * ((x_t - mean).powi(2) / variance + (2.0 * PI * variance).ln())
    }
}

/// One Gaussian of a [`Mixture`], with the same variance in every direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    /// Its share; shares need not sum to 1.
    pub weight: f64,
    /// Its mean, one number per dimension.
    pub mean: Vec<f64>,
    /// Its variance per dimension, above 0.
    pub variance: f64,
}

/// A mixture of isotropic Gaussians in D dimensions. Points are slices of D numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    components: Vec<Component>,
}

impl Mixture {
    /// Errors for no components, unequal dimensions, and weights or variances that are not positive.
    pub fn new(mut components: Vec<Component>) -> Result<Self, Error> {
        let dims = components.first().map_or(0, |component| component.mean.len());
        if dims == 0 {
            return Err(Error::Length { name: "mixture components", found: 0, expected: 1 });
        }
        for Component { weight, mean, variance } in &components {
            if mean.len() != dims {
                return Err(Error::Length { name: "component mean", found: mean.len(), expected: dims });
            }
            for (name, value) in [("component weight", *weight), ("component variance", *variance)] {
                if !(value > 0.0 && value.is_finite()) {
                    return Err(Error::Value { name, value, expected: "a positive number" });
                }
            }
        }
        let total: f64 = components.iter().map(|component| component.weight).sum();
        components.iter_mut().for_each(|component| component.weight /= total);
        Ok(Self { components })
    }

    /// A mixture on the line, from (weight, mean, variance) triples.
    pub fn on_line(components: &[(f64, f64, f64)]) -> Result<Self, Error> {
        let component = |&(weight, mean, variance): &(f64, f64, f64)| Component { weight, mean: vec![mean], variance };
        Self::new(components.iter().map(component).collect())
    }

    /// D.
    pub fn dims(&self) -> usize {
        self.components[0].mean.len()
    }

    /// Its components, weights summing to 1.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// ln of w_k N(x_t; √ᾱ m_k, V_k I) for each component.
    fn log_joint(&self, x_t: &[f64], alpha_cumprod: f64) -> Vec<f64> {
        let gaussian = |component: &Component| {
            let log_density = component
                .mean
                .iter()
                .zip(x_t)
                .map(|(&mean, &x)| Gaussian { mean, variance: component.variance }.log_density(x, alpha_cumprod));
            component.weight.ln() + log_density.sum::<f64>()
        };
        self.components.iter().map(gaussian).collect()
    }

    /// r_k: the probability that each component made x_t.
    pub fn responsibilities(&self, x_t: &[f64], alpha_cumprod: f64) -> Vec<f64> {
        let joint = self.log_joint(x_t, alpha_cumprod);
        let total = log_sum_exp(&joint);
        joint.iter().map(|log| (log - total).exp()).collect()
    }

    /// ln q(x_t) in nats.
    pub fn log_density(&self, x_t: &[f64], alpha_cumprod: f64) -> f64 {
        log_sum_exp(&self.log_joint(x_t, alpha_cumprod))
    }

    /// The exact denoiser x̂0 = E[x_0 | x_t].
    pub fn sample(&self, x_t: &[f64], alpha_cumprod: f64) -> Vec<f64> {
        self.average(x_t, alpha_cumprod, |gaussian, x| gaussian.sample(x, alpha_cumprod))
    }

    /// The exact noise predictor ε̂ = E[ε | x_t].
    pub fn epsilon(&self, x_t: &[f64], alpha_cumprod: f64) -> Vec<f64> {
        self.average(x_t, alpha_cumprod, |gaussian, x| gaussian.epsilon(x, alpha_cumprod))
    }

    /// Σ_k r_k f(k-th Gaussian, x) for each dimension.
    fn average(&self, x_t: &[f64], alpha_cumprod: f64, f: impl Fn(Gaussian, f64) -> f64) -> Vec<f64> {
        let responsibilities = self.responsibilities(x_t, alpha_cumprod);
        let mut sum = vec![0.0; x_t.len()];
        for (component, r) in self.components.iter().zip(responsibilities) {
            for ((sum, &mean), &x) in sum.iter_mut().zip(&component.mean).zip(x_t) {
                *sum += r * f(Gaussian { mean, variance: component.variance }, x);
            }
        }
        sum
    }

    /// Tr Cov[x_0 | x_t]/D, the squared error per dimension that even the exact denoiser makes at this x_t.
    pub fn posterior_variance(&self, x_t: &[f64], alpha_cumprod: f64) -> f64 {
        let second = self.average(x_t, alpha_cumprod, |gaussian, x| {
            gaussian.mse(alpha_cumprod) + gaussian.sample(x, alpha_cumprod).powi(2)
        });
        let first = self.sample(x_t, alpha_cumprod);
        second.iter().zip(&first).map(|(second, first)| second - first * first).sum::<f64>() / x_t.len() as f64
    }

    /// M_t = E(x_0 − x̂0)² of a mixture on the line, by quadrature over x_t. Errors for D > 1.
    pub fn mse(&self, alpha_cumprod: f64) -> Result<f64, Error> {
        self.expectation(alpha_cumprod, |x| self.posterior_variance(&[x], alpha_cumprod))
    }

    /// E f(x_t) of a mixture on the line. The trapezoidal rule, which converges exponentially for such integrands; the
    /// step resolves the narrowest component. Errors for D > 1.
    pub fn expectation(&self, alpha_cumprod: f64, f: impl Fn(f64) -> f64) -> Result<f64, Error> {
        self.check_line()?;
        const REACH: f64 = 10.0;
        const POINTS_PER_DEVIATION: f64 = 16.0;
        let mut sum = 0.0;
        for component in &self.components {
            let at = Gaussian { mean: component.mean[0], variance: component.variance }.marginal(alpha_cumprod);
            let deviation = at.variance.sqrt();
            let points = (REACH * POINTS_PER_DEVIATION) as i64;
            let integral: f64 = (-points..=points)
                .map(|i| i as f64 / POINTS_PER_DEVIATION)
                .map(|z| (-0.5 * z * z).exp() * f(at.mean + deviation * z))
                .sum();
            sum += component.weight * integral / (POINTS_PER_DEVIATION * (2.0 * PI).sqrt());
        }
        Ok(sum)
    }

    /// P(x_t ≤ x) and P(x_t > x) of a mixture on the line, each exact in its own tail. Errors for D > 1.
    pub fn cdf(&self, x: f64, alpha_cumprod: f64) -> Result<(f64, f64), Error> {
        self.check_line()?;
        let (mut below, mut above) = (0.0, 0.0);
        for component in &self.components {
            let at = Gaussian { mean: component.mean[0], variance: component.variance }.marginal(alpha_cumprod);
            let z = (x - at.mean) / at.variance.sqrt() * FRAC_1_SQRT_2;
            below += 0.5 * component.weight * libm::erfc(-z);
            above += 0.5 * component.weight * libm::erfc(z);
        }
        Ok((below, above))
    }

    /// The probability-flow ODE of a mixture on the line solved exactly from ᾱ_t to ᾱ_s, either way: the flow is
    /// monotone, so it keeps quantiles, F_s(x_s) = F_t(x_t). By bisection to the last bit. Errors for D > 1.
    pub fn flow(&self, x_t: f64, alpha_cumprod_t: f64, alpha_cumprod_s: f64) -> Result<f64, Error> {
        let (below, above) = self.cdf(x_t, alpha_cumprod_t)?;
        // The quantile of a mixture lies between those of its components, each of which flows in closed form.
        let mut low = f64::INFINITY;
        let mut high = f64::NEG_INFINITY;
        for component in &self.components {
            let mean = component.mean[0];
            let at = Gaussian { mean, variance: component.variance }.marginal(alpha_cumprod_s);
            let reach = 40.0 * at.variance.sqrt();
            low = low.min(at.mean - reach);
            high = high.max(at.mean + reach);
        }
        loop {
            let middle = 0.5 * (low + high);
            if middle <= low || middle >= high {
                return Ok(middle);
            }
            let (below_middle, above_middle) = self.cdf(middle, alpha_cumprod_s)?;
            let too_low = if below < above { below_middle < below } else { above_middle > above };
            if too_low {
                low = middle;
            } else {
                high = middle;
            }
        }
    }

    fn check_line(&self) -> Result<(), Error> {
        match self.dims() {
            1 => Ok(()),
            found => Err(Error::Length { name: "component mean", found, expected: 1 }),
        }
    }
}

fn log_sum_exp(logs: &[f64]) -> f64 {
    let max = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + logs.iter().map(|log| (log - max).exp()).sum::<f64>().ln()
}
