//! Checks that the processes of a run do the same work.

use model::NetworkConfig;
use mpi::Communicator;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::config::TrainingConfig;
use crate::images_digest::ImagesDigest;

/// The device and the images of a process.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    /// A name of the device.
    pub device: String,
    /// The training images.
    pub images: ImagesDigest,
    /// A digest of the held-out images, if the run is validated on them.
    pub held_out: Option<String>,
}

/// The facts that all processes of a run must have in common.
#[derive(Serialize, Deserialize)]
struct Facts {
    version: String,
    config: String,
    network: String,
    work: Work,
}

impl TrainingConfig {
    /// Checks that each process has at least one pass of a step.
    ///
    /// # Errors
    /// If there are more processes than passes; the error says which keys divide the step further.
    pub fn check_processes(&self, communicator: &dyn Communicator) -> Result<(), Error> {
        check_passes(self, communicator.size())
    }
}

fn check_passes(config: &TrainingConfig, size: usize) -> Result<(), Error> {
    let train = &config.train;
    let passes = train.gradient_accumulation;
    if size <= passes {
        return Ok(());
    }
    let images = train.batch_size * passes;
    let way_out = match images.is_multiple_of(size) {
        true => format!(
            "use at most {passes}, or divide the same {images} images into more passes: --set train.batch_size={} --set \
             train.gradient_accumulation={size}",
            images / size
        ),
        false => {
            let dividing = (1..size).rev().find(|&ranks| images.is_multiple_of(ranks)).unwrap_or(1);
            format!(
                "use at most {passes}, or with {dividing} ranks divide the same {images} images into more passes: --set \
                 train.batch_size={} --set train.gradient_accumulation={dividing}",
                images / dividing
            )
        }
    };
    Err(Error::Run(format!(
        "{size} ranks, but a step has {passes} {} of {} images (`train.gradient_accumulation`, `train.batch_size`); {way_out}",
        if passes == 1 { "pass" } else { "passes" },
        train.batch_size
    )))
}

/// Checks that all processes run the same version of the program, with the same configuration, network and images.
///
/// # Errors
/// Names the first process that differs from process 0, and in what.
pub(crate) fn check(
    communicator: &dyn Communicator,
    config: &TrainingConfig,
    network: &NetworkConfig,
    work: Work,
) -> Result<(), Error> {
    if communicator.size() == 1 {
        return Ok(());
    }
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION").into(),
        config: config.to_toml()?,
        network: network.to_json(),
        work,
    };
    let all = communicator.all_gather_values(&facts)?;
    for (rank, facts) in all.iter().enumerate() {
        if let Some(difference) = all[0].difference(facts)? {
            return Err(Error::Run(format!("rank {rank} has {difference}; all processes must do the same work")));
        }
    }
    Ok(())
}

impl Facts {
    /// Returns what another process has, and what this one has instead.
    fn difference(&self, other: &Self) -> Result<Option<String>, Error> {
        let differs = |what: &str, here: &str, there: &str| {
            (here != there).then(|| format!("{what} {there}, but rank 0 has {here}"))
        };
        if let Some(version) = differs("ddpm", &self.version, &other.version) {
            return Ok(Some(version));
        }
        if let Some(images) = self.work.images.difference(&other.work.images) {
            return Ok(Some(format!("other images than rank 0: {images}")));
        }
        if self.work.held_out != other.work.held_out {
            return Ok(Some("other held-out images than rank 0".into()));
        }
        // Cards of one kind have different numbers.
        let kind = |device: &str| device.replace(|character: char| character.is_ascii_digit(), "");
        if let Some(device) = differs("the device", &kind(&self.work.device), &kind(&other.work.device)) {
            return Ok(Some(device));
        }
        if self.config != other.config {
            let read = |text: &str| TrainingConfig::from_toml(text);
            let changes = read(&self.config)?.changes(&read(&other.config)?)?;
            // The same images may lie at another place on each machine.
            let changes: Vec<String> =
                changes.iter().filter(|change| change.key != "data.path").map(ToString::to_string).collect();
            if !changes.is_empty() {
                return Ok(Some(format!("another configuration than rank 0: {}", changes.join(", "))));
            }
        }
        Ok(differs("the network", &self.network, &other.network))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpi::Threads;

    #[test]
    fn more_processes_than_passes_are_refused_with_the_keys_that_help() {
        let mut config = TrainingConfig::preset("fashion-ho").unwrap();
        let error = |config: &TrainingConfig, size| {
            let errors = Threads::run(size, |threads| config.check_processes(&threads).err().map(|e| e.to_string()));
            errors[0].clone()
        };
        let found = error(&config, 4).unwrap();
        for part in ["4 ranks", "1 pass of 64", "train.batch_size=16", "train.gradient_accumulation=4"] {
            assert!(found.contains(part), "{found}");
        }
        assert!(error(&config, 3).unwrap().contains("with 2 ranks divide the same 64 images"));
        config.set("train.gradient_accumulation=4").unwrap();
        assert_eq!(error(&config, 4), None);
    }

    #[test]
    fn processes_that_differ_are_named() {
        let errors = |sets: &[&str], images: fn(&mut Work)| {
            let found = Threads::run(2, |threads| {
                let mut config = TrainingConfig::preset("fashion-ho").unwrap();
                let set = config.open(data::Split::Test).unwrap();
                let network = config.network(&set).unwrap();
                let digest = ImagesDigest::new(&set).unwrap();
                let mut work = Work { device: "cpu, 2 threads".into(), images: digest, held_out: None };
                if threads.rank() == 1 {
                    sets.iter().for_each(|set| config.set(set).unwrap());
                    images(&mut work);
                    work.device = work.device.replace('2', "1");
                }
                check(&threads, &config, &network, work).err().map(|error| error.to_string())
            });
            assert_eq!(found[0], found[1]);
            found[0].clone()
        };
        assert_eq!(errors(&[], |_| ()), None);
        let seed = errors(&["train.seed=3"], |_| ()).unwrap();
        assert!(seed.contains("rank 1 has another configuration") && seed.contains("train.seed 0 → 3"), "{seed}");
        let images = errors(&[], |work| work.images.count = 7).unwrap();
        assert!(images.contains("rank 1 has other images") && images.contains("7 images instead of"), "{images}");
        assert_eq!(errors(&["data.path=/elsewhere"], |_| ()), None);
        assert!(errors(&[], |work| work.held_out = Some("other".into())).unwrap().contains("held-out"));
        assert!(errors(&[], |work| work.device = "Cuda(1)".into()).unwrap().contains("the device Cuda"));
    }
}
