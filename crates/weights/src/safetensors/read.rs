//! Reading safetensors.
//!
//! Files may come from untrusted sources. Nothing is allocated for a tensor before its bytes are known to be in the
//! file, and every byte of the values must belong to exactly one tensor, as the format requires. Everything together, the
//! header included, takes at most four times the file's size and 1 MiB of memory, and each byte is read once.

use super::header::{Header, Info};
use crate::budget::Budget;
use crate::shown::shown_sizes;
use crate::tensor::elements;
use crate::{Error, Metadata, Result, Tensor, Tensors, dtype, file};
use files::Reading;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The longest header that the format allows, in bytes.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// Reads the tensors and the metadata of one `.safetensors` file.
pub(crate) fn read(path: &Path) -> Result<(Tensors, Metadata)> {
    let _reading = Reading::new(path);
    let (mut file, length) = file::open(path)?;
    let mut prefix = [0; 8];
    if length == 0 {
        return Err(Error::file(path, file::EMPTY));
    }
    if length < 8 {
        return Err(Error::file(path, format!("{length} bytes are too few for a safetensors file")));
    }
    file.read_exact(&mut prefix).map_err(Error::read(path))?;
    let header_length = u64::from_le_bytes(prefix);
    if header_length > MAX_HEADER {
        return Err(Error::file(path, format!("not a safetensors file: its header would have {header_length} bytes")));
    }
    let Some(data_length) = (length - 8).checked_sub(header_length) else {
        let reason =
            format!("truncated: the file has {length} bytes, but its header alone should have {header_length}");
        return Err(Error::file(path, reason));
    };
    let bad = |reason: String| Error::file(path, format!("bad safetensors header: {reason}"));
    let mut budget = Budget::of(length);
    budget.take(header_length).map_err(|reason| bad(format!("it {reason}")))?;
    let mut header = vec![0; header_length as usize];
    file.read_exact(&mut header).map_err(Error::read(path))?;
    let Header { tensors, metadata } = Header::parse(&header, &mut budget).map_err(bad)?;
    drop(header);
    budget.give_back(header_length);

    budget
        .take((tensors.len() * size_of::<(String, Info)>()) as u64)
        .map_err(|reason| bad(format!("it lists too many tensors: it {reason}")))?;
    let mut order: Vec<(String, Info)> = tensors.into_iter().collect();
    order.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in &order {
        end = check(info, end).map_err(|reason| Error::tensor(path, name, reason))?;
    }
    if end != data_length {
        let reason =
            format!("truncated or too long: the header describes {end} bytes of values, but {data_length} follow");
        return Err(Error::file(path, reason));
    }

    let mut tensors = Tensors::new();
    let mut buffer = vec![0; CHUNK.min(data_length as usize)];
    for (name, info) in order {
        let data = read_values(&mut file, &info, &mut buffer).map_err(|error| Error::tensor(path, &name, error))?;
        tensors.insert(name, Tensor { shape: info.shape, data });
    }
    Ok((tensors, metadata))
}

/// Checks that the bytes of a tensor begin at `begin` and that their number matches shape and dtype. Returns their end.
fn check(info: &Info, begin: u64) -> Result<u64, String> {
    let (first, last) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
    if first != begin {
        return Err(format!("its values begin at byte {first}, but those of the previous tensor end at {begin}"));
    }
    let bytes = elements(&info.shape)
        .and_then(|n| n.checked_mul(info.dtype.bitsize()))
        .filter(|bits| bits % 8 == 0)
        .map(|bits| bits as u64 / 8);
    if bytes.is_none() || last.checked_sub(first) != bytes {
        let shape = shown_sizes(&info.shape);
        return Err(format!("shape {shape} of {} does not match bytes {first}..{last}", info.dtype));
    }
    Ok(last)
}

/// Reads the next tensor's values as f32; `info` has been checked against the file's length.
fn read_values(file: &mut File, info: &Info, buffer: &mut [u8]) -> Result<Vec<f32>, String> {
    let mut bytes = info.data_offsets.1 - info.data_offsets.0;
    let mut values = Vec::with_capacity(bytes / dtype::size(info.dtype));
    loop {
        let chunk = &mut buffer[..bytes.min(CHUNK)];
        file.read_exact(chunk).map_err(|error| error.to_string())?;
        if !dtype::append_f32(info.dtype, chunk, &mut values) {
            return Err(format!("{} is not supported ({})", info.dtype, dtype::SUPPORTED));
        }
        bytes -= chunk.len();
        if bytes == 0 {
            return Ok(values);
        }
    }
}
