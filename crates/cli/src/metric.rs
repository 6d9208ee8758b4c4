//! The metrics of `ddpm evaluate`.

use std::fmt;

use clap::ValueEnum;

/// A metric.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Variational bound of held-out images in bits/dim
    Nll,
    /// Likelihood under the probability flow in bits/dim
    Ode,
    /// Fréchet Inception distance
    Fid,
    /// Fréchet distance of Inception's spatial features
    Sfid,
    /// Inception score
    Is,
    /// Kernel Inception distance
    Kid,
    /// Fréchet distance of any features
    Fd,
    /// Kernel distance of any features
    Kd,
    /// Precision, recall, density and coverage
    Prdc,
    /// Nearest training images
    Nearest,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}
