//! Reading TensorFlow checkpoints.
//!
//! In version 2 (`tensor_bundle.h`), a table `NAME.index` locates the values of each variable in the data files
//! `NAME.data-00000-of-00001` and so on. In version 1 (`saved_tensor_slice_util.h`, before TensorFlow 0.12), one table
//! holds everything. Variables that are not numbers, such as TensorFlow 2's object graph, are skipped.
//!
//! A table takes at most four times its size and 1 MiB of memory, and the values at most four times the size of the data
//! files. In version 1, the block that is read adds at most the file's size. Each block, and each byte of a data file, is
//! read once.

mod proto;
mod table;

pub(crate) use table::is_table;

use crate::budget::{self, Budget};
use crate::shown::shown_sizes;
use crate::tensor::elements;
use crate::{Error, Result, Tensor, Tensors, dtype, file};
use files::Reading;
use proto::{Field, fields};
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The suffix that `tf.train.ExponentialMovingAverage` adds to the name of a variable.
pub(crate) const EMA: &str = "/ExponentialMovingAverage";
/// Bytes that are converted at a time.
const CHUNK: usize = 1 << 16;

/// A checkpoint whose index has been read.
#[derive(Debug)]
pub(crate) struct TensorFlowFile {
    path: PathBuf,
    variables: BTreeMap<String, Variable>,
    shards: u64,
    /// The memory that the variables take, and that is left for the values of version 1.
    budget: Budget,
}

/// A variable: its shape and dtype, and the location of its values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Variable {
    /// The size of each dimension.
    pub shape: Vec<usize>,
    dtype: Dtype,
    location: Location,
}

#[derive(Clone, Debug, PartialEq)]
enum Location {
    /// A data file.
    Shard { number: u64, offset: u64, crc: u32 },
    /// The table itself.
    Table,
}

/// Maximum length of a variable's name in bytes. Those of networks have about a hundred.
const MAX_NAME: usize = 4096;

impl TensorFlowFile {
    /// Reads the index of a checkpoint: `NAME.index`, or the only file of version 1. [`checkpoint_index`] finds it.
    ///
    /// # Errors
    /// If it cannot be read or is damaged, or its variables are big-endian or partitioned.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let _reading = Reading::new(path);
        let (file, length) = file::open(path)?;
        let mut variables = BTreeMap::new();
        let mut shards = None;
        let mut budget = Budget::of(length);
        // For the blocks, while they are read.
        budget.take(length).map_err(|reason| Error::file(path, format!("its size {reason}")))?;
        table::for_each(path, &file, length, |key, value| {
            let bad = |what: &str| Error::file(path, format!("bad TensorFlow checkpoint: {what}"));
            let mut add = |name: &[u8], variable: Variable| {
                if name.len() > MAX_NAME {
                    return Err(bad(&format!("a name of {} bytes; expected {MAX_NAME} or fewer", name.len())));
                }
                // In a map, whose nodes are about half full; a shape may have twice the capacity that it needs.
                let bytes = 2 * size_of::<(String, Variable)>() + name.len() + 16 * variable.shape.len().max(4);
                budget
                    .take(bytes as u64)
                    .map_err(|reason| bad(&format!("it lists too many variables: it {reason}")))?;
                let name = std::str::from_utf8(name).map_err(|_| bad("the name of a variable is not UTF-8"))?;
                match variables.insert(name.to_owned(), variable) {
                    None => Ok(()),
                    Some(_) => Err(Error::tensor(path, name, "is listed twice")),
                }
            };
            match (key, shards) {
                ([], None) if value.first() == Some(&0x0a) => {
                    // Version 1. Field 1 is a message in SavedTensorSlices, but a number in version 2's
                    // BundleHeaderProto.
                    shards = Some(0);
                    let mut added = Ok(());
                    let read = saved_variables(value, |name, variable| {
                        added = add(name, variable);
                        added.is_ok().then_some(())
                    });
                    added?;
                    read.ok_or_else(|| bad("its list of variables is damaged"))
                }
                ([], None) => {
                    shards =
                        Some(header(value).ok_or_else(|| {
                            bad("its header is damaged, or it is big-endian, which is not supported")
                        })?);
                    Ok(())
                }
                (_, None) => Err(bad("it has no header")),
                (_, Some(0)) => Ok(()),
                (name, Some(_)) => match entry(value) {
                    Entry::Variable(variable) => add(name, variable),
                    Entry::NotNumeric => Ok(()),
                    Entry::Partitioned => {
                        let reason = "is partitioned, which is not supported; save it without a partitioner";
                        Err(Error::tensor(path, &String::from_utf8_lossy(name), reason))
                    }
                    Entry::Damaged => Err(Error::tensor(path, &String::from_utf8_lossy(name), "its entry is damaged")),
                },
            }
        })?;
        budget.give_back(length);
        Ok(Self { path: path.to_owned(), variables, shards: shards.unwrap_or(0), budget })
    }

    /// Returns the variables by name.
    pub fn variables(&self) -> &BTreeMap<String, Variable> {
        &self.variables
    }

    /// Reads the named variables, as f32.
    ///
    /// # Errors
    /// Names a variable that is missing or truncated or whose checksum differs.
    pub fn read<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Result<Tensors> {
        let _reading = Reading::new(&self.path);
        let mut tensors = Tensors::new();
        let mut in_table = BTreeMap::new();
        // The path, file and length of each data file, and the number of its bytes that no variable has used.
        let mut shards: BTreeMap<u64, (PathBuf, File, u64, u64)> = BTreeMap::new();
        for name in names {
            let name = name.as_ref();
            let Some((name, variable)) = self.variables.get_key_value(name) else {
                return Err(Error::tensor(&self.path, name, "is not in the checkpoint"));
            };
            match variable.location {
                Location::Table => {
                    in_table.insert(name.as_str(), variable);
                }
                Location::Shard { number, offset, crc } => {
                    let (path, file, length, free) = match shards.entry(number) {
                        Occupied(entry) => entry.into_mut(),
                        Vacant(entry) => {
                            let path = self.shard(number);
                            let (file, length) = file::open(&path)?;
                            entry.insert((path, file, length, length))
                        }
                    };
                    let fail = |reason: String| Error::tensor(path, name, reason);
                    let bytes = elements(&variable.shape).and_then(|n| n.checked_mul(dtype::size(variable.dtype)));
                    *free = bytes
                        .and_then(|bytes| free.checked_sub(bytes as u64))
                        .ok_or_else(|| fail("its values are truncated, or overlap those of another variable".into()))?;
                    let data = values(file, *length, variable, offset, crc).map_err(fail)?;
                    tensors.insert(name.clone(), Tensor { shape: variable.shape.clone(), data });
                }
            }
        }
        if !in_table.is_empty() {
            self.read_table(&in_table, &mut tensors)?;
        }
        Ok(tensors)
    }

    /// Returns the path of a data file, such as `NAME.data-00000-of-00001`.
    fn shard(&self, number: u64) -> PathBuf {
        self.path.with_extension(format!("data-{number:05}-of-{:05}", self.shards))
    }

    /// Reads variables of version 1.
    fn read_table(&self, wanted: &BTreeMap<&str, &Variable>, tensors: &mut Tensors) -> Result<()> {
        let (file, length) = file::open(&self.path)?;
        let mut left = self.budget.left();
        table::for_each(&self.path, &file, length, |key, value| {
            let slice = || if key.is_empty() { None } else { saved_slice(value) };
            let Some((name, slice)) = slice() else {
                return Ok(());
            };
            let Some((name, variable)) = std::str::from_utf8(name).ok().and_then(|name| wanted.get_key_value(name))
            else {
                return Ok(());
            };
            let fail = |reason: String| Error::tensor(&self.path, name, reason);
            if tensors.contains_key(*name) {
                return Err(fail("has values twice; slices are not supported".into()));
            }
            let count = elements(&variable.shape).unwrap_or(usize::MAX);
            let bytes = slice.len().min(count).saturating_mul(size_of::<f32>());
            left = budget::rest(left, bytes as u64).map_err(|reason| fail(format!("its size {reason}")))?;
            let data = saved_values(slice, variable.dtype, count).ok_or_else(|| {
                let shape = shown_sizes(&variable.shape);
                fail(format!("its values are damaged, or more than its shape {shape} has"))
            })?;
            if count != data.len() {
                let shape = shown_sizes(&variable.shape);
                return Err(fail(format!("has {} values for shape {shape}; slices are not supported", data.len())));
            }
            tensors.insert((*name).to_owned(), Tensor { shape: variable.shape.clone(), data });
            Ok(())
        })?;
        match wanted.keys().find(|name| !tensors.contains_key(**name)) {
            Some(name) => Err(Error::tensor(&self.path, name, "is listed, but has no values")),
            None => Ok(()),
        }
    }
}

/// Finds the index of the checkpoint at `path`, which is `NAME.index` itself, `NAME` as TensorFlow calls it, one of its
/// data files, or a folder with one checkpoint.
pub(crate) fn checkpoint_index(path: impl AsRef<Path>) -> Option<PathBuf> {
    let path = path.as_ref();
    let name = path.file_name()?.to_str()?;
    let is_index = |path: &Path| files::open_regular(path).is_ok_and(|(mut file, _)| is_table(&mut file));
    if path.is_dir() {
        let files = std::fs::read_dir(path).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut found = files.filter(|path| path.extension().is_some_and(|extension| extension == "index"));
        return match (found.next(), found.next()) {
            (Some(index), None) => Some(index).filter(|index| is_index(index)),
            _ => None,
        };
    }
    if is_index(path) {
        return Some(path.to_owned());
    }
    let base = name.split_once(".data-").map_or(name, |(base, _)| base);
    let base = base.strip_suffix(".meta").unwrap_or(base);
    Some(path.with_file_name(format!("{base}.index"))).filter(|index| is_index(index))
}

/// Maps the name of each variable to the name of its moving average, or to itself if it has none.
pub(crate) fn prefer_ema<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, &'a str> {
    let mut preferred = BTreeMap::new();
    for name in names {
        match name.strip_suffix(EMA) {
            Some(variable) => {
                preferred.insert(variable, name);
            }
            None => {
                preferred.entry(name).or_insert(name);
            }
        }
    }
    preferred
}

/// Reads the values of a variable from a data file.
fn values(file: &mut File, length: u64, variable: &Variable, offset: u64, crc: u32) -> Result<Vec<f32>, String> {
    let size = dtype::size(variable.dtype);
    let count = elements(&variable.shape).ok_or("its shape is too large")?;
    let mut left = count.checked_mul(size).ok_or("its shape is too large")?;
    if offset.checked_add(left as u64).is_none_or(|end| end > length) {
        return Err(format!("truncated: {left} bytes are expected at byte {offset}, but the file has {length}"));
    }
    file.seek(SeekFrom::Start(offset)).map_err(|error| error.to_string())?;
    let mut data = Vec::with_capacity(count);
    let mut buffer = [0; CHUNK];
    let mut sum = 0;
    while left > 0 {
        let chunk = &mut buffer[..left.min(CHUNK)];
        file.read_exact(chunk).map_err(|error| error.to_string())?;
        left -= chunk.len();
        sum = crc32c::crc32c_append(sum, chunk);
        dtype::append_f32(variable.dtype, chunk, &mut data);
    }
    if table::mask(sum) != crc {
        return Err("its values are damaged: their checksum differs".into());
    }
    Ok(data)
}

/// Decodes a `BundleHeaderProto` and returns the number of data files; `None` if it is damaged or big-endian.
fn header(message: &[u8]) -> Option<u64> {
    let (mut shards, mut big_endian) = (0, false);
    fields(message, |field, value| {
        match field {
            1 => shards = value.number()?,
            2 => big_endian = value.number()? != 0,
            _ => {}
        }
        Some(())
    })?;
    (shards > 0 && !big_endian).then_some(shards)
}

enum Entry {
    Variable(Variable),
    /// A type that is not numeric, such as a string.
    NotNumeric,
    Partitioned,
    Damaged,
}

/// Decodes a `BundleEntryProto`.
fn entry(message: &[u8]) -> Entry {
    let (mut kind, mut shape, mut number, mut offset, mut size, mut crc, mut sliced) =
        (0, Some(vec![]), 0, 0, 0, 0, false);
    let read = fields(message, |field, value| {
        match field {
            1 => kind = value.number()?,
            2 => shape = proto::shape(value.bytes()?),
            3 => number = value.number()?,
            4 => offset = value.number()?,
            5 => size = value.number()?,
            6 => crc = value.number()? as u32,
            7 => sliced = true,
            _ => {}
        }
        Some(())
    });
    match (read, shape, proto::dtype(kind)) {
        (None, ..) => Entry::Damaged,
        (_, _, None) => Entry::NotNumeric,
        _ if sliced => Entry::Partitioned,
        (_, Some(shape), Some(dtype)) => {
            let bytes = elements(&shape).and_then(|n| n.checked_mul(dtype::size(dtype)));
            match bytes {
                Some(bytes) if bytes as u64 == size => {
                    Entry::Variable(Variable { shape, dtype, location: Location::Shard { number, offset, crc } })
                }
                _ => Entry::Damaged,
            }
        }
        (_, None, _) => Entry::Damaged,
    }
}

/// Calls `each` with the variables of version 1's `SavedTensorSlices.meta`; `None` if it is damaged or `each` returns
/// `None`.
fn saved_variables(message: &[u8], mut each: impl FnMut(&[u8], Variable) -> Option<()>) -> Option<()> {
    fields(message, |field, meta| {
        if field != 1 {
            return Some(());
        }
        fields(meta.bytes()?, |field, saved| {
            if field != 1 {
                return Some(());
            }
            let (mut name, mut shape, mut kind) = (&[][..], Vec::new(), 0);
            fields(saved.bytes()?, |field, value| {
                match field {
                    1 => name = value.bytes()?,
                    2 => shape = proto::shape(value.bytes()?)?,
                    3 => kind = value.number()?,
                    _ => {}
                }
                Some(())
            })?;
            match proto::dtype(kind) {
                Some(dtype) => each(name, Variable { shape, dtype, location: Location::Table }),
                None => Some(()),
            }
        })
    })
}

/// Decodes version 1's `SavedTensorSlices.data` and returns the name of a variable and its `TensorProto`.
fn saved_slice(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut name, mut data) = (None, None);
    fields(message, |field, slice| {
        if field == 2 {
            fields(slice.bytes()?, |field, value| {
                match field {
                    1 => name = Some(value.bytes()?),
                    3 => data = Some(value.bytes()?),
                    _ => {}
                }
                Some(())
            })?;
        }
        Some(())
    })?;
    Some((name?, data?))
}

/// Decodes the values of a `TensorProto`, stored as raw bytes or in the repeated field of their type, packed or
/// unpacked; `None` if they are damaged or more than `count`.
fn saved_values(message: &[u8], dtype: Dtype, count: usize) -> Option<Vec<f32>> {
    // No value has less than a byte. The vector never grows, since that would take twice the memory.
    let mut data: Vec<f32> = Vec::with_capacity(count.min(message.len()));
    let push = |data: &mut Vec<f32>, value: f32| (data.len() < count).then(|| data.push(value));
    let append = |dtype: Dtype, bytes: &[u8], data: &mut Vec<f32>| {
        let fits = bytes.len() / dtype::size(dtype) <= count - data.len();
        (fits && dtype::append_f32(dtype, bytes, data)).then_some(())
    };
    let varints = |mut bytes: &[u8], data: &mut Vec<f32>, number: fn(u64) -> f32| {
        while !bytes.is_empty() {
            push(data, number(table::varint(&mut bytes)?))?;
        }
        Some(())
    };
    let integer = |number: u64| number as i64 as f32;
    let half = |number: u64| f32::from(half::f16::from_bits(number as u16));
    let bfloat = |number: u64| f32::from(half::bf16::from_bits(number as u16));
    let sixteen = if dtype == Dtype::BF16 { bfloat } else { half };
    fields(message, |field, value| {
        match (field, value) {
            (4, Field::Bytes(bytes)) => append(dtype, bytes, &mut data)?,
            (5, Field::Bytes(bytes)) => append(Dtype::F32, bytes, &mut data)?,
            (6, Field::Bytes(bytes)) => append(Dtype::F64, bytes, &mut data)?,
            (7 | 10 | 11 | 16 | 17, Field::Bytes(bytes)) => varints(bytes, &mut data, integer)?,
            (13, Field::Bytes(bytes)) => varints(bytes, &mut data, sixteen)?,
            (5, Field::Number(bits)) => push(&mut data, f32::from_bits(bits as u32))?,
            (6, Field::Number(bits)) => push(&mut data, f64::from_bits(bits) as f32)?,
            (7 | 10 | 11, Field::Number(number)) => push(&mut data, integer(number))?,
            _ => {}
        }
        Some(())
    })?;
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_averages_are_preferred() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/tensorflow/model.ckpt-790000.index");
        let file = TensorFlowFile::open(path).unwrap();
        let names = prefer_ema(file.variables().keys().map(String::as_str));
        assert_eq!(names["model/conv_in/W"], "model/conv_in/W/ExponentialMovingAverage");
        assert_eq!(names["global_step"], "global_step");
        assert_eq!(names.len(), 8);
    }
}
