//! Averages of the parameters by power functions, and snapshots of them, from which an average of any length is made after training
//! (Karras et al. 2024, EDM2; [`diffusion::power_ema`] has the mathematics).
//!
//! ```text
//! RUN/ema/000000500.safetensors     the averages of every length in `train.ema_lengths`, as f16, named LENGTH/NAME
//! ```

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use diffusion::power_ema::{Combination, Profile};
use model::Network;
use weights::pipeline::checkpoint_name;
use weights::{Metadata, Tensors};

use crate::Error;

/// The averages of each of `train.ema_lengths`.
#[derive(Clone, Debug, Default)]
pub struct PowerEma(Vec<Average>);

#[derive(Clone, Debug)]
struct Average {
    length: f64,
    values: Vec<Tensor<1>>,
}

impl PowerEma {
    /// Averages equal to the parameters.
    pub fn new(lengths: &[f64], network: &Network) -> Self {
        let values = || network.flat_parameters().into_iter().map(|flat| flat.values).collect();
        Self(lengths.iter().map(|&length| Average { length, values: values() }).collect())
    }

    /// Takes the parameters after the `updates`th update into the averages.
    ///
    /// # Errors
    /// If a length is not one.
    pub fn update(&mut self, network: &Network, updates: u64) -> Result<(), Error> {
        for average in &mut self.0 {
            let decay = Profile::new(updates as f64, average.length)?.decay(1.0);
            for (value, new) in average.values.iter_mut().zip(network.flat_parameters()) {
                *value = value.clone().mul_scalar(decay) + new.values.mul_scalar(1.0 - decay);
            }
        }
        Ok(())
    }

    /// Returns the averages by name, `LENGTH/NAME`, in the layout of files.
    ///
    /// # Errors
    /// If a back end cannot read its values back.
    pub fn tensors(&self, network: &Network) -> Result<Tensors, Error> {
        let mut all = Tensors::new();
        for Average { length, values } in &self.0 {
            let tensors = network.tensors_of(values.clone())?;
            all.extend(tensors.into_iter().map(|(name, tensor)| (format!("{length}/{name}"), tensor)));
        }
        Ok(all)
    }

    /// Builds the averages from what [`PowerEma::tensors`] returned.
    ///
    /// # Errors
    /// Names the tensors that are missing, unexpected or of another shape.
    pub fn from_tensors(lengths: &[f64], network: &Network, tensors: &Tensors) -> Result<Self, Error> {
        let read = |&length: &f64| {
            let values = network.flat_from(of_length(tensors, length), &network.device())?;
            Ok::<_, Error>(Average { length, values })
        };
        Ok(Self(lengths.iter().map(read).collect::<Result<_, _>>()?))
    }

    /// Returns the averages' values, for other processes.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Vec<Tensor<1>>> {
        self.0.iter_mut().map(|average| &mut average.values)
    }
}

/// Returns the tensors of one length, by the names of the parameters.
fn of_length(tensors: &Tensors, length: f64) -> Tensors {
    let prefix = format!("{length}/");
    tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone()))).collect()
}

/// Returns the folder of a run's snapshots.
fn folder(run: &Path) -> PathBuf {
    run.join("ema")
}

/// Writes a snapshot, atomically.
///
/// # Errors
/// If the file cannot be written, or a value is too large for f16.
pub(crate) fn save(run: &Path, averages: &Tensors, step: u64, updates: u64) -> Result<(), Error> {
    let folder = folder(run);
    std::fs::create_dir_all(&folder).map_err(|source| Error::Write { path: folder.clone(), source })?;
    let path = folder.join(format!("{}.safetensors", checkpoint_name(step)));
    let metadata = Metadata::from([(UPDATES.to_owned(), updates.to_string())]);
    Ok(weights::write_safetensors_f16(path, weights::views(averages), &metadata)?)
}

/// The key of the metadata with the number of updates.
const UPDATES: &str = "updates";

/// Returns the steps and files of a run's snapshots, in order.
fn snapshots(run: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let folder = folder(run);
    let failed = |source| Error::Read { path: folder.clone(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let step = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(step) = step.filter(|_| path.extension().is_some_and(|extension| extension == "safetensors")) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes the snapshots of steps after `step`, which a run that goes on from there does again.
///
/// # Errors
/// If one cannot be removed.
pub(crate) fn remove_after(run: &Path, step: u64) -> Result<(), Error> {
    if !folder(run).is_dir() {
        return Ok(());
    }
    for (_, path) in snapshots(run)?.into_iter().filter(|(of, _)| *of > step) {
        std::fs::remove_file(&path).map_err(|source| Error::Write { path, source })?;
    }
    Ok(())
}

/// An average that was made after training.
#[derive(Debug)]
pub struct Reconstruction {
    /// The averaged parameters, by name.
    pub tensors: Tensors,
    /// The step at which the average ends, that of the newest snapshot.
    pub step: u64,
    /// The number of snapshots that it was made of.
    pub snapshots: usize,
    /// See [`Combination::relative_error`].
    pub relative_error: f64,
}

/// Makes the average of the length σ_rel from a run's snapshots up to `step`.
///
/// # Errors
/// If there are no snapshots, one cannot be read or does not belong to the others, or the length is not one.
pub fn reconstruct(run: &Path, step: u64, length: f64) -> Result<Reconstruction, Error> {
    let invalid = |path: &Path, reason: &str| Error::Checkpoint(format!("{}: {reason}", path.display()));
    let none = || {
        let reason = "has no snapshots of averages, from which one of another length is made; train with \
                      `train.ema_lengths = [0.05, 0.1]`";
        invalid(run, reason)
    };
    let all = if folder(run).is_dir() { snapshots(run)? } else { Vec::new() };
    let files: Vec<(u64, PathBuf)> = all.into_iter().filter(|(of, _)| *of <= step).collect();
    let Some(&(last, _)) = files.last() else { return Err(none()) };

    // The files are read twice, since all of them together may not fit into memory.
    let (mut profiles, mut parts) = (Vec::new(), Vec::new());
    let mut end = 0.0;
    for (_, path) in &files {
        let (tensors, metadata) = weights::read_safetensors(path)?;
        let updates: Option<f64> = metadata.get(UPDATES).and_then(|updates| updates.parse().ok());
        let updates = updates.ok_or_else(|| invalid(path, "does not say after how many updates it was made"))?;
        let mut lengths: Vec<&str> =
            tensors.keys().map(|name| name.split_once('/').map_or("", |(length, _)| length)).collect();
        lengths.dedup();
        for text in lengths {
            let stored: f64 = text.parse().map_err(|_| invalid(path, "has a tensor without a length in its name"))?;
            profiles.push(Profile::new(updates, stored)?);
            parts.push((path, text.to_owned()));
        }
        end = updates;
    }
    let combination = Combination::new(&profiles, Profile::new(end, length)?)?;

    let mut sums: Vec<(String, Vec<usize>, Vec<f64>)> = Vec::new();
    let mut open: Option<(&Path, Tensors)> = None;
    for ((path, length), weight) in parts.iter().zip(&combination.weights) {
        if open.as_ref().is_none_or(|(of, _)| of != path) {
            let (tensors, _) = weights::read_safetensors(path)?;
            model::pipeline::check_finite(path, &tensors)?;
            open = Some((path, tensors));
        }
        let Some((_, tensors)) = &open else { continue };
        let prefix = format!("{length}/");
        let part = tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?, tensor)));
        if sums.is_empty() {
            sums = part.clone().map(|(name, t)| (name.to_owned(), t.shape.clone(), vec![0.0; t.data.len()])).collect();
        }
        if !part.clone().map(|(name, t)| (name, &t.shape)).eq(sums.iter().map(|(name, shape, _)| (&**name, shape))) {
            return Err(invalid(path, "has other tensors than the snapshots before it"));
        }
        for ((_, tensor), (_, _, sum)) in part.zip(&mut sums) {
            sum.iter_mut().zip(&tensor.data).for_each(|(sum, &value)| *sum += weight * f64::from(value));
        }
    }
    let tensor = |(name, shape, sum): (String, Vec<usize>, Vec<f64>)| {
        (name, weights::Tensor { shape, data: sum.into_iter().map(|value| value as f32).collect() })
    };
    Ok(Reconstruction {
        tensors: sums.into_iter().map(tensor).collect(),
        step: last,
        snapshots: files.len(),
        relative_error: combination.relative_error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use model::NetworkConfig;
    use random::{Random, Stream};

    /// Lets the parameters drift and jitter for some steps, as in training, and saves averages of two lengths of three.
    fn trained(run: &Path, steps: u64) -> Tensors {
        let config = unet::UnetConfig { norm_num_groups: 4, ..unet::UnetConfig::ddpm([8, 8, 1], &[8], 1, &[]) };
        let mut network = NetworkConfig::from(config).build(3, &Device::flex()).unwrap();
        let (random, lengths) = (Random::new(1), [0.05, 0.1, 0.17]);
        let mut averages = PowerEma::new(&lengths, &network);
        for step in 1..=steps {
            let mut parameter = 0;
            network.map_parameters(|_, values| {
                let mut noise = vec![0.0; values.dims()[0]];
                random.normals(Stream::Noise, parameter, step, &mut noise);
                parameter += 1;
                let rate = 0.1 / (step as f32).sqrt();
                values.mul_scalar(1.0 - rate).add_scalar(rate)
                    + Tensor::from_floats(&*noise, &Device::flex()).mul_scalar(rate)
            });
            averages.update(&network, step).unwrap();
            if step.is_multiple_of(steps / 32) {
                let mut all = averages.tensors(&network).unwrap();
                all.retain(|name, _| !name.starts_with("0.17/"));
                save(run, &all, step, step).unwrap();
            }
        }
        of_length(&averages.tensors(&network).unwrap(), 0.17)
    }

    #[test]
    fn an_average_of_another_length_is_that_which_training_would_have_tracked() {
        let run = tempfile::tempdir().unwrap();
        let expected = trained(run.path(), 320);
        let made = reconstruct(run.path(), 320, 0.17).unwrap();
        assert_eq!((made.step, made.snapshots), (320, 32));
        let difference = |other: &Tensors| {
            let pairs = other.values().zip(expected.values()).flat_map(|(a, b)| a.data.iter().zip(&b.data));
            let (error, norm) =
                pairs.fold((0.0, 0.0), |(e, n), (&a, &b)| (e + f64::from(a - b).powi(2), n + f64::from(b).powi(2)));
            (error / norm).sqrt()
        };
        assert!(made.tensors.keys().eq(expected.keys()));
        let stored = reconstruct(run.path(), 320, 0.1).unwrap();
        assert!(difference(&made.tensors) < 2e-3, "{}", difference(&made.tensors));
        assert!(difference(&stored.tensors) > 1e-2, "{}", difference(&stored.tensors));

        // Of an earlier checkpoint, only what was there by then counts.
        assert_eq!(reconstruct(run.path(), 165, 0.1).unwrap().step, 160);
        remove_after(run.path(), 165).unwrap();
        assert_eq!(reconstruct(run.path(), 320, 0.1).unwrap().step, 160);
        remove_after(run.path(), 0).unwrap();
        let error = reconstruct(run.path(), 320, 0.1).unwrap_err().to_string();
        assert!(error.contains("train.ema_lengths"), "{error}");
    }

    #[test]
    fn snapshots_of_strangers_are_errors() {
        let run = tempfile::tempdir().unwrap();
        trained(run.path(), 32);
        let path = |step: u64| folder(run.path()).join(format!("{}.safetensors", checkpoint_name(step)));
        let fails = |expected: &str| {
            let error = reconstruct(run.path(), 32, 0.1).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let (tensors, metadata) = weights::read_safetensors(path(32)).unwrap();
        let write = |tensors: &Tensors, metadata: &Metadata| {
            weights::write_safetensors(path(32), weights::views(tensors), metadata).unwrap();
        };
        write(&tensors, &Metadata::new());
        fails("does not say after how many updates");
        let mut other = tensors.clone();
        other.remove("0.1/conv_in.bias");
        write(&other, &metadata);
        fails("has other tensors");
        let mut other = tensors.clone();
        other.get_mut("0.1/conv_in.bias").unwrap().data[0] = f32::NAN;
        write(&other, &metadata);
        fails("conv_in.bias");
        write(&of_length(&tensors, 0.1), &metadata);
        fails("has a tensor without a length in its name");
        std::fs::write(path(32), "no tensors").unwrap();
        fails("000000032.safetensors");
    }
}
