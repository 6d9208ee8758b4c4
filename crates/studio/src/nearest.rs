//! The training images that are nearest to a sample, by the distance of their pixels: whether it is a copy of one.

use axum::http::StatusCode;
use ddpm::data::{ImageSet, Split};
use ddpm::model::Images;
use ddpm::{Pipeline, PipelineExt};
use rayon::prelude::*;

use crate::api::Failure;

/// The nearest images that are shown.
const SHOWN: usize = 6;
/// The most training images that are compared, the first ones.
const MOST_COMPARED: usize = 60_000;
/// Images that are read at once.
const CHUNK: usize = 1000;

/// The nearest training images of an image.
pub struct Nearest {
    /// The images, the nearest first.
    pub images: Images,
    /// The root mean squared difference of each, in pixel values of 0 to 255.
    pub distances: Vec<f64>,
    /// The number of training images that were compared.
    pub compared: usize,
}

/// Finds the training images of a model that are nearest to an image.
///
/// # Errors
/// If the training images are not known, cannot be read, or are of another size.
pub fn nearest(pipeline: &Pipeline, image: &Images) -> Result<Nearest, Failure> {
    let set = pipeline.open_training_data(Split::Train)?;
    if set.shape() != image.shape()[1..] {
        let message = format!("the training images are {:?}, and the image is {:?}", set.shape(), &image.shape()[1..]);
        return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, message));
    }
    let compared = set.len().min(MOST_COMPARED);
    let mut distances = distances(&set, &image.bytes(), compared)?;
    let shown = SHOWN.min(distances.len());
    distances.select_nth_unstable(shown.saturating_sub(1));
    distances.truncate(shown);
    distances.sort_unstable();
    let indices: Vec<usize> = distances.iter().map(|(_, index)| *index).collect();
    let images = Images::read(&set, &indices).map_err(|error| Failure::internal(error.to_string()))?;
    let size = image.pixels.len().max(1) as f64;
    let distances = distances.iter().map(|(square, _)| (*square as f64 / size).sqrt()).collect();
    Ok(Nearest { images, distances, compared })
}

/// Returns the squared distance of each image of a set from one, with its number.
fn distances(set: &ImageSet, of: &[u8], compared: usize) -> Result<Vec<(u64, usize)>, Failure> {
    let mut all = Vec::with_capacity(compared);
    for first in (0..compared).step_by(CHUNK) {
        let indices = first..compared.min(first + CHUNK);
        let bytes = set.read(indices).map_err(|error| Failure::internal(error.to_string()))?;
        let square = |image: &[u8]| image.iter().zip(of).map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2)).sum::<u64>();
        let found: Vec<(u64, usize)> =
            bytes.par_chunks(of.len().max(1)).enumerate().map(|(i, image)| (square(image), first + i)).collect();
        all.extend(found);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_a_training_image_is_found() {
        let folder = ddpm::weights::builtin::folder().unwrap();
        let pipeline = Pipeline::load(folder, &ddpm::Device::flex()).unwrap();
        let set = pipeline.open_training_data(Split::Train).unwrap();
        let copy = Images::read(&set, &[4321]).unwrap();
        let found = nearest(&pipeline, &copy).unwrap();
        assert_eq!((found.distances[0], found.images.n, found.compared), (0.0, SHOWN, set.len()));
        assert!(found.images.slice(0, 1).bytes() == copy.bytes());
        assert!(found.distances.is_sorted() && found.distances[1] > 0.0);
        let small = Images::new([1, 8, 8, 1], vec![0.0; 64]);
        assert!(nearest(&pipeline, &small).is_err());
    }
}
