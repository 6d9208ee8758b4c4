//! `ddpm predict`.

use std::path::PathBuf;

use clap::Args;

use crate::foreign::check_outputs;
use crate::interrupt::on_interrupt;
use crate::{Global, model_source};

/// Run the bare network on tensors from a file, to compare it with another implementation.
///
/// The input has `x` [N,C,H,W] (f32), `t` [N] (i64 or f32) and, for a conditional network, `labels`; the output has
/// `prediction` [N,C,H,W].
#[derive(Args)]
#[command(after_help = "Example:\n  ddpm predict runs/fashion --input in.safetensors -o out.safetensors\n\n\
    In Python:\n  save_file({\"x\": x, \"t\": t, \"labels\": labels}, \"in.safetensors\")\n  \
    unet = UNet2DModel.from_pretrained(checkpoint, subfolder=\"unet\")\n  \
    theirs = unet(x, t, class_labels=labels).sample\n  \
    ours = load_file(\"out.safetensors\")[\"prediction\"]")]
pub struct PredictArgs {
    /// A run, a checkpoint or a diffusers folder
    model: PathBuf,
    /// The inputs: a safetensors file
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// The predictions to write: a safetensors file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub fn run(arguments: PredictArgs, global: &Global) -> anyhow::Result<()> {
    check_outputs(&[Some(&*arguments.output)], &[&*arguments.input])?;
    on_interrupt("nothing was written; start again with")?;
    let pipeline = model_source::load(&arguments.model, global)?;
    let shape = ddpm::predict::predict(&pipeline.network, &arguments.input, &arguments.output)?;
    if global.json {
        println!("{}", serde_json::json!({ "output": arguments.output.to_string_lossy(), "shape": shape }));
    } else if !global.quiet {
        eprintln!("prediction {shape:?}: {}", arguments.output.display());
    }
    Ok(())
}
