//! Weights that are split over several files, with a JSON index such as
//! `diffusion_pytorch_model.safetensors.index.json`.
//!
//! Each shard is read once, however many tensors the index says are in it. The index takes at most four times its size and
//! 1 MiB of memory, in addition to what the shards take.

use crate::budget::Budget;
use crate::safetensors::{self, MAX_HEADER};
use crate::shown::shown;
use crate::{Error, Format, Metadata, Result, Tensors, TorchFile, file};
use files::Reading;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

/// The index: the name of the shard that each tensor is in.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads all shards of the index `path`, in the order of their names.
pub(crate) fn read(path: &Path) -> Result<(Tensors, Metadata)> {
    let _reading = Reading::new(path);
    let (file, length) = file::open(path)?;
    if length > MAX_HEADER {
        let reason = format!("{length} bytes are too many for an index of shards; at most {MAX_HEADER} are read");
        return Err(Error::file(path, reason));
    }
    let bad = |reason: String| Error::file(path, format!("bad index of safetensors shards: {reason}"));
    // Each entry has two strings, in a map whose nodes are about half full: 96 bytes and more for one that has eight in
    // the file. Each has a colon, so what it takes is known before.
    let mut budget = Budget::of(length);
    budget.take(length).map_err(|reason| bad(format!("it {reason}")))?;
    let mut text = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut text).map_err(Error::read(path))?;
    let entries = text.iter().filter(|&&byte| byte == b':').count();
    let escapes = if text.contains(&b'\\') { 2 * text.len() } else { 0 };
    budget
        .take((entries * 2 * size_of::<(String, String)>() + text.len() + escapes) as u64)
        .map_err(|reason| bad(format!("it {reason}")))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| bad(shown(error)))?;
    drop(text);

    let mut tensors = Tensors::new();
    let mut metadata = Metadata::new();
    for shard in index.weight_map.values().collect::<BTreeSet<_>>() {
        // An index from an untrusted source must not reach files elsewhere.
        if !file::is_name(shard) {
            return Err(Error::file(path, format!("`{}` is not the name of a file in the same folder", shown(shard))));
        }
        let shard = path.with_file_name(shard);
        let (part, part_metadata) = match Format::of(&shard) {
            Ok(Format::Torch) => {
                let file = TorchFile::open(&shard)?;
                (file.read(file.tensors().keys())?, Metadata::new())
            }
            _ => safetensors::read(&shard)?,
        };
        for (name, tensor) in part {
            if tensors.contains_key(&name) {
                return Err(Error::tensor(&shard, &name, "another shard has a tensor of the same name"));
            }
            tensors.insert(name, tensor);
        }
        metadata.extend(part_metadata);
    }
    for (name, shard) in &index.weight_map {
        if !tensors.contains_key(name) {
            return Err(Error::tensor(
                path,
                name,
                format!("is not in `{}`, which the index names for it", shown(shard)),
            ));
        }
    }
    Ok((tensors, metadata))
}
