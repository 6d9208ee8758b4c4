//! Networks of other code bases, brought to diffusers' `UNet2DModel`: its parameters' names, shapes and `config.json`.
//!
//! A family is recognised by the names of its tensors. What weights cannot say (which way a convolution pads, ε, how the
//! timestep is embedded) follows from the family; what not even that says (attention heads of OpenAI's networks) is
//! assumed, noted in [`Imported::notes`], and can be given in [`Options`].
//!
//! - [`layout`](self): where each family keeps its blocks;
//! - [`skeleton`](self): blocks to names and configuration, the same for all families;
//! - [`change`](self): how a tensor is turned on the way.

mod change;
mod layout;
mod skeleton;
mod states;

use crate::{Archive, Error, Result, Tensors, names};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How many attention heads an OpenAI network has, which its weights do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// So many in every block, `num_heads`.
    Count(usize),
    /// So many that each has this many channels, `num_head_channels`.
    Channels(usize),
}

/// What weights do not say. The default is right for every file that is not one of OpenAI's, and for their releases.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Takes the weights of the last step although their moving averages are there.
    pub raw: bool,
    /// Attention heads, for OpenAI's networks alone.
    pub heads: Option<Heads>,
    /// `use_new_attention_order` of guided-diffusion.
    pub new_attention_order: bool,
    /// Height and width of the images.
    pub sample_size: Option<usize>,
}

/// A network as diffusers has it.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Whose network it is.
    pub family: &'static str,
    /// The moving averages of the weights, and not those of the last step.
    pub ema: bool,
    /// What stands before the parameters' names in the file, such as `ema_model.`.
    pub prefix: String,
    /// `config.json` of the `UNet2DModel`.
    pub config: Value,
    /// `scheduler_config.json` of the process that the family trains by default.
    pub scheduler: Value,
    /// Parameters by diffusers' names.
    pub tensors: Tensors,
    /// What was assumed, and what else the user should know.
    pub notes: Vec<String>,
}

/// Reads a network of any family from a file of any kind that [`Archive`] opens.
///
/// # Errors
/// If the file cannot be read; if its tensors are not those of a known family, or the network cannot be a
/// `UNet2DModel`, which names the tensor or says why.
pub fn import(path: impl AsRef<Path>, options: &Options) -> Result<Imported> {
    let path = path.as_ref();
    let archive = Archive::open(path)?;
    let found = states::find(&archive, options.raw).map_err(|reason| Error::file(path, reason))?;
    let mut notes = Vec::new();
    if !options.raw && !found.ema {
        notes.push(
            "the file has no weights that it calls moving averages (EMA): these may be those of the last step"
                .to_owned(),
        );
    }
    if found.family == states::Family::Diffusers {
        return diffusers(path, &archive, &found, notes);
    }
    let fail = |reason: String| Error::file(path, format!("a network of {}: {reason}", found.family.name()));
    let family = layout::of(found.family).map_err(fail)?;
    let shapes = layout::Shapes { family: &family, of: &found.names };
    let skeleton = (family.skeleton)(&shapes).map_err(fail)?;
    let mut config = skeleton::config(&skeleton, &shapes).map_err(fail)?;
    let head = layout::heads(&skeleton, &shapes, options, &mut config, &mut notes).map_err(fail)?;
    let size = options.sample_size.or_else(|| layout::sample_size(&skeleton, found.family, &config, &mut notes));
    config["sample_size"] = json!(size);

    let plan = skeleton::plan(&skeleton, &shapes, head.filter(|_| !options.new_attention_order));
    let mut unused: BTreeSet<&str> =
        found.names.keys().map(|name| &**name).filter(|name| !(family.ignored)(name)).collect();
    let mut sources = BTreeMap::new();
    for step in &plan {
        unused.remove(&*step.source);
        match found.names.get(&step.source) {
            Some(state) => sources.insert(&*step.source, &*state.full),
            None => return Err(fail(format!("it should have a tensor `{}{}`", found.prefix, step.source))),
        };
    }
    if let Some(name) = unused.first() {
        return Err(fail(format!("its tensor `{}{name}` has no place in a UNet2DModel", found.prefix)));
    }
    let wanted: Vec<&str> = sources.values().copied().collect();
    let loaded = archive.read(&wanted)?;
    let mut tensors = Tensors::new();
    for step in &plan {
        let full = sources[&*step.source];
        let Some(tensor) = loaded.get(full) else {
            return Err(Error::tensor(path, full, "is not in the file"));
        };
        let tensor = change::apply(tensor, &step.changes).map_err(|reason| Error::tensor(path, full, reason))?;
        tensors.insert(step.target.clone(), tensor);
    }
    let scheduler = layout::scheduler(found.family, &config, size, &mut notes);
    let (ema, prefix) = (found.ema, found.prefix);
    Ok(Imported { family: found.family.name(), ema, prefix, config, scheduler, tensors, notes })
}

/// diffusers' own files, whose configuration lies beside them.
fn diffusers(path: &Path, archive: &Archive, found: &states::Found, notes: Vec<String>) -> Result<Imported> {
    let folder = crate::whole::parent(path);
    let read = |name: &str| {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).map_err(Error::read(&path))?;
        serde_json::from_str(&text).map_err(|error| Error::file(&path, format!("not JSON: {error}")))
    };
    let config: Value = match folder.join("config.json").is_file() {
        true => read("config.json")?,
        false => {
            let reason = "weights of diffusers', which do not say how the network pads, embeds time and divides heads: \
                          put the config.json of the UNet2DModel beside them";
            return Err(Error::file(path, reason));
        }
    };
    let places = ["scheduler_config.json", "../scheduler/scheduler_config.json"];
    let scheduler = match places.iter().find(|place| folder.join(place).is_file()) {
        Some(place) => read(place)?,
        None => layout::ddpm("fixed_small", 0.0001, 0.02),
    };
    let wanted: Vec<&str> = found.names.values().map(|state| &*state.full).collect();
    let mut loaded = archive.read(&wanted)?;
    let named = |(name, state): (&String, &states::State)| Some((name.clone(), loaded.remove(&state.full)?));
    let tensors = names::modernize(path, found.names.iter().filter_map(named).collect())?;
    let prefix = found.prefix.clone();
    Ok(Imported { family: found.family.name(), ema: found.ema, prefix, config, scheduler, tensors, notes })
}
