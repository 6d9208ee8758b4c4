//! Samples compared with real images by features, and real images with real images by the same protocol.

use std::path::Path;

use super::{
    DistanceReport, Features, InceptionScoreReport, KernelDistance, ManifoldReport, POOLED, SPATIAL, Statistics,
    floor_parts, frechet_distance, inception_score, kernel_distance, manifold, permutation,
};
use crate::Error;
use crate::network::{Extracted, FeatureNetwork};

/// Features of samples, and what they are compared with.
///
/// ```no_run
/// # fn main() -> Result<(), ddpm_evaluate::Error> {
/// # let device = burn::tensor::Device::flex();
/// use ddpm_evaluate::ImageSource;
/// use ddpm_evaluate::network::FeatureNetwork;
/// use ddpm_evaluate::quality::Comparison;
///
/// let network = FeatureNetwork::read("inception.safetensors".as_ref(), &device)?;
/// let samples = ImageSource::from(data::open("samples.npz".as_ref(), &Default::default())?);
/// let real = ImageSource::from(data::open("photos".as_ref(), &Default::default())?);
/// let (samples, real) = (network.extract(&samples, |_, _| true)?, network.extract(&real, |_, _| true)?);
/// let comparison =
///     Comparison { network: &network, samples: &samples, real: Some(&real), reference: None, seed: 0 };
/// println!("FID {:.2}", comparison.frechet()?.value);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a> {
    /// The network that computed the features.
    pub network: &'a FeatureNetwork,
    /// Features of the samples.
    pub samples: &'a Extracted,
    /// Features of the real images.
    pub real: Option<&'a Extracted>,
    /// A file of statistics, which Fréchet distances use instead of those of `real`.
    pub reference: Option<&'a Path>,
    /// The seed of random parts of the sets.
    pub seed: u64,
}

/// Statistics of real images for Fréchet distances. A run computes them once for many comparisons.
#[derive(Clone, Debug, PartialEq)]
pub struct FrechetReference {
    /// The statistics.
    pub statistics: Statistics,
    /// Real vs. real: the distance between some of the real images and the others, and the number of the former. `None`
    /// where the images are not known.
    pub floor: Option<(f64, usize)>,
}

impl FrechetReference {
    /// Computes the reference of real images for a number of samples.
    ///
    /// # Errors
    /// If there are fewer than four images, or a decomposition does not converge.
    pub fn of(real: &Features, samples: usize, seed: u64) -> Result<Self, Error> {
        Ok(Self { statistics: Statistics::of(real)?, floor: Some(frechet_floor(real, samples, seed)?) })
    }

    /// Reads a reference from an `.npz`, with the array names [`POOLED`] or [`SPATIAL`].
    ///
    /// # Errors
    /// If the file cannot be read or has no such arrays.
    pub fn read(path: &Path, names: (&str, &str)) -> Result<Self, Error> {
        let (mean, covariance) = names;
        let missing = || Error::Request(format!("{}: has no {mean} and {covariance}", path.display()));
        let statistics = Statistics::read(path, names)?.ok_or_else(missing)?;
        Ok(Self { statistics, floor: None })
    }
}

/// Returns the distance between as many real images as samples and all other real images, and their number.
fn frechet_floor(real: &Features, samples: usize, seed: u64) -> Result<(f64, usize), Error> {
    let (some, others) = real_parts(real, samples, seed);
    Ok((frechet_distance(&Statistics::of(&some)?, &Statistics::of(&others)?)?, some.count()))
}

/// Splits real images at random: as many as samples, and the others.
fn real_parts(real: &Features, samples: usize, seed: u64) -> (Features, Features) {
    let (first, second) = floor_parts(seed, real.count(), samples);
    (real.select(&first), real.select(&second))
}

/// Parts of an Inception score, as published ones have them.
const SPLITS: usize = 10;

impl Comparison<'_> {
    /// Computes the Fréchet distance of pooled features: FID for Inception's.
    ///
    /// # Errors
    /// If there are neither real images nor statistics, or too few samples.
    pub fn frechet(&self) -> Result<DistanceReport, Error> {
        let reference = self.frechet_reference(self.real.map(|real| &real.pooled), POOLED)?;
        self.distance(&self.samples.pooled, &reference)
    }

    /// Computes the Fréchet distance of spatial features: sFID (Nash et al. 2021, arXiv 2103.03841).
    ///
    /// # Errors
    /// If the network has no spatial features, and as [`Comparison::frechet`].
    pub fn spatial_frechet(&self) -> Result<DistanceReport, Error> {
        let missing = || Error::Request("sfid needs the spatial features of Inception-v3".into());
        let samples = self.samples.spatial.as_ref().ok_or_else(missing)?;
        let reference = self.frechet_reference(self.real.and_then(|real| real.spatial.as_ref()), SPATIAL)?;
        self.distance(samples, &reference)
    }

    /// Computes the Fréchet distance of pooled features to a reference that is known already.
    ///
    /// # Errors
    /// If there are too few samples, or the reference is of another network.
    pub fn frechet_to(&self, reference: &FrechetReference) -> Result<DistanceReport, Error> {
        self.distance(&self.samples.pooled, reference)
    }

    /// Computes the kernel distance of pooled features: KID for Inception's.
    ///
    /// # Errors
    /// If there are no real images, or too few of either.
    pub fn kernel(&self) -> Result<DistanceReport, Error> {
        let real = &self.real()?.pooled;
        let KernelDistance { value, standard_error, .. } = kernel_distance(&self.samples.pooled, real, self.seed)?;
        let (some, others) = real_parts(real, self.count(), self.seed);
        let floor = kernel_distance(&some, &others, self.seed)?.value;
        Ok(self.report(value, Some(standard_error), Some((floor, some.count()))))
    }

    /// Computes the Inception score; `None` if the network has no logits.
    ///
    /// # Errors
    /// If there are too few samples.
    pub fn inception_score(&self) -> Result<Option<InceptionScoreReport>, Error> {
        let Some(logits) = &self.samples.logits else { return Ok(None) };
        let score = inception_score(logits, SPLITS)?;
        let real = self.real.and_then(|real| real.logits.as_ref()).map(|real| {
            let some = self.some_real(2, real.count());
            inception_score(&real.select(&some), SPLITS).map(|score| score.value)
        });
        Ok(Some(InceptionScoreReport { score, real: real.transpose()? }))
    }

    /// Computes precision, recall, density and coverage against as many real images as samples, since the radii of
    /// neighbourhoods shrink with the number of images.
    ///
    /// # Errors
    /// If there are no real images, or too few of either.
    pub fn manifold(&self) -> Result<ManifoldReport, Error> {
        let real = &self.real()?.pooled;
        let some = self.some_real(4, real.count());
        let of_samples = manifold(&self.samples.pooled, &real.select(&some))?;
        let (first, second) = real_parts(real, self.count(), self.seed);
        let as_many: Vec<usize> = (0..first.count().min(second.count())).collect();
        Ok(ManifoldReport { manifold: of_samples, floor: manifold(&first, &second.select(&as_many))? })
    }

    fn count(&self) -> usize {
        self.samples.pooled.count()
    }

    fn real(&self) -> Result<&Extracted, Error> {
        self.real.ok_or_else(|| Error::Request("there are no real images to compare with".into()))
    }

    /// Selects as many of `count` real images as there are samples.
    fn some_real(&self, step: u64, count: usize) -> Vec<usize> {
        let mut some = permutation(self.seed, step, count);
        some.truncate(self.count());
        some
    }

    fn frechet_reference(&self, real: Option<&Features>, names: (&str, &str)) -> Result<FrechetReference, Error> {
        match (self.reference, real) {
            (Some(path), real) => {
                let reference = FrechetReference::read(path, names)?;
                let floor = real.map(|real| frechet_floor(real, self.count(), self.seed)).transpose()?;
                Ok(FrechetReference { floor, ..reference })
            }
            (None, Some(real)) => FrechetReference::of(real, self.count(), self.seed),
            (None, None) => Err(Error::Request("there are no real images to compare with".into())),
        }
    }

    fn distance(&self, samples: &Features, reference: &FrechetReference) -> Result<DistanceReport, Error> {
        let value = frechet_distance(&Statistics::of(samples)?, &reference.statistics).map_err(|error| {
            match self.reference {
                Some(path) => Error::Request(format!("{}: {error}", path.display())),
                None => error,
            }
        })?;
        Ok(self.report(value, None, reference.floor))
    }

    fn report(&self, value: f64, standard_error: Option<f64>, floor: Option<(f64, usize)>) -> DistanceReport {
        let (floor, floor_samples) = floor.unzip();
        let (samples, features) = (self.count(), self.network.name());
        DistanceReport { value, standard_error, samples, features, floor, floor_samples }
    }
}
