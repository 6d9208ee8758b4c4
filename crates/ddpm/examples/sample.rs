//! Samples a model: a grid, an array, and how the images come about.
//!
//!     cargo run --release -p ddpm --example sample MODEL

use std::path::Path;

use ddpm::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).ok_or("usage: sample MODEL")?;
    run(model.as_ref(), ".".as_ref())
}

/// Samples the model and writes into a folder.
pub fn run(model: &Path, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let pipeline = Pipeline::load(model, &ddpm::device(Some("cpu"))?)?;

    // In memory. An image depends on the seed and its number alone.
    let images = pipeline.sample(4).sampler("ddim").steps(10).seed(7).run()?;
    images.save(out.join("four.png"))?;

    // Written as they are made; repeated after an interruption, the call continues.
    let generation = pipeline.sample(32).sampler("dpmpp-2m").steps(10).on_progress(|progress| {
        eprint!("\r{}/{} evaluations", progress.done, progress.total);
        true
    });
    let saved = generation.save(out.join("samples.npz"))?;
    eprintln!("\n{} images by {}", saved.shape[0], saved.sampler);

    // An animation from noise to images.
    pipeline.sample(9).sampler("ddim").steps(20).save(out.join("denoising.gif"))?;
    Ok(())
}
