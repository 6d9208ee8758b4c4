//! Samples next to the training images that are nearest to them in pixels, and pictures of both.

use model::Images;

use super::{Neighbor, NeighborResult, NeighborSearch};
use crate::{Error, ImageSource};

/// Pixels are compared if those of each set need at most this many bytes.
const MAX_PIXEL_BYTES: usize = 4 << 30;

/// Samples and the training images among which their neighbours are.
#[derive(Clone, Copy)]
pub struct NeighborImages<'a> {
    /// The samples.
    pub samples: &'a ImageSource,
    /// The training images.
    pub training: &'a ImageSource,
    /// Images that the model has not seen.
    pub unseen: Option<&'a ImageSource>,
    /// The seed of [`NeighborSearch`].
    pub seed: u64,
}

impl NeighborImages<'_> {
    /// Searches by pixels; see [`NeighborSearch::run`]. `None` if the pixels of a set need more than 4 GiB.
    ///
    /// # Errors
    /// If an image cannot be read, and as [`NeighborSearch::run`].
    pub fn search_pixels(&self, k: usize) -> Result<Option<NeighborResult>, Error> {
        let pixels = |source: &ImageSource| source.pixels(MAX_PIXEL_BYTES);
        let (Some(samples), Some(training)) = (pixels(self.samples)?, pixels(self.training)?) else { return Ok(None) };
        let unseen = self.unseen.map(pixels).transpose()?.flatten();
        let (samples, training, unseen) = (&samples, &training, unseen.as_ref());
        NeighborSearch { samples, training, unseen, seed: self.seed }.run(k).map(Some)
    }

    /// Reads the `rows` samples that are nearest to a training image, the nearest first, and their neighbours: the columns
    /// of a sheet, the samples first.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn columns(&self, neighbors: &[Vec<Neighbor>], rows: usize) -> Result<Vec<Images>, Error> {
        let distance = |near: &[Neighbor]| near.first().map_or(f64::INFINITY, |near| near.distance);
        let mut order: Vec<usize> = (0..neighbors.len()).collect();
        order.sort_by(|&a, &b| distance(&neighbors[a]).total_cmp(&distance(&neighbors[b])));
        order.truncate(rows);
        let columns = order.iter().map(|&i| neighbors[i].len()).min().unwrap_or(0);
        let mut all = vec![self.samples.images(order.iter().copied())?];
        let column = |rank: usize| self.training.images(order.iter().map(|&i| neighbors[i][rank].index));
        for rank in 0..columns {
            all.push(column(rank)?);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_samples_come_first_with_their_neighbors() {
        let image = |value: u8| vec![value; 4];
        let source =
            |values: &[u8]| ImageSource::from_bytes(values.iter().flat_map(|&v| image(v)).collect(), [2, 2, 1]);
        let (samples, training, unseen) = (source(&[100, 21, 61]), source(&[0, 20, 59, 255]), source(&[10, 200]));
        let images = NeighborImages { samples: &samples, training: &training, unseen: Some(&unseen), seed: 0 };
        let NeighborResult { memorization, neighbors } = images.search_pixels(2).unwrap().unwrap();
        assert_eq!((memorization.samples, memorization.unseen), (3, 2));
        let columns = images.columns(&neighbors, 2).unwrap();
        let bytes: Vec<Vec<u8>> = columns.iter().map(Images::bytes).collect();
        assert_eq!(
            bytes,
            [[image(21), image(61)].concat(), [image(20), image(59)].concat(), [image(0), image(20)].concat()]
        );
        // More neighbours than there are training images: all of them.
        assert_eq!(images.search_pixels(9).unwrap().unwrap().neighbors[0].len(), 4);
    }
}
