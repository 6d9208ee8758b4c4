use crate::crop_box::CropBox;
use crate::encoded::Header;
use crate::error::{Error, Result};
use crate::options::{Fit, ReadOptions};
use crate::pixels::{Pixels, Target, conversion_bytes, cover_size, crop};
use crate::points::{self, PointScaling, Points};
use crate::report::{BadFile, ReadReport};
use crate::source::{Discovered, Fault, Source};
use files::Charge;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Images of one shape with optional class labels. Any number of threads can read them by index.
pub struct ImageSet {
    pub(crate) name: String,
    format: &'static str,
    pub(crate) target: Target,
    pub(crate) len: usize,
    pub(crate) storage: Storage,
    /// The path that was opened.
    path: PathBuf,
    /// The path of each image of a set in memory, if each image has its own.
    pub(crate) image_paths: Vec<PathBuf>,
    pub(crate) labels: Option<Vec<u32>>,
    pub(crate) class_names: Vec<String>,
    report: ReadReport,
    /// The memory of all of the above.
    _charge: Charge,
}

pub(crate) enum Storage {
    /// N,H,W,C.
    Memory(Vec<u8>),
    /// Images that cover the target, to be cropped at any position.
    Covers(Vec<Pixels<'static>>),
    /// Image `i` of the set is image `kept[i]` of the source.
    Streamed { source: Source, kept: Vec<u32> },
    /// Points N,D in the units of a network.
    Points { values: Vec<f32>, scaling: PointScaling },
}

impl ImageSet {
    /// Reads the header of every image, determines the shape, and decodes all images if they fit into memory.
    pub(crate) fn new(name: String, path: &Path, found: Discovered, options: &ReadOptions) -> Result<ImageSet> {
        let Discovered {
            format,
            source,
            labels,
            mut class_names,
            files,
            bad,
            other_files,
            generated,
            warnings,
            mut charge,
            ..
        } = found;
        charge.grow(source.index_bytes()).map_err(|e| Error::memory(path, e))?;
        let mut report = ReadReport { files, bad, other_files, generated, warnings, ..ReadReport::default() };
        let mut kept = probe_all(path, &source, options.crop, &mut report)?;

        let of_crop = options.crop.map(|crop| (crop.height, crop.width));
        let (height, width) = options.resolution.or(of_crop).map_or_else(|| common_size(path, &report.sizes), Ok)?;
        let has_color = report.channels.keys().any(|&channels| channels > 2);
        let target = Target {
            height,
            width,
            channels: options.channels.unwrap_or(if has_color { 3 } else { 1 }),
            part: options.crop,
            fit: options.fit,
            background: options.background,
            padding: options.padding,
        };

        let is_cropped = target.fit == Fit::RandomCrop;
        let bytes = match is_cropped {
            true => cover_bytes(&report.sizes, &target),
            false => (kept.len() as u64).saturating_mul(target.image_bytes() as u64),
        };
        let fits = bytes <= options.memory_limit_bytes
            && isize::try_from(bytes).is_ok()
            && has_memory(&source, bytes, &target, &report)
            && charge.grow(source.unpacked_bytes(bytes, &target)).is_ok();
        let mut image_paths = Vec::new();
        let storage = if fits {
            let paths = match &source {
                Source::Encoded(encoded) => encoded.paths.clone(),
                Source::Raw(_) => Vec::new(),
            };
            let storage = match is_cropped {
                true => Storage::Covers(decode_covers(path, &source, &mut kept, &target, &mut report)?),
                false => Storage::Memory(decode_all(path, source, &mut kept, &target, &mut report)?),
            };
            if !paths.is_empty() {
                image_paths = kept.iter().map(|&index| paths[index as usize].clone()).collect();
            }
            storage
        } else {
            Storage::Streamed { source, kept: kept.clone() }
        };

        let labels: Option<Vec<u32>> = labels.map(|labels| kept.iter().map(|&i| labels[i as usize]).collect());
        if let (Some(labels), true) = (&labels, class_names.is_empty()) {
            let classes = labels.iter().max().map_or(0, |&last| last + 1);
            class_names = (0..classes).map(|label| label.to_string()).collect();
        }
        let (len, path) = (kept.len(), path.to_owned());
        let _charge = charge;
        Ok(ImageSet { name, format, target, len, storage, path, image_paths, labels, class_names, report, _charge })
    }

    /// Keeps points as a set of shape [1, 1, D].
    pub(crate) fn of_points(
        name: String,
        path: &Path,
        format: &'static str,
        points: Points,
        scaling: PointScaling,
    ) -> Result<ImageSet> {
        let _charge = Charge::new(4 * points.values.len() as u64).map_err(|e| Error::memory(path, e))?;
        let target = Target {
            height: 1,
            width: 1,
            channels: points.dims,
            part: None,
            fit: Fit::Crop,
            background: [255; 3],
            padding: 0,
        };
        Ok(ImageSet {
            name,
            format,
            target,
            len: points.len(),
            storage: Storage::Points { values: scaling.apply(&points.values), scaling },
            path: path.to_owned(),
            image_paths: Vec::new(),
            labels: points.labels,
            class_names: points.class_names,
            report: ReadReport { files: 1, ..ReadReport::default() },
            _charge,
        })
    }

    /// Returns the number of images, which is at least one.
    #[expect(clippy::len_without_is_empty, reason = "an empty set cannot be opened")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the shape of an image, `[H, W, C]`.
    pub fn shape(&self) -> [usize; 3] {
        [self.target.height, self.target.width, self.target.channels]
    }

    /// Returns the height H in pixels.
    pub fn height(&self) -> usize {
        self.target.height
    }

    /// Returns the width W in pixels.
    pub fn width(&self) -> usize {
        self.target.width
    }

    /// Returns the number of channels C: 1 (grey), 3 (RGB) or 4 (RGBA).
    pub fn channels(&self) -> usize {
        self.target.channels
    }

    /// Returns how images of another size were fitted.
    pub fn fit(&self) -> Fit {
        self.target.fit
    }

    /// Returns the label of each image, an index into [`class_names`](Self::class_names), or `None` if the set has no
    /// labels.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// Returns the class names by label. They are numbers if the format has no names, and empty if there are no labels.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Returns the name of the set: the last component of its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path of an image: its file or archive member, or the path of the set followed by the index.
    ///
    /// # Panics
    /// If `index` is out of bounds.
    pub fn image_path(&self, index: usize) -> PathBuf {
        match &self.storage {
            Storage::Streamed { source: Source::Encoded(encoded), kept } => encoded.paths[kept[index] as usize].clone(),
            Storage::Memory(_) | Storage::Covers(_) if !self.image_paths.is_empty() => self.image_paths[index].clone(),
            _ => self.path.join(index.to_string()),
        }
    }

    /// Returns whether images are decoded on each [`read`](Self::read), because the set exceeds the memory limit.
    pub fn is_streamed(&self) -> bool {
        matches!(self.storage, Storage::Streamed { .. })
    }

    /// Returns what was found when the set was opened: files, sizes, channels, and files that cannot be read.
    pub fn report(&self) -> &ReadReport {
        &self.report
    }

    /// Returns a one-line description for logs.
    pub fn describe(&self) -> String {
        let Target { height, width, channels, .. } = self.target;
        if self.points().is_some() {
            return format!("{}: {} points of {channels} dimensions ({})", self.name, self.len, self.format);
        }
        let classes = match self.class_names.len() {
            0 => String::new(),
            n => format!(" in {n} classes"),
        };
        let location = if self.is_streamed() { "streamed" } else { "in memory" };
        let bad = match self.report.bad.len() {
            0 => String::new(),
            n => format!(", {n} bad files skipped"),
        };
        format!(
            "{}: {} images of {height}x{width}x{channels}{classes} ({}, {location}{bad})",
            self.name, self.len, self.format
        )
    }

    /// Returns the pixels of the images at `indices`, u8 N,H,W,C. Indices may repeat and have any order.
    ///
    /// ```
    /// # let set = ddpm_data::builtin(&ddpm_data::ReadOptions::default())?;
    /// let batch = set.read(0..4)?;
    /// let last = set.read([set.len() - 1])?;
    /// # assert_eq!((batch.len(), last.len()), (4 * 28 * 28, 28 * 28));
    /// # Ok::<(), ddpm_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Argument`] if an index is out of bounds. For a streamed set, also if a file cannot be decoded or has
    /// changed since the set was opened.
    pub fn read(&self, indices: impl IntoIterator<Item = usize>) -> Result<Vec<u8>> {
        let indices: Vec<usize> = indices.into_iter().collect();
        self.check_bounds(&indices)?;
        if self.points().is_some() {
            return Err(points::no_pixels(&self.name));
        }
        let mut pixels = vec![0; indices.len() * self.target.image_bytes()];
        self.read_into(&indices, &mut pixels)?;
        Ok(pixels)
    }

    /// Copies the images at `indices` to a buffer of `indices.len()`·H·W·C bytes; otherwise like [`read`](Self::read).
    ///
    /// # Errors
    /// As for [`read`](Self::read), and [`Error::Argument`] if the length of the buffer does not match.
    pub fn read_into(&self, indices: &[usize], out: &mut [u8]) -> Result<()> {
        if self.points().is_some() {
            return Err(points::no_pixels(&self.name));
        }
        let image_bytes = self.target.image_bytes();
        if out.len() != indices.len() * image_bytes {
            let (n, expected) = (indices.len(), indices.len() * image_bytes);
            let message = format!("the buffer has {} bytes, but {n} images take {expected} bytes", out.len());
            return Err(Error::Argument(message));
        }
        self.check_bounds(indices)?;
        match &self.storage {
            Storage::Memory(pixels) => {
                for (out, &index) in out.chunks_exact_mut(image_bytes).zip(indices) {
                    out.copy_from_slice(&pixels[index * image_bytes..][..image_bytes]);
                }
                Ok(())
            }
            Storage::Covers(images) => {
                for (out, &index) in out.chunks_exact_mut(image_bytes).zip(indices) {
                    crop(&images[index], &self.target, None, out);
                }
                Ok(())
            }
            Storage::Streamed { source, kept } => {
                out.par_chunks_exact_mut(image_bytes).zip(indices).try_for_each(|(out, &index)| {
                    let index = kept[index] as usize;
                    source.decode(index, &self.target, out).map_err(|fault| source.error(index, fault))
                })
            }
            Storage::Points { .. } => Err(points::no_pixels(&self.name)),
        }
    }

    /// Returns the units of the points, if the set has points and not images.
    pub fn points(&self) -> Option<&PointScaling> {
        match &self.storage {
            Storage::Points { scaling, .. } => Some(scaling),
            _ => None,
        }
    }

    /// Returns points at `indices`, N,D, in the units of [`points`](Self::points).
    ///
    /// # Errors
    /// [`Error::Argument`] if the set has images, or an index is out of bounds.
    pub fn read_points(&self, indices: &[usize]) -> Result<Vec<f32>> {
        self.check_bounds(indices)?;
        match &self.storage {
            Storage::Points { values, .. } => {
                let dims = self.target.channels;
                Ok(indices.iter().flat_map(|&index| &values[index * dims..][..dims]).copied().collect())
            }
            _ => Err(Error::Argument(format!("{} has images, but points are expected", self.name))),
        }
    }

    /// Returns the bytes of images or points by which a set is recognized: u8, or little-endian f32.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_bytes(&self, indices: impl IntoIterator<Item = usize>) -> Result<Vec<u8>> {
        match &self.storage {
            Storage::Points { .. } => {
                let values = self.read_points(&indices.into_iter().collect::<Vec<_>>())?;
                Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            _ => self.read(indices),
        }
    }

    /// Returns images as [`read`](Self::read) does, each cropped at a position: two numbers from 0 (top, left) to below 1
    /// (bottom, right). Every offset in pixels has an equal share of that interval.
    ///
    /// # Errors
    /// As for [`read`](Self::read), and [`Error::Argument`] if the set was not opened with
    /// [`Fit::RandomCrop`](crate::Fit::RandomCrop), or if there are not as many positions as indices.
    pub fn read_crops(&self, indices: &[usize], positions: &[[f64; 2]]) -> Result<Vec<u8>> {
        self.check_bounds(indices)?;
        if self.target.fit != Fit::RandomCrop || indices.len() != positions.len() {
            let message =
                "crops need images that were opened with the fit random-crop, and a position for each".to_owned();
            return Err(Error::Argument(message));
        }
        let image_bytes = self.target.image_bytes();
        let mut pixels = vec![0; indices.len() * image_bytes];
        let crops = pixels.par_chunks_exact_mut(image_bytes).zip(indices).zip(positions);
        crops.try_for_each(|((out, &index), &position)| {
            match &self.storage {
                Storage::Covers(images) => crop(&images[index], &self.target, Some(position), out),
                Storage::Streamed { source, kept } => {
                    let index = kept[index] as usize;
                    let failed = |fault| source.error(index, fault);
                    crop(&source.decode_cover(index, &self.target).map_err(failed)?, &self.target, Some(position), out);
                }
                Storage::Memory(_) | Storage::Points { .. } => {
                    unreachable!("images with this fit are kept as covers")
                }
            }
            Ok(())
        })?;
        Ok(pixels)
    }

    /// Returns the set with the labels of another one: each class has the label that `class_names`, by label, gives its
    /// name. Labels of a set without class names stay as they are.
    ///
    /// # Errors
    /// [`Error::Argument`] if the set has a class that is not one of `class_names`.
    pub fn with_class_names(mut self, class_names: &[String]) -> Result<ImageSet> {
        let Some(labels) = &mut self.labels else { return Ok(self) };
        let labels_by_name: HashMap<&str, u32> =
            class_names.iter().enumerate().rev().map(|(label, name)| (name.as_str(), label as u32)).collect();
        let is_named = self.class_names.iter().enumerate().any(|(label, name)| *name != label.to_string());
        let known = |(label, name): (usize, &String)| match is_named {
            true => labels_by_name.get(name.as_str()).copied(),
            false => Some(label as u32).filter(|_| label < class_names.len()),
        };
        let relabeled: Vec<Option<u32>> = self.class_names.iter().enumerate().map(known).collect();
        for label in labels.iter_mut() {
            *label = relabeled[*label as usize].ok_or_else(|| {
                let name = self.class_names[*label as usize].escape_debug();
                let known = class_names.iter().take(20).map(|name| name.escape_debug().to_string());
                let known = known.collect::<Vec<_>>().join(", ");
                Error::Argument(format!("{} has the class {name}, but the model was trained on {known}", self.name))
            })?;
        }
        self.class_names = class_names.to_vec();
        Ok(self)
    }

    fn check_bounds(&self, indices: &[usize]) -> Result<()> {
        match indices.iter().find(|&&index| index >= self.len) {
            Some(index) => {
                Err(Error::Argument(format!("image index {index} is out of bounds: the set has {} images", self.len)))
            }
            None => Ok(()),
        }
    }
}

/// Reads the headers of all images in parallel, counts sizes and channels, and returns the indices of those that can be
/// read and are not smaller than the crop.
fn probe_all(path: &Path, source: &Source, crop: Option<CropBox>, report: &mut ReadReport) -> Result<Vec<u32>> {
    let check = |header: &Header| {
        crop.map_or(Ok(()), |crop| crop.check_image(header.height, header.width)).map_err(Fault::OfImage)
    };
    let count = source.len();
    if u32::try_from(count).is_err() {
        return Err(Error::malformed(path, format!("has {count} images; the maximum is 2^32 - 1")));
    }
    if let Source::Raw(raw) = source
        && count > 0
    {
        check(&raw.header()).map_err(|fault| source.error(0, fault))?;
        *report.sizes.entry((raw.height, raw.width)).or_default() += count;
        *report.channels.entry(raw.channels).or_default() += count;
        return Ok((0..count as u32).collect());
    }
    let headers: Vec<_> = (0..count).into_par_iter().map(|index| source.probe(index)).collect();
    let mut kept = Vec::with_capacity(count);
    for (index, header) in headers.into_iter().enumerate() {
        match header.and_then(|header| check(&header).map(|()| header)) {
            Ok(header) => {
                *report.sizes.entry((header.height, header.width)).or_default() += 1;
                *report.channels.entry(header.channels).or_default() += 1;
                kept.push(index as u32);
            }
            Err(Fault::OfImage(reason)) => report.bad.push(BadFile { path: source.path(index).to_owned(), reason }),
            Err(shortage) => return Err(source.error(index, shortage)),
        }
    }
    if kept.is_empty() { Err(empty_error(path, report)) } else { Ok(kept) }
}

/// Returns whether the budget has `bytes` for a set, and more for decoding its largest image. If not, the set is streamed.
fn has_memory(source: &Source, bytes: u64, target: &Target, report: &ReadReport) -> bool {
    let decoded = |&(height, width): &(usize, usize)| {
        let header = Header { height, width, channels: 4 };
        8 * (height as u64).saturating_mul(width as u64).saturating_mul(4) + conversion_bytes(&header, target)
    };
    let largest = report.sizes.keys().map(decoded).max().unwrap_or(0);
    Charge::new(source.unpacked_bytes(bytes, target).saturating_add(largest)).is_ok()
}

/// Decodes the images `kept` of a source, and moves those that fail from `kept` to the report.
fn decode_all(
    path: &Path,
    source: Source,
    kept: &mut Vec<u32>,
    target: &Target,
    report: &mut ReadReport,
) -> Result<Vec<u8>> {
    let source = match source {
        Source::Raw(records) => match records.into_pixels(target) {
            Ok(pixels) => return Ok(pixels),
            Err(records) => Source::Raw(records),
        },
        encoded => encoded,
    };
    let image_bytes = target.image_bytes();
    let mut pixels = vec![0; kept.len() * image_bytes];
    let results: Vec<_> = pixels
        .par_chunks_exact_mut(image_bytes)
        .zip(&*kept)
        .map(|(out, &index)| source.decode(index as usize, target, out))
        .collect();

    let mut good = Vec::with_capacity(kept.len());
    for (position, result) in results.into_iter().enumerate() {
        let index = kept[position] as usize;
        let Err(fault) = result else {
            pixels.copy_within(position * image_bytes..(position + 1) * image_bytes, good.len() * image_bytes);
            good.push(kept[position]);
            continue;
        };
        match (fault, &source) {
            (Fault::OfImage(reason), Source::Encoded(_)) => report_bad(&source, index, reason, report),
            (fault, _) => return Err(source.error(index, fault)),
        }
    }
    if good.is_empty() {
        return Err(empty_error(path, report));
    }
    pixels.truncate(good.len() * image_bytes);
    *kept = good;
    Ok(pixels)
}

/// Returns the size of all images when they cover the target.
fn cover_bytes(sizes: &BTreeMap<(usize, usize), usize>, target: &Target) -> u64 {
    let bytes = |(&(height, width), &count): (&(usize, usize), &usize)| {
        let (height, width) = target.part.map_or((height, width), |part| (part.height, part.width));
        let (height, width) = cover_size(height, width, target);
        [height, width, target.channels, count].into_iter().fold(1u64, |bytes, n| bytes.saturating_mul(n as u64))
    };
    sizes.iter().map(bytes).fold(0, u64::saturating_add)
}

/// Decodes the images `kept` of a source as covers of the target, and moves those that fail from `kept` to the report.
fn decode_covers(
    path: &Path,
    source: &Source,
    kept: &mut Vec<u32>,
    target: &Target,
    report: &mut ReadReport,
) -> Result<Vec<Pixels<'static>>> {
    let decode = |&index: &u32| (index, source.decode_cover(index as usize, target));
    let results: Vec<_> = kept.par_iter().map(decode).collect();
    kept.clear();
    let mut images = Vec::new();
    for (index, result) in results {
        match result {
            Ok(image) => {
                kept.push(index);
                images.push(image);
            }
            Err(Fault::OfImage(reason)) => report_bad(source, index as usize, reason, report),
            Err(shortage) => return Err(source.error(index as usize, shortage)),
        }
    }
    if images.is_empty() { Err(empty_error(path, report)) } else { Ok(images) }
}

/// Moves an image whose header could be read, but not its pixels, to the bad files.
fn report_bad(source: &Source, index: usize, reason: String, report: &mut ReadReport) {
    if let Ok(header) = source.probe(index) {
        decrement(&mut report.sizes, (header.height, header.width));
        decrement(&mut report.channels, header.channels);
    }
    report.bad.push(BadFile { path: source.path(index).to_owned(), reason });
}

fn decrement<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

fn common_size(path: &Path, sizes: &BTreeMap<(usize, usize), usize>) -> Result<(usize, usize)> {
    let total = sizes.values().sum();
    match sizes.iter().max_by_key(|&(_, &count)| count) {
        Some((&size, &count)) if count == total => Ok(size),
        Some((&common, &count)) => {
            Err(Error::MixedSizes { path: path.to_owned(), common, differ: total - count, total })
        }
        None => Err(Error::Empty { path: path.to_owned(), message: "contains no images".to_owned() }),
    }
}

fn empty_error(path: &Path, report: &ReadReport) -> Error {
    let message = match report.bad.first() {
        Some(BadFile { path, reason }) => {
            format!("none of {} image files can be read; the first is {}: {reason}", report.bad.len(), path.display())
        }
        None => "contains no images".to_owned(),
    };
    Error::Empty { path: path.to_owned(), message }
}
