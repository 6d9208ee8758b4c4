use crate::error::Error;
use crate::report::BadFile;
use crate::set::ImageSet;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Statistics of an image set, as `ddpm inspect` prints them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the set.
    pub name: String,
    /// One-line description of the set ([`ImageSet::describe`]).
    pub description: String,
    /// Number of images that can be decoded.
    pub images: usize,
    /// Height of the images in pixels, after resizing.
    pub height: usize,
    /// Width of the images in pixels, after resizing.
    pub width: usize,
    /// Number of channels after conversion: 1, 3 or 4.
    pub channels: usize,
    /// Whether images are decoded on each read, because the set exceeds the memory limit.
    pub streamed: bool,
    /// Image sizes before resizing, most common first.
    pub sizes: Vec<SizeCount>,
    /// Numbers of channels before conversion.
    pub source_channels: Vec<ChannelCount>,
    /// Classes in order of their labels. Empty if the set has no labels.
    pub classes: Vec<ClassCount>,
    /// The name of each class by its label. Empty if the set has no labels.
    pub id2label: BTreeMap<u32, String>,
    /// Mean of each channel over all pixels, scaled to [0, 1].
    pub mean: Vec<f64>,
    /// Standard deviation of each channel over all pixels, scaled to [0, 1].
    pub std: Vec<f64>,
    /// Number of image files, including those that cannot be read.
    pub files: usize,
    /// Number of ignored files of other types.
    pub other_files: usize,
    /// Files and folders that cannot be read.
    pub bad: Vec<BadFile>,
    /// Number of images that this program wrote.
    pub generated: usize,
    /// Warnings about what may not be as intended.
    pub warnings: Vec<String>,
}

/// The number of images of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SizeCount {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Number of images.
    pub images: usize,
}

/// The number of images with a given number of channels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChannelCount {
    /// 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA).
    pub channels: usize,
    /// Number of images.
    pub images: usize,
}

/// The number of images of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// Name of the class, or its label if it has no name.
    pub name: String,
    /// Number of images.
    pub images: usize,
}

/// Partial sums of one thread. They are integers, so the result does not depend on the order of addition.
#[derive(Default)]
struct Accumulator {
    /// Sum of the values of each channel.
    sums: [u64; 4],
    /// Sum of the squared values of each channel.
    squares: [u64; 4],
    images: usize,
    bad: Vec<BadFile>,
    buffer: Vec<u8>,
}

impl Accumulator {
    fn add(mut self, set: &ImageSet, index: usize) -> Accumulator {
        self.buffer.resize(set.shape().iter().product(), 0);
        match set.read_into(&[index], &mut self.buffer) {
            Ok(()) => {
                self.images += 1;
                for pixel in self.buffer.chunks_exact(set.channels()) {
                    for (channel, &value) in pixel.iter().enumerate() {
                        self.sums[channel] += u64::from(value);
                        self.squares[channel] += u64::from(value) * u64::from(value);
                    }
                }
            }
            Err(Error::Malformed { path, message }) => self.bad.push(BadFile { path, reason: message }),
            Err(error) => {
                self.bad.push(BadFile { path: PathBuf::from(format!("image {index}")), reason: error.to_string() })
            }
        }
        self
    }

    fn merge(mut self, other: Accumulator) -> Accumulator {
        self.sums = std::array::from_fn(|channel| self.sums[channel] + other.sums[channel]);
        self.squares = std::array::from_fn(|channel| self.squares[channel] + other.squares[channel]);
        self.images += other.images;
        self.bad.extend(other.bad);
        self
    }
}

impl Summary {
    /// Computes the statistics of a set from all of its pixels.
    ///
    /// Images of a streamed set that cannot be decoded are listed in [`bad`](Self::bad) and are not part of `images`,
    /// `mean` and `std`.
    pub fn new(set: &ImageSet) -> Summary {
        let total = (0..set.len())
            .into_par_iter()
            .fold(Accumulator::default, |total, index| total.add(set, index))
            .reduce(Accumulator::default, Accumulator::merge);
        let pixels = (total.images * set.height() * set.width()).max(1) as u64;
        let moments = total.sums.iter().zip(&total.squares).take(set.channels());
        let (mean, std) = moments
            .map(|(&sum, &squares)| {
                // N·Σx² − (Σx)² in integers is exact and never negative.
                let variance = u128::from(pixels) * u128::from(squares) - u128::from(sum) * u128::from(sum);
                let scale = pixels as f64 * 255.0;
                (sum as f64 / scale, (variance as f64).sqrt() / scale)
            })
            .unzip();

        let report = set.report();
        let mut sizes: Vec<_> =
            report.sizes.iter().map(|(&(height, width), &images)| SizeCount { height, width, images }).collect();
        sizes.sort_by_key(|size| std::cmp::Reverse(size.images));
        let mut classes: Vec<_> =
            set.class_names().iter().map(|name| ClassCount { name: name.clone(), images: 0 }).collect();
        for &label in set.labels().unwrap_or_default() {
            classes[label as usize].images += 1;
        }
        let mut bad: Vec<_> = report.bad.iter().cloned().chain(total.bad).collect();
        bad.sort_by_cached_key(|bad| (bad.path.display().to_string(), bad.reason.clone()));
        let [height, width, channels] = set.shape();
        Summary {
            name: set.name().to_owned(),
            description: set.describe(),
            images: total.images,
            height,
            width,
            channels,
            streamed: set.is_streamed(),
            sizes,
            source_channels: report
                .channels
                .iter()
                .map(|(&channels, &images)| ChannelCount { channels, images })
                .collect(),
            classes,
            id2label: (0..).zip(set.class_names().iter().cloned()).collect(),
            mean,
            std,
            files: report.files,
            other_files: report.other_files,
            bad,
            generated: report.generated,
            warnings: report.warnings.clone(),
        }
    }
}

/// Number of sizes, classes and bad files that `Display` prints. The serialized form has all of them.
const MAX_SHOWN: usize = 20;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let more = |total: usize| {
            if total > MAX_SHOWN { format!(", and {} more", total - MAX_SHOWN) } else { String::new() }
        };
        let list = |items: &mut dyn Iterator<Item = String>| items.take(MAX_SHOWN).collect::<Vec<_>>().join(", ");
        let numbers = |values: &[f64]| values.iter().map(|v| format!("{v:.4}")).collect::<Vec<_>>().join(", ");

        writeln!(f, "{}", self.description)?;
        let mut sizes = self.sizes.iter().map(|size| format!("{} of {}x{}", size.images, size.height, size.width));
        writeln!(f, "sizes     {}{} (height x width)", list(&mut sizes), more(self.sizes.len()))?;
        let kinds = ["grey", "grey and alpha", "RGB", "RGBA"];
        let mut channels = self.source_channels.iter().map(|c| format!("{} {}", c.images, kinds[c.channels - 1]));
        writeln!(f, "channels  {}", list(&mut channels))?;
        if !self.classes.is_empty() {
            let mut classes = self.classes.iter().map(|class| format!("{} {}", class.name, class.images));
            writeln!(f, "classes   {}{}", list(&mut classes), more(self.classes.len()))?;
            let mut labels = self.id2label.iter().map(|(label, name)| format!("{label} {name}"));
            writeln!(f, "labels    {}{}", list(&mut labels), more(self.classes.len()))?;
        }
        writeln!(f, "mean      {} (of 1, by channel)", numbers(&self.mean))?;
        writeln!(f, "std       {}", numbers(&self.std))?;
        write!(f, "files     {}, {} other files ignored, {} bad", self.files, self.other_files, self.bad.len())?;
        if self.generated > 0 {
            write!(f, "\ngenerated {} of the images were written by this program", self.generated)?;
        }
        for bad in self.bad.iter().take(MAX_SHOWN) {
            write!(f, "\n  bad     {}: {}", bad.path.display(), bad.reason)?;
        }
        if self.bad.len() > MAX_SHOWN {
            write!(f, "\n  and {} more", self.bad.len() - MAX_SHOWN)?;
        }
        Ok(())
    }
}
