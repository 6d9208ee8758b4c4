use crate::error::Result;
use crate::formats::idx;
use crate::options::{ReadOptions, Split};
use crate::set::ImageSet;
use crate::source::{Discovered, Source};
use std::path::Path;

/// Gzipped IDX files of images and labels; see `builtin/README.md`.
static TRAIN: [&[u8]; 2] =
    [include_bytes!("../builtin/train-images-idx3-ubyte.gz"), include_bytes!("../builtin/train-labels-idx1-ubyte.gz")];
static TEST: [&[u8]; 2] =
    [include_bytes!("../builtin/t10k-images-idx3-ubyte.gz"), include_bytes!("../builtin/t10k-labels-idx1-ubyte.gz")];

/// Class names of Fashion-MNIST.
const CLASS_NAMES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Opens the set that is compiled into the crate: 28x28 grey images of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017,
/// MIT licence), 10,000 of its training set and 1,000 of its test set, with equally many of each of the ten classes.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) if an option is invalid.
pub fn builtin(options: &ReadOptions) -> Result<ImageSet> {
    options.check()?;
    let [images, labels] = match options.split {
        Split::Train => TRAIN,
        Split::Test => TEST,
    };
    let path = Path::new("built-in images");
    let mut charge = files::Charge::default();
    let raw = idx::read_images(flate2::read::GzDecoder::new(images), path, [u64::MAX; 2], &mut charge)?;
    let found = Discovered {
        labels: Some(idx::read_labels(flate2::read::GzDecoder::new(labels), path, u64::MAX, &mut charge)?),
        class_names: CLASS_NAMES.map(str::to_owned).to_vec(),
        charge,
        ..Discovered::new("built in", Source::Raw(raw))
    };
    ImageSet::new("fashion-mnist".to_owned(), path, found, options)
}
