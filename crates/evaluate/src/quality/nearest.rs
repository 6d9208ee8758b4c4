//! Nearest neighbours, and whether a model reproduces its training images.

use serde::Serialize;

use super::distances::map_rows;
use super::{Features, permutation};
use crate::Error;

/// A neighbour in the other set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Neighbor {
    /// The index of its image.
    pub index: usize,
    /// The Euclidean distance.
    pub distance: f64,
}

/// Returns the `k` nearest vectors of `among` to each of `of`, the nearest first.
///
/// # Errors
/// If the vectors differ in length, or `among` has fewer than `k`.
pub fn nearest(of: &Features, among: &Features, k: usize) -> Result<Vec<Vec<Neighbor>>, Error> {
    of.check(among, 1)?;
    if k == 0 || k > among.count() {
        return Err(Error::Request(format!("{k} nearest neighbours among {} images", among.count())));
    }
    Ok(map_rows(of, among, |_, distances| {
        let mut order: Vec<usize> = (0..distances.len()).collect();
        // Ties go to the lower index, so that the result does not depend on the search.
        let nearer = |&a: &usize, &b: &usize| distances[a].total_cmp(&distances[b]).then(a.cmp(&b));
        order.select_nth_unstable_by(k - 1, nearer);
        order.truncate(k);
        order.sort_unstable_by(nearer);
        order.into_iter().map(|index| Neighbor { index, distance: distances[index].sqrt() }).collect()
    }))
}

/// Whether samples are nearer to training images than unseen images are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memorization {
    /// The probability that a sample is nearer to its nearest training image than an unseen image is to its own (the
    /// Mann–Whitney statistic, as in Meehan et al. 2020, arXiv 2004.05675): ½ for two equal distributions. Blurred samples
    /// are near to everything, above all in pixels, so a value above ½ alone does not prove memorization.
    pub value: f64,
    /// The fraction of samples that are nearer to a training image than 99 % of unseen images are: .01 for two equal
    /// distributions.
    pub copies: f64,
    /// The median distance from a sample to its nearest training image.
    pub median: f64,
    /// The same for unseen images.
    pub unseen_median: f64,
    /// The number of samples.
    pub samples: usize,
    /// The number of unseen images.
    pub unseen: usize,
    /// Whether the unseen images are held-out ones. If not, they are training images, each compared with all others.
    pub held_out: bool,
}

/// Computes the statistics from the distances of samples, and of unseen images, to their nearest training images.
///
/// # Errors
/// If there are none of either.
pub fn memorization(samples: &[f64], unseen: &[f64]) -> Result<Memorization, Error> {
    if samples.is_empty() || unseen.is_empty() {
        return Err(Error::Request("memorization needs samples and unseen images".into()));
    }
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_unstable_by(f64::total_cmp);
        values
    };
    let (samples, unseen) = (sorted(samples), sorted(unseen));
    let (n, m) = (samples.len() as f64, unseen.len() as f64);
    let wins = samples.iter().map(|&d| {
        let (below, not_above) = (unseen.partition_point(|&u| u < d), unseen.partition_point(|&u| u <= d));
        m - 0.5 * (below + not_above) as f64
    });
    let hundredth = unseen[unseen.len() / 100];
    Ok(Memorization {
        value: wins.sum::<f64>() / (n * m),
        copies: samples.partition_point(|&d| d < hundredth) as f64 / n,
        median: samples[samples.len() / 2],
        unseen_median: unseen[unseen.len() / 2],
        samples: samples.len(),
        unseen: unseen.len(),
        held_out: true,
    })
}

/// A search for the training images that are nearest to samples.
#[derive(Clone, Copy, Debug)]
pub struct NeighborSearch<'a> {
    /// Features of the samples.
    pub samples: &'a Features,
    /// Features of the training images.
    pub training: &'a Features,
    /// Features of images that the model has not seen. Without them, as many random training images as samples take their
    /// place, each compared with all others.
    pub unseen: Option<&'a Features>,
    /// The seed of those random images.
    pub seed: u64,
}

/// The result of a [`NeighborSearch`].
#[derive(Clone, Debug, PartialEq)]
pub struct NeighborResult {
    /// Whether samples are nearer to training images than unseen images are.
    pub memorization: Memorization,
    /// The training images nearest to each sample, the nearest first.
    pub neighbors: Vec<Vec<Neighbor>>,
}

impl NeighborSearch<'_> {
    /// Finds the `k` training images nearest to each sample (all if there are fewer), and the memorization statistics.
    ///
    /// # Errors
    /// If the vectors differ in length, or a set is empty.
    pub fn run(&self, k: usize) -> Result<NeighborResult, Error> {
        let &Self { samples, training, unseen, seed } = self;
        let distances = |neighbors: &[Vec<Neighbor>], rank: usize| -> Vec<f64> {
            neighbors.iter().filter_map(|near| near.get(rank)).map(|near| near.distance).collect()
        };
        let of_unseen = match unseen {
            Some(unseen) => distances(&nearest(unseen, training, 1)?, 0),
            None => {
                let mut some = permutation(seed, 3, training.count());
                some.truncate(samples.count());
                // Rank 0 is the image itself, or a copy of it.
                distances(&nearest(&training.select(&some), training, 2.min(training.count()))?, 1)
            }
        };
        let neighbors = nearest(samples, training, k.min(training.count()))?;
        let memorization = memorization(&distances(&neighbors, 0), &of_unseen)?;
        Ok(NeighborResult { memorization: Memorization { held_out: unseen.is_some(), ..memorization }, neighbors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::subset::tests::normals;

    fn gaussian(seed: u64, count: usize) -> Features {
        Features::new(normals(seed, count * 3), 3).unwrap()
    }

    fn first(neighbors: &[Vec<Neighbor>]) -> Vec<f64> {
        neighbors.iter().map(|near| near[0].distance).collect()
    }

    #[test]
    fn neighbors_are_sorted_and_a_copy_is_its_own() {
        let (a, b) = (gaussian(1, 30), gaussian(2, 200));
        for (of, near) in a.rows().zip(nearest(&a, &b, 4).unwrap()) {
            let distance = |row: &[f32]| of.iter().zip(row).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
            let mut all: Vec<(f64, usize)> = b.rows().map(distance).zip(0..).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert_eq!(
                near.iter().map(|n| n.index).collect::<Vec<_>>(),
                all[..4].iter().map(|n| n.1).collect::<Vec<_>>()
            );
            assert!((near[3].distance - all[3].0).abs() < 1e-6);
        }
        assert!(nearest(&b, &b, 1).unwrap().iter().enumerate().all(|(i, near)| near[0].index == i));
        assert!(nearest(&a, &b, 201).is_err() && nearest(&a, &b, 0).is_err());
    }

    /// Independent samples, and samples half of which are training images.
    #[test]
    fn copies_are_detected() {
        let (training, unseen) = (gaussian(1, 800), gaussian(2, 800));
        let of_unseen = first(&nearest(&unseen, &training, 1).unwrap());
        let honest = first(&nearest(&gaussian(3, 800), &training, 1).unwrap());
        let honest = memorization(&honest, &of_unseen).unwrap();
        assert!((honest.value - 0.5).abs() < 0.05 && honest.copies < 0.03, "{honest:?}");
        let mut values = training.values()[..1200].to_vec();
        values.extend(normals(4, 1200));
        let copied = first(&nearest(&Features::new(values, 3).unwrap(), &training, 1).unwrap());
        let copied = memorization(&copied, &of_unseen).unwrap();
        assert!((copied.value - 0.75).abs() < 0.05 && (0.5..0.53).contains(&copied.copies), "{copied:?}");
        // Without unseen images, training images compared with the others take their place.
        let samples = gaussian(3, 800);
        let search = NeighborSearch { samples: &samples, training: &training, unseen: None, seed: 0 };
        let NeighborResult { memorization: alone, neighbors } = search.run(3).unwrap();
        assert!((alone.value - 0.5).abs() < 0.05 && alone.copies < 0.03 && neighbors[799].len() == 3, "{alone:?}");
        assert_eq!(NeighborSearch { unseen: Some(&unseen), ..search }.run(1).unwrap().memorization, honest);
        let alike = memorization(&[1.0, 2.0], &[1.0, 2.0]).unwrap();
        assert_eq!((alike.value, alike.copies), (0.5, 0.0));
        assert!(memorization(&[], &[1.0]).is_err());
    }
}
