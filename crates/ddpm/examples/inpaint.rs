//! Fills in the right half of an image.
//!
//!     cargo run --release -p ddpm --example inpaint MODEL IMAGE OUT.png

use std::path::Path;

use ddpm::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, image, out] = &arguments[..] else { return Err("usage: inpaint MODEL IMAGE OUT.png".into()) };
    run(model.as_ref(), image.as_ref(), out.as_ref()).map(drop)
}

/// Makes four completions of an image and writes them as a grid.
pub fn run(model: &Path, image: &Path, out: &Path) -> Result<Images, Box<dyn std::error::Error>> {
    let pipeline = Pipeline::load(model, &ddpm::device(Some("cpu"))?)?;
    let image = pipeline.read_images(&[image], None)?;
    let unknown: Vec<bool> = (0..image.height * image.width).map(|i| i % image.width >= image.width / 2).collect();
    // RePaint: each step is taken twice, so that both halves agree.
    let filled = pipeline.inpaint(&image, &unknown).n(4).steps(10).resample(2).run()?;
    filled.save(out)?;
    Ok(filled)
}
