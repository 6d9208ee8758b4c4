//! Weights that are split over several files, with a JSON index such as
//! `diffusion_pytorch_model.safetensors.index.json`.

use crate::safetensors::{self, MAX_HEADER};
use crate::{Error, Format, Metadata, Result, Tensors, TorchFile, file};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Component, Path};

/// The index: the name of the shard that each tensor is in.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads all shards of the index `path`, in the order of their names.
pub(crate) fn read(path: &Path) -> Result<(Tensors, Metadata)> {
    let (file, length) = file::open(path)?;
    if length > MAX_HEADER {
        let reason = format!("{length} bytes are too many for an index of shards; at most {MAX_HEADER} are read");
        return Err(Error::file(path, reason));
    }
    let mut text = Vec::with_capacity(length as usize);
    file.take(MAX_HEADER).read_to_end(&mut text).map_err(Error::read(path))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| Error::file(path, format!("bad index of safetensors shards: {error}")))?;

    let mut tensors = Tensors::new();
    let mut metadata = Metadata::new();
    for shard in index.weight_map.values().collect::<BTreeSet<_>>() {
        // An index from an untrusted source must not reach files elsewhere.
        let mut components = Path::new(shard).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Err(Error::file(path, format!("`{shard}` is not the name of a file in the same folder")));
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
            return Err(Error::tensor(path, name, format!("is not in `{shard}`, which the index names for it")));
        }
    }
    Ok((tensors, metadata))
}
