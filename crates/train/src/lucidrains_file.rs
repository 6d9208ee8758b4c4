//! Checkpoints of a run as files of the `Trainer` of denoising-diffusion-pytorch, which goes on from them.

use std::path::Path;

use burn::tensor::Device;
use diffusion::{NoiseSchedule, Prediction};
use serde_json::Value;
use unet::lucidrains::{LucidrainsConfig, Version};
use weights::{Tensor, Tensors, TorchValue, write_torch_value};

use crate::config::{Loss, TrainingConfig};
use crate::{Error, checkpoint};

/// The version of denoising-diffusion-pytorch whose files these are.
const VERSION: &str = "2.3.4";

/// Writes a checkpoint folder of a run as `model-N.pt`: step, parameters, averages, and Adam's moments.
///
/// The file is for a `Trainer` whose `Unet` and `GaussianDiffusion` have the arguments of the run. Its `GaussianDiffusion` has the buffers
/// of the run's noise schedule and loss.
///
/// # Errors
/// If the folder is not an undamaged checkpoint of a run, its network is not a `Unet` of version 2, `GaussianDiffusion` does not
/// have its prediction or loss, or the file cannot be written.
pub fn write_trainer_file(folder: &Path, output: &Path) -> Result<(), Error> {
    let refuse = |reason: String| Error::Run(format!("{}: {reason}", folder.display()));
    if !folder.join("training/state.json").is_file() {
        return Err(refuse(
            "is no checkpoint of a run, and has no state of an optimizer, which a file of a trainer has".into(),
        ));
    }
    let config = TrainingConfig::from_file(&folder.join("training/config.toml"))?;
    let checkpoint = checkpoint::load(folder, &Device::flex())?;
    let text = checkpoint.network.config();
    let class = serde_json::from_str::<Value>(&text).unwrap_or_default()["_class_name"].clone();
    if class != LucidrainsConfig::CLASS_NAME {
        return Err(refuse(format!(
            "its network is {class}; only those of denoising-diffusion-pytorch have such files"
        )));
    }
    let network = LucidrainsConfig::from_json(&text).map_err(model::Error::from)?;
    if network.version != Version::default() || network.num_classes > 0 {
        return Err(refuse(
            "its network is of an older version than 2 or has classes, for which there is no trainer".into(),
        ));
    }
    if network.learned_variance {
        return Err(refuse(
            "its network has a learned variance, which the trainer's `GaussianDiffusion` does not have".into(),
        ));
    }
    let schedule = checkpoint.scheduler.noise_schedule()?;
    let buffers = buffers(&schedule, checkpoint.scheduler.prediction_type, &config).map_err(refuse)?;

    let [moments1, moments2, averages] = checkpoint.optimizer.values();
    let (parameters, network_of) = (checkpoint.network.tensors()?, &checkpoint.network);
    let order = order(&parameters);
    let averages = network_of.tensors_of(averages)?;
    let state = |tensors: &Tensors, prefix: &str| {
        let buffers = buffers.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor));
        let parameters = order.iter().map(|name| (format!("{prefix}model.{name}"), &tensors[*name]));
        let entry = |(name, tensor): (String, &Tensor)| (TorchValue::Text(name), TorchValue::Tensor(tensor.clone()));
        buffers.chain(parameters).map(entry).collect::<Vec<_>>()
    };
    let updates = checkpoint.state.updates;
    let mut ema = vec![
        (TorchValue::Text("initted".into()), TorchValue::BoolTensor(true)),
        (TorchValue::Text("step".into()), TorchValue::IntTensor(updates as i64)),
    ];
    ema.extend(state(&parameters, "online_model."));
    ema.extend(state(&averages, "ema_model."));
    let optimizer = optimizer(
        &order,
        [network_of.tensors_of(moments1)?, network_of.tensors_of(moments2)?],
        updates,
        &config,
        network.random_fourier_features,
    );
    let file = TorchValue::dict([
        ("step", TorchValue::Int(checkpoint.state.step as i64)),
        ("model", TorchValue::Dict(state(&parameters, ""))),
        ("opt", optimizer),
        ("ema", TorchValue::Dict(ema)),
        ("scaler", TorchValue::None),
        ("version", TorchValue::Text(VERSION.into())),
    ]);
    Ok(write_torch_value(output, &file)?)
}

/// Returns the state of PyTorch's Adam, which numbers the parameters.
fn optimizer(
    order: &[&str],
    [moments1, moments2]: [Tensors; 2],
    updates: u64,
    config: &TrainingConfig,
    random_frequencies: bool,
) -> TorchValue {
    let train = &config.train;
    let step = Tensor { shape: Vec::new(), data: vec![updates as f32] };
    let is_trained = |name: &str| !(random_frequencies && name == "time_mlp.0.weights");
    let slots = order.iter().enumerate().filter(|(_, name)| updates > 0 && is_trained(name)).map(|(i, name)| {
        let slot = TorchValue::dict([
            ("step", TorchValue::Tensor(step.clone())),
            ("exp_avg", TorchValue::Tensor(moments1[*name].clone())),
            ("exp_avg_sq", TorchValue::Tensor(moments2[*name].clone())),
        ]);
        (TorchValue::Int(i as i64), slot)
    });
    let group = TorchValue::dict([
        ("lr", TorchValue::Float(train.learning_rate)),
        ("betas", TorchValue::Tuple(vec![TorchValue::Float(train.beta1), TorchValue::Float(train.beta2)])),
        ("eps", TorchValue::Float(train.adam_eps)),
        ("weight_decay", TorchValue::Float(0.0)),
        ("amsgrad", TorchValue::Bool(false)),
        ("maximize", TorchValue::Bool(false)),
        ("foreach", TorchValue::None),
        ("capturable", TorchValue::Bool(false)),
        ("differentiable", TorchValue::Bool(false)),
        ("fused", TorchValue::None),
        ("params", TorchValue::List((0..order.len()).map(|i| TorchValue::Int(i as i64)).collect())),
    ]);
    TorchValue::dict([("state", TorchValue::Dict(slots.collect())), ("param_groups", TorchValue::List(vec![group]))])
}

/// Returns the names in the order in which the modules of `Unet` register their parameters: a module's own before those of its parts.
fn order(parameters: &Tensors) -> Vec<&str> {
    const PARTS: [&str; 9] = [
        "init_conv",
        "time_mlp",
        "downs",
        "ups",
        "mid_block1",
        "mid_attn",
        "mid_block2",
        "final_res_block",
        "final_conv",
    ];
    // Of residual blocks and attentions, and of a layer.
    const LAYERS: [&str; 10] =
        ["mem_kv", "mlp", "block1", "block2", "res_conv", "norm", "to_qkv", "to_out", "weight", "bias"];
    let place = |word: &str| -> usize {
        let number = word.parse::<usize>().ok();
        let named = |words: &[&str]| words.iter().position(|known| *known == word);
        number.or(named(&PARTS)).or(named(&LAYERS)).unwrap_or(usize::MAX)
    };
    let key = |name: &str| -> Vec<usize> {
        let words: Vec<&str> = name.split('.').collect();
        // `proj` comes before `norm` in a block.
        words.iter().map(|word| if *word == "proj" { 0 } else { place(word) }).collect()
    };
    let mut names: Vec<&str> = parameters.keys().map(String::as_str).collect();
    names.sort_by_key(|name| key(name));
    names
}

/// Returns the buffers of `GaussianDiffusion`, in its order.
fn buffers(
    schedule: &NoiseSchedule,
    prediction: Prediction,
    config: &TrainingConfig,
) -> Result<Vec<(&'static str, Tensor)>, String> {
    let gamma = match config.diffusion.loss {
        Loss::LSimple => f64::INFINITY,
        Loss::MinSnr => config.diffusion.min_snr_gamma,
        Loss::Vlb | Loss::Hybrid | Loss::Weights => {
            return Err("`GaussianDiffusion` does not have its loss; it has l_simple and min_snr".into());
        }
    };
    let weight: fn(f64, f64) -> f64 = match prediction {
        Prediction::Epsilon => |snr, clipped| clipped / snr,
        Prediction::Sample => |_, clipped| clipped,
        Prediction::VPrediction => |snr, clipped| clipped / (snr + 1.0),
        other => return Err(format!("`GaussianDiffusion` does not have the prediction {other}")),
    };
    let steps = schedule.len();
    let of = |value: &dyn Fn(usize) -> f64| Tensor {
        shape: vec![steps],
        data: (0..steps).map(|t| value(t) as f32).collect(),
    };
    let bar = |t: usize| schedule.alpha_cumprod(t);
    let before = |t: usize| if t == 0 { 1.0 } else { bar(t - 1) };
    let posterior = |t: usize| schedule.posterior(t);
    Ok(vec![
        ("betas", of(&|t| schedule.betas()[t])),
        ("alphas_cumprod", of(&bar)),
        ("alphas_cumprod_prev", of(&before)),
        ("sqrt_alphas_cumprod", of(&|t| bar(t).sqrt())),
        ("sqrt_one_minus_alphas_cumprod", of(&|t| (1.0 - bar(t)).sqrt())),
        ("log_one_minus_alphas_cumprod", of(&|t| (1.0 - bar(t)).ln())),
        ("sqrt_recip_alphas_cumprod", of(&|t| (1.0 / bar(t)).sqrt())),
        ("sqrt_recipm1_alphas_cumprod", of(&|t| (1.0 / bar(t) - 1.0).sqrt())),
        ("posterior_variance", of(&|t| posterior(t).variance)),
        ("posterior_log_variance_clipped", of(&|t| posterior(t).variance.max(1e-20).ln())),
        ("posterior_mean_coef1", of(&|t| posterior(t).coef_x0)),
        ("posterior_mean_coef2", of(&|t| posterior(t).coef_xt)),
        ("loss_weight", of(&|t| weight(schedule.snr(t), schedule.snr(t).min(gamma)))),
    ])
}
