//! Reading weights files of any supported format.

use crate::pickle::{Item, PickleValue};
use crate::shown::shown;
use crate::tensorflow::{TensorFlowFile, checkpoint_index};
use crate::{Error, Format, Metadata, Result, Tensors, TorchFile, safetensors, shards};
use files::Reading;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A weights file whose names and shapes are known; values are read on demand.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    /// Safetensors are read when the file is opened, since that is fast.
    Loaded(Tensors),
    Torch(TorchFile),
    TensorFlow(TensorFlowFile),
}

/// The most attributes and arguments of a module together.
const MAX_ATTRIBUTES: usize = 256;

/// The class of a pickled object, the arguments of its constructor, and its attributes.
#[derive(Debug)]
pub(crate) struct ModuleRecord {
    pub class: String,
    /// The arguments that are plain values.
    pub arguments: Map<String, Value>,
    /// The names of the other arguments.
    pub unread: Vec<String>,
    /// The attributes that are plain values.
    pub attributes: Map<String, Value>,
}

impl Archive {
    /// Opens a safetensors file, an index of shards, a `torch.save` file, or a TensorFlow checkpoint (any of its files,
    /// its path without an extension, or the folder that it is in).
    ///
    /// # Errors
    /// If the file cannot be read, has none of these formats or is damaged; [`Error::Call`] if it is a pickle that
    /// calls a function that builds no weights.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let _reading = Reading::new(path);
        let contents = match checkpoint_index(path) {
            Some(index) => Contents::TensorFlow(TensorFlowFile::open(index)?),
            None => match Format::of(path)? {
                Format::TensorFlow => Contents::TensorFlow(TensorFlowFile::open(path)?),
                Format::Torch => Contents::Torch(TorchFile::open(path)?),
                Format::Safetensors => Contents::Loaded(safetensors::read(path)?.0),
                Format::Sharded => Contents::Loaded(shards::read(path)?.0),
            },
        };
        Ok(Self { path: path.to_owned(), contents })
    }

    /// Returns the path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what the file records about the object at a dotted path, such as the module `ema.model`, if there is one.
    ///
    /// # Errors
    /// If it has more attributes than a module has.
    pub(crate) fn module(&self, path: &str) -> Result<Option<ModuleRecord>> {
        let Contents::Torch(file) = &self.contents else {
            return Ok(None);
        };
        let (Some(item), pickle) = (file.item(path), file.pickle()) else {
            return Ok(None);
        };
        let (class, state) = match pickle.node(item) {
            Some(PickleValue::Object(object)) => (object.class.rsplit('.').next().unwrap_or_default(), object.state),
            Some(PickleValue::Dict(_)) => ("", item),
            _ => return Ok(None),
        };
        let entries = |item: Item| match pickle.node(item) {
            Some(PickleValue::Dict(entries)) => entries.as_slice(),
            Some(PickleValue::Object(object)) => object.entries.as_slice(),
            _ => &[],
        };
        let arguments = pickle.get(state, "_init_kwargs").unwrap_or(Item::None);
        let count = entries(state).len() + entries(arguments).len();
        if count > MAX_ATTRIBUTES {
            let reason = format!("`{}` has {count} attributes, more than a module has", shown(path));
            return Err(Error::file(&self.path, reason));
        }
        let named = |item: Item| {
            let values = entries(item).iter();
            values.filter_map(|&(key, value)| Some((pickle.text(key)?.to_owned(), pickle.plain(value))))
        };
        let plain = |item: Item| named(item).filter_map(|(key, value)| Some((key, value?))).collect();
        let has_positional = pickle.get(state, "_init_args").and_then(|args| pickle.sequence(args));
        let positional = has_positional.filter(|args| !args.is_empty()).map(|_| "its positional ones".to_owned());
        let unread = named(arguments).filter(|(_, value)| value.is_none()).map(|(key, _)| key);
        Ok(Some(ModuleRecord {
            class: class.to_owned(),
            arguments: plain(arguments),
            unread: unread.chain(positional).collect(),
            attributes: plain(state),
        }))
    }

    /// Returns a text that the file records at a dotted path, such as `version`, if there is one.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        match &self.contents {
            Contents::Torch(file) => file.pickle().text(file.item(path)?),
            _ => None,
        }
    }

    /// Returns the names and shapes of the tensors, in the order of their names.
    pub fn shapes(&self) -> Box<dyn Iterator<Item = (&str, &[usize])> + '_> {
        match &self.contents {
            Contents::Loaded(tensors) => Box::new(tensors.iter().map(|(name, tensor)| (&**name, &*tensor.shape))),
            Contents::Torch(file) => Box::new(file.tensors().iter().map(|(name, tensor)| (&**name, &*tensor.shape))),
            Contents::TensorFlow(file) => Box::new(file.variables().iter().map(|(name, v)| (&**name, &*v.shape))),
        }
    }

    /// Reads the named tensors, as f32 (see [`read_safetensors`]).
    ///
    /// # Errors
    /// Names the tensor that is missing or damaged or whose dtype is not supported.
    pub fn read(&self, names: &[&str]) -> Result<Tensors> {
        match &self.contents {
            Contents::Loaded(tensors) => {
                let find = |name: &&str| match tensors.get(*name) {
                    Some(tensor) => Ok(((*name).to_owned(), tensor.clone())),
                    None => Err(Error::tensor(&self.path, name, "is not in the file")),
                };
                names.iter().map(find).collect()
            }
            Contents::Torch(file) => file.read(names),
            Contents::TensorFlow(file) => file.read(names),
        }
    }
}

/// Reads a `.safetensors` file, or all shards of a `.safetensors.index.json`, and returns the tensors and the metadata.
///
/// Every dtype is converted to f32: f16, bf16 and integers of up to 24 bits exactly, f64 and larger integers rounded to
/// the nearest, booleans to 0 or 1. The tensors take at most four times the file's size in memory.
///
/// # Errors
/// If the file cannot be read or violates the format (the error names the tensor), or a dtype is none of BOOL, U8…U64,
/// I8…I64, F16, BF16, F32, F64.
pub fn read_safetensors(path: impl AsRef<Path>) -> Result<(Tensors, Metadata)> {
    let path = path.as_ref();
    let is_index = matches!(Format::of(path), Ok(Format::Sharded));
    if is_index || path.extension().is_some_and(|extension| extension == "json") {
        shards::read(path)
    } else {
        safetensors::read(path)
    }
}

/// Reads all tensors of a weights file of any supported format, under the names that the file has for them.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # let tensors = ddpm_weights::Tensors::from([(
/// #     "w".into(),
/// #     ddpm_weights::Tensor { shape: vec![1], data: vec![1.0] },
/// # )]);
/// # ddpm_weights::write_safetensors(&path, ddpm_weights::views(&tensors), &Default::default())?;
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
