use crate::crop_box::CropBox;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::points::PointOptions;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;

/// Options for reading an image set.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOptions {
    /// Height and width to which images are fitted. `None` requires all images to have the same size, and keeps
    /// it, or keeps that of the crop.
    pub resolution: Option<(usize, usize)>,
    /// Number of channels: 1 (grey), 3 (RGB) or 4 (RGBA). `None` means 3 if any image has colour, else 1.
    pub channels: Option<usize>,
    /// The part of each stored image that is read, before it is fitted to the resolution. Defaults to the whole image. A smaller
    /// image is a bad file.
    pub crop: Option<CropBox>,
    /// The method of fitting images of another size to the resolution.
    pub fit: Fit,
    /// Background colour (RGB) of transparent images when `channels` is 1 or 3. Defaults to white.
    pub background: [u8; 3],
    /// Value of the border that [`Fit::Pad`] adds, in every channel. Defaults to 0.
    pub padding: u8,
    /// The split to read.
    pub split: Split,
    /// The source of labels.
    pub label_from: LabelFrom,
    /// The values of an array that become 0 and 255. `None` accepts arrays of u8 only. Other formats have 8-bit pixels.
    pub range: Option<[f64; 2]>,
    /// Reads points, vectors of numbers, and not images. Most other options are about images and do not apply.
    pub points: Option<PointOptions>,
    /// Maximum size N·H·W·C of a set that is kept in memory; larger sets are streamed. Defaults to 4 GiB.
    pub memory_limit_bytes: u64,
}

/// A method of fitting images of another size to a resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Resizes, with anti-aliasing, to the smallest size that covers the resolution, then crops the centre:
    /// torchvision's `Resize` (bilinear, on PIL images) and `CenterCrop`, as in diffusers' training script.
    #[default]
    Crop,
    /// Centres the image in a border, and first shrinks it if it is larger than the resolution. Never enlarges. Turns
    /// MNIST's 28x28 into the 32x32 of many published networks.
    Pad,
    /// Resizes as [`Crop`](Fit::Crop) does, then crops at positions that [`ImageSet::read_crops`](crate::ImageSet::read_crops)
    /// takes. Elsewhere it is the same as [`Crop`](Fit::Crop).
    #[serde(rename = "random-crop")]
    RandomCrop,
}

impl Fit {
    /// Returns the fit for images that are not training images: the centre in place of a random position.
    pub fn deterministic(self) -> Fit {
        if self == Fit::RandomCrop { Fit::Crop } else { self }
    }
}

/// A background colour, RGB. Written as three numbers or as `#rrggbb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Background(pub [u8; 3]);

impl Background {
    const EXPECTED: &str = "three numbers from 0 to 255, or a colour such as #ffffff";

    /// Returns whether this is white, the default.
    pub fn is_white(&self) -> bool {
        *self == Background::default()
    }
}

impl Default for Background {
    fn default() -> Self {
        Background([255; 3])
    }
}

impl FromStr for Background {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.is_ascii());
        let byte = |at: usize| u8::from_str_radix(digits?.get(at..at + 2)?, 16).ok();
        match (byte(0), byte(2), byte(4)) {
            (Some(r), Some(g), Some(b)) => Ok(Background([r, g, b])),
            _ => Err(format!("got {text:?}, expected {}", Self::EXPECTED)),
        }
    }
}

impl<'de> Deserialize<'de> for Background {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Colour;

        impl<'de> Visitor<'de> for Colour {
            type Value = Background;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(Background::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Background, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> std::result::Result<Background, A::Error> {
                <[u8; 3]>::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Background)
            }
        }
        deserializer.deserialize_any(Colour)
    }
}

/// The source of labels. Written as `folder`, `filename` or `column:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LabelFrom {
    /// A label file or labels of the format if there are any, else the first level of subfolders.
    #[default]
    Folder,
    /// The part of each file name before the first `_`: `cat_001.png`, the convention of OpenAI's code.
    FileName,
    /// A column of `metadata.csv`, `metadata.jsonl`, a single other table, or a Parquet file; a key of webdataset's `.json`.
    Column(String),
}

impl FromStr for LabelFrom {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            None if text == "folder" => Ok(LabelFrom::Folder),
            None if text == "filename" => Ok(LabelFrom::FileName),
            Some(("column", name)) if !name.is_empty() => Ok(LabelFrom::Column(name.to_owned())),
            _ => Err(format!("got {text:?}, expected folder, filename, or column: and the name of a column")),
        }
    }
}

impl TryFrom<String> for LabelFrom {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<LabelFrom> for String {
    fn from(from: LabelFrom) -> String {
        from.to_string()
    }
}

impl fmt::Display for LabelFrom {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            LabelFrom::Folder => f.write_str("folder"),
            LabelFrom::FileName => f.write_str("filename"),
            LabelFrom::Column(name) => write!(f, "column:{name}"),
        }
    }
}

/// The training split or the held-out split of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training images: `train-images-idx3-ubyte`, `data_batch_*.bin`, `train/`, or the whole set if it has no splits.
    #[default]
    Train,
    /// Held-out images: `t10k-images-idx3-ubyte`, `test_batch.bin`, `test/` or `val/`. An error if there are none.
    Test,
}

/// Maximum height and width of an image or a resolution.
pub(crate) const MAX_SIDE: usize = 65_535;

/// Maximum size of one image: of its file, decoded and resized. A file of a few kilobytes can claim any size.
pub(crate) const MAX_IMAGE_BYTES: u64 = 512 << 20;

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions {
            resolution: None,
            channels: None,
            crop: None,
            fit: Fit::Crop,
            background: [255; 3],
            padding: 0,
            split: Split::Train,
            label_from: LabelFrom::Folder,
            range: None,
            points: None,
            memory_limit_bytes: 4 << 30,
        }
    }
}

impl ReadOptions {
    /// Returns the options without the crop if all images of a set have the size of the resolution and are too small to be
    /// cropped: samples, for instance, are such parts already.
    ///
    /// # Errors
    /// As [`open`](crate::open()).
    pub fn without_needless_crop(self, images: &Dataset) -> Result<Self> {
        let Some(crop) = self.crop else { return Ok(self) };
        // Sizes are in the headers. A compressed archive is unpacked in memory.
        let any = ReadOptions { resolution: Some((1, 1)), crop: None, split: Split::Train, ..self.clone() };
        let set = match images.open(&ReadOptions { memory_limit_bytes: 0, ..any.clone() }) {
            Err(Error::TooLarge { .. }) => images.open(&any)?,
            set => set?,
        };
        let is_part = |&(h, w): &(usize, usize)| self.resolution == Some((h, w)) && crop.check_image(h, w).is_err();
        let is_needless = set.report().sizes.keys().all(is_part);
        Ok(ReadOptions { crop: self.crop.filter(|_| !is_needless), ..self })
    }

    /// Checks that each option has a value that it may have.
    ///
    /// # Errors
    /// [`Error::Argument`] with the option, its value and what was expected.
    pub fn check(&self) -> Result<()> {
        if let Some((h, w)) = self.resolution
            && !((1..=MAX_SIDE).contains(&h) && (1..=MAX_SIDE).contains(&w))
        {
            return Err(Error::Argument(format!("resolution is {h}x{w}; each side must be 1 to {MAX_SIDE}")));
        }
        if let Some([low, high]) = self.range
            && !(low.is_finite() && high.is_finite() && low < high)
        {
            return Err(Error::Argument(format!("range is [{low}, {high}]; expected two numbers, the lower first")));
        }
        if let Some(Err(message)) = self.crop.map(|crop| crop.check()) {
            return Err(Error::Argument(format!("crop: {message}")));
        }
        match self.channels {
            None | Some(1 | 3 | 4) => Ok(()),
            Some(c) => Err(Error::Argument(format!("channels is {c}; expected 1 (grey), 3 (RGB) or 4 (RGBA)"))),
        }
    }
}
