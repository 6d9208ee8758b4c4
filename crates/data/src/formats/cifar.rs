//! CIFAR-10 and CIFAR-100, binary version: records of one label byte (CIFAR-100: coarse, then fine) and 3072 bytes
//! of a 3x32x32 image. Described on Krizhevsky's CIFAR page.

use super::{Format, file_name, is_gzip, tar, visible};
use crate::error::{Error, Result};
use crate::options::{Options, Split};
use crate::records::{Bytes, Records};
use crate::set::{Found, Source};
use flate2::read::MultiGzDecoder;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub(crate) const FORMAT: Format = Format {
    expected: "CIFAR-10 or CIFAR-100, binary version (folder or .tar.gz)",
    recognise: |path| {
        if path.is_dir() { folder(path).is_some() } else { is_archive(path) }
    },
    open,
};

/// One of the two sets.
struct Version {
    name: &'static str,
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static [&'static str],
    class_names: &'static str,
    /// Bytes before the pixels; the last is the label.
    labels: usize,
}

const VERSIONS: [Version; 2] = [
    Version {
        name: "CIFAR-10",
        folder: "cifar-10-batches-bin",
        train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
        test: &["test_batch.bin"],
        class_names: "batches.meta.txt",
        labels: 1,
    },
    Version {
        name: "CIFAR-100",
        folder: "cifar-100-binary",
        train: &["train.bin"],
        test: &["test.bin"],
        class_names: "fine_label_names.txt",
        labels: 2,
    },
];

/// A name that gives away the version made of pickles.
const PYTHON: &str = "data_batch_1";
const PYTHON_FOLDERS: [&str; 2] = ["cifar-10-batches-py", "cifar-100-python"];
const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;

impl Version {
    fn files(&self, split: Split) -> &'static [&'static str] {
        match split {
            Split::Train => self.train,
            Split::Test => self.test,
        }
    }
}

/// Whether an archive is one of the two sets, in this version or the Python one: its first names tell.
fn is_archive(path: &Path) -> bool {
    let folders = VERSIONS.iter().map(|version| version.folder).chain(PYTHON_FOLDERS);
    let names = VERSIONS.iter().flat_map(|v| [v.train, v.test, &[v.class_names]].concat());
    let ours: Vec<_> = folders.chain(names).collect();
    tar::is_archive(path)
        && tar::first_names(path, 2)
            .iter()
            .any(|name| name.split('/').any(|part| ours.contains(&part) || part == PYTHON))
}

/// The folder with the files: this one or, where the archive was unpacked beside itself, the one inside.
fn folder(path: &Path) -> Option<PathBuf> {
    let ours =
        |name: &str| name == PYTHON || VERSIONS.iter().any(|v| v.train.contains(&name) || v.test.contains(&name));
    let holds = |folder: &Path| {
        visible(folder).is_ok_and(|files| files.iter().any(|file| ours(&file_name(file)) && file.is_file()))
    };
    let inside = VERSIONS.iter().map(|version| path.join(version.folder));
    [path.to_owned()].into_iter().chain(inside).find(|folder| holds(folder))
}

fn open(path: &Path, options: &Options) -> Result<Found> {
    let mut members = if path.is_dir() { in_folder(path, options)? } else { in_archive(path, options)? };
    let version = VERSIONS.iter().find(|v| v.train.iter().chain(v.test).any(|&name| members.contains_key(name)));
    let Some(version) = version else {
        let message = if members.contains_key(PYTHON) {
            "is the Python version of CIFAR, which is pickled; get the binary version (cifar-10-binary.tar.gz)"
        } else {
            "holds no CIFAR files; expected data_batch_1.bin … test_batch.bin (CIFAR-10) or train.bin, test.bin (CIFAR-100)"
        };
        return Err(Error::Empty { path: path.to_owned(), message: message.to_owned() });
    };

    let record = version.labels + PIXELS;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    let class_names = members.remove(version.class_names).unwrap_or_default();
    let class_names = String::from_utf8_lossy(&class_names);
    let class_names: Vec<_> = class_names.split_whitespace().map(str::to_owned).collect();
    let files = version.files(options.split);
    for &name in files {
        let file = path.join(name);
        let Some(bytes) = members.remove(name) else {
            return Err(Error::malformed(path, format!("{} is incomplete: {name} is missing", version.name)));
        };
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            let message =
                format!("is truncated: {} bytes are not a whole number of {record}-byte records", bytes.len());
            return Err(Error::malformed(&file, message));
        }
        for record in bytes.chunks_exact(record) {
            labels.push(u32::from(record[version.labels - 1]));
            pixels.extend_from_slice(&record[version.labels..]);
        }
    }
    if let Some(&label) = labels.iter().max()
        && !class_names.is_empty()
        && label as usize >= class_names.len()
    {
        let message = format!("has label {label}, but {} names {} classes", version.class_names, class_names.len());
        return Err(Error::malformed(path, message));
    }
    let records = Records {
        path: path.to_owned(),
        count: labels.len(),
        height: SIDE,
        width: SIDE,
        channels: 3,
        planar: true,
        bytes: Bytes::Memory(pixels),
    };
    Ok(Found {
        format: version.name,
        source: Source::Records(records),
        labels: Some(labels),
        class_names,
        files: files.len(),
        bad: Vec::new(),
        other_files: 0,
    })
}

/// The files by name: those of the split whole, of the others that they are there.
type Members = BTreeMap<String, Vec<u8>>;

fn wanted(name: &str, split: Split) -> bool {
    VERSIONS.iter().any(|version| version.files(split).contains(&name) || version.class_names == name)
}

/// Reads a member of at most what the memory limit leaves.
fn read(source: impl Read, path: &Path, members: &Members, limit: u64) -> Result<Vec<u8>> {
    let left = limit.saturating_sub(members.values().map(|bytes| bytes.len() as u64).sum());
    let mut bytes = Vec::new();
    source.take(left.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::reading(path, e))?;
    if bytes.len() as u64 > left {
        let fix = "CIFAR is read whole: raise the memory limit";
        return Err(Error::TooLarge { path: path.to_owned(), bytes: limit.saturating_add(1), limit, fix });
    }
    Ok(bytes)
}

fn in_folder(path: &Path, options: &Options) -> Result<Members> {
    let mut members = Members::new();
    for file in visible(&folder(path).unwrap_or_else(|| path.to_owned()))? {
        let name = file_name(&file);
        let bytes = if wanted(&name, options.split) {
            let source = File::open(&file).map_err(|e| Error::io(&file, e))?;
            read(source, &file, &members, options.memory_limit_bytes)?
        } else {
            Vec::new()
        };
        members.insert(name, bytes);
    }
    Ok(members)
}

fn in_archive(path: &Path, options: &Options) -> Result<Members> {
    let file = BufReader::new(File::open(path).map_err(|e| Error::io(path, e))?);
    let source: Box<dyn Read> = if is_gzip(path) { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut members = Members::new();
    let mut archive = ::tar::Archive::new(source);
    let gone = archive.entries().and_then(|entries| {
        tar::each(entries, |name, entry| {
            let name = file_name(Path::new(&name));
            let bytes = match wanted(&name, options.split) {
                true => match read(entry, path, &members, options.memory_limit_bytes) {
                    Ok(bytes) => bytes,
                    Err(error) => return Ok(ControlFlow::Break(error)),
                },
                false => Vec::new(),
            };
            members.insert(name, bytes);
            Ok(ControlFlow::Continue(()))
        })
    });
    match gone {
        Ok(ControlFlow::Continue(())) => Ok(members),
        Ok(ControlFlow::Break(error)) => Err(error),
        Err(e) if e.raw_os_error().is_some() => Err(Error::io(path, e)),
        Err(e) => Err(Error::malformed(path, tar::reason(&e))),
    }
}
