//! Output formats: a picture to view, arrays for programs, or a folder of images.
//!
//! | path | [`Output`] | content |
//! |---|---|---|
//! | `.png` | [`Grid`](Output::Grid) | all images in one, near-square; animated on request |
//! | `.gif`, `.apng` | [`Animation`](Output::Animation) | the grid over the steps of sampling |
//! | `.npz` | [`Npz`](Output::Npz) | `arr_0` u8 N,H,W,C and labels `arr_1` i64, as OpenAI's evaluator and others read it |
//! | `.safetensors` | [`Safetensors`](Output::Safetensors) | `samples` `[N,C,H,W]` f32 as the network left them |
//! | `.npy`, `.csv` | [`Npy`](Output::Npy), [`Csv`](Output::Csv) | points `[N,D]`, of models of points |
//! | none, or `NAME/` | [`Folder`](Output::Folder) | `000000.png` … |
//!
//! Files are written atomically. The options of the generation are stored in them: as text chunks in a PNG, as a
//! comment in a GIF, as metadata in safetensors, and [what the images are](crate::Provenance) also in an `.npz`.

pub(crate) mod class_folders;
pub(crate) mod picture;

pub use picture::sheet;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use model::Images;
use rayon::prelude::*;
use weights::atomic;

use crate::provenance;
use picture::{InMemory, Layout, PixelSource};

/// An error of writing images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An unsupported file extension.
    #[error("{}: cannot write {kind}; samples go to {SUPPORTED}", path.display())]
    Unsupported {
        /// The requested output.
        path: PathBuf,
        /// The kind of file that the name indicates.
        kind: String,
    },
    /// A conflict with existing files.
    #[error("{}: {reason}", path.display())]
    Target {
        /// The output, or its folder.
        path: PathBuf,
        /// The conflict, and what was expected.
        reason: String,
    },
    /// An error of the operating system, such as missing permission or a full disk.
    #[error("{}: {action}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The failed action.
        action: &'static str,
        /// The underlying error.
        error: io::Error,
    },
    /// An unsupported number of channels for a picture.
    #[error("images of {0} channels are not a picture (1 is grey, 3 RGB, 4 RGBA); write them to .npz or .safetensors")]
    Channels(usize),
    /// A grid that is too large for the file format or viewers.
    #[error(
        "a grid of {rows}x{columns} images of {height}x{width} is longer than 65535 pixels; \
         write fewer of them, or to a folder, .npz or .safetensors"
    )]
    GridTooLarge {
        /// Rows of images.
        rows: usize,
        /// Columns of images.
        columns: usize,
        /// Height of one image, in pixels.
        height: usize,
        /// Width of one image, in pixels.
        width: usize,
    },
    /// Shapes that do not match.
    #[error("{0}")]
    Shape(String),
    /// An image with NaN or infinite values.
    #[error(
        "image {index} of {n} has {count} values that are NaN or infinite: the weights are damaged or the model diverged"
    )]
    NotFinite {
        /// The first such image, counted from 0.
        index: usize,
        /// Number of images.
        n: usize,
        /// Number of such values in it.
        count: usize,
    },
    /// An error of writing a file.
    #[error(transparent)]
    Weights(#[from] weights::Error),
}

/// The result type of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

const SUPPORTED: &str = ".png (a grid or, animated, its making), .gif or .apng (animated), .npz, .safetensors, .npy or .csv (points), \
                         or a folder (a name without extension, or with a / at the end)";

/// An output, by its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// One PNG with all images.
    Grid(PathBuf),
    /// The grid over the steps of sampling, looping: a GIF or an animated PNG. Viewers without support for animated
    /// PNGs show the finished grid.
    Animation(PathBuf),
    /// NumPy arrays in OpenAI's layout: `arr_0` u8 N,H,W,C, `arr_1` labels i64.
    Npz(PathBuf),
    /// `samples` `[N,C,H,W]` f32, neither clamped nor rounded, and `labels` `[N]`, also f32, if there are any.
    Safetensors(PathBuf),
    /// A PNG for each image.
    Folder(PathBuf),
    /// Points as a NumPy array `[N,D]` f32, for models of points.
    Npy(PathBuf),
    /// Points as comma-separated values, for models of points.
    Csv(PathBuf),
}

impl Output {
    /// Returns the output for a path, by its extension in upper or lower case. An existing folder is always a folder of
    /// images.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another extension, or if `animated` and the path is not a `.png`, `.apng` or `.gif`.
    pub fn parse(path: &Path, animated: bool) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_bare =
            [".png", ".gif", ".apng", ".npz", ".npy", ".csv", ".safetensors"].contains(&&*name.to_lowercase());
        if name == "-" || is_bare {
            let kind = match is_bare {
                true => "a file without a name before its extension",
                false => "to standard output",
            };
            return Err(Error::Unsupported { path: path.to_owned(), kind: kind.into() });
        }
        let folder = path.is_dir() || path.to_string_lossy().ends_with(std::path::is_separator);
        let extension = path.extension().filter(|_| !folder).map(|name| name.to_string_lossy().to_lowercase());
        let to = path.to_owned();
        let output = match extension.as_deref() {
            Some("png") if animated => Output::Animation(to),
            Some("png") => Output::Grid(to),
            Some("gif" | "apng") => Output::Animation(to),
            Some("npz") => Output::Npz(to),
            Some("npy") => Output::Npy(to),
            Some("csv") => Output::Csv(to),
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

    /// Returns the error of writing images as points.
    pub(crate) fn only_points(&self) -> Error {
        let kind = "images as .npy or .csv, which are for models of points".to_owned();
        Error::Unsupported { path: self.path().to_owned(), kind }
    }

    /// Returns the path of the file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Output::Grid(path)
            | Output::Animation(path)
            | Output::Npz(path)
            | Output::Safetensors(path)
            | Output::Folder(path)
            | Output::Npy(path)
            | Output::Csv(path) => path,
        }
    }

    /// Returns the picture of intermediate predictions that [`SaveOptions::animate`](crate::SaveOptions::animate) writes next
    /// to a folder of images, because metrics would count it as a sample inside.
    pub fn progress_sheet(&self) -> Option<PathBuf> {
        let Output::Folder(folder) = self else { return None };
        let name = folder.file_name()?.to_string_lossy();
        Some(folder.with_file_name(format!("{name}-progress.png")))
    }

    /// Returns whether an interrupted generation left images in the folder or, for a file, in its spool.
    pub fn is_begun(&self) -> bool {
        match self {
            Output::Folder(folder) => images_in(folder).is_ok_and(|images| !images.is_empty()),
            _ => spool_folder(self.path()).is_dir(),
        }
    }

    /// Checks that images of `shape` `[N,H,W,C]` can be written, before they are generated. Creates the parent folders
    /// of the output, and briefly a temporary file.
    ///
    /// # Errors
    /// If a folder exists in place of a file or vice versa, a folder cannot be created or written to, or the number of
    /// channels or the grid size does not suit the format.
    pub fn check_writable(&self, shape: [usize; 4]) -> Result<()> {
        let [n, height, width, channels] = shape;
        match self {
            Output::Grid(_) | Output::Animation(_) => {
                picture::Layout::grid(n, height, width)?;
                picture::color(channels)?;
            }
            Output::Folder(_) => drop(picture::color(channels)?),
            Output::Npz(_) | Output::Safetensors(_) => {}
            Output::Npy(_) | Output::Csv(_) => return Err(self.only_points()),
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

    /// Creates the folder of the output: the output itself or its parent.
    pub(crate) fn create_folder(&self) -> Result<&Path> {
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

/// Writes images from memory. Creates parent folders and replaces an existing file.
///
/// - `frames`: for animations, previews (x_t or x̂0) in the order of sampling, each of the shape of `images`. `images`
///   are shown last and longer than the others; they may also be the last of `frames`.
/// - `info`: options of the generation, such as command and seed. They become PNG text chunks (keywords of 1 to 79
///   Latin-1 characters), safetensors metadata or a GIF comment. An `.npz` stores only the one named `ddpm`.
///
/// # Errors
/// If shapes do not match, a value is NaN or infinite (allowed in `.safetensors`), the format does not support the
/// number of channels, a folder holds other images, or the file cannot be written. An existing file then remains
/// unchanged.
pub fn write(output: &Output, images: &Images, frames: &[Images], info: &[(String, String)]) -> Result<()> {
    check_shape(images)?;
    if !matches!(output, Output::Safetensors(_)) {
        check(images)?;
    }
    output.create_folder()?;
    let labels = images.labels.as_deref();
    match output {
        Output::Grid(path) => {
            let [n, height, width, _] = images.shape();
            let layout = Layout::grid(n, height, width)?;
            picture::write_grid(path, &mut InMemory::from(images), &layout, info)
        }
        Output::Animation(path) => {
            picture::check_frames(frames, images)?;
            let is_last = frames.last().is_some_and(|last| last.pixels == images.pixels);
            let frames = &frames[..frames.len() - usize::from(is_last)];
            let frames = frames.iter().map(InMemory::from).collect();
            picture::write_animation(path, frames, InMemory::from(images), info)
        }
        Output::Npz(path) => write_npz(path, &mut InMemory::from(images), labels, info),
        Output::Safetensors(path) => {
            let values = images.nchw();
            write_samples(path, images.shape(), labels, info, |file| {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                file.write_all(&bytes)
            })
        }
        Output::Npy(_) | Output::Csv(_) => Err(output.only_points()),
        Output::Folder(folder) => {
            picture::color(images.channels)?;
            let numbers: Vec<String> = (0..images.n).map(|i| format!("{i:06}.png")).collect();
            let is_ours = |path: &PathBuf| numbers.iter().any(|name| path.ends_with(name));
            if let Some(path) = images_in(folder)?.into_iter().find(|path| !is_ours(path)) {
                let reason = "is another image; write to another folder, or remove it".to_owned();
                return Err(Error::Target { path, reason });
            }
            write_folder(folder, images, 0, info)
        }
    }
}

/// Writes each image as its own PNG, `000000.png` and so on from `first_index`, with text chunks `index`, `label` (if
/// there are labels) and `info`. Other files in the folder are not changed.
///
/// # Errors
/// As [`write()`]; images before the failed one may have been written completely.
pub fn write_folder(folder: &Path, images: &Images, first_index: u64, info: &[(String, String)]) -> Result<()> {
    Output::Folder(folder.to_owned()).create_folder()?;
    write_each(images, first_index, info, |index| folder.join(format!("{index:06}.png")))
}

/// Writes each image as its own PNG to the path of its number, with the text chunks of [`write_folder`].
pub(crate) fn write_each(
    images: &Images,
    first_index: u64,
    info: &[(String, String)],
    path: impl Fn(u64) -> PathBuf + Sync,
) -> Result<()> {
    check(images)?;
    let color = picture::color(images.channels)?;
    let pixels = images.bytes();
    let write_one = |(i, pixels): (usize, &[u8])| {
        let index = first_index.saturating_add(i as u64);
        let mut info = info.to_vec();
        info.push(("index".to_owned(), index.to_string()));
        info.extend(images.labels.as_ref().map(|labels| ("label".to_owned(), labels[i].to_string())));
        let size = [images.height, images.width];
        atomic::write_file(path(index), |file| {
            let mut file = picture::png(file, size, color, &info)?.write_header()?;
            file.write_image_data(pixels)?;
            Ok(file.finish()?)
        })
    };
    pixels.par_chunks_exact(pixels.len() / images.n).enumerate().try_for_each(write_one)?;
    Ok(())
}

/// Returns the image files in a folder, sorted.
pub(crate) fn images_in(folder: &Path) -> Result<Vec<PathBuf>> {
    const EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"];
    let fail = |error| Error::Io { path: folder.to_owned(), action: "cannot be read", error };
    let mut images = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !is_hidden && extension.is_some_and(|extension| EXTENSIONS.contains(&&*extension)) {
            images.push(path);
        }
    }
    images.sort();
    Ok(images)
}

/// Writes `arr_0`, labels `arr_1`, and what the images are, if `info` says so.
pub(crate) fn write_npz(
    path: &Path,
    source: &mut dyn PixelSource,
    labels: Option<&[u32]>,
    info: &[(String, String)],
) -> Result<()> {
    let note = info.iter().find(|(key, _)| key == provenance::KEYWORD);
    let note = note.map(|(_, text)| (provenance::NOTE, text.as_str()));
    let shape = source.shape();
    let mut image = vec![0; shape[1..].iter().product()];
    atomic::write_seekable_file(path, |file| {
        data::write_npz_images_with_note(file, shape, labels, note, |file| {
            (0..shape[0]).try_for_each(|index| {
                source.read(index, &mut image)?;
                file.write_all(&image)
            })
        })
    })?;
    Ok(())
}

/// Writes `samples` `[N,C,H,W]` and `labels`; the callback `write` writes the samples as little-endian f32.
pub(crate) fn write_samples(
    path: &Path,
    [n, height, width, channels]: [usize; 4],
    labels: Option<&[u32]>,
    info: &[(String, String)],
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let samples = ("samples", vec![n, channels, height, width]);
    let tensors: Vec<(&str, Vec<usize>)> = labels.map(|_| ("labels", vec![n])).into_iter().chain([samples]).collect();
    let metadata = info.iter().cloned().collect();
    weights::write_safetensors_with(path, &tensors, &metadata, |file| {
        for label in labels.into_iter().flatten() {
            file.write_all(&(*label as f32).to_le_bytes())?;
        }
        write(file)
    })?;
    Ok(())
}

/// Checks that images can be shown: the number of values matches the shape, there is at least one image, and all values
/// are finite.
///
/// # Errors
/// [`Error::Shape`] or [`Error::NotFinite`], which names the first bad image.
pub fn check(images: &Images) -> Result<()> {
    check_shape(images)?;
    for (index, image) in images.each().enumerate() {
        let count = image.iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            return Err(Error::NotFinite { index, n: images.n, count });
        }
    }
    Ok(())
}

fn check_shape(images: &Images) -> Result<()> {
    let shape = images.shape();
    let values = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    if values != Some(images.pixels.len()) || images.pixels.is_empty() {
        let values = images.pixels.len();
        return Err(Error::Shape(format!("{values} values are not images of shape {shape:?} (N,H,W,C)")));
    }
    if let Some(labels) = images.labels.as_ref().filter(|labels| labels.len() != images.n) {
        return Err(Error::Shape(format!("{} labels for {} images", labels.len(), images.n)));
    }
    Ok(())
}

/// Returns the folder that collects the images of a file.
pub(crate) fn spool_folder(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}
