//! `ddpm import` and `ddpm export`.

use std::path::{Path, PathBuf};

use clap::Args;
use ddpm::diffusion::{BetaSchedule, Prediction, Variance};
use ddpm::model::pipeline::Precision;
use ddpm::model::{PipelineImport, Sampling};
use ddpm::train::power_ema::{self, Reconstruction};
use ddpm::weights::families::{Heads, ImportOptions, Imported};
use ddpm::{Pipeline, weights};

use crate::error::usage;
use crate::interrupt::on_interrupt;
use crate::terminal::{grouped, quoted, say};
use crate::{Global, model_source, values};

/// Convert a checkpoint of another code base to a diffusers folder.
///
/// FILE is a torch file (.pt, .pth, .bin, .ckpt; zip or legacy), a pickle (.pkl), .safetensors, an index of shards, or a
/// TensorFlow checkpoint (its .index). No code in it is run: a pickle that calls anything but the constructors of tensors and
/// plain values is refused by name. The code base is recognized by the names of the tensors: Ho et al.'s release and its ports
/// to torch, improved- and guided-diffusion, w86763777/pytorch-ddpm, lucidrains/denoising-diffusion-pytorch from 0.28, NVlabs/edm,
/// hmdolatabadi/denoising_diffusion, diffusers of any age.
/// Averaged (EMA) weights are used if the file has them, also under the names of CompVis' `LitEma`.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm import model.ckpt-790000.index -o ho-cifar10\n  \
    ddpm import 256x256_diffusion_uncond.pt -o adm256 --head-channels 64\n  \
    ddpm import ckpt.pt -o mine --raw                       the weights of the last step, not their averages\n  \
    ddpm import ema_0.9999_500000.pt -o improved --beta-schedule cosine --train-timesteps 4000\n  \
    ddpm import results/model-100.pt -o mine --size 128     of lucidrains' Trainer\n  \
    ddpm import edm-cifar10-32x32-cond-vp.pkl -o edm        of NVlabs/edm\n  \
    ddpm sample ho-cifar10 -n 64 -o grid.png")]
pub struct ImportArgs {
    /// The checkpoint
    file: PathBuf,
    /// The folder to write, which must not exist
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// Use the weights of the last step even if the file has averages
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    process: ProcessArgs,
}

/// Settings of the network that its weights do not record.
#[derive(Args)]
#[command(next_help_heading = "Network")]
struct NetworkArgs {
    /// Attention heads of an OpenAI network (num_heads)
    #[arg(long, conflicts_with = "head_channels", value_parser = values::positive, value_name = "N")]
    heads: Option<usize>,
    /// Channels of each attention head of an OpenAI network (num_head_channels)
    #[arg(long, value_parser = values::positive, value_name = "N")]
    head_channels: Option<usize>,
    /// guided-diffusion's use_new_attention_order
    #[arg(long)]
    new_attention_order: bool,
    /// Height and width of the images, if the file does not say
    #[arg(long, value_name = "SIZE")]
    size: Option<usize>,
    /// Version of denoising-diffusion-pytorch, if the file does not say
    #[arg(long, value_name = "VERSION")]
    code_version: Option<String>,
}

/// Settings of the process that the network was trained for.
#[derive(Args)]
#[command(next_help_heading = "Process")]
struct ProcessArgs {
    /// Number of timesteps T. Defaults to the code base's
    #[arg(long, alias = "timesteps", value_parser = values::positive, value_name = "T")]
    train_timesteps: Option<usize>,
    /// Noise schedule. Defaults to the code base's
    #[arg(long, alias = "schedule", value_parser = values::beta_schedule(), value_name = "NAME")]
    beta_schedule: Option<BetaSchedule>,
    /// Prediction of the network. Defaults to the code base's
    #[arg(long, value_parser = values::prediction(), value_name = "NAME")]
    prediction: Option<Prediction>,
    /// Variance of the reverse process. Defaults to the code base's
    #[arg(long, value_parser = values::variance(), value_name = "KIND")]
    variance: Option<Variance>,
}

impl ProcessArgs {
    /// Returns a note about what replaces what the other notes say.
    fn note(&self) -> Option<String> {
        let given = [
            self.train_timesteps.map(|steps| format!("{steps} timesteps")),
            self.beta_schedule.map(|schedule| format!("the schedule {schedule}")),
            self.prediction.map(|prediction| format!("the prediction {prediction}")),
            self.variance.map(|variance| format!("the variance {variance}")),
        ];
        let given: Vec<String> = given.into_iter().flatten().collect();
        (!given.is_empty()).then(|| format!("the options replace what is above: {}", given.join(", ")))
    }
}

pub fn import(arguments: ImportArgs, global: &Global) -> anyhow::Result<()> {
    on_interrupt("nothing was written; start again with")?;
    if arguments.output.exists() {
        let path = arguments.output.display();
        return Err(usage(format!("{path}: is there already; choose another folder, or remove it")));
    }
    if arguments.file.is_dir()
        && let Ok(files) = weights::pipeline::locate(&arguments.file)
    {
        let [from, to] = [&files.root, &arguments.output].map(|path| quoted(&path.to_string_lossy()));
        return Err(usage(format!(
            "{}: is a diffusers folder already, which every command reads; `ddpm export {from} -o {to}` copies the model",
            arguments.file.display()
        )));
    }
    let ImportArgs { raw, network, process, .. } = &arguments;
    let heads = network.heads.map(Heads::Count).or(network.head_channels.map(Heads::Channels));
    let new_attention_order = network.new_attention_order;
    let options = PipelineImport {
        network: ImportOptions {
            raw: *raw,
            heads,
            new_attention_order,
            sample_size: network.size,
            code_version: network.code_version.clone(),
        },
        timesteps: process.train_timesteps,
        beta_schedule: process.beta_schedule,
        prediction: process.prediction,
        variance: process.variance,
    };
    let (pipeline, imported) = Pipeline::import(&arguments.file, &options, &global.device()?)?;
    pipeline.save(&arguments.output)?;

    let Imported { family, ema, mut notes, .. } = imported;
    notes.extend(process.note());
    let parameters = pipeline.network.parameter_count();
    if global.json {
        let object = serde_json::json!({
            "output": arguments.output.to_string_lossy(), "family": family, "ema": ema, "parameters": parameters, "notes": notes,
        });
        println!("{object}");
        return Ok(());
    }
    let weights = if ema { "averaged (EMA) weights" } else { "weights" };
    println!("{family}: {} parameters, {weights}", grouped(parameters));
    for note in notes {
        println!("note: {note}");
    }
    println!("{}", arguments.output.display());
    Ok(())
}

/// Write a model as a plain diffusers folder, or its weights as a file for PyTorch.
///
/// MODEL is what `ddpm sample` takes: a run, a checkpoint, a diffusers folder of any age. FOLDER gets what
/// `DDPMPipeline.from_pretrained` reads, and how images are preprocessed; exporting it again gives the same bytes.
///
/// A file that ends in .pt or .pth gets the state dictionary of the network alone, with the names of its code: diffusers'
/// UNet2DModel, or the networks of denoising-diffusion-pytorch, NVlabs/edm and hmdolatabadi/denoising_diffusion.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm export runs/fashion -o fashion-ddpm\n  \
    ddpm export runs/fashion/checkpoints/best -o fashion-best\n  \
    ddpm export fashion -o clothes --half                       the model in this program, weights in f16\n  \
    ddpm export runs/fashion -o longer --ema-length 0.15        an average of another length\n  \
    ddpm export mine -o mine.pt                                 network.load_state_dict(torch.load(\"mine.pt\"))\n  \
    ddpm export runs/lu -o results/model-1.pt --trainer         trainer.load(1)")]
pub struct ExportArgs {
    /// A run, a checkpoint or a diffusers folder
    model: PathBuf,
    /// The folder to write, which must not exist, or a file that ends in .pt or .pth
    #[arg(short, long, value_name = "FOLDER|FILE.pt")]
    output: PathBuf,
    /// Write a checkpoint of a run as the Trainer of denoising-diffusion-pytorch saves it (model-N.pt): parameters, averages and the
    /// state of the optimizer, for a network of that code
    #[arg(long, conflicts_with_all = ["half", "ema_length"])]
    trainer: bool,
    /// Write the weights in f16: half the size, rounded to 11 bits
    #[arg(long)]
    half: bool,
    /// Average the parameters over another length, of a run with `train.ema_lengths`: 0.1 is the standard deviation of the average
    /// relative to the length of the run (σ_rel of EDM2)
    #[arg(long, value_name = "LENGTH")]
    ema_length: Option<f64>,
}

/// Returns the flags of `ddpm sample` that draw as a run does.
fn sampling_flags(sampling: &Sampling) -> String {
    let Sampling { sampler, steps, eta, guidance, guidance_interval } = sampling;
    let mut flags = format!("--sampler {sampler}");
    if let Some(steps) = steps {
        flags += &format!(" --steps {steps}");
    }
    if *eta != 0.0 && sampler == "ddim" {
        flags += &format!(" --eta {eta}");
    }
    if *guidance != 1.0 {
        flags += &format!(" --guidance {guidance}");
        if let Some((from, to)) = guidance_interval {
            flags += &format!(" --guidance-interval {from},{to}");
        }
    }
    flags
}

/// Extensions of files that people expect an export to be.
const FILES: [&str; 6] = ["safetensors", "ckpt", "bin", "onnx", "zip", "tar"];
/// Extensions of files with a state dictionary.
const STATE_DICTS: [&str; 2] = ["pt", "pth"];

pub fn export(arguments: ExportArgs, global: &Global) -> anyhow::Result<()> {
    on_interrupt("nothing was written; start again with")?;
    let extension = arguments.output.extension().map(|end| end.to_string_lossy().to_lowercase());
    if let Some(end) = extension.as_deref().filter(|end| FILES.contains(end)) {
        let path = arguments.output.display();
        return Err(usage(format!(
            "{path}: export writes a folder or a .pt file, not a .{end} file; the weights are in the folder, as \
             unet/diffusion_pytorch_model.safetensors"
        )));
    }
    let is_state_dict = extension.is_some_and(|end| STATE_DICTS.contains(&&*end));
    if is_state_dict && arguments.output.exists() {
        let path = arguments.output.display();
        return Err(usage(format!("{path}: is there already; choose another file, or remove it")));
    }
    if arguments.trainer && !is_state_dict {
        let path = arguments.output.display();
        return Err(usage(format!("{path}: --trainer writes a file, such as model-1.pt")));
    }
    let mut pipeline = model_source::load(&arguments.model, global)?;
    if let Some(length) = arguments.ema_length {
        say(reaverage(&mut pipeline, length)?, global);
    }
    let precision = if arguments.half { Precision::F16 } else { Precision::F32 };
    if arguments.trainer {
        ddpm::train::lucidrains_file::write_trainer_file(&pipeline.root, &arguments.output)?;
    } else if is_state_dict {
        pipeline.save_state_dict(&arguments.output, precision)?;
    } else {
        pipeline.save_as(&arguments.output, precision)?;
    }
    if let Some(sampling) = &pipeline.sampling {
        let flags = sampling_flags(sampling);
        let what = if is_state_dict { "a state dictionary" } else { "a diffusers folder" };
        say(format!("{what} does not say how the run draws its samples: {flags}"), global);
    }
    if global.json {
        let parameters = pipeline.network.parameter_count();
        println!("{}", serde_json::json!({ "output": arguments.output.to_string_lossy(), "parameters": parameters }));
    } else if !global.quiet {
        eprintln!("{}", arguments.output.display());
    }
    Ok(())
}

/// Replaces the weights of a run's checkpoint by an average of another length, and says of what it was made.
fn reaverage(pipeline: &mut Pipeline, length: f64) -> anyhow::Result<String> {
    /// A profile that lacks this much of its norm is not the one that was asked for.
    const MOST_ERROR: f64 = 0.1;
    let checkpoint = &pipeline.root;
    let run = checkpoint.parent().and_then(Path::parent).filter(|run| run.join("checkpoints").is_dir());
    let step = weights::pipeline::training_state_step(checkpoint);
    let (Some(run), Some(step)) = (run, step) else {
        return Err(usage(format!(
            "{}: is not a run, and has no snapshots of averages, of which --ema-length makes one",
            checkpoint.display()
        )));
    };
    let made = power_ema::reconstruct(run, step, length)?;
    let Reconstruction { step, snapshots, relative_error, tensors } = made;
    if relative_error > MOST_ERROR {
        return Err(usage(format!(
            "{}: an average of length {length} cannot be made of these {snapshots} snapshots: its profile would be wrong by {:.0} %; \
             choose a length nearer to those of `train.ema_lengths`",
            run.display(),
            100.0 * relative_error
        )));
    }
    pipeline.network.set_tensors(tensors)?;
    Ok(format!(
        "an average of length {length} up to step {step}, of {snapshots} snapshots; its profile is exact to {:.1} %",
        100.0 * relative_error
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_all_that_decides_what_samples_look_like() {
        let sampling = Sampling {
            sampler: "ddim".into(),
            steps: Some(50),
            eta: 0.5,
            guidance: 1.5,
            guidance_interval: Some((200.0, 800.0)),
        };
        let all = "--sampler ddim --steps 50 --eta 0.5 --guidance 1.5 --guidance-interval 200,800";
        assert_eq!(sampling_flags(&sampling), all);
        let plain = Sampling { steps: None, eta: 0.0, guidance: 1.0, ..sampling };
        assert_eq!(sampling_flags(&plain), "--sampler ddim");
    }
}
