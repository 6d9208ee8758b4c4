//! The networks of NVlabs/edm: `SongUNet` and `DhariwalUNet` in `EDMPrecond`, from `network-snapshot-*.pkl` or
//! `training-state-*.pt`.
//!
//! Both files are pickles of whole modules, with their source code and the arguments of their constructors. The code is not
//! run; the arguments are the configuration.

use serde_json::{Value, json};

use super::Imported;
use super::detect::Detected;
use super::options::ImportOptions;
use crate::shown::shown;
use crate::{Archive, Result};
use diffusion::beta_schedule::KARRAS_SIGMAS;
use diffusion::prediction::SIGMA_DATA;

/// Buffers that follow from the configuration.
const FILTER: &str = ".resample_filter";

/// Reads a network that was found in an archive.
pub(super) fn import(
    archive: &Archive,
    found: Detected,
    options: &ImportOptions,
    mut notes: Vec<String>,
) -> Result<Imported> {
    let fail = |reason: String| found.error(archive, reason);
    let inside = found.prefix.trim_end_matches('.');
    let around = inside.strip_suffix(".model").unwrap_or("");
    let (Some(network), Some(preconditioner)) = (archive.module(inside)?, archive.module(around)?) else {
        return Err(fail(
            "the file has its weights without its configuration; import network-snapshot-*.pkl or training-state-*.pt, \
             which have both"
                .into(),
        ));
    };
    let class = preconditioner.class;
    if class != "EDMPrecond" {
        return Err(fail(format!(
            "its preconditioner is `{}`, which is not supported; expected EDMPrecond",
            shown(class)
        )));
    }
    if let Some(name) = network.unread.first() {
        return Err(fail(format!(
            "the arguments of its {} have {}, which is no plain value",
            network.class,
            shown(name)
        )));
    }
    let attribute = |name: &str| preconditioner.attributes.get(name).and_then(Value::as_f64);
    let expected = |name: &str, found: Option<f64>, expected: &str| {
        let found = found.map_or("missing or not finite".to_owned(), |found| found.to_string());
        fail(format!("its `{name}` is {found}, which is not supported; expected {expected}"))
    };
    if attribute("sigma_data") != Some(SIGMA_DATA) {
        return Err(expected("sigma_data", attribute("sigma_data"), "0.5"));
    }
    // The original's sampler keeps to this range, which is unlimited unless it was given.
    let [least, greatest] = KARRAS_SIGMAS;
    if let Some(sigma) = attribute("sigma_min").filter(|sigma| *sigma > least) {
        return Err(expected("sigma_min", Some(sigma), "0.002 at most"));
    }
    if let Some(sigma) = attribute("sigma_max").filter(|sigma| *sigma < greatest) {
        return Err(expected("sigma_max", Some(sigma), "80 at least"));
    }
    if !["SongUNet", "DhariwalUNet"].contains(&&*network.class) {
        let class = shown(network.class);
        return Err(fail(format!(
            "its network is a `{class}`, which is not supported; expected SongUNet or DhariwalUNet"
        )));
    }
    if network.arguments.is_empty() {
        return Err(fail("the file does not record the arguments of its network".into()));
    }
    let mut config = json!({ "_class_name": network.class });
    if let Some(keys) = config.as_object_mut() {
        keys.extend(network.arguments);
    }
    if let Some(size) = options.sample_size
        && config["img_resolution"].as_u64() != u64::try_from(size).ok()
    {
        return Err(fail(format!("its size is {}, as the file says, not {size} (--size)", config["img_resolution"])));
    }
    notes.push("σ/α of the process: 0.002 to 80, the defaults of the original's generate.py".into());
    let label_dim = config["label_dim"].as_u64().unwrap_or(0);
    if config["augment_dim"].as_u64().is_some_and(|width| width > 0) {
        notes.push("it was trained with augmented images; it is sampled, and can be trained, without".into());
    }
    let mut tensors = found.read(archive)?;
    let filter: Vec<f64> = config["resample_filter"]
        .as_array()
        .map_or(vec![1.0, 1.0], |taps| taps.iter().filter_map(Value::as_f64).collect());
    let sum: f64 = filter.iter().sum();
    let product: Vec<f64> = filter.iter().flat_map(|a| filter.iter().map(move |b| a * b / (sum * sum))).collect();
    for (name, tensor) in tensors.iter().filter(|(name, _)| name.ends_with(FILTER)) {
        let is_same = |(found, expected): (&f32, &f64)| (f64::from(*found) - expected).abs() < 1e-6;
        if tensor.data.len() != product.len() || !tensor.data.iter().zip(&product).all(is_same) {
            return Err(fail(format!("tensor `{}` is not that of the argument `resample_filter`", shown(name))));
        }
    }
    tensors.retain(|name, _| !name.ends_with(FILTER));
    let scheduler = json!({ "_class_name": "EDMEulerScheduler" });
    let (family, ema, prefix) = (found.family.name(), found.ema, found.prefix);
    // Without a class it was trained only if labels were dropped.
    let drops_labels = config["label_dropout"].as_f64().is_some_and(|p| p > 0.0);
    let null_label = u32::try_from(label_dim).ok().filter(|_| label_dim > 0 && drops_labels);
    Ok(Imported { family, ema, prefix, config, scheduler, tensors, notes, null_label, unrecorded: Vec::new() })
}
