//! How samples leave the program: as a picture to look at, as arrays to compute with, or as a folder of images.
//!
//! | path | [`Output`] | content |
//! |---|---|---|
//! | `.png` | [`Grid`](Output::Grid) | all images in one, near-square; or, if asked for, an animated one |
//! | `.gif`, `.apng` | [`Animation`](Output::Animation) | the grid over the steps of sampling |
//! | `.npz` | [`Npz`](Output::Npz) | `arr_0` u8 N,H,W,C and labels `arr_1` i64, as OpenAI's evaluator and others read it |
//! | `.safetensors` | [`Safetensors`](Output::Safetensors) | `samples` `[N,C,H,W]` f32 as the network left them |
//! | none, or `NAME/` | [`Folder`](Output::Folder) | `000000.png` … |
//!
//! Each file is written whole or not at all. A PNG carries what it was made with as text chunks, a GIF as a comment,
//! safetensors as metadata.

mod picture;

pub use picture::sheet;

use rayon::prelude::*;
use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use weights::whole;

/// Images `[N,H,W,C]`, nominally in [-1,1].
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    /// N, how many there are.
    pub n: usize,
    /// H, in pixels.
    pub height: usize,
    /// W, in pixels.
    pub width: usize,
    /// C: 1 grey, 3 RGB, 4 RGBA; any other number is not a picture, but goes into `.safetensors` and `.npz`.
    pub channels: usize,
    /// The values in the order N,H,W,C.
    pub pixels: Vec<f32>,
}

/// What can go wrong when samples are written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is written under such a name.
    #[error("{}: cannot write {kind}; samples go to {SUPPORTED}", path.display())]
    Unsupported {
        /// The output asked for.
        path: PathBuf,
        /// What its name says that it is.
        kind: String,
    },
    /// What is at the path is not what is to be written there.
    #[error("{}: {reason}", path.display())]
    Target {
        /// The output, or the folder that it would be in.
        path: PathBuf,
        /// What is there and what was expected.
        reason: String,
    },
    /// The operating system refused: no permission, a full disk.
    #[error("{}: {action}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The operating system's reason.
        error: io::Error,
    },
    /// A number of channels that no picture has.
    #[error("images of {0} channels are not a picture (1 is grey, 3 RGB, 4 RGBA); write them to .npz or .safetensors")]
    Channels(usize),
    /// A grid that is longer than files and viewers allow.
    #[error(
        "a grid of {rows}x{columns} images of {height}x{width} is longer than 65535 pixels; \
         write fewer of them, or to a folder, .npz or .safetensors"
    )]
    GridTooLarge {
        /// Rows of images.
        rows: usize,
        /// Columns of images.
        columns: usize,
        /// Of one image, in pixels.
        height: usize,
        /// Of one image, in pixels.
        width: usize,
    },
    /// Sizes that contradict each other.
    #[error("{0}")]
    Shape(String),
    /// An image with NaN or infinite values, which no pixel shows.
    #[error(
        "image {index} of {n} has {count} values that are NaN or infinite: the weights are damaged or the model diverged"
    )]
    NotFinite {
        /// The first such image, counted from 0.
        index: usize,
        /// How many images there are.
        n: usize,
        /// How many such values it has.
        count: usize,
    },
    /// From laying out a grid.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// From writing a file.
    #[error(transparent)]
    Weights(#[from] weights::Error),
}

/// This module's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

const SUPPORTED: &str = ".png (a grid or, animated, its making), .gif or .apng (animated), .npz, .safetensors, \
                         or a folder (a name without extension, or with a / at the end)";

impl Images {
    /// `[N,H,W,C]`.
    pub fn shape(&self) -> [usize; 4] {
        [self.n, self.height, self.width, self.channels]
    }

    /// The values of each image in turn, H,W,C.
    pub fn each(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.pixels.chunks_exact((self.height * self.width * self.channels).max(1))
    }

    /// The values in the order N,C,H,W of files.
    pub fn nchw(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.pixels.len());
        for image in self.each() {
            for channel in 0..self.channels {
                values.extend(image.iter().skip(channel).step_by(self.channels));
            }
        }
        values
    }

    /// Whether these can be shown: as many values as the shape says, at least one image, and all finite.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::NotFinite`], which names the first bad image.
    pub fn check(&self) -> Result<()> {
        self.check_shape()?;
        for (index, image) in self.each().enumerate() {
            let count = image.iter().filter(|value| !value.is_finite()).count();
            if count > 0 {
                return Err(Error::NotFinite { index, n: self.n, count });
            }
        }
        Ok(())
    }

    fn check_shape(&self) -> Result<()> {
        let shape = self.shape();
        let values = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if values != Some(self.pixels.len()) || self.pixels.is_empty() {
            let values = self.pixels.len();
            return Err(Error::Shape(format!("{values} values are not images of shape {shape:?} (N,H,W,C)")));
        }
        Ok(())
    }
}

/// Bytes as pixels in [-1, 1]: `x/127.5 − 1`.
pub fn from_u8(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect()
}

/// Pixels as bytes: `round(clamp((x+1)·127.5, 0, 255))`, ties to even as in NumPy and PyTorch. NaN, which
/// [`Images::check`] finds, becomes 0.
pub fn to_u8(pixels: &[f32]) -> Vec<u8> {
    let byte = |x: &f32| ((x + 1.0) * 127.5).clamp(0.0, 255.0).round_ties_even() as u8;
    pixels.iter().map(byte).collect()
}

/// Where samples go, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// One PNG with all images.
    Grid(PathBuf),
    /// The grid over the steps of sampling, looping: a GIF, or else an animated PNG. A viewer that does not animate
    /// PNGs shows the finished grid.
    Animation(PathBuf),
    /// NumPy arrays in OpenAI's layout: `arr_0` u8 N,H,W,C, `arr_1` labels i64.
    Npz(PathBuf),
    /// `samples` `[N,C,H,W]` f32, neither clamped nor rounded; `labels` `[N]` (f32 too) if there are any.
    Safetensors(PathBuf),
    /// A PNG for each image.
    Folder(PathBuf),
}

impl Output {
    /// What a path asks for, by its extension in either case; an existing folder is a folder whatever its name.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another extension, or if `animated` and the path is not a `.png`, `.apng` or `.gif`.
    pub fn parse(path: &Path, animated: bool) -> Result<Self> {
        let folder = path.is_dir() || path.to_string_lossy().ends_with(std::path::is_separator);
        let extension = path.extension().filter(|_| !folder).map(|name| name.to_string_lossy().to_lowercase());
        let to = path.to_owned();
        let output = match extension.as_deref() {
            Some("png") if animated => Output::Animation(to),
            Some("png") => Output::Grid(to),
            Some("gif" | "apng") => Output::Animation(to),
            Some("npz") => Output::Npz(to),
            Some("safetensors") => Output::Safetensors(to),
            None => Output::Folder(to),
            Some(other) => {
                return Err(Error::Unsupported { path: to, kind: format!("a .{other} file") });
            }
        };
        match output {
            Output::Animation(_) => Ok(output),
            _ if animated => Err(Error::Unsupported { path: path.to_owned(), kind: "an animation there".into() }),
            _ => Ok(output),
        }
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Output::Grid(path)
            | Output::Animation(path)
            | Output::Npz(path)
            | Output::Safetensors(path)
            | Output::Folder(path) => path,
        }
    }

    /// Finds out whether images of `shape` `[N,H,W,C]` can be written, before hours are spent on making them. Creates
    /// the folders on the way to the output, and in the innermost one, for a moment, a temporary file.
    ///
    /// # Errors
    /// If a folder is where a file is to be or the other way round, a folder cannot be created or written to, or the
    /// images do not make a picture of the kind (number of channels, size of the grid).
    pub fn check_writable(&self, shape: [usize; 4]) -> Result<()> {
        let [n, height, width, channels] = shape;
        match self {
            Output::Grid(_) | Output::Animation(_) => {
                picture::Layout::grid(n, height, width)?;
                picture::color(channels)?;
            }
            Output::Folder(_) => drop(picture::color(channels)?),
            Output::Npz(_) | Output::Safetensors(_) => {}
        }
        let folder = self.create_folder()?;
        let is_device = |path: &Path| fs::metadata(path).is_ok_and(|to| !to.is_file() && !to.is_dir());
        if !matches!(self, Output::Folder(_)) && is_device(self.path()) {
            return Ok(());
        }
        let action = "cannot create a file in this folder";
        let failed = |error| Error::Io { path: folder.to_owned(), action, error };
        tempfile::tempfile_in(folder).map(drop).map_err(failed)
    }

    /// Creates the folder that the output is, or is in.
    fn create_folder(&self) -> Result<&Path> {
        let path = self.path();
        let bad = |path: &Path, reason: &str| Error::Target { path: path.to_owned(), reason: reason.to_owned() };
        let folder = match (self, path.parent()) {
            (Output::Folder(_), _) => path,
            _ if path.is_dir() => return Err(bad(path, "is a folder, expected the name of a file to write")),
            (_, Some(parent)) if parent != "" => parent,
            _ => Path::new("."),
        };
        match folder.ancestors().find(|folder| folder.exists()) {
            Some(there) if !there.is_dir() => Err(bad(there, "is a file, expected a folder")),
            _ => {
                let action = "cannot create this folder";
                fs::create_dir_all(folder).map_err(|error| Error::Io { path: folder.to_owned(), action, error })?;
                Ok(folder)
            }
        }
    }
}

/// Writes `images`, creating folders on the way to them and replacing a file that is there.
///
/// - `labels`: the class of each image, for `.npz`, `.safetensors` and (as text chunk `label`) folders.
/// - `frames`: for animations: previews (x_t or x̂0) in the order of sampling, each of the shape of `images`. `images`
///   end the animation and are held; they may, but need not, be the last of `frames` too.
/// - `info`: what the images were made with, such as command and seed: PNG text chunks (keywords of 1 to 79 characters
///   of Latin-1), safetensors metadata, a GIF's comment. An `.npz` has no place for it.
///
/// # Errors
/// If shapes disagree, a value is NaN or infinite (`.safetensors` takes them), the number of channels is not a
/// picture's, or the file cannot be written; then an earlier file is untouched.
pub fn write(
    output: &Output,
    images: &Images,
    labels: Option<&[u32]>,
    frames: &[Images],
    info: &[(String, String)],
) -> Result<()> {
    if let Output::Folder(folder) = output {
        return write_folder(folder, images, labels, 0, info);
    }
    check(images, labels)?;
    if !matches!(output, Output::Safetensors(_)) {
        images.check()?;
    }
    output.create_folder()?;
    match output {
        Output::Grid(path) => picture::write_grid(path, images, info),
        Output::Animation(path) => picture::write_animation(path, images, frames, info),
        Output::Npz(path) => write_npz(path, images, labels),
        Output::Safetensors(path) => write_safetensors(path, images, labels, info),
        Output::Folder(_) => unreachable!("written above"),
    }
}

/// Writes each image as a PNG of its own, `000000.png` and so on from `first_index`, with text chunks `index`, `label`
/// (if there are labels) and `info`. What else is in the folder stays.
///
/// # Errors
/// As [`write()`]; the images before the one that could not be written may be there, whole.
pub fn write_folder(
    folder: &Path,
    images: &Images,
    labels: Option<&[u32]>,
    first_index: u64,
    info: &[(String, String)],
) -> Result<()> {
    check(images, labels)?;
    images.check()?;
    let color = picture::color(images.channels)?;
    Output::Folder(folder.to_owned()).create_folder()?;
    let pixels = to_u8(&images.pixels);
    let write_one = |(i, pixels): (usize, &[u8])| {
        let index = first_index.saturating_add(i as u64);
        let mut info = info.to_vec();
        info.push(("index".to_owned(), index.to_string()));
        info.extend(labels.map(|labels| ("label".to_owned(), labels[i].to_string())));
        let size = [images.height, images.width];
        whole::write_file(folder.join(format!("{index:06}.png")), |file| {
            let mut file = picture::png(file, size, color, &info)?.write_header()?;
            file.write_image_data(pixels)?;
            Ok(file.finish()?)
        })
    };
    pixels.par_chunks_exact(pixels.len() / images.n).enumerate().try_for_each(write_one)?;
    Ok(())
}

fn write_npz(path: &Path, images: &Images, labels: Option<&[u32]>) -> Result<()> {
    // A zip's directory is written by seeking, a whole file is only appended to.
    let mut bytes = Cursor::new(Vec::new());
    let written = data::write_npz_images(&mut bytes, &to_u8(&images.pixels), images.shape(), labels);
    whole::write_file(path, |file| written.and_then(|()| file.write_all(bytes.get_ref())))?;
    Ok(())
}

fn write_safetensors(path: &Path, images: &Images, labels: Option<&[u32]>, info: &[(String, String)]) -> Result<()> {
    let [n, height, width, channels] = images.shape();
    let samples = images.nchw();
    let labels: Option<Vec<f32>> = labels.map(|labels| labels.iter().map(|&label| label as f32).collect());
    let (shape, count) = ([n, channels, height, width], [n]);
    let samples = [("samples", &shape[..], &samples[..])];
    let labels = labels.iter().map(|labels| ("labels", &count[..], &labels[..]));
    Ok(weights::write_safetensors(path, samples.into_iter().chain(labels), &info.iter().cloned().collect())?)
}

fn check(images: &Images, labels: Option<&[u32]>) -> Result<()> {
    images.check_shape()?;
    match labels {
        Some(labels) if labels.len() != images.n => {
            Err(Error::Shape(format!("{} labels for {} images", labels.len(), images.n)))
        }
        _ => Ok(()),
    }
}
