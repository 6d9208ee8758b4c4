//! Converting networks of other code bases to diffusers' `UNet2DModel`: parameter names, shapes and `config.json`. The network
//! of lucidrains/denoising-diffusion-pytorch, that of hmdolatabadi/denoising_diffusion and those of NVlabs/edm stay what they are
//! and keep their names.
//!
//! The family of a network is recognized by the names of its tensors. The family determines the settings that weights
//! do not record (padding of convolutions, ε, the timestep embedding). Settings that vary within a family (attention
//! heads of OpenAI's networks) are assumed, reported in [`Imported::notes`], and can be set in [`ImportOptions`].
//!
//! While a network is converted, its tensors are in memory up to three times: as they were read, as they are looked up, and
//! as they become.

mod assumptions;
mod config;
mod detect;
mod edm;
pub mod hmdolatabadi;
mod ho;
mod layout;
mod lucidrains;
mod lucidrains_versions;
mod openai;
mod options;
mod parameters;
mod skeleton;
mod transform;
mod w86763777;

// A conversion goes through these files in this order: `detect` finds the family; `ho`, `openai` or `w86763777` lists
// the blocks as a `Skeleton`; `config`, `assumptions` and `parameters` are the same for all families; `transform`
// converts the tensors.
pub use options::{Heads, ImportOptions};

use crate::shown::shown;
use crate::{Archive, Error, Result, Tensors, names, pipeline};
use detect::{Detected, Family, detect};
use files::Reading;
use layout::{Layout, Shapes};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A network in diffusers' terms.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The name of the family.
    pub family: &'static str,
    /// Whether the weights are moving averages (EMA), not those of the last step.
    pub ema: bool,
    /// The prefix of the parameters' names in the file, such as `ema_model.`.
    pub prefix: String,
    /// The `config.json` of the `UNet2DModel`.
    pub config: Value,
    /// The `scheduler_config.json` of the process that the family trains by default.
    pub scheduler: Value,
    /// The parameters by diffusers' names.
    pub tensors: Tensors,
    /// Assumptions and warnings for the user.
    pub notes: Vec<String>,
    /// The label that stands for no class, if the network has one.
    pub null_label: Option<u32>,
    /// What neither the file nor its family says, and `scheduler` therefore has the defaults of, which may be wrong.
    pub unrecorded: Vec<Unrecorded>,
}

/// A setting of the process that a file does not record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecorded {
    /// The noise schedule and its number of timesteps.
    Schedule,
    /// The quantity that the network predicts.
    Prediction,
}

/// Reads a network of any supported family from a file of any format that [`Archive`] opens.
///
/// # Errors
/// If the file cannot be read, the tensors do not match a known family, or the network cannot be a `UNet2DModel`. The
/// error names the tensor or the reason.
pub fn import(path: impl AsRef<Path>, options: &ImportOptions) -> Result<Imported> {
    let path = path.as_ref();
    let _reading = Reading::new(path);
    let archive = Archive::open(path)?;
    let found = detect(&archive, options.raw).map_err(|reason| Error::file(path, reason))?;
    options.check(found.family).map_err(|reason| found.error(&archive, reason))?;
    let mut notes = Vec::new();
    notes.extend(found.evidence.clone());
    if !options.raw && !found.ema {
        notes.push(
            "no weights in the file are named as moving averages (EMA), so these may be the weights of the last step"
                .to_owned(),
        );
    }
    let Some(family) = layout(found.family) else {
        return match found.family {
            Family::Lucidrains => lucidrains::import(&archive, found, options, notes),
            Family::Edm => edm::import(&archive, found, options, notes),
            Family::Hmdolatabadi => hmdolatabadi::import(&archive, found, options, notes),
            _ => diffusers(path, &archive, &found, notes),
        };
    };
    let fail = |reason: String| found.error(&archive, reason);
    let shapes = Shapes { family: &family, of: &found.names };
    let skeleton = (family.skeleton)(&shapes).map_err(fail)?;
    let mut config = config::config(&skeleton, &shapes).map_err(fail)?;
    let head = assumptions::heads(&skeleton, &shapes, options, &mut config, &mut notes).map_err(fail)?;
    let size = options.sample_size.or_else(|| assumptions::sample_size(&skeleton, found.family, &config, &mut notes));
    config["sample_size"] = json!(size);

    let parameters = parameters::parameters(&skeleton, &shapes, head.filter(|_| !options.new_attention_order));
    let mut unused: BTreeSet<&str> =
        found.names.keys().map(|name| &**name).filter(|name| !(family.ignored)(name)).collect();
    let mut sources = BTreeMap::new();
    for parameter in &parameters {
        unused.remove(&*parameter.source);
        match found.names.get(&parameter.source) {
            Some(source) => sources.insert(&*parameter.source, &*source.name),
            None => {
                let name = shown(format_args!("{}{}", found.prefix, parameter.source));
                return Err(fail(format!("tensor `{name}` is missing")));
            }
        };
    }
    if let Some(name) = unused.first() {
        let name = shown(format_args!("{}{name}", found.prefix));
        return Err(fail(format!("tensor `{name}` has no counterpart in a UNet2DModel")));
    }
    let wanted: Vec<&str> = sources.values().copied().collect();
    let loaded = archive.read(&wanted)?;
    let mut tensors = Tensors::new();
    for parameter in &parameters {
        let full = sources[&*parameter.source];
        let Some(tensor) = loaded.get(full) else {
            return Err(Error::tensor(path, full, "is not in the file"));
        };
        let tensor =
            transform::apply(tensor, &parameter.transforms).map_err(|reason| Error::tensor(path, full, reason))?;
        tensors.insert(parameter.target.clone(), tensor);
    }
    let betas = recorded_betas(&archive)?;
    let scheduler = assumptions::scheduler(found.family, &config, size, betas, &mut notes);
    let (ema, prefix) = (found.ema, found.prefix);
    let family = found.family.name();
    Ok(Imported { family, ema, prefix, config, scheduler, tensors, notes, null_label: None, unrecorded: Vec::new() })
}

/// Reads the betas of the process, which some programs store with the network: its tensor's name and values.
fn recorded_betas(archive: &Archive) -> Result<Option<(String, Vec<f32>)>> {
    /// Larger tensors are no betas.
    const MAX_TIMESTEPS: usize = 100_000;
    let is_betas =
        |name: &str, shape: &[usize]| name.rsplit('.').next() == Some("betas") && matches!(shape, [1..=MAX_TIMESTEPS]);
    let mut names = archive.shapes().filter(|(name, shape)| is_betas(name, shape)).map(|(name, _)| name);
    let Some(name) = names.next() else {
        return Ok(None);
    };
    let betas = archive.read(&[name])?.remove(name);
    Ok(betas.map(|betas| (name.to_owned(), betas.data)))
}

/// Reads diffusers' own weights, with the configuration in the same folder.
fn diffusers(path: &Path, archive: &Archive, found: &Detected, mut notes: Vec<String>) -> Result<Imported> {
    let folder = files::parent(path);
    let read = |path: &Path| {
        let text = files::read_json_text(path).map_err(Error::read(path))?;
        serde_json::from_str(&text).map_err(|error| Error::file(path, format!("not JSON: {}", shown(error))))
    };
    let config = folder.join("config.json");
    let config: Value = match config.symlink_metadata().is_ok() {
        true => read(&config)?,
        false => {
            let reason = "diffusers weights without a configuration, which they need for padding, time embedding and \
                          attention heads: put the config.json of the UNet2DModel into the same folder";
            return Err(Error::file(path, reason));
        }
    };
    let surroundings = pipeline::surroundings(folder)?;
    notes.extend(surroundings.notes);
    let scheduler = match &surroundings.scheduler_config {
        Some(path) => read(path)?,
        None => assumptions::ddpm("fixed_small", 0.0001, 0.02),
    };
    let tensors = names::modernize(path, found.read(archive)?)?;
    let (family, ema, prefix) = (found.family.name(), found.ema, found.prefix.clone());
    Ok(Imported { family, ema, prefix, config, scheduler, tensors, notes, null_label: None, unrecorded: Vec::new() })
}

/// Returns the layout of a family whose networks become a `UNet2DModel`; `None` for those that keep their names.
fn layout(family: Family) -> Option<Layout> {
    match family {
        Family::HoTorch => Some(ho::HO),
        Family::HoTensorFlow => Some(ho::HO_TENSORFLOW),
        Family::OpenAi => Some(openai::OPENAI),
        Family::W86763777 => Some(w86763777::W86763777),
        Family::Diffusers | Family::Lucidrains | Family::Edm | Family::Hmdolatabadi => None,
    }
}
