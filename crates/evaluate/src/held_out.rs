//! Images of a set as a model takes them.

use data::{Dataset, ImageSet, Part, ReadOptions, Reading, Split};
use model::{Images, LabelKind, Pipeline};

use crate::Error;

/// Opens a set with the preprocessing of a model. A set without a held-out split is opened as a whole. Also returns how it
/// was read.
///
/// # Errors
/// If the set cannot be read.
pub fn open_data(pipeline: &Pipeline, dataset: &Dataset, split: Split) -> Result<(ImageSet, Reading), Error> {
    let options = ReadOptions { split, ..pipeline.preprocessing.read_options().without_needless_crop(dataset)? };
    let (set, reading) = match dataset.open(&options) {
        Err(data::Error::NoHeldOut { .. }) => {
            let options = ReadOptions { split: Split::Train, ..options };
            let set = dataset.open(&options)?;
            let reading = Reading::new(&set, &options).part(Part::Whole);
            (set, reading)
        }
        set => {
            let set = set?;
            let reading = Reading::new(&set, &options);
            (set, reading)
        }
    };
    Ok((with_classes(pipeline, set)?, reading))
}

/// Gives the images of a set the labels that the classes of the same names have in the model. A part of a set may lack
/// classes, which shifts its own labels.
fn with_classes(pipeline: &Pipeline, set: ImageSet) -> Result<ImageSet, Error> {
    let class_names = pipeline.preprocessing.class_names();
    if class_names.is_empty() || pipeline.network.signature().labels == LabelKind::None {
        return Ok(set);
    }
    Ok(set.with_class_names(&class_names)?)
}

/// Reads the first `n` images of a set, or all if it has fewer, with labels where the network takes labels.
///
/// # Errors
/// If an image cannot be read, or the network takes labels and the set has none or other classes.
pub fn read_images(pipeline: &Pipeline, set: &ImageSet, n: usize) -> Result<Images, Error> {
    let takes_labels = pipeline.network.signature().labels != LabelKind::None;
    if takes_labels && set.labels().is_none() {
        return Err(Error::Request(format!("the network has classes, but {} has no labels", set.name())));
    }
    let indices: Vec<usize> = (0..n.min(set.len())).collect();
    let images = Images::read(set, &indices)?;
    // The label that stands for no class is no class of images.
    let classes = pipeline.classes().filter(|_| takes_labels);
    if let (Some(classes), Some(labels)) = (classes, &images.labels)
        && let Some(label) = labels.iter().find(|label| !classes.contains(label))
    {
        let (name, count) = (set.name(), classes.len());
        return Err(Error::Request(format!(
            "{name} has images of class {label}, counted from 0, but the model has {count} classes"
        )));
    }
    Ok(if takes_labels { images } else { images.with_labels(None) })
}
