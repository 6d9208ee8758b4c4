//! Any file of weights, recognised by what is in it; its extension means nothing.

use crate::tensorflow::{self, TensorFlowFile, checkpoint_index};
use crate::{Error, Result, Tensors, TorchFile, read, read_safetensors};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

/// A file of weights: its names and shapes now, its values when they are asked for.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Safetensors are cheap enough to be read at once.
    Loaded(Tensors),
    Torch(TorchFile),
    TensorFlow(TensorFlowFile),
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One `.safetensors` file.
    Safetensors,
    /// A JSON index of shards, of `.safetensors` or of torch's files.
    Sharded,
    /// What `torch.save` writes.
    Torch,
    /// A TensorFlow checkpoint of version 1 or 2.
    TensorFlow,
}

impl Format {
    /// Recognises a file by its contents.
    ///
    /// # Errors
    /// If it cannot be read or is none of these.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (mut file, _) = read::open(path)?;
        let mut start = Vec::new();
        file.by_ref().take(512).read_to_end(&mut start).map_err(Error::read(path))?;
        if tensorflow::is_table(&mut file) {
            return Ok(Format::TensorFlow);
        }
        file.rewind().map_err(Error::read(path))?;
        match &start[..] {
            // The length of a header, which is JSON.
            [_, _, _, _, 0, 0, 0, 0, b'{', ..] => Ok(Format::Safetensors),
            [b'P', b'K', 3, 4, ..] | [0x80, ..] => Ok(Format::Torch),
            // A pickle of protocol 0 or 1: torch's magic number in digits.
            [b'L', b'1', b'1', b'9', ..] => Ok(Format::Torch),
            // A tar archive, whose refusal says what it is.
            _ if start.get(257..262) == Some(b"ustar") => Ok(Format::Torch),
            [b'\x89', b'H', b'D', b'F', ..] => {
                Err(Error::file(path, "an HDF5 file (Keras), which is not read; convert it to safetensors"))
            }
            _ if start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') => Ok(Format::Sharded),
            _ => Err(Error::file(
                path,
                "not a file of weights that is known: safetensors, an index of its shards, torch.save's, or a \
                 TensorFlow checkpoint",
            )),
        }
    }
}

impl Archive {
    /// Opens safetensors (one file or the index of shards), what `torch.save` wrote, or a TensorFlow checkpoint (any of
    /// its files, or its name without their endings, or its folder).
    ///
    /// # Errors
    /// See [`read_safetensors`], [`TorchFile::open`] and [`TensorFlowFile::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let source = match checkpoint_index(path) {
            Some(index) => Source::TensorFlow(TensorFlowFile::open(index)?),
            None => match Format::of(path)? {
                Format::TensorFlow => Source::TensorFlow(TensorFlowFile::open(path)?),
                Format::Torch => Source::Torch(TorchFile::open(path)?),
                Format::Safetensors => Source::Loaded(read::read_file(path)?.0),
                Format::Sharded => Source::Loaded(read::read_sharded(path)?.0),
            },
        };
        Ok(Self { path: path.to_owned(), source })
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and shapes of its tensors, in the order of their names.
    pub fn shapes(&self) -> Box<dyn Iterator<Item = (&str, &[usize])> + '_> {
        match &self.source {
            Source::Loaded(tensors) => Box::new(tensors.iter().map(|(name, tensor)| (&**name, &*tensor.shape))),
            Source::Torch(file) => Box::new(file.tensors().iter().map(|(name, tensor)| (&**name, &*tensor.shape))),
            Source::TensorFlow(file) => Box::new(file.variables().iter().map(|(name, v)| (&**name, &*v.shape))),
        }
    }

    /// The values of some of its tensors, as f32.
    ///
    /// # Errors
    /// Names the tensor that is not there, damaged, or of a dtype that is not supported.
    pub fn read(&self, names: &[&str]) -> Result<Tensors> {
        match &self.source {
            Source::Loaded(tensors) => {
                let find = |name: &&str| match tensors.get(*name) {
                    Some(tensor) => Ok(((*name).to_owned(), tensor.clone())),
                    None => Err(Error::tensor(&self.path, name, "is not in the file")),
                };
                names.iter().map(find).collect()
            }
            Source::Torch(file) => file.read(names),
            Source::TensorFlow(file) => file.read(names),
        }
    }
}

/// All tensors of a file of weights of any kind, under the names that it has for them.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # let tensors = ddpm_weights::Tensors::from([("w".into(), weights::Tensor { shape: vec![1], data: vec![1.0] })]);
/// # ddpm_weights::write_safetensors(&path, weights::views(&tensors), &Default::default())?;
/// for (name, tensor) in ddpm_weights::read_tensors(&path)? {
///     println!("{name} {:?}", tensor.shape);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`Archive::open`] and [`Archive::read`].
pub fn read_tensors(path: impl AsRef<Path>) -> Result<Tensors> {
    let path = path.as_ref();
    if path.is_file() && matches!(Format::of(path), Ok(Format::Safetensors | Format::Sharded)) {
        return Ok(read_safetensors(path)?.0);
    }
    let archive = Archive::open(path)?;
    let names: Vec<&str> = archive.shapes().map(|(name, _)| name).collect();
    archive.read(&names)
}
