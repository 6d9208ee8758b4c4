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
use crate::{Archive, Error, Result};

/// Buffers that follow from the configuration.
const FILTER: &str = ".resample_filter";
/// The only σ_data that is supported, that of all published networks.
const SIGMA_DATA: f64 = 0.5;

/// Reads a network that was found in an archive.
pub(super) fn import(
    archive: &Archive,
    mut found: Detected,
    options: &ImportOptions,
    mut notes: Vec<String>,
) -> Result<Imported> {
    let path = archive.path();
    let fail = |reason: String| Error::file(path, format!("a network of {}: {reason}", found.family.name()));
    let inside = found.prefix.trim_end_matches('.');
    let around = inside.strip_suffix("model").unwrap_or(inside).trim_end_matches('.');
    let (Some(network), Some(preconditioner)) = (archive.module(inside), archive.module(around)) else {
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
    let sigma_data = preconditioner.attributes.get("sigma_data").and_then(Value::as_f64);
    if sigma_data != Some(SIGMA_DATA) {
        let found = preconditioner.attributes.get("sigma_data").map_or("missing".to_owned(), Value::to_string);
        return Err(fail(format!("its `sigma_data` is {found}, which is not supported; expected {SIGMA_DATA}")));
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
    notes.push("σ/α of the process: 0.002 to 80, as the original samples; the file records no range".into());
    let label_dim = config["label_dim"].as_u64().unwrap_or(0);
    if config["augment_dim"].as_u64().is_some_and(|width| width > 0) {
        notes.push("it was trained with augmented images; it is sampled, and can be trained, without".into());
    }
    found.names.retain(|name, _| !name.ends_with(FILTER));
    let tensors = found.read(archive)?;
    let scheduler = json!({ "_class_name": "EDMEulerScheduler" });
    let (family, ema, prefix) = (found.family.name(), found.ema, found.prefix);
    let null_label = (label_dim > 0).then(|| u32::try_from(label_dim)).and_then(std::result::Result::ok);
    Ok(Imported { family, ema, prefix, config, scheduler, tensors, notes, null_label, unrecorded: Vec::new() })
}
