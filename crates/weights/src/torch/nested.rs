//! Writing nested values in the format of `torch.save`, such as the checkpoints of other trainers: dictionaries, lists, numbers, text and
//! tensors. `torch.load` reads them with `weights_only=True`. Equal values give equal bytes.

use std::path::Path;

use super::write::{Pickle, Storage, check_shape};
use crate::{Error, Result, Tensor};

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

/// Writes a value for `torch.load`, atomically; an existing file is replaced.
///
/// # Errors
/// If a tensor's shape does not match its number of values, or the file cannot be written.
pub fn write_torch_value(path: impl AsRef<Path>, value: &TorchValue) -> Result<()> {
    let path = path.as_ref();
    let mut pickle = Pickle::default();
    put(&mut pickle, value).map_err(|reason| Error::file(path, reason))?;
    pickle.write(path)
}

/// Adds a value to a pickle.
fn put<'a>(pickle: &mut Pickle<'a>, value: &'a TorchValue) -> Result<(), String> {
    match value {
        TorchValue::None => pickle.raw(b"N"),
        TorchValue::Bool(value) => pickle.raw(if *value { b"\x88" } else { b"\x89" }),
        TorchValue::Int(value) => pickle.int(*value),
        TorchValue::Float(value) => {
            pickle.raw(b"G");
            pickle.raw(&value.to_be_bytes());
        }
        TorchValue::Text(text) => pickle.text(text),
        TorchValue::Tuple(values) => {
            pickle.raw(b"(");
            values.iter().try_for_each(|value| put(pickle, value))?;
            pickle.raw(b"t");
        }
        TorchValue::List(values) => {
            pickle.raw(b"](");
            values.iter().try_for_each(|value| put(pickle, value))?;
            pickle.raw(b"e");
        }
        TorchValue::Dict(entries) => {
            pickle.raw(b"}(");
            for (key, value) in entries {
                put(pickle, key)?;
                put(pickle, value)?;
            }
            pickle.raw(b"u");
        }
        TorchValue::Tensor(tensor) => {
            check_shape(tensor).map_err(|reason| format!("a tensor {reason}"))?;
            pickle.tensor(Storage::Floats(&tensor.data), &tensor.shape);
        }
        TorchValue::IntTensor(value) => pickle.tensor(Storage::Int(*value), &[]),
        TorchValue::BoolTensor(value) => pickle.tensor(Storage::Bool(*value), &[]),
    }
    Ok(())
}
