use crate::error::Result;
use crate::formats::idx;
use crate::options::{Options, Split};
use crate::set::{Found, ImageSet, Source};
use std::path::Path;

/// Gzipped IDX files of images and labels; `builtin/README.md` says how they were made.
const TRAIN: [&[u8]; 2] =
    [include_bytes!("../builtin/train-images-idx3-ubyte.gz"), include_bytes!("../builtin/train-labels-idx1-ubyte.gz")];
const TEST: [&[u8]; 2] =
    [include_bytes!("../builtin/t10k-images-idx3-ubyte.gz"), include_bytes!("../builtin/t10k-labels-idx1-ubyte.gz")];

/// Fashion-MNIST's names of its classes.
const CLASS_NAMES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// The set inside the binary: 28x28 grey images of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, MIT licence), 10,000
/// from its training part and 1,000 held-out from its test part, as many of each of the ten classes.
///
/// # Errors
/// Only for options that cannot be met: a side or a number of channels that is not one.
pub fn builtin(options: &Options) -> Result<ImageSet> {
    options.check()?;
    let [images, labels] = match options.split {
        Split::Train => TRAIN,
        Split::Test => TEST,
    };
    let path = Path::new("built-in images");
    let found = Found {
        format: "built in",
        source: Source::Records(idx::read_images(flate2::read::GzDecoder::new(images), path, u64::MAX)?),
        labels: Some(idx::read_labels(flate2::read::GzDecoder::new(labels), path)?),
        class_names: CLASS_NAMES.map(str::to_owned).to_vec(),
        files: 1,
        bad: Vec::new(),
        other_files: 0,
    };
    ImageSet::new("fashion-mnist".to_owned(), path, found, options)
}
