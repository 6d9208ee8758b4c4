//! The built-in points: drawn from a seed, with a known density.

use super::Points;
use super::shape::{ARMS, PointShape, TWIST};
use crate::error::Result;
use crate::options::{ReadOptions, Split};
use crate::set::ImageSet;
use random::{Random, Stream};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

/// A built-in distribution of points in two dimensions, of mean 0 and variance 1.
///
/// It is written as `swissroll`, or with other noise and another seed as `swissroll,noise=0.01,seed=3`.
///
/// ```
/// use ddpm_data::{BuiltinPoints, Split};
/// let points: BuiltinPoints = "moons,seed=7".parse()?;
/// let [x, y] = points.point(Split::Train, 0).0;
/// assert!(points.log_density([x, y]).is_some_and(f64::is_finite));
/// assert_eq!(points.to_string(), "moons,seed=7");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuiltinPoints {
    /// The shape.
    pub shape: PointShape,
    /// The deviation of the normal noise, where the points, noise included, have variance 1: 0 or more, below 1.
    pub noise: f64,
    /// The seed.
    pub seed: u64,
}

impl BuiltinPoints {
    /// The number of training points.
    pub const TRAINING: usize = 50_000;
    /// The number of held-out points.
    pub const HELD_OUT: usize = 10_000;

    /// Returns the points of a shape with its own noise and the seed 0.
    pub fn new(shape: PointShape) -> Self {
        Self { shape, noise: shape.default_noise(), seed: 0 }
    }

    /// Returns the factor from a shape's coordinates to those of the points: with the noise, the variance is 1.
    pub(super) fn scale(&self) -> f64 {
        let (_, variance) = self.shape.moments();
        // A pinwheel has its noise across the arms alone.
        let of_noise = if self.shape == PointShape::Pinwheel { 0.5 } else { 1.0 };
        ((1.0 - of_noise * self.noise * self.noise) / variance).sqrt()
    }

    /// Draws a point, with the component that it is from.
    pub fn point(&self, split: Split, index: u64) -> ([f64; 2], usize) {
        let (random, step) = (Random::new(self.seed), u64::from(split == Split::Test));
        let (mut uniforms, mut normals) = ([0.0; 3], [0.0f32; 2]);
        random.uniforms_f64(Stream::Points, index, step, &mut uniforms);
        random.normals(Stream::PointNoise, index, step, &mut normals);
        let [z0, z1] = normals.map(f64::from);
        let component = ((uniforms[2] * self.shape.components() as f64) as usize).min(self.shape.components() - 1);
        let (scale, noise) = (self.scale(), self.noise);
        if self.shape == PointShape::Pinwheel {
            let [x, _] = self.shape.place(component, [z0, 0.0]);
            let point = [scale * x, noise * z1];
            let radius = point[0].hypot(point[1]) / scale;
            return (turn(point, arm_angle(component, radius)), component);
        }
        let (mean, _) = self.shape.moments();
        let [x, y] = self.shape.place(component, [uniforms[0], uniforms[1]]);
        ([scale * (x - mean[0]) + noise * z0, scale * (y - mean[1]) + noise * z1], component)
    }

    /// Draws the points of a part.
    pub(crate) fn draw(&self, split: Split) -> Points {
        let count = match split {
            Split::Train => Self::TRAINING,
            Split::Test => Self::HELD_OUT,
        };
        let (mut values, mut labels) = (Vec::with_capacity(2 * count), Vec::with_capacity(count));
        for index in 0..count {
            let (point, component) = self.point(split, index as u64);
            values.extend(point);
            labels.push(component as u32);
        }
        let classes = self.shape.classes();
        Points {
            dims: 2,
            values,
            labels: (classes > 0).then_some(labels),
            class_names: (0..classes).map(|class| class.to_string()).collect(),
        }
    }
}

/// Turns a point around the origin.
pub(super) fn turn([x, y]: [f64; 2], angle: f64) -> [f64; 2] {
    let (sin, cos) = angle.sin_cos();
    [cos * x - sin * y, sin * x + cos * y]
}

/// Returns the angle by which a point at a radius is turned for an arm of a pinwheel.
pub(super) fn arm_angle(arm: usize, radius: f64) -> f64 {
    2.0 * PI * arm as f64 / ARMS as f64 + TWIST * radius.exp()
}

/// Opens a part of built-in points.
pub(crate) fn open_builtin(points: &BuiltinPoints, options: &ReadOptions) -> Result<ImageSet> {
    let name = points.shape.name();
    let Some(asked) = &options.points else { return Err(super::no_pixels(name)) };
    let drawn = points.draw(options.split);
    let scaling = asked.resolve(
        name.as_ref(),
        || {
            Ok(match options.split {
                Split::Train => drawn.clone(),
                Split::Test => points.draw(Split::Train),
            })
        },
        drawn.dims,
    )?;
    ImageSet::of_points(name.to_owned(), name.as_ref(), "drawn from the seed", drawn, scaling)
}

impl fmt::Display for BuiltinPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shape.fmt(f)?;
        if self.noise != self.shape.default_noise() {
            write!(f, ",noise={:?}", self.noise)?;
        }
        if self.seed != 0 {
            write!(f, ",seed={}", self.seed)?;
        }
        Ok(())
    }
}

impl FromStr for BuiltinPoints {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut parts = text.split(',').map(str::trim);
        let mut points = Self::new(parts.next().unwrap_or_default().parse()?);
        for part in parts {
            let wrong = || format!("got {part:?}, expected noise=DEVIATION from 0 to below 1, or seed=NUMBER");
            match part.split_once('=') {
                Some(("noise", value)) => {
                    points.noise = value.parse().ok().filter(|noise| (0.0..1.0).contains(noise)).ok_or_else(wrong)?;
                }
                Some(("seed", value)) => points.seed = value.parse().map_err(|_| wrong())?,
                _ => return Err(wrong()),
            }
        }
        Ok(points)
    }
}

impl TryFrom<String> for BuiltinPoints {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<BuiltinPoints> for String {
    fn from(points: BuiltinPoints) -> String {
        points.to_string()
    }
}
