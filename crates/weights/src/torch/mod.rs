//! Reading files of `torch.save`: a zip archive or, before torch 1.6, a sequence of pickles. A pickle with tensors that
//! `pickle.dump` wrote is read too.
//!
//! Both hold a pickle ([`crate::pickle`]) in which each tensor is a view of a storage, and the bytes of the storages.
//! Views can overlap, be transposed or repeat values (stride 0), so the memory that tensors take is not bounded by the
//! file's size. Everything together, names and tensors included, takes at most four times the file's size and 1 MiB.
//!
//! A call of [`TorchFile::read`] reads each storage once, however many tensors share it. The entries of a zip archive can
//! overlap and be compressed, so the bytes that a call unpacks are limited too, to 16 times the file's size and 16 MiB.

mod legacy;
mod names;
mod nested;
mod write;
mod zip;

pub use nested::{TorchValue, write_torch_value};
pub use write::{Values, write_state_dict};

use crate::budget::{self, Budget, BufferCharge};
use crate::pickle::{Item, Pickle, PickleValue, Storage, Strided, Within};
use crate::shown::{shown, shown_sizes};
use crate::tensor::elements;
use crate::{Error, Result, Tensor, Tensors, dtype, file};
use files::Reading;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most parts of a path of modules.
const MAX_PARTS: usize = 64;

/// Bytes that are converted at a time.
const CHUNK: usize = 1 << 16;

/// A `torch.save` file whose pickle has been read; the values of tensors are read on demand.
///
/// ```no_run
/// let file = ddpm_weights::TorchFile::open("ckpt.pt")?;
/// let names: Vec<_> = file.tensors().keys().filter(|name| name.starts_with("ema_model.")).collect();
/// let tensors = file.read(names)?;
/// # Ok::<(), ddpm_weights::Error>(())
/// ```
#[derive(Debug)]
pub struct TorchFile {
    path: PathBuf,
    pickle: Pickle,
    tensors: BTreeMap<String, Strided>,
    storages: Storages,
    big_endian: bool,
    length: u64,
    /// The memory that the pickle and the names take, and that is left for tensors.
    budget: Budget,
}

/// The source of the storages' bytes.
#[derive(Debug)]
enum Storages {
    Zip(zip::TorchZip),
    Legacy(File, legacy::Locations),
    /// The values are in the pickle, in these places.
    Pickle(BTreeMap<String, Within>),
}

/// The limits of one call of [`TorchFile::read`].
struct Reads {
    /// Bytes that may be allocated besides the values of tensors.
    left: u64,
    /// Bytes of storages that may still be read.
    unpacked: u64,
    charge: BufferCharge,
}

impl TorchFile {
    /// Reads the pickle of a `.pt`, `.pth`, `.bin`, `.ckpt` or `.pkl` file.
    ///
    /// # Errors
    /// If the file cannot be read or its format is not supported (tar archives of torch before 0.1.10 and TorchScript
    /// are not); [`Error::Call`] if its pickle calls a function that builds neither tensors nor plain values.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let _reading = Reading::new(path);
        let (mut file, length) = file::open(path)?;
        let mut budget = Budget::of(length);
        let mut start = Vec::new();
        file.by_ref().take(512).read_to_end(&mut start).map_err(Error::read(path))?;
        let (pickle, storages, big_endian) = if start.starts_with(b"PK\x03\x04") {
            let (archive, pickle, big_endian) = zip::open(path, file, length, &mut budget)?;
            (pickle, Storages::Zip(archive), big_endian)
        } else if start.get(257..262) == Some(b"ustar") {
            let reason = "a tar archive, as torch wrote before 0.1.10, which is not supported; load it in Python and \
                          save it again with a current torch";
            return Err(Error::file(path, reason));
        } else if matches!(start.first(), Some(0x80 | b'(' | b'L')) {
            let (places, pickle, big_endian) = legacy::open(path, &mut file, length, &mut budget)?;
            let within = |storage: &Storage| Some((storage.key.clone(), storage.within?));
            let storages = match places {
                Some(places) => Storages::Legacy(file, places),
                None => Storages::Pickle(pickle.storages.iter().filter_map(within).collect()),
            };
            (pickle, storages, big_endian)
        } else {
            return Err(Error::file(path, "not a file of torch.save: neither a zip archive nor a pickle"));
        };
        let tensors = names::tensors(&pickle, &mut budget).map_err(|reason| Error::file(path, reason))?;
        Ok(Self { path: path.to_owned(), pickle, tensors, storages, big_endian, length, budget })
    }

    /// Returns the tensors by dotted paths: `state_dict.conv_in.weight` is `conv_in.weight` in the dictionary
    /// `state_dict`, and `4.x` is in the fifth element of a list. The tensors of a pickled module have the names of its
    /// state dictionary.
    pub fn tensors(&self) -> &BTreeMap<String, Strided> {
        &self.tensors
    }

    /// Returns the decoded pickle, which holds everything but the tensors' values.
    pub fn pickle(&self) -> &Pickle {
        &self.pickle
    }

    /// Returns the value at a dotted path of modules and dictionaries, such as `ema.model`, if there is one.
    pub(crate) fn item(&self, path: &str) -> Option<Item> {
        let pickle = &self.pickle;
        let inner = |item: Item, name: &str| match pickle.node(item)? {
            PickleValue::Object(object) => {
                let modules = pickle.get(object.state, "_modules").and_then(|modules| pickle.get(modules, name));
                modules.or_else(|| pickle.get(object.state, name))
            }
            _ => pickle.get(item, name),
        };
        let mut parts = path.split('.').filter(|part| !part.is_empty()).take(MAX_PARTS);
        parts.try_fold(pickle.root, inner)
    }

    /// Reads the named tensors, as f32 (see [`read_safetensors`](crate::read_safetensors)).
    ///
    /// # Errors
    /// If a tensor is not in the file, exceeds its storage or has an unsupported dtype, or if the tensors need more than
    /// four times the file's size in memory. The error names the tensor.
    pub fn read<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Result<Tensors> {
        let _reading = Reading::new(&self.path);
        let mut by_storage: BTreeMap<&str, Vec<(&str, &Strided)>> = BTreeMap::new();
        let mut left = self.budget.left();
        for name in names {
            let name = name.as_ref();
            let Some((name, tensor)) = self.tensors.get_key_value(name) else {
                return Err(Error::tensor(&self.path, name, "is not in the file"));
            };
            let bytes = elements(&tensor.shape).and_then(|n| n.checked_mul(size_of::<f32>()));
            left = budget::rest(left, bytes.map_or(u64::MAX, |bytes| bytes as u64)).map_err(|reason| {
                Error::tensor(&self.path, name, format!("shape {} {reason}", shown_sizes(&tensor.shape)))
            })?;
            let Some(storage) = self.pickle.storages.get(tensor.storage) else {
                return Err(Error::tensor(&self.path, name, "has no storage"));
            };
            by_storage.entry(&storage.key).or_default().push((name, tensor));
        }
        let mut tensors = Tensors::new();
        let mut reads = Reads {
            left,
            unpacked: self.length.saturating_mul(16).saturating_add(16 << 20),
            charge: BufferCharge::default(),
        };
        for (key, users) in by_storage {
            self.read_storage(key, &users, &mut reads, &mut tensors)?;
        }
        Ok(tensors)
    }

    /// Reads the tensors in the storage `key`.
    fn read_storage(
        &self,
        key: &str,
        users: &[(&str, &Strided)],
        reads: &mut Reads,
        tensors: &mut Tensors,
    ) -> Result<()> {
        let mut spans = Vec::with_capacity(users.len());
        for &(name, tensor) in users {
            let storage = &self.pickle.storages[tensor.storage];
            let Some(dtype) = tensor.dtype else {
                let reason = format!("{} is not supported ({})", shown(&storage.class), dtype::SUPPORTED);
                return Err(Error::tensor(&self.path, name, reason));
            };
            // The length of an untyped storage is in bytes.
            let unit = storage.dtype.map_or(1, dtype::size) as u64;
            let first = storage.start.checked_mul(unit);
            let end = span(tensor).and_then(|end| (end as u64).checked_mul(dtype::size(dtype) as u64));
            let len = storage.len.checked_mul(unit);
            match (first, end, len) {
                (Some(first), Some(end), Some(len)) if end <= len => spans.push((name, tensor, dtype, first)),
                _ => {
                    let reason = format!(
                        "shape {} with strides {} from element {} exceeds its storage of {} elements",
                        shown_sizes(&tensor.shape),
                        shown_sizes(&tensor.stride),
                        tensor.offset,
                        storage.len
                    );
                    return Err(Error::tensor(&self.path, name, reason));
                }
            }
        }
        let (first_name, ..) = users[0];
        let fail =
            |reason: String| Error::tensor(&self.path, first_name, format!("storage `{}`: {reason}", shown(key)));
        self.with_bytes(key, |reader, bytes| {
            reads.unpacked = reads.unpacked.checked_sub(bytes).ok_or(
                "its storages together are larger than 16 × the file, so they overlap or are compressed; load the file \
                 in Python and save it again",
            )?;
            if let [(name, tensor, dtype, first)] = spans[..]
                && is_contiguous(tensor)
            {
                let data = self.stream(reader, bytes, tensor, dtype, first)?;
                tensors.insert(name.to_owned(), Tensor { shape: tensor.shape.clone(), data });
                return Ok(());
            }
            budget::rest(reads.left, bytes).map_err(|reason| format!("reading its {bytes} bytes {reason}"))?;
            reads.charge.fit(bytes)?;
            let mut all = vec![0; bytes as usize];
            reader.read_exact(&mut all).map_err(|error| error.to_string())?;
            read_to_end(reader)?;
            for &(name, tensor, dtype, first) in &spans {
                let data = self.gather(&all, tensor, dtype, first)?;
                tensors.insert(name.to_owned(), Tensor { shape: tensor.shape.clone(), data });
            }
            Ok(())
        })
        .map_err(fail)
    }

    /// Calls `read` with a reader of a storage's bytes and their number.
    fn with_bytes<T>(
        &self,
        key: &str,
        read: impl FnOnce(&mut dyn Read, u64) -> Result<T, String>,
    ) -> Result<T, String> {
        match &self.storages {
            Storages::Zip(archive) => archive.with_bytes(key, read),
            Storages::Legacy(file, places) => match places.get(key) {
                Some(place) => place.with_bytes(file, read),
                None => Err("is not in the file".into()),
            },
            Storages::Pickle(places) => match places.get(key).and_then(|within| self.pickle.bytes(*within)) {
                Some(mut bytes) => {
                    let length = bytes.len() as u64;
                    read(&mut bytes, length)
                }
                None => Err("is not in the file".into()),
            },
        }
    }

    /// Reads contiguous values in chunks. The storage is read to its end, so that its checksum is verified.
    fn stream(
        &self,
        reader: &mut dyn Read,
        bytes: u64,
        tensor: &Strided,
        dtype: Dtype,
        first: u64,
    ) -> Result<Vec<f32>, String> {
        let size = dtype::size(dtype);
        let count = elements(&tensor.shape).unwrap_or(0);
        if count == 0 {
            return Ok(Vec::new());
        }
        let begin = first + (tensor.offset * size) as u64;
        let mut left = count * size;
        if begin.checked_add(left as u64).is_none_or(|end| end > bytes) {
            return Err(format!("has {bytes} bytes, but {left} from byte {begin} are needed"));
        }
        let io = |error: std::io::Error| error.to_string();
        std::io::copy(&mut reader.take(begin), &mut std::io::sink()).map_err(io)?;
        let mut data = Vec::with_capacity(count);
        let mut buffer = [0; CHUNK];
        while left > 0 {
            let chunk = &mut buffer[..left.min(CHUNK)];
            reader.read_exact(chunk).map_err(io)?;
            left -= chunk.len();
            self.convert(dtype, chunk, &mut data)?;
        }
        read_to_end(reader)?;
        Ok(data)
    }

    /// Gathers values by their strides, in row-major order.
    fn gather(&self, bytes: &[u8], tensor: &Strided, dtype: Dtype, first: u64) -> Result<Vec<f32>, String> {
        let size = dtype::size(dtype);
        let count = elements(&tensor.shape).unwrap_or(0);
        let end = span(tensor).and_then(|end| end.checked_mul(size)?.checked_add(first as usize));
        if count > 0 && end.is_none_or(|end| end > bytes.len()) {
            return Err(format!("has {} bytes, too few for shape {}", bytes.len(), shown_sizes(&tensor.shape)));
        }
        let mut data = Vec::with_capacity(count);
        // Dimensions of size 1 take no step, and would make each step of the others take longer.
        let dimensions = tensor.shape.iter().copied().zip(tensor.stride.iter().copied());
        let dimensions: Vec<(usize, usize)> = dimensions.filter(|&(size, _)| size != 1).collect();
        let mut index = vec![0; dimensions.len()];
        let mut at = tensor.offset;
        let mut value = [0; 8];
        for _ in 0..count {
            let begin = first as usize + at * size;
            value[..size].copy_from_slice(&bytes[begin..begin + size]);
            self.convert(dtype, &mut value[..size], &mut data)?;
            // Advances the index; the last dimension varies fastest.
            for (index, (size, stride)) in index.iter_mut().zip(&dimensions).rev() {
                *index += 1;
                at += stride;
                if *index < *size {
                    break;
                }
                at -= stride * *index;
                *index = 0;
            }
        }
        Ok(data)
    }

    fn convert(&self, dtype: Dtype, bytes: &mut [u8], data: &mut Vec<f32>) -> Result<(), String> {
        if self.big_endian {
            bytes.chunks_exact_mut(dtype::size(dtype)).for_each(<[u8]>::reverse);
        }
        if dtype::append_f32(dtype, bytes, data) {
            Ok(())
        } else {
            Err(format!("{dtype} is not supported ({})", dtype::SUPPORTED))
        }
    }
}

/// Reads and drops what is left, since checksums are verified at the end.
fn read_to_end(reader: &mut dyn Read) -> Result<(), String> {
    std::io::copy(reader, &mut std::io::sink()).map(drop).map_err(|error| error.to_string())
}

/// Returns the number of elements of the storage up to the last one of the tensor; `None` if it overflows.
fn span(tensor: &Strided) -> Option<usize> {
    if tensor.shape.contains(&0) {
        return Some(0);
    }
    let dimensions = tensor.shape.iter().zip(&tensor.stride);
    let last = dimensions
        .map(|(size, stride)| (size - 1).checked_mul(*stride))
        .try_fold(tensor.offset, |sum, step| sum.checked_add(step?));
    last?.checked_add(1)
}

/// Returns whether the values are contiguous in row-major order.
fn is_contiguous(tensor: &Strided) -> bool {
    let mut expected = 1;
    let mut from_last = tensor.shape.iter().zip(&tensor.stride).rev();
    let follows = |(&size, &stride): (&usize, &usize)| {
        let fits = size == 1 || stride == expected;
        expected *= size;
        fits
    };
    tensor.shape.contains(&0) || from_last.all(follows)
}
