//! Mixtures of isotropic Gaussians.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::Gaussian;
use crate::Error;

/// One Gaussian of a [`Mixture`], with the same variance in every direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    /// Its weight; [`Mixture::new`] normalises weights to sum to 1.
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
    /// Creates a mixture.
    ///
    /// # Errors
    /// If there are no components, dimensions differ, or a weight or variance is not positive.
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

    /// Creates a one-dimensional mixture from (weight, mean, variance) triples.
    ///
    /// # Errors
    /// As [`Mixture::new`].
    pub fn univariate(components: &[(f64, f64, f64)]) -> Result<Self, Error> {
        let component = |&(weight, mean, variance): &(f64, f64, f64)| Component { weight, mean: vec![mean], variance };
        Self::new(components.iter().map(component).collect())
    }

    /// Returns the number of dimensions D.
    pub fn dims(&self) -> usize {
        self.components[0].mean.len()
    }

    /// Returns the components, whose weights sum to 1.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// Returns ln of w_k N(x_t; √ᾱ m_k, V_k I) for each component.
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

    /// Returns r_k, the posterior probability of each component given x_t.
    pub fn responsibilities(&self, x_t: &[f64], alpha_cumprod: f64) -> Vec<f64> {
        let joint = self.log_joint(x_t, alpha_cumprod);
        let total = log_sum_exp(&joint);
        joint.iter().map(|log| (log - total).exp()).collect()
    }

    /// Returns ln q(x_t) in nats.
    pub fn log_density(&self, x_t: &[f64], alpha_cumprod: f64) -> f64 {
        log_sum_exp(&self.log_joint(x_t, alpha_cumprod))
    }

    /// Returns the exact denoiser x̂0 = E[x_0 | x_t].
    pub fn sample(&self, x_t: &[f64], alpha_cumprod: f64) -> Vec<f64> {
        self.average(x_t, alpha_cumprod, |gaussian, x| gaussian.sample(x, alpha_cumprod))
    }

    /// Returns the exact noise prediction ε̂ = E[ε | x_t].
    pub fn epsilon(&self, x_t: &[f64], alpha_cumprod: f64) -> Vec<f64> {
        self.average(x_t, alpha_cumprod, |gaussian, x| gaussian.epsilon(x, alpha_cumprod))
    }

    /// Returns Σ_k r_k f(k-th Gaussian, x) for each dimension.
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

    /// Returns Tr Cov[x_0 | x_t]/D, the squared error per dimension of the exact denoiser at this x_t.
    pub fn posterior_variance(&self, x_t: &[f64], alpha_cumprod: f64) -> f64 {
        let second = self.average(x_t, alpha_cumprod, |gaussian, x| {
            gaussian.mse(alpha_cumprod) + gaussian.sample(x, alpha_cumprod).powi(2)
        });
        let first = self.sample(x_t, alpha_cumprod);
        second.iter().zip(&first).map(|(second, first)| second - first * first).sum::<f64>() / x_t.len() as f64
    }

    /// Returns Cov[x_0 | x_t], D×D.
    pub fn posterior_covariance(&self, x_t: &[f64], alpha_cumprod: f64) -> Vec<Vec<f64>> {
        self.reverse(x_t, alpha_cumprod, 1.0).covariance()
    }

    /// Returns the exact reverse kernel q(x_s | x_t), which is a mixture of the components' reverse kernels with
    /// weights r_k.
    pub fn reverse(&self, x_t: &[f64], alpha_cumprod_t: f64, alpha_cumprod_s: f64) -> Self {
        let responsibilities = self.responsibilities(x_t, alpha_cumprod_t);
        let reverse = |(Component { mean, variance, .. }, weight): (&Component, f64)| {
            let step = |(&mean, &x): (&f64, &f64)| {
                Gaussian { mean, variance: *variance }.reverse(x, alpha_cumprod_t, alpha_cumprod_s)
            };
            let laws: Vec<Gaussian> = mean.iter().zip(x_t).map(step).collect();
            Component { weight, variance: laws[0].variance, mean: laws.iter().map(|law| law.mean).collect() }
        };
        Self { components: self.components.iter().zip(responsibilities).map(reverse).collect() }
    }

    /// Returns E x_0.
    pub fn mean(&self) -> Vec<f64> {
        let mean = |i: usize| self.components.iter().map(|component| component.weight * component.mean[i]).sum();
        (0..self.dims()).map(mean).collect()
    }

    /// Returns Cov x_0, D×D.
    pub fn covariance(&self) -> Vec<Vec<f64>> {
        let mean = self.mean();
        let entry = |i: usize, j: usize| {
            let term = |Component { weight, mean: at, variance }: &Component| {
                let own = if i == j { *variance } else { 0.0 };
                weight * (own + (at[i] - mean[i]) * (at[j] - mean[j]))
            };
            self.components.iter().map(term).sum()
        };
        (0..mean.len()).map(|i| (0..mean.len()).map(|j| entry(i, j)).collect()).collect()
    }

    /// Returns M_t = E(x_0 − x̂0)² of a one-dimensional mixture, by quadrature over x_t.
    ///
    /// # Errors
    /// If D > 1.
    pub fn mse(&self, alpha_cumprod: f64) -> Result<f64, Error> {
        self.expectation(alpha_cumprod, |x| self.posterior_variance(&[x], alpha_cumprod))
    }

    /// Returns E f(x_t) of a one-dimensional mixture, by the trapezoidal rule over each component, which converges
    /// exponentially for such integrands.
    ///
    /// # Errors
    /// If D > 1.
    pub fn expectation(&self, alpha_cumprod: f64, f: impl Fn(f64) -> f64) -> Result<f64, Error> {
        self.check_univariate()?;
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

    /// Returns P(x_t ≤ x) and P(x_t > x) of a one-dimensional mixture, each accurate in its own tail.
    ///
    /// # Errors
    /// If D > 1.
    pub fn cdf(&self, x: f64, alpha_cumprod: f64) -> Result<(f64, f64), Error> {
        self.check_univariate()?;
        let (mut below, mut above) = (0.0, 0.0);
        for component in &self.components {
            let at = Gaussian { mean: component.mean[0], variance: component.variance }.marginal(alpha_cumprod);
            let z = (x - at.mean) / at.variance.sqrt() * FRAC_1_SQRT_2;
            below += 0.5 * component.weight * libm::erfc(-z);
            above += 0.5 * component.weight * libm::erfc(z);
        }
        Ok((below, above))
    }

    /// Solves the probability-flow ODE of a one-dimensional mixture exactly from ᾱ_t to ᾱ_s, in either direction. The
    /// flow is monotone and so preserves quantiles: F_s(x_s) = F_t(x_t), which is solved by bisection to the last bit.
    ///
    /// # Errors
    /// If D > 1.
    pub fn flow(&self, x_t: f64, alpha_cumprod_t: f64, alpha_cumprod_s: f64) -> Result<f64, Error> {
        let (below, above) = self.cdf(x_t, alpha_cumprod_t)?;
        // A quantile of the mixture lies between those of its components, which lie within 40 deviations.
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

    fn check_univariate(&self) -> Result<(), Error> {
        match self.dims() {
            1 => Ok(()),
            found => Err(Error::Length { name: "component mean", found, expected: 1 }),
        }
    }
}

/// Independent coordinates, each with a one-dimensional mixture of its own: D-dimensional data whose flow has a closed
/// form.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    marginals: Vec<Mixture>,
}

impl Product {
    /// Creates the product of one-dimensional mixtures.
    ///
    /// # Errors
    /// If a mixture has more than one dimension.
    pub fn new(marginals: Vec<Mixture>) -> Result<Self, Error> {
        marginals.iter().try_for_each(Mixture::check_univariate)?;
        Ok(Self { marginals })
    }

    /// Returns the exact noise prediction ε̂ = E[ε | x_t].
    pub fn epsilon(&self, x_t: &[f64], alpha_cumprod: f64) -> Vec<f64> {
        self.marginals.iter().zip(x_t).flat_map(|(mixture, &x)| mixture.epsilon(&[x], alpha_cumprod)).collect()
    }

    /// Solves the probability-flow ODE exactly, by [`Mixture::flow`] in each coordinate.
    pub fn flow(&self, x_t: &[f64], alpha_cumprod_t: f64, alpha_cumprod_s: f64) -> Result<Vec<f64>, Error> {
        let flow = |(mixture, &x): (&Mixture, &f64)| mixture.flow(x, alpha_cumprod_t, alpha_cumprod_s);
        self.marginals.iter().zip(x_t).map(flow).collect()
    }
}

fn log_sum_exp(logs: &[f64]) -> f64 {
    let max = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + logs.iter().map(|log| (log - max).exp()).sum::<f64>().ln()
}
