//! Trains on a folder of images, samples 16 with DPM-Solver++ and prints the bits/dim of held-out images.
//!
//!     cargo run --release -p ddpm --example train FOLDER

use ddpm::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let photos = std::env::args().nth(1).ok_or("usage: train FOLDER")?;
    let device = ddpm::device(None)?;
    Training::of_images(&photos)?.set("train.steps=5000")?.run("runs/photos", &device)?;
    let pipeline = Pipeline::load("runs/photos", &device)?;
    pipeline.sample(16).sampler("dpmpp-2m").steps(20).save("grid.png")?;
    let held_out = pipeline.open_data(&photos, Split::Test)?;
    println!("{:.3} bits/dim", pipeline.likelihood(&held_out)?.bits_per_dim);
    Ok(())
}
