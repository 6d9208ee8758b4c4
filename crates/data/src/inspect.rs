//! What is in a set, counted: the numbers that `ddpm inspect` prints.

use crate::{Error, ImageSet};
use rayon::prelude::*;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// The contents of an image set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// What the set is called.
    pub name: String,
    /// The set in a line.
    pub description: String,
    /// How many images can be read.
    pub images: usize,
    /// H of the images as they are given to training, in pixels.
    pub height: usize,
    /// W of the images as they are given to training, in pixels.
    pub width: usize,
    /// C of the images as they are given to training: 1, 3 or 4.
    pub channels: usize,
    /// Whether images are decoded on each read, because the set is over the memory limit.
    pub streamed: bool,
    /// Sizes in the files, the most common first.
    pub sizes: Vec<Size>,
    /// Kinds of pixels in the files.
    pub source_channels: Vec<SourceChannels>,
    /// Classes in the order of their labels; empty if there are none.
    pub classes: Vec<Class>,
    /// Mean of each channel over all images, of pixels scaled to [0, 1].
    pub mean: Vec<f64>,
    /// Standard deviation of each channel over all pixels, scaled to [0, 1].
    pub std: Vec<f64>,
    /// Files that should hold images, bad ones included.
    pub files: usize,
    /// Files of another kind, passed over.
    pub other_files: usize,
    /// What cannot be read.
    pub bad: Vec<Bad>,
}

/// A size and how many images have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Size {
    /// In pixels.
    pub height: usize,
    /// In pixels.
    pub width: usize,
    /// How many images.
    pub images: usize,
}

/// A kind of pixel and how many images have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceChannels {
    /// 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
    pub channels: usize,
    /// How many images.
    pub images: usize,
}

/// A class and how many images it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Class {
    /// Its name, or its label where it has none.
    pub name: String,
    /// How many images.
    pub images: usize,
}

/// A file or folder that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Bad {
    /// Its path.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// What one thread has counted. Sums of integers, so that the order of adding does not show.
#[derive(Default)]
struct Counts {
    /// Of pixels, by channel.
    sums: [u64; 4],
    /// Of their squares.
    squares: [u64; 4],
    images: usize,
    bad: Vec<Bad>,
    buffer: Vec<u8>,
}

impl Counts {
    fn image(mut self, set: &ImageSet, index: usize) -> Counts {
        self.buffer.resize(set.height() * set.width() * set.channels(), 0);
        match set.read(&[index], &mut self.buffer) {
            Ok(()) => {
                self.images += 1;
                for pixel in self.buffer.chunks_exact(set.channels()) {
                    for (channel, &value) in pixel.iter().enumerate() {
                        self.sums[channel] += u64::from(value);
                        self.squares[channel] += u64::from(value) * u64::from(value);
                    }
                }
            }
            Err(Error::Malformed { path, message }) => self.bad.push(Bad::new(&path, message)),
            Err(error) => self.bad.push(Bad { path: format!("image {index}"), reason: error.to_string() }),
        }
        self
    }

    fn merge(mut self, other: Counts) -> Counts {
        self.sums = std::array::from_fn(|channel| self.sums[channel] + other.sums[channel]);
        self.squares = std::array::from_fn(|channel| self.squares[channel] + other.squares[channel]);
        self.images += other.images;
        self.bad.extend(other.bad);
        self
    }
}

impl Bad {
    fn new(path: &Path, reason: impl Into<String>) -> Bad {
        Bad { path: path.display().to_string(), reason: reason.into() }
    }
}

/// Counts what is in a set. Every image is read, so that a streamed set's broken files are found too: they are listed
/// in [`Summary::bad`] and left out of `images`, `mean` and `std`, but the set still has them.
pub fn summary(set: &ImageSet) -> Summary {
    let counts = (0..set.len())
        .into_par_iter()
        .fold(Counts::default, |counts, index| counts.image(set, index))
        .reduce(Counts::default, Counts::merge);
    let pixels = (counts.images * set.height() * set.width()).max(1) as u64;
    let moments = counts.sums.iter().zip(&counts.squares).take(set.channels());
    let (mean, std) = moments
        .map(|(&sum, &squares)| {
            // N·Σx² − (Σx)², in whole numbers: exact, and never below zero.
            let variance = u128::from(pixels) * u128::from(squares) - u128::from(sum) * u128::from(sum);
            let scale = pixels as f64 * 255.0;
            (sum as f64 / scale, (variance as f64).sqrt() / scale)
        })
        .unzip();

    let report = set.report();
    let mut sizes: Vec<_> =
        report.sizes.iter().map(|(&(height, width), &images)| Size { height, width, images }).collect();
    sizes.sort_by_key(|size| std::cmp::Reverse(size.images));
    let mut classes: Vec<_> = set.class_names().iter().map(|name| Class { name: name.clone(), images: 0 }).collect();
    for &label in set.labels().unwrap_or_default() {
        classes[label as usize].images += 1;
    }
    let mut bad: Vec<_> = report.bad.iter().map(|(path, reason)| Bad::new(path, reason)).chain(counts.bad).collect();
    bad.sort();
    Summary {
        name: set.name().to_owned(),
        description: set.describe(),
        images: counts.images,
        height: set.height(),
        width: set.width(),
        channels: set.channels(),
        streamed: set.is_streamed(),
        sizes,
        source_channels: report
            .channels
            .iter()
            .map(|(&channels, &images)| SourceChannels { channels, images })
            .collect(),
        classes,
        mean,
        std,
        files: report.files,
        other_files: report.other_files,
        bad,
    }
}

/// How many sizes, classes or bad files are shown to a person; all are in the serialised form.
const SHOWN: usize = 20;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let more = |total: usize| {
            if total > SHOWN { format!(", and {} more", total - SHOWN) } else { String::new() }
        };
        let list = |items: &mut dyn Iterator<Item = String>| items.take(SHOWN).collect::<Vec<_>>().join(", ");
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
        }
        writeln!(f, "mean      {} (of 1, by channel)", numbers(&self.mean))?;
        writeln!(f, "std       {}", numbers(&self.std))?;
        write!(f, "files     {}, {} of other kinds passed over, {} bad", self.files, self.other_files, self.bad.len())?;
        for bad in self.bad.iter().take(SHOWN) {
            write!(f, "\n  bad     {}: {}", bad.path, bad.reason)?;
        }
        if self.bad.len() > SHOWN {
            write!(f, "\n  and {} more", self.bad.len() - SHOWN)?;
        }
        Ok(())
    }
}
