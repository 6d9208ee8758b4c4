//! Writing nested values in the format of `torch.save`, such as the checkpoints of other trainers: dictionaries, lists, numbers, text and
//! tensors. `torch.load` reads them with `weights_only=True`. Equal values give equal bytes.

use std::io::{self, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::tensor::elements;
use crate::{Error, Result, Tensor, atomic};

/// A value of a file of `torch.save`.
#[derive(Clone, Debug, PartialEq)]
pub enum TorchValue {
    /// Python's `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    Text(String),
    /// A tuple.
    Tuple(Vec<TorchValue>),
    /// A list.
    List(Vec<TorchValue>),
    /// A dictionary, in this order.
    Dict(Vec<(TorchValue, TorchValue)>),
    /// A tensor of f32.
    Tensor(Tensor),
    /// A tensor of one i64, without dimensions.
    IntTensor(i64),
    /// A tensor of one truth value, without dimensions.
    BoolTensor(bool),
}

impl TorchValue {
    /// Returns a dictionary with names as keys.
    pub fn dict<'a>(entries: impl IntoIterator<Item = (&'a str, TorchValue)>) -> Self {
        Self::Dict(entries.into_iter().map(|(name, value)| (Self::Text(name.to_owned()), value)).collect())
    }
}

/// The bytes of a tensor.
enum Storage<'a> {
    Floats(&'a [f32]),
    Int(i64),
    Bool(bool),
}

impl Storage<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Int(_) | Self::Bool(_) => 1,
        }
    }

    fn class(&self) -> &'static [u8] {
        match self {
            Self::Floats(_) => b"ctorch\nFloatStorage\n",
            Self::Int(_) => b"ctorch\nLongStorage\n",
            Self::Bool(_) => b"ctorch\nBoolStorage\n",
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Floats(values) => values.chunks(1 << 14).try_for_each(|part| {
                let bytes: Vec<u8> = part.iter().flat_map(|value| value.to_le_bytes()).collect();
                out.write_all(&bytes)
            }),
            Self::Int(value) => out.write_all(&value.to_le_bytes()),
            Self::Bool(value) => out.write_all(&[u8::from(*value)]),
        }
    }
}

/// Writes a value for `torch.load`, atomically; an existing file is replaced.
///
/// # Errors
/// If a tensor's shape does not match its number of values, or the file cannot be written.
pub fn write_torch_value(path: impl AsRef<Path>, value: &TorchValue) -> Result<()> {
    let path = path.as_ref();
    let (mut pickle, mut storages) = (b"\x80\x02".to_vec(), Vec::new());
    put(&mut pickle, &mut storages, value).map_err(|reason| Error::file(path, reason))?;
    pickle.push(b'.');
    atomic::write_seekable_file(path, |file| {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let mut zip = ZipWriter::new(file);
        let mut entry = |name: &str, write: &dyn Fn(&mut dyn Write) -> io::Result<()>, is_large: bool| {
            zip.start_file(format!("archive/{name}"), options.large_file(is_large)).map_err(io::Error::other)?;
            write(&mut zip)
        };
        entry("data.pkl", &|out| out.write_all(&pickle), pickle.len() > 1 << 31)?;
        entry("byteorder", &|out| out.write_all(b"little"), false)?;
        for (i, storage) in storages.iter().enumerate() {
            entry(&format!("data/{i}"), &|out| storage.write(out), storage.len() > 1 << 29)?;
        }
        entry("version", &|out| out.write_all(b"3\n"), false)?;
        zip.finish().map_err(io::Error::other).map(drop)
    })
}

/// Adds the opcodes of a value, in protocol 2 of pickle.
fn put<'a>(out: &mut Vec<u8>, storages: &mut Vec<Storage<'a>>, value: &'a TorchValue) -> Result<(), String> {
    match value {
        TorchValue::None => out.push(b'N'),
        TorchValue::Bool(value) => out.push(if *value { 0x88 } else { 0x89 }),
        TorchValue::Int(value) => put_int(out, *value),
        TorchValue::Float(value) => {
            out.push(b'G');
            out.extend(value.to_be_bytes());
        }
        TorchValue::Text(text) => put_text(out, text),
        TorchValue::Tuple(values) => {
            out.push(b'(');
            values.iter().try_for_each(|value| put(out, storages, value))?;
            out.push(b't');
        }
        TorchValue::List(values) => {
            out.extend(b"](");
            values.iter().try_for_each(|value| put(out, storages, value))?;
            out.push(b'e');
        }
        TorchValue::Dict(entries) => {
            out.extend(b"}(");
            for (key, value) in entries {
                put(out, storages, key)?;
                put(out, storages, value)?;
            }
            out.push(b'u');
        }
        TorchValue::Tensor(tensor) => {
            if elements(&tensor.shape) != Some(tensor.data.len()) {
                let (shape, values) = (&tensor.shape, tensor.data.len());
                return Err(format!("a tensor has the shape {shape:?} but {values} values"));
            }
            put_tensor(out, storages, Storage::Floats(&tensor.data), &tensor.shape);
        }
        TorchValue::IntTensor(value) => put_tensor(out, storages, Storage::Int(*value), &[]),
        TorchValue::BoolTensor(value) => put_tensor(out, storages, Storage::Bool(*value), &[]),
    }
    Ok(())
}

fn put_int(out: &mut Vec<u8>, value: i64) {
    out.extend(b"\x8a\x08");
    out.extend(value.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Adds the call that rebuilds a tensor of its storage.
fn put_tensor<'a>(out: &mut Vec<u8>, storages: &mut Vec<Storage<'a>>, storage: Storage<'a>, shape: &[usize]) {
    let mut stride = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        stride[axis - 1] = stride[axis] * shape[axis];
    }
    let put_sizes = |out: &mut Vec<u8>, sizes: &[usize]| {
        out.push(b'(');
        sizes.iter().for_each(|&size| put_int(out, size as i64));
        out.push(b't');
    };
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(out, "storage");
    out.extend(storage.class());
    put_text(out, &storages.len().to_string());
    put_text(out, "cpu");
    put_int(out, storage.len() as i64);
    out.extend(b"tQ");
    put_int(out, 0);
    put_sizes(out, shape);
    put_sizes(out, &stride);
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    storages.push(storage);
}
