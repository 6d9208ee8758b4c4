//! CIFAR-10 and CIFAR-100, binary version: records of one label byte (CIFAR-100: coarse, then fine) and 3072 bytes
//! of a 3x32x32 image (<https://www.cs.toronto.edu/~kriz/cifar.html>).
//!
//! The files of a split are kept in memory, up to the memory limit. An archive may expand to 256 times its size and 64 MiB.

use super::files::{list_visible, lower_file_name, open_decompressed};
use super::tar;
use crate::error::{Error, Result};
use crate::memory::read_expected;
use crate::options::{ReadOptions, Split};
use crate::raw::{Order, RawBytes, RawImages};
use crate::source::{Discovered, Format, Source};
use ::files::Charge;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub(crate) const FORMAT: Format = Format {
    expected: "CIFAR-10 or CIFAR-100, binary version (folder or .tar.gz)",
    detect: |path| {
        if path.is_dir() { find_folder(path).is_some() } else { is_archive(path) }
    },
    open,
};

/// The file names and record layout of CIFAR-10 or CIFAR-100.
struct Variant {
    name: &'static str,
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static [&'static str],
    class_names: &'static str,
    classes: usize,
    /// Number of label bytes before the pixels. The last one is used.
    label_bytes: usize,
}

const VARIANTS: [Variant; 2] = [
    Variant {
        name: "CIFAR-10",
        folder: "cifar-10-batches-bin",
        train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
        test: &["test_batch.bin"],
        class_names: "batches.meta.txt",
        classes: 10,
        label_bytes: 1,
    },
    Variant {
        name: "CIFAR-100",
        folder: "cifar-100-binary",
        train: &["train.bin"],
        test: &["test.bin"],
        class_names: "fine_label_names.txt",
        classes: 100,
        label_bytes: 2,
    },
];

/// A file and the folders of the Python version, which consists of pickles.
const PYTHON: &str = "data_batch_1";
const PYTHON_FOLDERS: [&str; 2] = ["cifar-10-batches-py", "cifar-100-python"];
const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;

impl Variant {
    fn files(&self, split: Split) -> &'static [&'static str] {
        match split {
            Split::Train => self.train,
            Split::Test => self.test,
        }
    }
}

/// Returns whether the first names in an archive are those of CIFAR, in the binary or the Python version.
fn is_archive(path: &Path) -> bool {
    let folders = VARIANTS.iter().map(|variant| variant.folder).chain(PYTHON_FOLDERS);
    let names = VARIANTS.iter().flat_map(|v| [v.train, v.test, &[v.class_names]].concat());
    let expected: Vec<_> = folders.chain(names).collect();
    tar::is_archive(path)
        && tar::first_names(path, 2)
            .iter()
            .any(|name| name.split('/').any(|part| expected.contains(&part) || part == PYTHON))
}

/// Returns the folder that contains the files: `path`, or the subfolder that unpacking the archive in `path` creates.
fn find_folder(path: &Path) -> Option<PathBuf> {
    let is_cifar =
        |name: &str| name == PYTHON || VARIANTS.iter().any(|v| v.train.contains(&name) || v.test.contains(&name));
    let contains = |folder: &Path| {
        list_visible(folder)
            .is_ok_and(|files| files.iter().any(|file| is_cifar(&lower_file_name(file)) && file.is_file()))
    };
    let inside = VARIANTS.iter().map(|variant| path.join(variant.folder));
    [path.to_owned()].into_iter().chain(inside).find(|folder| contains(folder))
}

fn open(path: &Path, options: &ReadOptions) -> Result<Discovered> {
    let mut charge = Charge::default();
    let mut members = match path.is_dir() {
        true => read_folder(path, options, &mut charge)?,
        false => read_archive(path, options, &mut charge)?,
    };
    let variant = VARIANTS.iter().find(|v| v.train.iter().chain(v.test).any(|&name| members.contains_key(name)));
    let Some(variant) = variant else {
        let message = if members.contains_key(PYTHON) {
            "is the Python version of CIFAR, which consists of pickles; download the binary version (cifar-10-binary.tar.gz)"
        } else {
            "contains no CIFAR files; expected data_batch_1.bin … test_batch.bin (CIFAR-10) or train.bin, test.bin (CIFAR-100)"
        };
        return Err(Error::Empty { path: path.to_owned(), message: message.to_owned() });
    };

    let record = variant.label_bytes + PIXELS;
    // The pixels of all files, without their labels.
    let bytes: usize = variant.files(options.split).iter().filter_map(|&name| members.get(name)).map(Vec::len).sum();
    charge.grow(bytes as u64 + 8 * (bytes / record) as u64).map_err(|e| Error::memory(path, e))?;
    let (mut pixels, mut labels) = (Vec::with_capacity(bytes), Vec::new());
    let class_names = members.remove(variant.class_names).unwrap_or_default();
    let class_names = String::from_utf8_lossy(&class_names);
    // A label is one byte.
    let class_names: Vec<_> = class_names.split_whitespace().take(256).map(str::to_owned).collect();
    let files = variant.files(options.split);
    for &name in files {
        let file = path.join(name);
        let Some(bytes) = members.remove(name) else {
            return Err(Error::malformed(path, format!("{} is incomplete: {name} is missing", variant.name)));
        };
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            let message =
                format!("is truncated: {} bytes are not a whole number of {record}-byte records", bytes.len());
            return Err(Error::malformed(&file, message));
        }
        for record in bytes.chunks_exact(record) {
            labels.push(u32::from(record[variant.label_bytes - 1]));
            pixels.extend_from_slice(&record[variant.label_bytes..]);
        }
    }
    let classes = if class_names.is_empty() { variant.classes } else { class_names.len() };
    if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
        let of = if class_names.is_empty() { variant.name } else { variant.class_names };
        return Err(Error::malformed(path, format!("has label {label}, but {of} has {classes} classes")));
    }
    let images = RawImages {
        path: path.to_owned(),
        count: labels.len(),
        height: SIDE,
        width: SIDE,
        channels: 3,
        order: Order::Planar,
        bytes: RawBytes::Memory(pixels),
    };
    Ok(Discovered {
        labels: Some(labels),
        class_names,
        files: files.len(),
        charge,
        ..Discovered::new(variant.name, Source::Raw(images))
    })
}

/// Files by name, without those that are not CIFAR's. Those of the split have their content, the others are empty.
type Members = BTreeMap<String, Vec<u8>>;

fn is_needed(name: &str, split: Split) -> bool {
    VARIANTS.iter().any(|variant| variant.files(split).contains(&name) || variant.class_names == name)
}

fn is_known(name: &str) -> bool {
    name == PYTHON || [Split::Train, Split::Test].into_iter().any(|split| is_needed(name, split))
}

/// Reads a file that may have as many bytes as the memory limit and `most` leave.
fn read_member(
    source: impl Read,
    path: &Path,
    members: &Members,
    [limit, most]: [u64; 2],
    charge: &mut Charge,
) -> Result<Vec<u8>> {
    let read = members.values().map(|bytes| bytes.len() as u64).sum();
    let left = limit.min(most).saturating_sub(read);
    let bytes = read_expected(source, left, charge).map_err(|e| Error::reading(path, e))?;
    if bytes.len() as u64 > left {
        let fix = "CIFAR is always kept in memory, so raise the memory limit";
        return Err(match limit <= most {
            true => Error::TooLarge { path: path.to_owned(), bytes: limit.saturating_add(1), limit, fix },
            false => Error::malformed(path, format!("expands to more than {most} bytes; unpack it")),
        });
    }
    Ok(bytes)
}

fn read_folder(path: &Path, options: &ReadOptions, charge: &mut Charge) -> Result<Members> {
    let mut members = Members::new();
    for file in list_visible(&find_folder(path).unwrap_or_else(|| path.to_owned()))? {
        let name = lower_file_name(&file);
        if !is_known(&name) {
            continue;
        }
        let bytes = match is_needed(&name, options.split) {
            true => {
                let (source, _) = ::files::open_regular(&file).map_err(|e| Error::io(&file, e))?;
                read_member(source, &file, &members, [options.memory_limit_bytes, u64::MAX], charge)?
            }
            false => Vec::new(),
        };
        members.insert(name, bytes);
    }
    Ok(members)
}

fn read_archive(path: &Path, options: &ReadOptions, charge: &mut Charge) -> Result<Members> {
    let (source, most) = open_decompressed(path).map_err(|e| Error::io(path, e))?;
    let mut members = Members::new();
    let mut archive = ::tar::Archive::new(source);
    let outcome = archive.entries().and_then(|entries| {
        tar::for_each_file(entries, &mut Vec::new(), |name, entry| {
            let name = lower_file_name(Path::new(&name));
            if !is_known(&name) {
                return Ok(ControlFlow::Continue(()));
            }
            let bytes = match is_needed(&name, options.split) {
                true => match read_member(entry, path, &members, [options.memory_limit_bytes, most], charge) {
                    Ok(bytes) => bytes,
                    Err(error) => return Ok(ControlFlow::Break(error)),
                },
                false => Vec::new(),
            };
            members.insert(name, bytes);
            Ok(ControlFlow::Continue(()))
        })
    });
    match outcome {
        Ok(ControlFlow::Continue(())) => Ok(members),
        Ok(ControlFlow::Break(error)) => Err(error),
        Err(e) if e.raw_os_error().is_some() => Err(Error::io(path, e)),
        Err(e) => Err(Error::malformed(path, tar::error_message(&e))),
    }
}
