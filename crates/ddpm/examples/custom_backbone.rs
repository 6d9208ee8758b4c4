//! A network of its own: an MLP on points of the plane, trained on two moons and sampled through the same functions as
//! the U-Net.
//!
//!     cargo run --release -p ddpm --example custom_backbone

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use ddpm::Images;
use ddpm::diffusion::SchedulerConfig;
use ddpm::model::{Backbone, Condition, Dropout, Network, Process, Signature};
use ddpm::sample::{Request, Sampler, SamplerOptions, initial_noise, sample};
use ddpm::train::{Batch, Trainer, TrainingConfig};
use ddpm::unet::Parameters;
use ddpm::unet::layers::{Init, Linear};

// --- The network, forty lines.

const FREQUENCIES: usize = 5;

/// Predicts ε of points `[N,1,1,2]` from the point, t, and sines and cosines of both.
#[derive(Module, Debug)]
struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    fn new(width: usize, device: &Device) -> Self {
        let init = &mut Init::new(0, device);
        let widths = [3 + 6 * FREQUENCIES, width, width, width, 2];
        Self { layers: widths.windows(2).map(|pair| Linear::new(init, pair[0], pair[1], 1.0)).collect() }
    }
}

impl Parameters for Mlp {}

impl Backbone for Mlp {
    fn forward(&self, x: Tensor<4>, t: &[f32], _: Condition, _: Option<&Dropout>) -> Tensor<4> {
        let (n, device) = (t.len(), x.device());
        let t = Tensor::<1>::from_floats(t, &device).div_scalar(1000.0);
        let inputs = Tensor::cat(vec![x.reshape([n, 2]), t.reshape([n, 1])], 1);
        let waves = (0..FREQUENCIES).flat_map(|k| {
            let angle = inputs.clone().mul_scalar(2f32.powi(k as i32));
            [angle.clone().sin(), angle.cos()]
        });
        let mut y = Tensor::cat(std::iter::once(inputs.clone()).chain(waves).collect(), 1);
        for (i, layer) in self.layers.iter().enumerate() {
            y = layer.forward(if i == 0 { y } else { activation::silu(y) });
        }
        y.reshape([n, 1, 1, 2])
    }

    fn signature(&self) -> Signature {
        Signature { size: Some([1, 1]), ..Signature::unconditional(2) }
    }

    fn config(&self) -> String {
        r#"{ "_class_name": "Mlp" }"#.to_owned()
    }
}

// --- Training and sampling.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (losses, points) = run(2000)?;
    println!("loss {:.3} at first, {:.3} in the end", losses[0], losses[losses.len() - 1]);
    for point in points.each().take(10) {
        println!("{:6.3} {:6.3}", point[0], point[1]);
    }
    Ok(())
}

/// Points on two half circles, numbered.
pub fn moons(first: usize, n: usize) -> Images {
    let point = |i: usize| {
        // Golden-ratio steps cover the half circles evenly.
        let angle = ((i as f64 * 0.618_033_988_75).fract() * std::f64::consts::PI) as f32;
        if i.is_multiple_of(2) {
            [angle.cos() - 0.5, angle.sin() - 0.25]
        } else {
            [0.5 - angle.cos(), 0.25 - angle.sin()]
        }
    };
    Images::new([n, 1, 1, 2], (first..first + n).flat_map(point).collect())
}

/// Trains for some steps; returns the losses (means of a hundred steps) and 500 samples.
pub fn run(steps: usize) -> Result<(Vec<f64>, Images), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let mut config = TrainingConfig::preset("fashion-ho")?;
    for setting in ["train.learning_rate=0.002", "train.warmup_steps=100", "train.ema_decay=0.99"] {
        config.set(setting)?;
    }
    let mut trainer = Trainer::new(&config, Network::from(Mlp::new(128, &device.clone().autodiff())))?;
    let mut losses = vec![0.0; steps.div_ceil(100)];
    for step in 0..steps {
        let report = trainer.step(&Batch::whole(moons(step * 256, 256)))?;
        losses[step / 100] += report.loss / 100.0;
    }

    let scheduler = SchedulerConfig { clip_sample: false, ..config.scheduler() };
    let denoiser = Process::new(&scheduler)?.denoiser(trainer.averaged());
    let table =
        "dpmpp-2m".parse::<Sampler>()?.table(&scheduler, SamplerOptions { steps: Some(25), ..Default::default() })?;
    let noise = initial_noise(0, 0, 500, [1, 1, 2]);
    let request = Request { seed: 0, first_image: 0, noise: &noise, batch_size: 500, shared: None };
    Ok((losses, sample(&denoiser, &table, &request, |_| true)?))
}
