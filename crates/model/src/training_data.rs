//! The images that a run was trained on, so that commands that score its model find them.

use std::path::{Path, PathBuf};

use data::{BuiltinPoints, Dataset};
use serde::{Deserialize, Serialize};
use weights::atomic;

use crate::{Error, Sampling};

/// The name of the file in a run's folder.
pub const FILE: &str = "data.json";

/// The images that a run was trained on: `data.json` in its folder.
///
/// The path of a configuration is relative to the working directory of the training. The file therefore also has the
/// absolute path and the path from the run's folder, so that the images are found from another folder, and after run and
/// images were moved together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingData {
    /// The name of the set.
    pub set: String,
    /// The path of the configuration. `None` is the built-in set.
    pub path: Option<PathBuf>,
    /// The built-in points, if it is points that are drawn from a seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<BuiltinPoints>,
    /// The absolute path.
    #[serde(default)]
    pub absolute: Option<PathBuf>,
    /// The path from the run's folder.
    #[serde(default)]
    pub from_run: Option<PathBuf>,
    /// The number of training images, if it is known.
    #[serde(default)]
    pub images: Option<usize>,
    /// The run's folder.
    #[serde(skip)]
    run: PathBuf,
}

impl TrainingData {
    /// Describes the images of a run that trains in the folder `run`.
    pub fn new(dataset: &Dataset, set: &data::ImageSet, run: &Path) -> Self {
        let path = dataset.path().map(Path::to_owned);
        let absolute = path.as_deref().and_then(|path| path.canonicalize().ok());
        let from_run = absolute.as_deref().zip(run.canonicalize().ok()).map(|(to, run)| relative(&run, to));
        let (set, images) = (set.name().to_owned(), Some(set.len()));
        let points = match dataset {
            Dataset::Points(points) => Some(*points),
            Dataset::Builtin | Dataset::Heartbeat | Dataset::Path(_) => None,
        };
        Self { set, path, points, absolute, from_run, images, run: run.to_owned() }
    }

    /// Writes the file into the run's folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self) -> Result<(), Error> {
        let text = format!("{:#}\n", serde_json::json!(self));
        Ok(atomic::replace_file(self.run.join(FILE), |file| file.write_all(text.as_bytes()))?)
    }

    /// Reads what the run says about the images of a model: for a checkpoint `RUN/checkpoints/STEP`, the nearest
    /// `data.json` in a parent folder or, for older runs, `config.toml`. Returns `None` for a model without a run.
    ///
    /// # Errors
    /// If the file exists but cannot be read.
    pub fn of_model(root: &Path) -> Result<Option<Self>, Error> {
        let Ok(root) = std::fs::canonicalize(root) else { return Ok(None) };
        // Other programs have files of these names too.
        let is_run = |folder: &&Path| folder.join("checkpoints").is_dir();
        // The built-in model is a checkpoint without a run.
        let own = Some(&*root).filter(|root| root.join(Sampling::FILE).is_file());
        for run in own.into_iter().chain(root.ancestors().take(4).filter(is_run)) {
            let path = run.join(FILE);
            let fail = |message: String| Error::Pipeline { path: path.clone(), message };
            match files::read_json_text(&path) {
                Ok(text) => {
                    let found: Self = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
                    return Ok(Some(Self { run: run.to_owned(), ..found }));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(fail(format!("cannot be read: {error}"))),
            }
            if let Some(found) = Self::of_config(run) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Reads the path of a run's `config.toml`.
    fn of_config(run: &Path) -> Option<Self> {
        #[derive(Deserialize)]
        struct Run {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            path: Option<PathBuf>,
            points: Option<BuiltinPoints>,
        }
        let text = files::read_text_up_to(run.join("config.toml"), files::MAX_TOML).ok()?;
        let Run { data: Data { path, points } } = toml::from_str(&text).ok()?;
        let name = path.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        Some(Self { set: name.unwrap_or_default(), path, points, run: run.to_owned(), ..Self::default() })
    }

    /// Returns the images where they are now.
    ///
    /// # Errors
    /// If they are no longer there.
    pub fn find(&self) -> Result<Dataset, Error> {
        let Some(path) = &self.path else { return Ok(self.points.map_or(Dataset::Builtin, Dataset::Points)) };
        if path == Path::new(Dataset::HEARTBEAT) {
            return Ok(Dataset::Heartbeat);
        }
        let there = |path: &Path| path.canonicalize().ok();
        // As it was given, if that is the same place: it is the shortest name.
        if there(path).is_some_and(|found| self.absolute.as_ref().is_none_or(|absolute| found == *absolute)) {
            return Ok(Dataset::Path(path.clone()));
        }
        let moved_together = self.from_run.as_deref().and_then(|from_run| there(&self.run.join(from_run)));
        if let (Some(old), Some(new)) = (self.absolute.as_deref().filter(|path| path.exists()), &moved_together)
            && there(old).as_ref() != Some(new)
        {
            return Err(Error::Pipeline {
                path: self.run.clone(),
                message: format!(
                    "was moved or copied, and its images can be {} or {}; give the path of the right ones",
                    old.display(),
                    new.display()
                ),
            });
        }
        let candidates = [self.absolute.clone().filter(|path| path.exists()), moved_together];
        if let Some(found) = candidates.into_iter().flatten().next() {
            return Ok(Dataset::Path(found));
        }
        let place = self.absolute.as_ref().unwrap_or(path);
        Err(Error::Pipeline {
            path: place.clone(),
            message: format!("the images that {} was trained on are not there; give their path", self.run.display()),
        })
    }
}

/// Returns the path that leads from a folder to another place, both absolute.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[common..].iter().map(|_| std::path::Component::ParentDir);
    up.chain(to[common..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_from_a_folder_to_another() {
        let between = |from: &str, to: &str| relative(Path::new(from), Path::new(to));
        assert_eq!(between("/a/runs/x", "/a/photos"), Path::new("../../photos"));
        assert_eq!(between("/a", "/a/photos"), Path::new("photos"));
    }

    #[test]
    fn images_are_found_in_their_place_and_after_a_move_together() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("one/runs/x/checkpoints/000000001")).unwrap();
        let file = std::fs::File::create(at("one/photos.npz")).unwrap();
        data::write_npz_images(file, &[7; 16], [1, 4, 4, 1], None).unwrap();
        let dataset = Dataset::Path(at("one/photos.npz"));
        let set = dataset.open(&data::ReadOptions::default()).unwrap();
        TrainingData::new(&dataset, &set, &at("one/runs/x")).write().unwrap();
        let found = |root: &str| TrainingData::of_model(&at(root)).unwrap();
        let known = found("one/runs/x/checkpoints/000000001").unwrap();
        assert_eq!((known.set.as_str(), known.images), ("photos.npz", Some(1)));
        assert_eq!(known.find().unwrap(), dataset);
        assert_eq!(found("one/photos.npz"), None);
        std::fs::write(at("one/data.json"), "of another program").unwrap();
        assert_eq!(found("one/photos.npz"), None);
        std::fs::rename(at("one"), at("two")).unwrap();
        let known = found("two/runs/x/checkpoints").unwrap();
        assert_eq!(known.find().unwrap(), Dataset::Path(at("two/photos.npz").canonicalize().unwrap()));
        std::fs::remove_file(at("two/photos.npz")).unwrap();
        let error = known.find().unwrap_err().to_string();
        assert!(error.contains("photos.npz") && error.contains("not there"), "{error}");

        // Runs from before there was such a file, and damaged files.
        std::fs::remove_file(at("two/runs/x/data.json")).unwrap();
        std::fs::write(at("two/runs/x/config.toml"), "[data]\nchannels = 1\n").unwrap();
        assert_eq!(found("two/runs/x/checkpoints").unwrap().find().unwrap(), Dataset::Builtin);
        std::fs::write(at("two/runs/x/data.json"), "{").unwrap();
        assert!(TrainingData::of_model(&at("two/runs/x")).unwrap_err().to_string().contains("data.json"));
    }
}
