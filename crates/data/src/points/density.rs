//! The exact densities of the built-in points.

use super::builtin::{BuiltinPoints, arm_angle, turn};
use super::shape::{PointShape, RADIAL, square};
use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::ops::Range;

/// Nodes of the quadrature along a curve, for each deviation of the noise. The error falls faster than any power of it, except at
/// the ends of the curve, where it falls with the square.
const NODES: f64 = 16.0;
/// The fewest nodes.
const LEAST: f64 = 1000.0;

impl BuiltinPoints {
    /// Returns ln p of a point. It is closed except for curves with noise, whose integral along the curve is computed to six digits.
    /// `None` where there is no density: on curves without noise.
    pub fn log_density(&self, point: [f64; 2]) -> Option<f64> {
        self.log_density_of(point, 0..self.shape.components())
    }

    /// Returns ln p of a point given its class, as [`log_density`](Self::log_density) does. `None` also for a class that the shape
    /// does not have.
    pub fn log_density_given(&self, point: [f64; 2], class: usize) -> Option<f64> {
        if class < self.shape.classes() { self.log_density_of(point, class..class + 1) } else { None }
    }

    /// Returns ln of the mean density of some components.
    fn log_density_of(&self, point: [f64; 2], components: Range<usize>) -> Option<f64> {
        match self.shape {
            PointShape::Checkerboard => Some(self.log_density_of_squares(point, components)),
            _ if self.noise == 0.0 => None,
            PointShape::Pinwheel => Some(self.log_density_of_arms(point, components)),
            PointShape::Gaussians8 => Some(self.log_density_of_nodes(point, components, 1)),
            PointShape::SwissRoll | PointShape::Moons | PointShape::Spirals => {
                let speed = self.scale() * self.shape.speed()?;
                let nodes = (NODES * speed / self.noise).max(LEAST).ceil() as usize;
                Some(self.log_density_of_nodes(point, components, nodes))
            }
        }
    }

    /// Returns ln of the mean of normal densities around points that lie evenly in u, `nodes` on each component.
    fn log_density_of_nodes(&self, point: [f64; 2], components: Range<usize>, nodes: usize) -> f64 {
        let (mean, _) = self.shape.moments();
        let (scale, variance) = (self.scale(), self.noise * self.noise);
        let (count, is_spiral) = (components.len() * nodes, self.shape == PointShape::Spirals);
        let mut exponents = Vec::with_capacity(count);
        for component in components {
            for node in 0..nodes {
                let v = (node as f64 + 0.5) / nodes as f64;
                // Even in n, whose density is 2v: u = v² has a speed without bound at 0.
                let (u, weight) = if is_spiral { (v * v, 2.0 * v) } else { (v, 1.0) };
                let [x, y] = self.shape.place(component, [u, 0.0]);
                let [dx, dy] = [point[0] - scale * (x - mean[0]), point[1] - scale * (y - mean[1])];
                exponents.push(f64::ln(weight) - (dx * dx + dy * dy) / (2.0 * variance));
            }
        }
        log_sum_exp(&exponents) - (count as f64).ln() - (2.0 * PI * variance).ln()
    }

    fn log_density_of_squares(&self, point: [f64; 2], squares: Range<usize>) -> f64 {
        let (scale, noise) = (self.scale(), self.noise);
        // The share of the noise around z that a side from a to a + 1 catches, in units of the board.
        let share = |z: f64, a: f64| match noise > 0.0 {
            true => {
                let at = |edge: f64| 0.5 * libm::erfc((edge - z) * scale / noise * FRAC_1_SQRT_2);
                at(a) - at(a + 1.0)
            }
            false => f64::from(u8::from((a..a + 1.0).contains(&z))),
        };
        let [x, y] = point.map(|z| z / scale);
        let count = squares.len() as f64;
        let mass: f64 = squares.map(square).map(|[left, low]| share(x, left) * share(y, low)).sum();
        (mass / (count * scale * scale)).ln()
    }

    fn log_density_of_arms(&self, point: [f64; 2], arms: Range<usize>) -> f64 {
        let (scale, deviation) = (self.scale(), self.scale() * RADIAL);
        let radius = point[0].hypot(point[1]) / scale;
        let count = arms.len() as f64;
        let exponents: Vec<f64> = arms
            .map(|arm| {
                // A turn by an angle of the radius keeps areas.
                let [x, y] = turn(point, -arm_angle(arm, radius));
                -0.5 * ((x - scale) / deviation).powi(2) - 0.5 * (y / self.noise).powi(2)
            })
            .collect();
        log_sum_exp(&exponents) - (2.0 * PI * count * deviation * self.noise).ln()
    }
}

/// Returns ln Σ eˣ.
fn log_sum_exp(exponents: &[f64]) -> f64 {
    let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + exponents.iter().map(|exponent| (exponent - largest).exp()).sum::<f64>().ln()
}
