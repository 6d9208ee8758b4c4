//! Preconditioning: the linear maps that turn a network's output into estimates of x_0 and ε.

use crate::NoiseLevel;

/// The coefficients of x̂0 = c_skip·x_t + c_out·F(c_in·x_t, c_noise), F being the network (Karras et al. 2022,
/// arXiv 2206.00364, eq. 7).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preconditioning {
    /// Factor of x_t in x̂0.
    pub c_skip: f64,
    /// Factor of the network's output in x̂0.
    pub c_out: f64,
    /// Factor of x_t in the network's input.
    pub c_in: f64,
    /// The network's time input: the timestep, or a function of σ in EDM.
    pub c_noise: f64,
}

impl Preconditioning {
    /// Returns the map from x_t and the network's output to x̂0.
    pub fn sample_map(self) -> LinearMap {
        LinearMap { x: self.c_skip, output: self.c_out }
    }
}

/// The linear map x·x_t + output·F, F being the network's output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearMap {
    /// Factor of x_t.
    pub x: f64,
    /// Factor of the network's output.
    pub output: f64,
}

impl LinearMap {
    /// Applies the map to one element.
    pub fn apply(self, x_t: f64, output: f64) -> f64 {
        self.x * x_t + self.output * output
    }

    /// Returns whether both factors are finite.
    pub fn is_finite(self) -> bool {
        self.x.is_finite() && self.output.is_finite()
    }
}

/// Returns the map from x_t and x̂0 (in place of the output) to ε̂ = (x_t − α·x̂0)/σ.
pub fn epsilon_from_sample(level: NoiseLevel) -> LinearMap {
    LinearMap { x: 1.0 / level.sigma, output: -level.alpha / level.sigma }
}
