//! Decoding the protocol buffers of a checkpoint (`tensor_bundle.proto`, `saved_tensor_slice.proto`,
//! `tensor_shape.proto` and `types.proto` in TensorFlow's source). Unknown fields are skipped.

use super::table::varint;
use crate::tensor::MAX_RANK;
use safetensors::tensor::Dtype;

/// The value of a field.
#[derive(Clone, Copy)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub fn number(self) -> Option<u64> {
        match self {
            Field::Number(number) => Some(number),
            Field::Bytes(_) => None,
        }
    }

    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Field::Bytes(bytes) => Some(bytes),
            Field::Number(_) => None,
        }
    }
}

/// Calls `each` with the number and value of every field; `None` if the message is damaged or `each` returns `None`.
pub(super) fn fields<'a>(mut message: &'a [u8], mut each: impl FnMut(u64, Field<'a>) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut message)?),
            1 => Field::Number(u64::from_le_bytes(*take::<8>(&mut message)?)),
            5 => Field::Number(u32::from_le_bytes(*take::<4>(&mut message)?).into()),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                Field::Bytes(bytes)
            }
            _ => return None,
        };
        each(tag >> 3, field)?;
    }
    Some(())
}

fn take<'a, const N: usize>(message: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (bytes, rest) = message.split_first_chunk()?;
    *message = rest;
    Some(bytes)
}

/// Decodes a `TensorShapeProto`, the sizes of the dimensions; `None` if it is damaged or a size is unknown.
pub(super) fn shape(message: &[u8]) -> Option<Vec<usize>> {
    let mut sizes = Vec::new();
    fields(message, |field, value| {
        if field == 2 {
            let mut size = 0;
            fields(value.bytes()?, |field, value| {
                if field == 1 {
                    size = value.number()?;
                }
                Some(())
            })?;
            if sizes.len() == MAX_RANK {
                return None;
            }
            sizes.push(usize::try_from(i64::try_from(size).ok()?).ok()?);
        }
        Some(())
    })?;
    Some(sizes)
}

/// Decodes a `DataType`; `None` if it is not numeric, such as a string.
pub(super) fn dtype(number: u64) -> Option<Dtype> {
    Some(match number {
        1 => Dtype::F32,
        2 => Dtype::F64,
        3 => Dtype::I32,
        4 => Dtype::U8,
        5 => Dtype::I16,
        6 => Dtype::I8,
        9 => Dtype::I64,
        10 => Dtype::BOOL,
        14 => Dtype::BF16,
        17 => Dtype::U16,
        19 => Dtype::F16,
        22 => Dtype::U32,
        23 => Dtype::U64,
        _ => return None,
    })
}
