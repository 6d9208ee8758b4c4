//! Point data: N vectors of D numbers, as sets of shape `[1, 1, D]`.
//!
//! Sohl-Dickstein et al. (2015) introduce diffusion models for any data vector, and show a chain on a swiss roll first. Points
//! come from [`BuiltinPoints`], whose densities are known, or from files (`.npy`, `.npz`, `.csv`, or a folder of `train` and `test`). They are kept
//! as f32, taken as they are or standardized by the training part ([`PointScaling`]).

mod builtin;
mod density;
mod read;
mod scaling;
mod shape;
mod text;
mod write;

pub use builtin::BuiltinPoints;
pub(crate) use builtin::open_builtin;
pub(crate) use read::open;
pub use scaling::{PointOptions, PointScaling};
pub use shape::PointShape;
pub use text::write as csv;
pub use write::npy;

use crate::error::{Error, Result};

/// Points `[N, D]` with an optional label for each, before any scaling.
#[derive(Debug, Clone, Default)]
pub(crate) struct Points {
    /// D.
    pub dims: usize,
    /// N·D numbers, point by point.
    pub values: Vec<f64>,
    /// A label for each point, an index into `class_names`.
    pub labels: Option<Vec<u32>>,
    pub class_names: Vec<String>,
}

impl Points {
    /// Returns N.
    pub fn len(&self) -> usize {
        self.values.len() / self.dims.max(1)
    }
}

/// The largest D. A tensor `[N,1,1,D]` of such points has the sizes that images have.
pub(crate) const MAX_DIMS: usize = 65_535;

/// Returns the error of asking for pixels of points.
pub(crate) fn no_pixels(name: &str) -> Error {
    Error::Argument(format!(
        "{name} has points, vectors of numbers that are no pixels: this works on images alone; a network of points (class Mlp) \
         is trained, sampled and evaluated on them"
    ))
}

/// Checks a number of dimensions.
pub(crate) fn check_dims(path: &std::path::Path, dims: u64) -> Result<usize> {
    match usize::try_from(dims) {
        Ok(dims) if (1..=MAX_DIMS).contains(&dims) => Ok(dims),
        _ => Err(Error::malformed(path, format!("has points of {dims} dimensions; expected 1 to {MAX_DIMS}"))),
    }
}
