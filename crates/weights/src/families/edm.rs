//! The networks of NVlabs/edm: `SongUNet` and `DhariwalUNet` in one of its preconditioners, from `network-snapshot-*.pkl` or
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
use diffusion::Prediction;
use diffusion::beta_schedule::{KARRAS_SIGMAS, VE_SIGMAS, VP_BETA_D, VP_BETA_MIN, VP_FIRST_TIME};
use diffusion::prediction::{EDM_IDDPM_TIMESTEPS, SIGMA_DATA};

/// A preconditioner of the original.
struct Preconditioner {
    class: &'static str,
    prediction: Prediction,
    /// The attributes that must have these values.
    settings: &'static [(&'static str, f64)],
}

/// The preconditioners that are read.
const PRECONDITIONERS: [Preconditioner; 4] = [
    Preconditioner { class: "EDMPrecond", prediction: Prediction::Edm, settings: &[("sigma_data", SIGMA_DATA)] },
    Preconditioner {
        class: "VPPrecond",
        prediction: Prediction::EdmVp,
        settings: &[("beta_d", VP_BETA_D), ("beta_min", VP_BETA_MIN), ("M", 1000.0), ("epsilon_t", VP_FIRST_TIME)],
    },
    Preconditioner {
        class: "VEPrecond",
        prediction: Prediction::EdmVe,
        settings: &[("sigma_min", VE_SIGMAS[0]), ("sigma_max", VE_SIGMAS[1])],
    },
    Preconditioner {
        class: "iDDPMPrecond",
        prediction: Prediction::EdmIddpm,
        settings: &[("C_1", 0.001), ("C_2", 0.008), ("M", EDM_IDDPM_TIMESTEPS as f64)],
    },
];

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
    let class = &*preconditioner.class;
    let Some(known) = PRECONDITIONERS.iter().find(|known| known.class == class) else {
        let names: Vec<&str> = PRECONDITIONERS.iter().map(|known| known.class).collect();
        return Err(fail(format!(
            "its preconditioner is `{}`, which is not supported; expected {}",
            shown(class),
            names.join(", ")
        )));
    };
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
    for &(name, value) in known.settings {
        if attribute(name) != Some(value) {
            return Err(expected(name, attribute(name), &value.to_string()));
        }
    }
    if known.prediction == Prediction::Edm {
        // The original's sampler keeps to this range, which is unlimited unless it was given.
        let [least, greatest] = KARRAS_SIGMAS;
        if let Some(sigma) = attribute("sigma_min").filter(|sigma| *sigma > least) {
            return Err(expected("sigma_min", Some(sigma), "0.002 at most"));
        }
        if let Some(sigma) = attribute("sigma_max").filter(|sigma| *sigma < greatest) {
            return Err(expected("sigma_max", Some(sigma), "80 at least"));
        }
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
    if known.prediction == Prediction::Edm {
        notes.push("σ/α of the process: 0.002 to 80, the defaults of the original's generate.py".into());
    } else {
        notes.push(format!(
            "the process is that of {class}; samplers of higher order begin at σ/α = 80, as the original's generate.py"
        ));
    }
    if known.prediction == Prediction::EdmIddpm {
        notes.push("the second half of the output's channels, a variance, is not used, as in the original".into());
    }
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
    let scheduler = match known.prediction {
        Prediction::Edm => json!({ "_class_name": "EDMEulerScheduler" }),
        prediction => json!({
            "_class_name": "DDIMScheduler",
            "beta_schedule": prediction.own_schedule(),
            "clip_sample": false,
            "prediction_type": prediction,
            "timestep_spacing": "linspace",
        }),
    };
    let (family, ema, prefix) = (found.family.name(), found.ema, found.prefix);
    // Without a class it was trained only if labels were dropped.
    let drops_labels = config["label_dropout"].as_f64().is_some_and(|p| p > 0.0);
    let null_label = u32::try_from(label_dim).ok().filter(|_| label_dim > 0 && drops_labels);
    Ok(Imported { family, ema, prefix, config, scheduler, tensors, notes, null_label, unrecorded: Vec::new() })
}
