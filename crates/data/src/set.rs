use crate::encoded::{Encoded, Header};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::pixels::Target;
use crate::records::Records;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Images of one size with optional class labels, read by index from any number of threads.
pub struct ImageSet {
    name: String,
    format: &'static str,
    target: Target,
    len: usize,
    storage: Storage,
    /// The path that was opened.
    path: PathBuf,
    /// The file of each image that is kept in memory, where each has one.
    files: Vec<PathBuf>,
    labels: Option<Vec<u32>>,
    class_names: Vec<String>,
    report: Report,
}

enum Storage {
    /// N,H,W,C.
    Memory(Vec<u8>),
    /// Image `i` of the set is image `kept[i]` of the source.
    Streamed { source: Source, kept: Vec<u32> },
}

/// What was found where the set was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files that should hold images, bad ones included.
    pub files: usize,
    /// Files or folders that could not be read, with the reason. They are not part of the set.
    pub bad: Vec<(PathBuf, String)>,
    /// Files of another kind, passed over.
    pub other_files: usize,
    /// How many images have which (height, width), before any resizing.
    pub sizes: BTreeMap<(usize, usize), usize>,
    /// How many images have 1 (grey), 2 (grey and alpha), 3 (RGB), 4 (RGBA) channels, before any conversion.
    pub channels: BTreeMap<usize, usize>,
}

/// What a format finds at a path; the same for every format, so that all that follows is written once.
pub(crate) struct Found {
    pub format: &'static str,
    pub source: Source,
    /// One for each image of the source.
    pub labels: Option<Vec<u32>>,
    /// Names by label; left empty where the format has none, and filled with numbers.
    pub class_names: Vec<String>,
    pub files: usize,
    pub bad: Vec<(PathBuf, String)>,
    pub other_files: usize,
}

/// Where the images of a format are.
pub(crate) enum Source {
    Records(Records),
    Encoded(Encoded),
}

impl Source {
    fn len(&self) -> usize {
        match self {
            Source::Records(records) => records.count,
            Source::Encoded(encoded) => encoded.names.len(),
        }
    }

    fn name(&self, index: usize) -> &Path {
        match self {
            Source::Records(records) => &records.path,
            Source::Encoded(encoded) => &encoded.names[index],
        }
    }

    fn probe(&self, index: usize) -> std::result::Result<Header, String> {
        match self {
            Source::Records(r) => Ok(Header { height: r.height, width: r.width, channels: r.channels }),
            Source::Encoded(encoded) => encoded.probe(index),
        }
    }

    /// Writes image `index` as the target wants it; a failure is told without the file's name.
    fn decode(&self, index: usize, target: &Target, out: &mut [u8]) -> std::result::Result<(), String> {
        match self {
            Source::Records(records) => records.decode(index, target, out),
            Source::Encoded(encoded) => encoded.decode(index, target, out),
        }
    }
}

impl ImageSet {
    /// Looks at the head of every image, settles size and channels, and decodes the set if it fits into memory.
    pub(crate) fn new(name: String, path: &Path, found: Found, options: &Options) -> Result<ImageSet> {
        let Found { format, source, labels, mut class_names, files, bad, other_files } = found;
        let mut report = Report { files, bad, other_files, ..Report::default() };
        let mut kept = survey(path, &source, &mut report)?;

        let (height, width) = options.resolution.map_or_else(|| only_size(path, &report.sizes), Ok)?;
        let coloured = report.channels.keys().any(|&channels| channels > 2);
        let target = Target {
            height,
            width,
            channels: options.channels.unwrap_or(if coloured { 3 } else { 1 }),
            fit: options.fit,
            background: options.background,
            padding: options.padding,
        };

        let bytes = (kept.len() as u64).saturating_mul(target.bytes() as u64);
        let fits = bytes <= options.memory_limit_bytes && isize::try_from(bytes).is_ok();
        let mut files = Vec::new();
        let storage = if fits {
            let names = match &source {
                Source::Encoded(encoded) => encoded.names.clone(),
                Source::Records(_) => Vec::new(),
            };
            let pixels = load(path, source, &mut kept, &target, &mut report)?;
            if !names.is_empty() {
                files = kept.iter().map(|&index| names[index as usize].clone()).collect();
            }
            Storage::Memory(pixels)
        } else {
            Storage::Streamed { source, kept: kept.clone() }
        };

        let labels: Option<Vec<u32>> = labels.map(|labels| kept.iter().map(|&i| labels[i as usize]).collect());
        if let (Some(labels), true) = (&labels, class_names.is_empty()) {
            let classes = labels.iter().max().map_or(0, |&last| last + 1);
            class_names = (0..classes).map(|label| label.to_string()).collect();
        }
        let (len, path) = (kept.len(), path.to_owned());
        Ok(ImageSet { name, format, target, len, storage, path, files, labels, class_names, report })
    }

    /// How many images there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "an empty set cannot be opened")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// H, in pixels.
    pub fn height(&self) -> usize {
        self.target.height
    }

    /// W, in pixels.
    pub fn width(&self) -> usize {
        self.target.width
    }

    /// C: 1 (grey), 3 (RGB) or 4 (RGBA).
    pub fn channels(&self) -> usize {
        self.target.channels
    }

    /// The class of each image, an index into [`class_names`](Self::class_names); `None` where there are no classes.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// Names of the classes by label: numbers where the format has no names, empty where there are no classes.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// What the set is called: the last part of its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where an image comes from: its file, in an archive or not, or the path of the set and its index.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn place(&self, index: usize) -> PathBuf {
        match &self.storage {
            Storage::Streamed { source: Source::Encoded(encoded), kept } => encoded.names[kept[index] as usize].clone(),
            Storage::Memory(_) if !self.files.is_empty() => self.files[index].clone(),
            _ => self.path.join(index.to_string()),
        }
    }

    /// Whether images are decoded on each [`read`](Self::read) because the set is over the memory limit.
    pub fn is_streamed(&self) -> bool {
        matches!(self.storage, Storage::Streamed { .. })
    }

    /// What was found on opening: files, sizes, channels, and what could not be read.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The set in a line, as a log shows it.
    pub fn describe(&self) -> String {
        let Target { height, width, channels, .. } = self.target;
        let classes = match self.class_names.len() {
            0 => String::new(),
            n => format!(" in {n} classes"),
        };
        let place = if self.is_streamed() { "streamed" } else { "in memory" };
        let bad = match self.report.bad.len() {
            0 => String::new(),
            n => format!(", {n} bad left out"),
        };
        format!(
            "{}: {} images of {height}x{width}x{channels}{classes} ({}, {place}{bad})",
            self.name, self.len, self.format
        )
    }

    /// Copies the images at `indices` to `out`, which holds `indices.len()`·H·W·C bytes, N,H,W,C.
    ///
    /// # Errors
    /// An index beyond the set or a buffer of another size ([`Error::Argument`]); for a streamed set, a file that
    /// cannot be decoded or has changed since the set was opened.
    pub fn read(&self, indices: &[usize], out: &mut [u8]) -> Result<()> {
        let stride = self.target.bytes();
        if out.len() != indices.len() * stride {
            let (n, wanted) = (indices.len(), indices.len() * stride);
            return Err(Error::Argument(format!("{n} images take {wanted} bytes, the buffer has {}", out.len())));
        }
        if let Some(index) = indices.iter().find(|&&index| index >= self.len) {
            return Err(Error::Argument(format!("image {index} of a set of {}", self.len)));
        }
        match &self.storage {
            Storage::Memory(pixels) => {
                for (out, &index) in out.chunks_exact_mut(stride).zip(indices) {
                    out.copy_from_slice(&pixels[index * stride..][..stride]);
                }
                Ok(())
            }
            Storage::Streamed { source, kept } => {
                out.par_chunks_exact_mut(stride).zip(indices).try_for_each(|(out, &index)| {
                    let index = kept[index] as usize;
                    source.decode(index, &self.target, out).map_err(|m| Error::malformed(source.name(index), m))
                })
            }
        }
    }
}

/// Reads every image's head, in parallel; counts sizes and channels, and returns which images have a good one.
fn survey(path: &Path, source: &Source, report: &mut Report) -> Result<Vec<u32>> {
    let count = source.len();
    if u32::try_from(count).is_err() {
        return Err(Error::malformed(path, format!("holds {count} images, more than 2^32")));
    }
    let headers: Vec<_> = (0..count).into_par_iter().map(|index| source.probe(index)).collect();
    let mut kept = Vec::with_capacity(count);
    for (index, header) in headers.into_iter().enumerate() {
        match header {
            Ok(header) => {
                *report.sizes.entry((header.height, header.width)).or_default() += 1;
                *report.channels.entry(header.channels).or_default() += 1;
                kept.push(index as u32);
            }
            Err(reason) => report.bad.push((source.name(index).to_owned(), reason)),
        }
    }
    if kept.is_empty() { Err(empty(path, report)) } else { Ok(kept) }
}

/// Decodes the images `kept` of a source. Those that fail go from `kept` to the report.
fn load(path: &Path, source: Source, kept: &mut Vec<u32>, target: &Target, report: &mut Report) -> Result<Vec<u8>> {
    let source = match source {
        Source::Records(records) => match records.into_target(target) {
            Ok(pixels) => return Ok(pixels),
            Err(records) => Source::Records(records),
        },
        encoded => encoded,
    };
    let stride = target.bytes();
    let mut pixels = vec![0; kept.len() * stride];
    let results: Vec<_> = pixels
        .par_chunks_exact_mut(stride)
        .zip(&*kept)
        .map(|(out, &index)| source.decode(index as usize, target, out))
        .collect();

    let mut good = Vec::with_capacity(kept.len());
    for (position, result) in results.into_iter().enumerate() {
        let index = kept[position] as usize;
        let Err(reason) = result else {
            pixels.copy_within(position * stride..(position + 1) * stride, good.len() * stride);
            good.push(kept[position]);
            continue;
        };
        if let Source::Records(_) = source {
            return Err(Error::malformed(path, reason));
        }
        if let Ok(header) = source.probe(index) {
            discount(&mut report.sizes, (header.height, header.width));
            discount(&mut report.channels, header.channels);
        }
        report.bad.push((source.name(index).to_owned(), reason));
    }
    if good.is_empty() {
        return Err(empty(path, report));
    }
    pixels.truncate(good.len() * stride);
    *kept = good;
    Ok(pixels)
}

fn discount<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

fn only_size(path: &Path, sizes: &BTreeMap<(usize, usize), usize>) -> Result<(usize, usize)> {
    let total = sizes.values().sum();
    match sizes.iter().max_by_key(|&(_, &count)| count) {
        Some((&size, &count)) if count == total => Ok(size),
        Some((&common, &count)) => {
            Err(Error::MixedSizes { path: path.to_owned(), common, differ: total - count, total })
        }
        None => Err(Error::Empty { path: path.to_owned(), message: "holds no images".to_owned() }),
    }
}

fn empty(path: &Path, report: &Report) -> Error {
    let message = match report.bad.first() {
        Some((file, reason)) => format!(
            "not one of {} image files can be read; the first is {}: {reason}",
            report.bad.len(),
            file.display()
        ),
        None => "holds no images".to_owned(),
    };
    Error::Empty { path: path.to_owned(), message }
}
