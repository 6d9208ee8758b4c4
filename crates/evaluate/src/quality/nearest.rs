//! Nearest neighbours, and whether a model repeats its training images.

use serde::Serialize;

use super::distances::map_rows;
use super::{Features, permutation};
use crate::Error;

/// An image of the other set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Neighbour {
    /// Its number.
    pub index: usize,
    /// How far it is (Euclidean).
    pub distance: f64,
}

/// The `k` nearest vectors of `among` to each of `of`, the nearest first.
///
/// # Errors
/// If the sets differ in width, or `among` has fewer than `k`.
pub fn nearest(of: &Features, among: &Features, k: usize) -> Result<Vec<Vec<Neighbour>>, Error> {
    of.check(among, 1)?;
    if k == 0 || k > among.count() {
        return Err(Error::Request(format!("{k} nearest neighbours among {} images", among.count())));
    }
    Ok(map_rows(of, among, |_, distances| {
        let mut order: Vec<usize> = (0..distances.len()).collect();
        // Of two as near the first is taken, whatever the order of the search.
        let nearer = |&a: &usize, &b: &usize| distances[a].total_cmp(&distances[b]).then(a.cmp(&b));
        order.select_nth_unstable_by(k - 1, nearer);
        order.truncate(k);
        order.sort_unstable_by(nearer);
        order.into_iter().map(|index| Neighbour { index, distance: distances[index].sqrt() }).collect()
    }))
}

/// Whether samples are nearer to training images than images that the model has not seen are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memorisation {
    /// Probability that a sample is nearer to its nearest training image than an unseen image is to its own (Mann &
    /// Whitney's statistic, as in Meehan et al. 2020): ½ if the two are alike. Blurred samples are near to everything,
    /// most of all in pixels: above ½ is not memory by itself.
    pub value: f64,
    /// Share of samples that are nearer to a training image than all but one in a hundred unseen images are: .01 if the
    /// two are alike.
    pub copies: f64,
    /// Median distance of a sample to its nearest training image.
    pub median: f64,
    /// The same of unseen images.
    pub unseen_median: f64,
    /// Number of samples.
    pub samples: usize,
    /// Number of unseen images.
    pub unseen: usize,
}

/// From the distances of samples, and of unseen images, to their nearest training images.
///
/// # Errors
/// If there are none.
pub fn memorisation(samples: &[f64], unseen: &[f64]) -> Result<Memorisation, Error> {
    if samples.is_empty() || unseen.is_empty() {
        return Err(Error::Request("memorisation without samples or without unseen images".into()));
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
    Ok(Memorisation {
        value: wins.sum::<f64>() / (n * m),
        copies: samples.partition_point(|&d| d < hundredth) as f64 / n,
        median: samples[samples.len() / 2],
        unseen_median: unseen[unseen.len() / 2],
        samples: samples.len(),
        unseen: unseen.len(),
    })
}

/// [`memorisation`] of samples beside the training images, and the samples' `k` nearest of those. Without unseen images as
/// many random training images take their place as there are samples, each beside all others.
///
/// # Errors
/// If the sets differ in width, or there are not more than `k` training images.
pub fn memorised(
    samples: &Features,
    training: &Features,
    unseen: Option<&Features>,
    k: usize,
    seed: u64,
) -> Result<(Memorisation, Vec<Vec<Neighbour>>), Error> {
    let first = |neighbours: &[Vec<Neighbour>]| -> Vec<f64> {
        neighbours.iter().filter_map(|near| near.first()).map(|near| near.distance).collect()
    };
    let of_unseen = match unseen {
        Some(unseen) => first(&nearest(unseen, training, 1)?),
        None => {
            let mut some = permutation(seed, 3, training.count());
            some.truncate(samples.count());
            // Each is its own nearest, or as near as a copy of it.
            let near = nearest(&training.select(&some), training, 2.min(training.count()))?;
            near.iter().filter_map(|near| near.get(1)).map(|near| near.distance).collect()
        }
    };
    let near = nearest(samples, training, k)?;
    Ok((memorisation(&first(&near), &of_unseen)?, near))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::subset::tests::normals;

    fn gaussian(seed: u64, count: usize) -> Features {
        Features::new(normals(seed, count * 3), 3).unwrap()
    }

    fn first(neighbours: &[Vec<Neighbour>]) -> Vec<f64> {
        neighbours.iter().map(|near| near[0].distance).collect()
    }

    #[test]
    fn neighbours_come_in_order_and_a_copy_is_its_own() {
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

    /// Samples that are new draws, and samples half of which are training images.
    #[test]
    fn memory_shows() {
        let (training, unseen) = (gaussian(1, 800), gaussian(2, 800));
        let of_unseen = first(&nearest(&unseen, &training, 1).unwrap());
        let honest = first(&nearest(&gaussian(3, 800), &training, 1).unwrap());
        let honest = memorisation(&honest, &of_unseen).unwrap();
        assert!((honest.value - 0.5).abs() < 0.05 && honest.copies < 0.03, "{honest:?}");
        let mut values = training.values()[..1200].to_vec();
        values.extend(normals(4, 1200));
        let copied = first(&nearest(&Features::new(values, 3).unwrap(), &training, 1).unwrap());
        let copied = memorisation(&copied, &of_unseen).unwrap();
        assert!((copied.value - 0.75).abs() < 0.05 && (0.5..0.53).contains(&copied.copies), "{copied:?}");
        // Without unseen images, training images beside the others stand for them.
        let samples = gaussian(3, 800);
        let (alone, near) = memorised(&samples, &training, None, 3, 0).unwrap();
        assert!((alone.value - 0.5).abs() < 0.05 && alone.copies < 0.03 && near[799].len() == 3, "{alone:?}");
        assert_eq!(memorised(&samples, &training, Some(&unseen), 1, 0).unwrap().0, honest);
        let alike = memorisation(&[1.0, 2.0], &[1.0, 2.0]).unwrap();
        assert_eq!((alike.value, alike.copies), (0.5, 0.0));
        assert!(memorisation(&[], &[1.0]).is_err());
    }
}
