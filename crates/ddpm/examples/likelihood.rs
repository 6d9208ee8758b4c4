//! Measures the likelihood of images: the variational bound, and the probability flow.
//!
//!     cargo run --release -p ddpm --example likelihood MODEL FOLDER

use std::path::Path;

use ddpm::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, data] = &arguments[..] else { return Err("usage: likelihood MODEL FOLDER".into()) };
    run(model.as_ref(), data.as_ref()).map(drop)
}

/// Prints and returns the bits/dim by the bound and by the flow.
pub fn run(model: &Path, data: &Path) -> Result<[f64; 2], Box<dyn std::error::Error>> {
    let pipeline = Pipeline::load(model, &ddpm::device(Some("cpu"))?)?;
    // Resized, cropped or padded as the images that the model was trained on.
    let set = pipeline.open_data(data, Split::Test)?;
    let images = pipeline.read_set(&set, 4)?;
    let bound = pipeline.evaluate().steps(25).likelihood(&images)?;
    println!("bound: {:.4} ± {:.4} bits/dim", bound.bits_per_dim, bound.standard_error);
    for (t, rate, rmse) in bound.rate_distortion().into_iter().step_by(5) {
        println!("t = {t:3}: {rate:.4} bits/dim, error of x̂0 {rmse:.1} of 255");
    }
    let flow = pipeline.evaluate().with(|options| options.flow_steps = 8).flow_likelihood(&images)?;
    println!("flow:  {:.4} ± {:.4} bits/dim", flow.bits_per_dim, flow.standard_error);
    Ok([bound.bits_per_dim, flow.bits_per_dim])
}
