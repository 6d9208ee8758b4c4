//! The density of the probability flow, an ordinary differential equation from noise to data along which the density
//! changes by the divergence (Song et al. 2021, arXiv 2011.13456, section 4.3 and appendix D).
//!
//! Over λ = ln(α/σ) the flow of a variance-preserving chain is dx/dλ = σ² x − σ ε̂, and along it
//! d ln p/dλ = −(σ² D − σ tr ∂ε̂/∂x). Both right-hand sides are bounded at every noise level.

use std::f64::consts::PI;

use crate::{Error, Node, NoiseSchedule};

/// The log-density of points under the probability flow, and their latents.
#[derive(Debug, Clone, PartialEq)]
pub struct Density {
    /// ln p of each point, in nats.
    pub log_density: Vec<f64>,
    /// x at t = T−1 of each point: the noise that the flow maps to it.
    pub latents: Vec<f64>,
}

/// The probability flow of a chain, which maps N(0, I) at t = T−1 to a density at t = 0.
#[derive(Debug, Clone, Copy)]
pub struct ProbabilityFlow<'a> {
    /// The chain.
    pub schedule: &'a NoiseSchedule,
    /// The number of fourth-order Runge–Kutta steps, uniform in λ, of four evaluations each.
    pub steps: usize,
}

impl ProbabilityFlow<'_> {
    /// Returns ln p of points at t = 0, of `dims` numbers each. `model(x, node)` returns ε̂ of all points, and tr
    /// ∂ε̂/∂x of each point, exact or an unbiased estimate.
    ///
    /// # Errors
    /// If there are no steps, an array has the wrong length, or the chain has zero terminal SNR; and errors of the
    /// model.
    pub fn log_density<E: From<Error>>(
        self,
        points: &[f64],
        dims: usize,
        mut model: impl FnMut(&[f64], Node) -> Result<(Vec<f64>, Vec<f64>), E>,
    ) -> Result<Density, E> {
        let Self { schedule, steps } = self;
        if steps == 0 {
            return Err(Error::Value { name: "steps", value: 0.0, expected: "at least 1" }.into());
        }
        if dims == 0 || !points.len().is_multiple_of(dims) {
            return Err(Error::Length { name: "point", found: points.len(), expected: dims }.into());
        }
        let (start, end) = (schedule.level(0).lambda(), schedule.level(schedule.len() - 1).lambda());
        if !end.is_finite() {
            let message =
                "the probability flow is solved over log-SNR, which has no end in a chain of zero terminal SNR";
            return Err(Error::Unsupported(message.to_owned()).into());
        }
        let n = points.len() / dims;
        // (dx/dλ, d ln p/dλ)
        let mut slope = |x: &[f64], lambda: f64| {
            let node = Node::at(schedule, schedule.timestep_of_lambda(lambda));
            let sigma = node.level.sigma;
            let (epsilon, trace) = model(x, node)?;
            let length = |name, found, expected| match found == expected {
                true => Ok(()),
                false => Err(Error::Length { name, found, expected }),
            };
            length("model output", epsilon.len(), x.len())?;
            length("trace", trace.len(), n)?;
            let dx: Vec<f64> = x.iter().zip(epsilon).map(|(x, epsilon)| sigma * sigma * x - sigma * epsilon).collect();
            let dp: Vec<f64> = trace.iter().map(|trace| sigma * trace - sigma * sigma * dims as f64).collect();
            Ok::<_, E>((dx, dp))
        };
        let mut x = points.to_vec();
        // The change of ln p from noise to data.
        let mut gain = vec![0.0; n];
        let h = (end - start) / steps as f64;
        for step in 0..steps {
            let lambda = start + step as f64 * h;
            let mut at = x.clone();
            let mut total = vec![0.0; x.len()];
            // (position of the slope in the step, its weight, distance along it to the next slope)
            for (reach, weight, next) in [(0.0, 1.0, 0.5), (0.5, 2.0, 0.5), (0.5, 2.0, 1.0), (1.0, 1.0, 0.0)] {
                let (dx, dp) = slope(&at, lambda + reach * h)?;
                total.iter_mut().zip(&dx).for_each(|(total, dx)| *total += weight / 6.0 * dx);
                gain.iter_mut().zip(&dp).for_each(|(gain, dp)| *gain -= h * weight / 6.0 * dp);
                at = x.iter().zip(&dx).map(|(x, dx)| x + next * h * dx).collect();
            }
            x.iter_mut().zip(&total).for_each(|(x, total)| *x += h * total);
        }
        let log_density = x
            .chunks(dims)
            .zip(gain)
            .map(|(x, gain)| gain - 0.5 * (x.iter().map(|x| x * x).sum::<f64>() + dims as f64 * (2.0 * PI).ln()))
            .collect();
        Ok(Density { log_density, latents: x })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BetaSchedule;
    use crate::oracle::{Gaussian, Mixture};

    fn schedule() -> NoiseSchedule {
        NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
    }

    /// The flow maps N(0, I), and not the law of the data at T−1, to t = 0. On Gaussian data the flow is affine, so the
    /// density is Gaussian.
    #[test]
    fn the_density_on_gaussian_data_is_the_closed_form() {
        let (schedule, data) = (schedule(), Gaussian { mean: 0.4, variance: 0.09 });
        let (first, last) = (schedule.alpha_cumprod(0), schedule.alpha_cumprod(999));
        let points = [0.1, 0.5, -0.4, 0.9, 0.4, 0.2];
        let model = |x: &[f64], node: Node| {
            let epsilon = x.iter().map(|&x| data.epsilon(x, node.level.alpha_cumprod())).collect();
            let slope = node.level.sigma / data.marginal(node.level.alpha_cumprod()).variance;
            Ok::<_, Error>((epsilon, vec![2.0 * slope; x.len() / 2]))
        };
        let found = ProbabilityFlow { schedule: &schedule, steps: 400 }.log_density(&points, 2, model).unwrap();
        let scale = (data.marginal(last).variance / data.marginal(first).variance).sqrt();
        let mut expected = vec![0.0; 3];
        for (i, &x) in points.iter().enumerate() {
            let latent = data.flow(x, first, last);
            assert!((found.latents[i] - latent).abs() < 1e-8);
            expected[i / 2] += -0.5 * (latent * latent + (2.0 * PI).ln()) + scale.ln();
        }
        for (found, expected) in found.log_density.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-7, "{found} {expected}");
        }
    }

    /// On a mixture the density is that of the data, corrected by the difference between N(0, 1) and the law at T−1;
    /// the error falls with the fourth power of the step.
    #[test]
    fn the_density_on_a_mixture_converges_at_fourth_order() {
        let schedule = schedule();
        let mixture = Mixture::univariate(&[(0.3, -0.6, 0.01), (0.7, 0.5, 0.04)]).unwrap();
        let (first, last) = (schedule.alpha_cumprod(0), schedule.alpha_cumprod(999));
        let points: Vec<f64> = (-10..=10).map(|i| f64::from(i) / 10.0).collect();
        let error = |steps: usize| {
            let model = |x: &[f64], node: Node| {
                let (alpha, sigma) = (node.level.alpha_cumprod(), node.level.sigma);
                let epsilon = x.iter().map(|&x| mixture.epsilon(&[x], alpha)[0]).collect();
                // Tweedie: Var[x_0 | x] = σ²/ᾱ (1 − σ ∂ε̂/∂x).
                let slope =
                    |&x: &f64| (1.0 - alpha / (sigma * sigma) * mixture.posterior_variance(&[x], alpha)) / sigma;
                Ok::<_, Error>((epsilon, x.iter().map(slope).collect()))
            };
            let found = ProbabilityFlow { schedule: &schedule, steps }.log_density(&points, 1, model).unwrap();
            let errors = points.iter().zip(&found.log_density).map(|(&x, found)| {
                let latent = mixture.flow(x, first, last).unwrap();
                let normal = Gaussian { mean: 0.0, variance: 1.0 }.log_density(latent, 1.0);
                let exact = mixture.log_density(&[x], first) - mixture.log_density(&[latent], last) + normal;
                (found - exact).abs()
            });
            errors.fold(0.0, f64::max)
        };
        let (coarse, fine) = (error(50), error(100));
        assert!(fine < 1e-3 && (coarse / fine).log2() > 3.5, "{coarse} {fine}");
        assert!(error(400) < 1e-5);
    }

    #[test]
    fn invalid_arguments_are_errors() {
        let none = |x: &[f64], _: Node| Ok::<_, Error>((vec![0.0; x.len()], vec![0.0; x.len()]));
        let schedule = schedule();
        let flow = |steps| ProbabilityFlow { schedule: &schedule, steps };
        assert!(flow(0).log_density(&[0.0], 1, none).is_err());
        assert!(flow(5).log_density(&[0.0], 2, none).is_err());
        assert!(flow(5).log_density(&[0.0], 1, |_, _| Ok::<_, Error>((vec![], vec![0.0]))).is_err());
        assert!(flow(5).log_density(&[0.0], 1, |_, _| Ok::<_, Error>((vec![0.0], vec![]))).is_err());
        let zero = schedule.rescale_zero_terminal_snr().unwrap();
        assert!(ProbabilityFlow { schedule: &zero, steps: 5 }.log_density(&[0.0], 1, none).is_err());
    }
}
