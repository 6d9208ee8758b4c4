//! Incremental writing of images, and resuming after an interruption.
//!
//! A folder of PNGs grows image by image; each PNG stores the identity of its generation. Every other output is a
//! single file that is written atomically. Its images are first collected next to it:
//!
//! ```text
//! OUT.partial/request.json    identity, first image, shape, number of frames
//! OUT.partial/images          the finished images, one after the other: bytes, or f32 for safetensors
//! OUT.partial/frame-NN        the frames of an animation, likewise
//! OUT.partial/checksums       of each image with its frames, 8 bytes
//! ```
//!
//! The file is then written in one pass; one row of a grid, or one frame, is in memory at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::Images;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;
use weights::atomic;

use crate::output::class_folders::ClassFolders;
use crate::output::picture::{self, Layout, PixelSource};
use crate::output::{self, Error, Output, Result, spool_folder};

/// The keyword of the text chunk that stores the identity.
const IDENTITY: &str = "identity";

/// A request: the images that are to be written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WriteRequest {
    /// The digest of everything that decides about the images but their number.
    pub identity: String,
    /// The number of the first image.
    pub first: u64,
    /// `[N,H,W,C]`.
    pub shape: [usize; 4],
    /// Frames of an animation before the finished images.
    pub frames: usize,
    /// The command that makes the images, for whoever finds them unfinished.
    #[serde(default)]
    pub command: Option<String>,
}

impl WriteRequest {
    /// Returns whether both ask for the same images.
    fn is_same(&self, other: &Self) -> bool {
        Self { command: None, ..self.clone() } == Self { command: None, ..other.clone() }
    }
}

/// An output that is being written.
pub(crate) struct Writer {
    identity: String,
    first: u64,
    shape: [usize; 4],
    target: Target,
    /// The number of classes in a grid with a row for each.
    rows: Option<usize>,
}

enum Target {
    /// A folder of PNGs, or of a folder for each class, and the numbers of the existing images.
    Folder { folder: PathBuf, classes: Option<ClassFolders>, existing: BTreeSet<usize>, _lock: Option<File> },
    /// Any other output, written from a spool.
    File { output: Output, spool: Spool },
}

impl Writer {
    /// Opens an output, and finds which images are there. `classes` are the names of the classes that images have in turn, if
    /// each gets a row of a grid or a folder of its own.
    ///
    /// # Errors
    /// If other images are there, or images of another identity; and if nothing can be written.
    pub fn open(output: &Output, request: WriteRequest, classes: Option<Vec<String>>) -> Result<Self> {
        output.create_folder()?;
        let mut classes = classes;
        let WriteRequest { identity, first, shape, .. } = request.clone();
        let target = match output {
            Output::Folder(folder) => {
                let lock = lock(folder)?;
                atomic::remove_leftovers(folder, Duration::ZERO)?;
                let rows = classes.take().map(|names| ClassFolders::new(folder, names));
                let parts = rows.as_ref().map_or_else(|| Ok(vec![folder.clone()]), ClassFolders::create)?;
                let mut existing = Vec::new();
                for part in parts {
                    atomic::remove_leftovers(&part, Duration::ZERO)?;
                    let is_here = |number: &u64| rows.as_ref().is_none_or(|rows| rows.path(*number).starts_with(&part));
                    existing.extend(existing_images(&part, &identity, &shape[1..])?.into_iter().filter(is_here));
                }
                let here = |number: u64| usize::try_from(number.checked_sub(first)?).ok().filter(|&i| i < shape[0]);
                let existing = existing.into_iter().filter_map(here).collect();
                Target::Folder { folder: folder.clone(), classes: rows, existing, _lock: lock }
            }
            _ => Target::File { output: output.clone(), spool: Spool::open(output, request)? },
        };
        Ok(Self { identity, first, shape, target, rows: classes.map(|names| names.len()) })
    }

    /// Returns the number of images that already existed.
    pub fn existing(&self) -> usize {
        match &self.target {
            Target::Folder { existing, .. } => existing.len(),
            Target::File { spool, .. } => spool.done,
        }
    }

    /// Returns the missing images of a range, counted from the first.
    pub fn missing(&self, range: Range<usize>) -> Vec<usize> {
        match &self.target {
            Target::Folder { existing, .. } => range.filter(|i| !existing.contains(i)).collect(),
            Target::File { spool, .. } => range.filter(|&i| i >= spool.done).collect(),
        }
    }

    /// Writes images from number `start` on (counted from the first), with previews for an animation.
    pub fn write(
        &mut self,
        start: usize,
        images: &Images,
        previews: &[Images],
        info: &[(String, String)],
    ) -> Result<()> {
        output::check(images)?;
        match &mut self.target {
            Target::Folder { folder, classes, existing, .. } => {
                let mut info = info.to_vec();
                info.push((IDENTITY.to_owned(), self.identity.clone()));
                let first = self.first + start as u64;
                match classes {
                    Some(classes) => output::write_each(images, first, &info, |number| classes.path(number))?,
                    None => output::write_folder(folder, images, first, &info)?,
                }
                existing.extend(start..start + images.n);
                Ok(())
            }
            Target::File { spool, .. } => spool.append(images, previews),
        }
    }

    /// Writes the final file from the spool, or the list of a folder's classes.
    pub fn finish(self, labels: Option<Vec<u32>>, info: &[(String, String)]) -> Result<()> {
        let (output, spool) = match self.target {
            Target::File { output, spool } => (output, spool),
            Target::Folder { classes, .. } => return classes.map_or(Ok(()), |classes| classes.write_metadata()),
        };
        let [n, height, width, _] = self.shape;
        match &output {
            Output::Grid(path) => {
                let layout = match self.rows {
                    Some(classes) => Layout::by_class(n, classes, height, width)?,
                    None => Layout::grid(n, height, width)?,
                };
                picture::write_grid(path, &mut spool.images()?, &layout, info)?;
            }
            Output::Animation(path) => {
                let frames = spool.frames()?;
                picture::write_animation(path, frames, spool.images()?, info)?;
            }
            Output::Npz(path) => output::write_npz(path, &mut spool.images()?, labels.as_deref(), info)?,
            Output::Safetensors(path) => {
                let fail = |error| Error::Io { path: spool.folder.clone(), action: "cannot be read", error };
                let (mut samples, _) = files::open_regular(spool.folder.join(IMAGES)).map_err(fail)?;
                let copy = |file: &mut dyn Write| io::copy(&mut samples, file).map(drop);
                output::write_samples(path, self.shape, labels.as_deref(), info, copy)?;
            }
            Output::Folder(_) => {}
            Output::Npy(_) | Output::Csv(_) => return Err(output.only_points()),
        }
        // The lock of the spool keeps others from writing this file. It is whole, so a failure to clean up is no error.
        let _ = atomic::remove_leftovers_of_file(output.path(), Duration::ZERO);
        spool.remove()
    }
}

const IMAGES: &str = "images";
const CHECKSUMS: &str = "checksums";
const REQUEST: &str = "request.json";

/// Locks a folder against other processes that write images there.
fn lock(folder: &Path) -> Result<Option<File>> {
    let reason = "another process is writing there";
    weights::lock_folder(folder).map_err(|_| Error::Target { path: folder.to_owned(), reason: reason.into() })
}

/// Returns the checksum of an image and its frames.
fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 8] {
    let mut hasher = XxHash64::with_seed(0);
    parts.into_iter().for_each(|part| hasher.write(part));
    hasher.finish().to_le_bytes()
}

/// More frames than an animation has.
const MAX_FRAMES: usize = 1000;

/// Images that are collected beside a file until it can be made.
struct Spool {
    folder: PathBuf,
    request: WriteRequest,
    /// Whether values are kept as f32, N,C,H,W, and not as bytes, N,H,W,C.
    floats: bool,
    /// Number of complete images.
    done: usize,
    /// A lock that is held while the spool is written.
    _lock: Option<File>,
    /// A temporary folder for the spool, if the output is a device.
    _temporary: Option<tempfile::TempDir>,
}

impl Spool {
    /// Opens the spool of an output, and continues with one that was left for the same request.
    fn open(output: &Output, request: WriteRequest) -> Result<Self> {
        let path = output.path();
        let is_device = fs::metadata(path).is_ok_and(|to| !to.is_file() && !to.is_dir());
        let temporary = is_device.then(tempfile::tempdir).transpose();
        let temporary =
            temporary.map_err(|error| Error::Io { path: path.into(), action: "needs a temporary folder", error })?;
        let folder = match &temporary {
            Some(folder) => folder.path().to_owned(),
            None => spool_folder(path),
        };
        let fail = |action| {
            let path = folder.clone();
            move |error| Error::Io { path, action, error }
        };
        if folder.is_symlink() {
            let reason = "is a symbolic link; the unfinished images go to a folder of this name, so remove it".into();
            return Err(Error::Target { path: folder, reason });
        }
        fs::create_dir_all(&folder).map_err(fail("cannot create this folder"))?;
        let lock = lock(&folder)?;
        // What cannot be removed now is named when the folder is removed.
        let _ = atomic::remove_leftovers(&folder, Duration::ZERO);
        let file = folder.join(REQUEST);
        let floats = matches!(output, Output::Safetensors(_));
        let mut spool = Self { folder: folder.clone(), request, floats, done: 0, _lock: lock, _temporary: temporary };
        match files::read_json_text(&file) {
            Ok(text) => match serde_json::from_str::<WriteRequest>(&text) {
                Ok(found) if found.is_same(&spool.request) => {}
                Ok(found)
                    if found.frames <= MAX_FRAMES
                        && fs::metadata(folder.join(CHECKSUMS)).map_or(0, |file| file.len()) == 0 =>
                {
                    spool.replace(&found)?;
                }
                found => {
                    let command = found.ok().and_then(|found| found.command);
                    let command = command.map(|command| format!(" ({command})")).unwrap_or_default();
                    let reason = format!(
                        "holds images of another model, seed, sampler or number of images, which were to go to {}; \
                         repeat that command{command} to finish it, or remove this folder",
                        path.display()
                    );
                    return Err(Error::Target { path: folder, reason });
                }
            },
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail("cannot be read")(error)),
            Err(_) => {
                if fs::read_dir(&folder).map_err(fail("cannot be read"))?.next().is_some() {
                    let reason = format!("holds files, but no {REQUEST} that says what they are; remove this folder");
                    return Err(Error::Target { path: folder, reason });
                }
                spool.write_request()?;
            }
        }
        spool.recover()?;
        Ok(spool)
    }

    fn write_request(&self) -> Result<()> {
        let text = serde_json::to_string(&self.request).unwrap_or_default();
        Ok(atomic::write_file(self.folder.join(REQUEST), |file| file.write_all(text.as_bytes()))?)
    }

    /// Takes the place of another request, of which no image is finished.
    fn replace(&self, other: &WriteRequest) -> Result<()> {
        let frames = (0..other.frames).map(|i| self.frame(i));
        for path in frames.chain([IMAGES, CHECKSUMS].map(|name| self.folder.join(name))) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Io { path, action: "cannot be removed", error });
                }
                _ => {}
            }
        }
        self.write_request()
    }

    fn image_bytes(&self) -> u64 {
        let values: usize = self.request.shape[1..].iter().product();
        (values * if self.floats { size_of::<f32>() } else { 1 }) as u64
    }

    fn frame_bytes(&self) -> u64 {
        self.request.shape[1..].iter().product::<usize>() as u64
    }

    /// Returns the files with the number of bytes that each has for an image; the checksums come last.
    fn files(&self) -> Vec<(PathBuf, u64)> {
        let frames = (0..self.request.frames).map(|i| (self.frame(i), self.frame_bytes()));
        let images = (self.folder.join(IMAGES), self.image_bytes());
        frames.chain([images, (self.folder.join(CHECKSUMS), 8)]).collect()
    }

    fn frame(&self, index: usize) -> PathBuf {
        self.folder.join(format!("frame-{index:02}"))
    }

    /// Counts the complete images, and truncates incomplete or damaged data that an interruption left.
    fn recover(&mut self) -> Result<()> {
        let mut open = Vec::new();
        for (path, bytes) in self.files() {
            // Through a link, another file would be cut.
            if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
                let reason = "is not a file of unfinished images; remove the folder that it is in".into();
                return Err(Error::Target { path, reason });
            }
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(|error| Error::Io { path: path.clone(), action: "cannot be opened", error })?;
            open.push((path, file, vec![0; bytes as usize]));
        }
        self.done = 0;
        while self.done < self.request.shape[0] {
            if !open.iter_mut().all(|(_, file, bytes)| file.read_exact(bytes).is_ok()) {
                break;
            }
            let (sum, parts) = open.split_last().expect("the checksums are a file");
            if checksum(parts.iter().map(|(_, _, bytes)| &bytes[..])) != sum.2[..] {
                break;
            }
            self.done += 1;
        }
        open.iter().try_for_each(|(path, file, bytes)| {
            let cut = file.set_len((self.done * bytes.len()) as u64);
            cut.map_err(|error| Error::Io { path: path.clone(), action: "cannot be written", error })
        })
    }

    /// Appends images and their frames. The checksums come last, since they mark an image as complete.
    fn append(&mut self, images: &Images, previews: &[Images]) -> Result<()> {
        let mut parts = Vec::new();
        for preview in previews.iter().take(self.request.frames) {
            output::check(preview)?;
            parts.push(preview.bytes());
        }
        parts.push(match self.floats {
            true => images.nchw().into_iter().flat_map(f32::to_le_bytes).collect(),
            false => images.bytes(),
        });
        let sums = (0..images.n).flat_map(|i| {
            checksum(parts.iter().map(|part| {
                let length = part.len() / images.n;
                &part[i * length..(i + 1) * length]
            }))
        });
        let sums = sums.collect();
        parts.push(sums);
        for ((path, _), part) in self.files().into_iter().zip(&parts) {
            let append = || OpenOptions::new().append(true).create(true).open(&path)?.write_all(part);
            append().map_err(|error| Error::Io { path: path.clone(), action: "cannot be written", error })?;
        }
        self.done += images.n;
        Ok(())
    }

    fn images(&self) -> Result<SpoolFile> {
        SpoolFile::open(self.folder.join(IMAGES), self.request.shape)
    }

    fn frames(&self) -> Result<Vec<SpoolFile>> {
        (0..self.request.frames).map(|i| SpoolFile::open(self.frame(i), self.request.shape)).collect()
    }

    fn remove(self) -> Result<()> {
        let Self { folder, _temporary: None, .. } = &self else { return Ok(()) };
        // The request comes last: without it, files here would be of unknown origin.
        let files = self.files().into_iter().map(|(path, _)| path).chain([folder.join(REQUEST)]);
        for path in files {
            let fail = |error| Error::Io { path: path.clone(), action: "cannot be removed", error };
            fs::remove_file(&path).map_err(fail)?;
        }
        match fs::remove_dir(folder) {
            // Somebody else's files stay.
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                Err(Error::Io { path: folder.clone(), action: "cannot be removed", error })
            }
            _ => Ok(()),
        }
    }
}

/// A file of images as bytes.
pub(crate) struct SpoolFile {
    file: File,
    shape: [usize; 4],
}

impl SpoolFile {
    fn open(path: PathBuf, shape: [usize; 4]) -> Result<Self> {
        match files::open_regular(&path) {
            Ok((file, _)) => Ok(Self { file, shape }),
            Err(error) => Err(Error::Io { path, action: "cannot be read", error }),
        }
    }
}

impl PixelSource for SpoolFile {
    fn shape(&self) -> [usize; 4] {
        self.shape
    }

    fn read(&mut self, index: usize, out: &mut [u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start((index * out.len()) as u64))?;
        self.file.read_exact(out)
    }
}

/// Returns the numbers of the images in a folder, which must all have this identity. Damaged ones do not count, so that they
/// are drawn again.
fn existing_images(folder: &Path, identity: &str, shape: &[usize]) -> Result<Vec<u64>> {
    let mut numbers: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let read = |path: PathBuf| {
        let identity = picture::text(&path, IDENTITY);
        let digest = identity.as_ref().and_then(|_| picture::pixels_digest(&path, shape));
        (path, identity, digest)
    };
    for (path, found, digest) in output::images_in(folder)?.into_par_iter().map(read).collect::<Vec<_>>() {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".png")?.parse::<u64>().ok());
        // Other spellings, such as `+1.png`, are not the program's.
        let number = number.filter(|number| name == Some(&*format!("{number:06}.png")));
        match (number, found) {
            (Some(number), Some(found)) if found == identity => {
                digest.into_iter().for_each(|digest| numbers.entry(digest).or_default().push(number));
            }
            (_, found) => {
                let kind = if found.is_some() { "of another model, seed or sampler" } else { "from elsewhere" };
                let reason = format!("is an image {kind}; write to another folder, or remove the images in this one");
                return Err(Error::Target { path, reason });
            }
        }
    }
    // Equal images can be copies of one under other names. To draw them again changes none that is right.
    Ok(numbers.into_values().filter(|numbers| numbers.len() == 1).flatten().collect())
}
