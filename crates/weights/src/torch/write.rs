//! Writing files in the format of `torch.save` since torch 1.6: a zip archive with a pickle of protocol 2, and the bytes of each
//! tensor. Equal values give equal bytes.

use crate::tensor::elements;
use crate::{Error, Result, Tensor, Tensors, atomic};
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
    let mut pickle = Pickle::default();
    pickle.raw(ORDERED_DICT);
    pickle.raw(b"(");
    for (name, tensor) in tensors {
        check_shape(tensor).map_err(|reason| Error::tensor(path, name, reason))?;
        let is_lost = |&value: &f32| value.is_finite() && f16::from_f32(value).is_infinite();
        if let (Values::F16, Some(value)) = (values, tensor.data.iter().copied().find(is_lost)) {
            return Err(Error::tensor(path, name, format!("has the value {value:e}, which is too large for f16")));
        }
        pickle.text(name);
        pickle.tensor(
            match values {
                Values::F32 => Storage::Floats(&tensor.data),
                Values::F16 => Storage::Halves(&tensor.data),
            },
            &tensor.shape,
        );
    }
    pickle.raw(b"u");
    pickle.write(path)
}

/// Checks that a tensor has as many values as its shape says.
pub(super) fn check_shape(tensor: &Tensor) -> Result<(), String> {
    let values = tensor.data.len();
    match elements(&tensor.shape) == Some(values) {
        true => Ok(()),
        false => Err(format!("has shape {:?} but {values} values", tensor.shape)),
    }
}

const ORDERED_DICT: &[u8] = b"ccollections\nOrderedDict\n)R";

/// The values of a tensor.
pub(super) enum Storage<'a> {
    Floats(&'a [f32]),
    /// Values that are rounded to f16.
    Halves(&'a [f32]),
    Int(i64),
    Bool(bool),
}

impl Storage<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Floats(values) | Self::Halves(values) => values.len(),
            Self::Int(_) | Self::Bool(_) => 1,
        }
    }

    fn class(&self) -> &'static [u8] {
        match self {
            Self::Floats(_) => b"ctorch\nFloatStorage\n",
            Self::Halves(_) => b"ctorch\nHalfStorage\n",
            Self::Int(_) => b"ctorch\nLongStorage\n",
            Self::Bool(_) => b"ctorch\nBoolStorage\n",
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut in_parts = |values: &[f32], bytes: &dyn Fn(&[f32]) -> Vec<u8>| {
            values.chunks(1 << 14).try_for_each(|part| out.write_all(&bytes(part)))
        };
        match self {
            Self::Floats(values) => in_parts(values, &|part| part.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Self::Halves(values) => {
                in_parts(values, &|part| part.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect())
            }
            Self::Int(value) => out.write_all(&value.to_le_bytes()),
            Self::Bool(value) => out.write_all(&[u8::from(*value)]),
        }
    }
}

/// A pickle that is being written, and the tensors that it names.
#[derive(Default)]
pub(super) struct Pickle<'a> {
    opcodes: Vec<u8>,
    storages: Vec<Storage<'a>>,
}

impl<'a> Pickle<'a> {
    /// Adds opcodes.
    pub(super) fn raw(&mut self, opcodes: &[u8]) {
        self.opcodes.extend(opcodes);
    }

    /// Adds a whole number.
    pub(super) fn int(&mut self, value: i64) {
        self.raw(b"\x8a\x08");
        self.raw(&value.to_le_bytes());
    }

    /// Adds a text.
    pub(super) fn text(&mut self, text: &str) {
        self.raw(b"X");
        self.raw(&(text.len() as u32).to_le_bytes());
        self.raw(text.as_bytes());
    }

    /// Adds the call that rebuilds a tensor of its storage.
    pub(super) fn tensor(&mut self, storage: Storage<'a>, shape: &[usize]) {
        let mut stride = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            stride[axis - 1] = stride[axis] * shape[axis];
        }
        self.raw(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.raw(storage.class());
        self.text(&self.storages.len().to_string());
        self.text("cpu");
        self.int(storage.len() as i64);
        self.raw(b"tQ");
        self.int(0);
        for sizes in [shape, &stride] {
            self.raw(b"(");
            sizes.iter().for_each(|&size| self.int(size as i64));
            self.raw(b"t");
        }
        self.raw(b"\x89");
        self.raw(ORDERED_DICT);
        self.raw(b"tR");
        self.storages.push(storage);
    }

    /// Writes the archive, atomically; an existing file is replaced.
    pub(super) fn write(mut self, path: &Path) -> Result<()> {
        self.raw(b".");
        let Self { opcodes, storages } = self;
        let pickle = [b"\x80\x02", &opcodes[..]].concat();
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
}
