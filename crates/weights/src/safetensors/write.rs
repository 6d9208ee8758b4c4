//! Writing safetensors, as f32 or f16. Equal tensors give equal bytes, and only one buffer is allocated.

use crate::tensor::elements;
use crate::{Error, Metadata, Result, atomic};
use half::f16;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::path::Path;

/// A tensor that is written: name, shape and values.
type View<'a> = (&'a str, &'a [usize], &'a [f32]);

/// Writes tensors (name, shape, values) as a `.safetensors` file, atomically; an existing file is replaced.
///
/// The bytes depend only on the contents: tensors and metadata are sorted by name. `"format": "pt"` is added to
/// `metadata` if it has no `format`, because Hugging Face's loaders require it.
///
/// # Errors
/// If two tensors have the same name, a shape does not match the number of values, or the file cannot be written.
pub fn write_safetensors<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = View<'a>>,
    metadata: &Metadata,
) -> Result<()> {
    let (path, tensors) = (path.as_ref(), sorted(path.as_ref(), tensors)?);
    let shapes: Vec<_> = tensors.iter().map(|&(name, shape, _)| (name, shape.to_vec())).collect();
    write_safetensors_with(path, &shapes, metadata, |file| {
        tensors.iter().try_for_each(|(.., data)| write_values(file, data))
    })
}

/// Writes a `.safetensors` file as [`write_safetensors`] does, with the values rounded to f16: half the size.
///
/// # Errors
/// As [`write_safetensors`], and if a value is too large for f16.
pub fn write_safetensors_f16<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = View<'a>>,
    metadata: &Metadata,
) -> Result<()> {
    let (path, tensors) = (path.as_ref(), sorted(path.as_ref(), tensors)?);
    let is_lost = |&value: &f32| value.is_finite() && f16::from_f32(value).is_infinite();
    for &(name, _, data) in &tensors {
        if let Some(value) = data.iter().find(|value| is_lost(value)) {
            return Err(Error::tensor(path, name, format!("has the value {value:e}, which is too large for f16")));
        }
    }
    let shapes: Vec<_> = tensors.iter().map(|&(name, shape, _)| (name, shape.to_vec())).collect();
    write_with(path, &shapes, metadata, Dtype { name: "F16", bytes: 2 }, |file| {
        tensors.iter().try_for_each(|(.., data)| {
            let bytes: Vec<u8> = data.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
            file.write_all(&bytes)
        })
    })
}

/// Sorts tensors by their names, and checks their shapes.
fn sorted<'a>(path: &Path, tensors: impl IntoIterator<Item = View<'a>>) -> Result<Vec<View<'a>>> {
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by_key(|&(name, ..)| name);
    for &(name, shape, data) in &tensors {
        if elements(shape) != Some(data.len()) {
            let reason = format!("has shape {shape:?} but {} values", data.len());
            return Err(Error::tensor(path, name, reason));
        }
    }
    Ok(tensors)
}

/// Writes a `.safetensors` file as [`write_safetensors`] does, from tensors (name, shape) in the order of their names
/// whose values `write` writes one after the other, as f32 in little-endian order.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_safetensors_with(
    path: impl AsRef<Path>,
    tensors: &[(&str, Vec<usize>)],
    metadata: &Metadata,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    write_with(path.as_ref(), tensors, metadata, Dtype { name: "F32", bytes: size_of::<f32>() }, write)
}

/// A type of values.
#[derive(Clone, Copy)]
struct Dtype {
    name: &'static str,
    bytes: usize,
}

fn write_with(
    path: &Path,
    tensors: &[(&str, Vec<usize>)],
    metadata: &Metadata,
    dtype: Dtype,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let mut about = metadata.clone();
    about.entry("format".into()).or_insert_with(|| "pt".into());
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!(about))]);
    let mut begin = 0;
    for (name, shape) in tensors {
        let bytes = elements(shape).and_then(|count| count.checked_mul(dtype.bytes));
        let Some(end) = bytes.and_then(|bytes| bytes.checked_add(begin)) else {
            return Err(Error::tensor(path, name, format!("has shape {shape:?}, which is too large")));
        };
        let info = json!({ "dtype": dtype.name, "shape": shape, "data_offsets": [begin, end] });
        if header.insert((*name).to_owned(), info).is_some() {
            return Err(Error::tensor(path, name, "the name is used twice or reserved"));
        }
        begin = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // The format aligns the values for readers that map the file into memory.
    header.resize(header.len().next_multiple_of(8), b' ');

    atomic::write_file(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        write(file)
    })
}

fn write_values(file: &mut dyn Write, values: &[f32]) -> io::Result<()> {
    let mut buffer = [0; 1 << 14];
    for values in values.chunks(buffer.len() / 4) {
        for (bytes, value) in buffer.as_chunks_mut().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
        file.write_all(&buffer[..size_of_val(values)])?;
    }
    Ok(())
}
