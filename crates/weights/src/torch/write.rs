//! Writing state dictionaries in the format of `torch.save` since torch 1.6: a zip archive with a pickle of an `OrderedDict`, and
//! the bytes of each tensor. Equal tensors give equal bytes.

use crate::tensor::elements;
use crate::{Error, Result, Tensors, atomic};
use half::f16;
use std::io::{self, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// The type of the values in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, to which values are rounded.
    F16,
}

/// Writes tensors as a state dictionary, which `torch.load` reads, atomically; an existing file is replaced.
///
/// # Errors
/// If a shape does not match its number of values, a value is too large for f16, or the file cannot be written.
pub fn write_state_dict(path: impl AsRef<Path>, tensors: &Tensors, values: Values) -> Result<()> {
    let path = path.as_ref();
    for (name, tensor) in tensors {
        if elements(&tensor.shape) != Some(tensor.data.len()) {
            let reason = format!("has shape {:?} but {} values", tensor.shape, tensor.data.len());
            return Err(Error::tensor(path, name, reason));
        }
        let is_lost = |&value: &f32| value.is_finite() && f16::from_f32(value).is_infinite();
        if let (Values::F16, Some(value)) = (values, tensor.data.iter().copied().find(is_lost)) {
            return Err(Error::tensor(path, name, format!("has the value {value:e}, which is too large for f16")));
        }
    }
    let pickle = pickle(tensors, values);
    atomic::write_seekable_file(path, |file| {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let mut zip = ZipWriter::new(file);
        let mut entry = |name: &str, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>, is_large: bool| {
            zip.start_file(format!("archive/{name}"), options.large_file(is_large)).map_err(io::Error::other)?;
            write(&mut zip)
        };
        entry("data.pkl", &mut |out| out.write_all(&pickle), false)?;
        entry("byteorder", &mut |out| out.write_all(b"little"), false)?;
        for (i, tensor) in tensors.values().enumerate() {
            let is_large = tensor.data.len() > 1 << 29;
            entry(&format!("data/{i}"), &mut |out| write_values(out, &tensor.data, values), is_large)?;
        }
        entry("version", &mut |out| out.write_all(b"3\n"), false)?;
        zip.finish().map_err(io::Error::other).map(drop)
    })
}

fn write_values(out: &mut dyn Write, data: &[f32], values: Values) -> io::Result<()> {
    for part in data.chunks(1 << 14) {
        let bytes: Vec<u8> = match values {
            Values::F32 => part.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Values::F16 => part.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        };
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Returns the pickle, of protocol 2.
fn pickle(tensors: &Tensors, values: Values) -> Vec<u8> {
    const ORDERED_DICT: &[u8] = b"ccollections\nOrderedDict\n)R";
    let class: &[u8] = match values {
        Values::F32 => b"ctorch\nFloatStorage\n",
        Values::F16 => b"ctorch\nHalfStorage\n",
    };
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let number = |number: usize| [&b"\x8a\x08"[..], &(number as u64).to_le_bytes()].concat();
    let tuple = |numbers: &[usize]| {
        let numbers: Vec<u8> = numbers.iter().flat_map(|&n| number(n)).collect();
        [b"(", &numbers[..], b"t"].concat()
    };
    let mut bytes = [b"\x80\x02", ORDERED_DICT, b"("].concat();
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        let mut stride = vec![1; tensor.shape.len()];
        for axis in (1..tensor.shape.len()).rev() {
            stride[axis - 1] = stride[axis] * tensor.shape[axis];
        }
        let id =
            [text("storage"), class.to_vec(), text(&i.to_string()), text("cpu"), number(tensor.data.len())].concat();
        bytes.extend(text(name));
        bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        bytes.extend(id);
        bytes.extend(b"tQ");
        bytes.extend([number(0), tuple(&tensor.shape), tuple(&stride)].concat());
        bytes.extend([b"\x89", ORDERED_DICT, b"tR"].concat());
    }
    bytes.extend(b"u.");
    bytes
}
