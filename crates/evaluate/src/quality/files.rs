//! Statistics in `.npz` files: the arrays `mu` and `sigma`, as in pytorch-fid and EDM, and `mu_s` and `sigma_s` of spatial
//! features, as in OpenAI's reference batches.

use std::io::Cursor;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Statistics;
use crate::Error;
use crate::network::FeatureNetwork;

/// The array names of mean and covariance of pooled features.
pub const POOLED: (&str, &str) = ("mu", "sigma");
/// The array names of mean and covariance of spatial features.
pub const SPATIAL: (&str, &str) = ("mu_s", "sigma_s");

impl Statistics {
    /// Reads statistics by their array names; `None` if the file has neither array.
    ///
    /// # Errors
    /// If the file is not an `.npz` or has only one of the two, and unless their shapes are `[D]` and `[D,D]` and their
    /// values finite.
    pub fn read(path: &Path, (mean, covariance): (&str, &str)) -> Result<Option<Self>, Error> {
        let bad = |message: String| Error::Request(format!("{}: {message}", path.display()));
        let (mu, sigma) = match (data::read_npz_array(path, mean)?, data::read_npz_array(path, covariance)?) {
            (None, None) => return Ok(None),
            (Some(mu), Some(sigma)) => (mu, sigma),
            _ => return Err(bad(format!("has only one of {mean} and {covariance}"))),
        };
        let width = mu.values.len();
        if mu.shape != [width] || sigma.shape != [width, width] {
            let shapes = format!("{mean} has shape {:?} and {covariance} {:?}", mu.shape, sigma.shape);
            return Err(bad(format!("{shapes}; expected [D] and [D, D]")));
        }
        Self::new(mu.values, sigma.values).map(Some).map_err(|error| bad(error.to_string()))
    }
}

/// The name of the text file in an `.npz` that says what its statistics are of.
const NOTE: &str = "ddpm.json";

/// The origin of statistics: `ddpm.json` in the `.npz`, which NumPy ignores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticsOrigin {
    /// The network and how it resizes images ([`FeatureNetwork::protocol`](crate::network::FeatureNetwork::protocol)).
    pub features: String,
    /// The images, as [`data::Reading`] describes them.
    pub images: String,
}

impl StatisticsOrigin {
    /// Reads what the statistics of a file are of; `None` for files of other programs.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&data::read_npz_note(path, NOTE)?).ok()
    }

    /// Reads what the statistics of a file are of, and checks that their features are those of a network.
    ///
    /// # Errors
    /// If they are of other features.
    pub fn check(path: &Path, network: &FeatureNetwork) -> Result<Option<Self>, Error> {
        let (found, expected) = (Self::read(path), network.protocol());
        match &found {
            Some(Self { features, .. }) if *features != expected => Err(Error::Request(format!(
                "{}: has statistics of features of {features}, but the samples' are of {expected}; use the same for both",
                path.display()
            ))),
            _ => Ok(found),
        }
    }
}

/// Writes statistics by their array names, and what they are of, completely or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write_statistics(
    path: &Path,
    all: &[((&str, &str), &Statistics)],
    origin: Option<&StatisticsOrigin>,
) -> Result<(), Error> {
    let shapes: Vec<[usize; 2]> = all.iter().map(|(_, statistics)| [statistics.width(); 2]).collect();
    let arrays: Vec<(&str, &[usize], &[f64])> = (all.iter().zip(&shapes))
        .flat_map(|(((mean, covariance), statistics), shape)| {
            let mu = (*mean, &shape[..1], &statistics.mean[..]);
            [mu, (*covariance, &shape[..], &statistics.covariance[..])]
        })
        .collect();
    // Writing a zip archive seeks, and an atomic write cannot.
    let mut bytes = Cursor::new(Vec::new());
    let text = origin.map(|origin| serde_json::json!(origin).to_string());
    let note = text.as_deref().map(|text| (NOTE, text));
    let written = data::write_npz_arrays_with_note(&mut bytes, &arrays, note);
    Ok(weights::atomic::write_file(path, |file| written.and_then(|()| file.write_all(bytes.get_ref())))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pairs_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats.npz");
        let pooled = Statistics::new(vec![1.0, 2.0], vec![1.0, 0.25, 0.25, 3.0]).unwrap();
        let spatial = Statistics::new(vec![-1.0], vec![0.5]).unwrap();
        let origin = StatisticsOrigin { features: "a network".into(), images: "photos".into() };
        write_statistics(&path, &[(POOLED, &pooled), (SPATIAL, &spatial)], Some(&origin)).unwrap();
        assert_eq!(StatisticsOrigin::read(&path), Some(origin));
        assert_eq!(Statistics::read(&path, POOLED).unwrap(), Some(pooled.clone()));
        assert_eq!(Statistics::read(&path, SPATIAL).unwrap(), Some(spatial));
        write_statistics(&path, &[(("mu", "mu_s"), &pooled)], None).unwrap();
        assert_eq!(StatisticsOrigin::read(&path), None);
        assert_eq!(Statistics::read(&path, ("nu", "nu_s")).unwrap(), None);
        for names in [POOLED, SPATIAL, ("mu_s", "mu")] {
            let error = Statistics::read(&path, names).unwrap_err().to_string();
            assert!(error.contains("stats.npz"), "{error}");
        }
    }
}
