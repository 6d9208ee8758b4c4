//! `ddpm import` and `ddpm export`.

use std::path::PathBuf;

use clap::Args;
use ddpm::Pipeline;
use ddpm::diffusion::{BetaSchedule, Prediction, Variance};
use ddpm::weights::families::{Heads, ImportOptions, Imported};

use crate::sample::word;
use crate::train::grouped;
use crate::{Global, usage};

/// Make a diffusers folder of a checkpoint of another code base.
///
/// FILE is a torch file (.pt, .pth, .bin, .ckpt; zip or legacy), .safetensors, an index of shards, or a TensorFlow checkpoint
/// (its .index). No code in it is run: a pickle that asks for anything but tensors and plain values is refused by name. Whose
/// network it is follows from its tensors: Ho et al.'s release and its ports to torch, improved- and guided-diffusion,
/// w86763777/pytorch-ddpm, diffusers of any age. Averaged (EMA) weights are taken where the file has them.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm import model.ckpt-790000.index -o ho-cifar10\n  \
    ddpm import 256x256_diffusion_uncond.pt -o adm256 --head-channels 64\n  \
    ddpm import ckpt.pt -o mine --raw                       the last step's weights, not their averages\n  \
    ddpm import ema_0.9999_500000.pt -o improved --schedule cosine --timesteps 4000\n  \
    ddpm sample ho-cifar10 -n 64 -o grid.png")]
pub struct ImportArguments {
    /// The checkpoint
    file: PathBuf,
    /// The folder to write; it must not be there yet
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// The weights of the last step, although their averages are there
    #[arg(long)]
    raw: bool,
    /// Attention heads of an OpenAI network, which its weights do not say (num_heads)
    #[arg(long, conflicts_with = "head_channels", value_name = "N")]
    heads: Option<usize>,
    /// Channels of each head of an OpenAI network (num_head_channels)
    #[arg(long, value_name = "N")]
    head_channels: Option<usize>,
    /// guided-diffusion's use_new_attention_order
    #[arg(long)]
    new_attention_order: bool,
    /// Height and width of the images, where the file does not say
    #[arg(long, value_name = "SIZE")]
    size: Option<usize>,
    /// T of the chain it was trained for, if not the family's default
    #[arg(long, value_name = "T")]
    timesteps: Option<usize>,
    /// linear, cosine, … ; if not the family's default
    #[arg(long, value_name = "NAME")]
    schedule: Option<String>,
    /// What it predicts: epsilon, sample or v_prediction; if not the family's default
    #[arg(long, value_name = "NAME")]
    prediction: Option<String>,
    /// fixed_small, fixed_large or learned_range; if not the family's default
    #[arg(long, value_name = "KIND")]
    variance: Option<String>,
}

pub fn import(arguments: ImportArguments, global: &Global) -> anyhow::Result<()> {
    if arguments.output.exists() {
        return Err(usage(format!("{}: is there already", arguments.output.display())));
    }
    let heads = match (arguments.heads, arguments.head_channels) {
        (Some(0), _) | (_, Some(0)) => return Err(usage("--heads and --head-channels must be at least 1")),
        (Some(count), _) => Some(Heads::Count(count)),
        (None, channels) => channels.map(Heads::Channels),
    };
    let options = ImportOptions {
        raw: arguments.raw,
        heads,
        new_attention_order: arguments.new_attention_order,
        sample_size: arguments.size,
    };
    let schedule = arguments.schedule.as_deref().map(str::parse::<BetaSchedule>).transpose().map_err(usage)?;
    let prediction = word::<Prediction>("--prediction", arguments.prediction.as_deref())?;
    let variance = word::<Variance>("--variance", arguments.variance.as_deref())?;
    let (mut pipeline, imported) = Pipeline::import(&arguments.file, &options, &global.device()?)?;
    let scheduler = &mut pipeline.scheduler;
    if let Some(timesteps) = arguments.timesteps {
        // OpenAI's and others' linear betas keep their sum.
        if scheduler.beta_schedule == BetaSchedule::Linear && imported.family.starts_with("openai") {
            (scheduler.beta_start, scheduler.beta_end) = ddpm::diffusion::beta_schedule::scaled_beta_range(timesteps);
        }
        scheduler.num_train_timesteps = timesteps;
    }
    scheduler.beta_schedule = schedule.unwrap_or(scheduler.beta_schedule);
    scheduler.prediction_type = prediction.unwrap_or(scheduler.prediction_type);
    scheduler.variance_type = variance.unwrap_or(scheduler.variance_type);
    scheduler.noise_schedule().map_err(usage)?;
    pipeline.export(&arguments.output)?;

    let Imported { family, ema, notes, .. } = &imported;
    let parameters = pipeline.unet.config().parameter_count();
    if global.json {
        let object = serde_json::json!({
            "output": arguments.output, "family": family, "ema": ema, "parameters": parameters, "notes": notes,
        });
        println!("{object}");
        return Ok(());
    }
    let which = if *ema { "averaged (EMA) weights" } else { "weights" };
    println!("{family}: {} parameters, {which}", grouped(parameters));
    for note in notes {
        println!("note: {note}");
    }
    println!("{}", arguments.output.display());
    Ok(())
}

/// Write a model as a plain diffusers folder.
///
/// MODEL is what `ddpm sample` takes: a run, a checkpoint, a diffusers folder of any age. OUT has what
/// `DDPMPipeline.from_pretrained` reads and nothing else; exporting it again gives the same bytes.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm export runs/fashion -o fashion-ddpm\n  \
    ddpm export runs/fashion/checkpoints/best -o fashion-best")]
pub struct ExportArguments {
    /// A run, a checkpoint or a diffusers folder
    model: PathBuf,
    /// The folder to write; it must not be there yet
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
}

pub fn export(arguments: ExportArguments, global: &Global) -> anyhow::Result<()> {
    let pipeline = Pipeline::load(&arguments.model, &global.device()?)?;
    pipeline.export(&arguments.output)?;
    if global.json {
        let parameters = pipeline.unet.config().parameter_count();
        println!("{}", serde_json::json!({ "output": arguments.output, "parameters": parameters }));
    } else if !global.quiet {
        eprintln!("{}", arguments.output.display());
    }
    Ok(())
}
