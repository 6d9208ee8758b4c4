//! The shapes of the built-in points, each scaled so that the mean of its points is 0 and their variance, over both dimensions,
//! is 1.

use std::f64::consts::{FRAC_1_PI, PI};
use std::fmt;
use std::str::FromStr;

/// A shape of points in two dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointShape {
    /// The swiss roll of Sohl-Dickstein et al. (2015), in scikit-learn's form without its height: (t cos t, t sin t), t uniform in
    /// 3π/2 … 9π/2, with normal noise.
    SwissRoll,
    /// scikit-learn's `make_moons`: two interleaved half circles with normal noise; two classes.
    Moons,
    /// Eight normal distributions on a circle; eight classes.
    Gaussians8,
    /// The uniform distribution on the eight black squares of a board of four by four, with normal noise.
    Checkerboard,
    /// Five arms that are bent with their radius (after Johnson et al. 2016): a normal distribution with mean (1, 0) and
    /// deviations 0.3 along an arm and the noise across it, turned by 2πk/5 + e^radius/4; five classes.
    Pinwheel,
    /// Two spirals, (−n cos n, n sin n) and its mirror image, n² uniform in 0 … 9π² (after Grathwohl et al. 2019), with normal noise;
    /// two classes.
    Spirals,
}

/// The deviation of a pinwheel along an arm, where the mean radius is 1.
pub(super) const RADIAL: f64 = 0.3;
/// The turn of a pinwheel's point is this times e^radius.
pub(super) const TWIST: f64 = 0.25;
/// The arms of a pinwheel.
pub(super) const ARMS: usize = 5;

impl PointShape {
    /// All shapes by name, each with the deviation of its noise in the units of the points.
    pub const ALL: [(&str, PointShape, f64); 6] = [
        ("swissroll", Self::SwissRoll, 0.05),
        ("moons", Self::Moons, 0.1),
        ("gaussians8", Self::Gaussians8, 0.15),
        ("checkerboard", Self::Checkerboard, 0.0),
        ("pinwheel", Self::Pinwheel, 0.1),
        ("spirals", Self::Spirals, 0.05),
    ];

    /// Returns the name.
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// Returns the deviation of the noise that the shape has by default.
    pub fn default_noise(self) -> f64 {
        self.entry().2
    }

    fn entry(self) -> (&'static str, PointShape, f64) {
        Self::ALL[Self::ALL.iter().position(|(_, shape, _)| *shape == self).unwrap_or(0)]
    }

    /// Returns the number of classes, 0 for a shape without classes.
    pub fn classes(self) -> usize {
        match self {
            Self::SwissRoll | Self::Checkerboard => 0,
            Self::Moons | Self::Spirals => 2,
            Self::Gaussians8 => 8,
            Self::Pinwheel => ARMS,
        }
    }

    /// Returns the number of components that a point is drawn from, each with the same probability.
    pub(super) fn components(self) -> usize {
        match self {
            Self::SwissRoll => 1,
            Self::Checkerboard => 8,
            other => other.classes(),
        }
    }

    /// Returns the mean of the points before noise and scaling, and the mean over both dimensions of their variance.
    pub(super) fn moments(self) -> ([f64; 2], f64) {
        match self {
            // ∫ t cos t and ∫ t sin t from 3π/2 to 9π/2 are 6π and 2, over an interval of 3π; E t² = 39π²/4.
            Self::SwissRoll => {
                let mean = [2.0, 2.0 / 3.0 * FRAC_1_PI];
                (mean, 0.5 * (9.75 * PI * PI - mean[0] * mean[0] - mean[1] * mean[1]))
            }
            // E cos² = E sin² = 1/2 and E sin = 2/π over a half circle.
            Self::Moons => ([0.5, 0.25], 0.5 * (0.75 + 0.5625 - FRAC_1_PI)),
            Self::Gaussians8 => ([0.0; 2], 0.5),
            Self::Checkerboard => ([0.0; 2], 4.0 / 3.0),
            Self::Pinwheel => ([0.0; 2], 0.5 * (1.0 + RADIAL * RADIAL)),
            // E n² = 9π²/2.
            Self::Spirals => ([0.0; 2], 2.25 * PI * PI),
        }
    }

    /// Returns a point of a component before noise and scaling, for two numbers of [0, 1). That of a pinwheel lies on the middle
    /// of an arm that is not bent yet, and depends on a normal deviate in place of the first number.
    pub(super) fn place(self, component: usize, [u, v]: [f64; 2]) -> [f64; 2] {
        match self {
            Self::SwissRoll => {
                let t = PI * (1.5 + 3.0 * u);
                [t * t.cos(), t * t.sin()]
            }
            Self::Moons => {
                let (sin, cos) = (PI * u).sin_cos();
                if component == 0 { [cos, sin] } else { [1.0 - cos, 0.5 - sin] }
            }
            Self::Gaussians8 => {
                let (sin, cos) = (PI * component as f64 / 4.0).sin_cos();
                [cos, sin]
            }
            Self::Checkerboard => {
                let [x, y] = square(component);
                [x + u, y + v]
            }
            Self::Pinwheel => [1.0 + RADIAL * u, 0.0],
            Self::Spirals => {
                let n = 3.0 * PI * u.sqrt();
                let sign = if component == 0 { 1.0 } else { -1.0 };
                [-sign * n * n.cos(), sign * n * n.sin()]
            }
        }
    }

    /// Returns the greatest speed |dx/du| of a curve's point before scaling, if the shape is curves with noise. Of a spiral, it is
    /// the speed in terms of √u.
    pub(super) fn speed(self) -> Option<f64> {
        match self {
            // |dx/dt| = √(1 + t²).
            Self::SwissRoll => Some(3.0 * PI * (1.0 + (4.5 * PI).powi(2)).sqrt()),
            Self::Moons => Some(PI),
            Self::Spirals => Some(3.0 * PI * (1.0 + (3.0 * PI).powi(2)).sqrt()),
            Self::Gaussians8 | Self::Checkerboard | Self::Pinwheel => None,
        }
    }
}

/// Returns the lower left corner of a black square of the board from −2 to 2.
pub(super) fn square(component: usize) -> [f64; 2] {
    let (column, row) = (component % 4, component / 4);
    [column as f64 - 2.0, (2 * row + column % 2) as f64 - 2.0]
}

impl fmt::Display for PointShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PointShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(name, ..)| *name == text).map(|(_, shape, _)| *shape).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(name, ..)| *name).collect();
            format!("unknown points {text:?}: expected one of {}", names.join(", "))
        })
    }
}
