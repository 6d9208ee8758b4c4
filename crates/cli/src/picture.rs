//! `ddpm picture`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use ddpm::data::{Dataset, Split};
use ddpm::evaluate::open_data;
use ddpm::pictures::PointPictures;
use serde_json::json;

use crate::error::usage;
use crate::foreign::check_outputs;
use crate::interrupt::on_interrupt;
use crate::{Global, data_choice, model_source, values};

/// Draw what a model of points has learned.
///
/// `chain` is an animation of the forward chain from data to noise and of the reverse chain to samples. `score` shows
/// ∇ log p_t as arrows: an animation over t, or four timesteps side by side. `density` is the density of the probability
/// flow, next to the exact one where it is known. `trajectories` are the paths of an ODE sampler (left) and of the chain
/// (right) from the same noise.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm picture runs/swissroll chain -o chain.apng\n  \
    ddpm picture runs/swissroll score -o score.png\n  \
    ddpm picture runs/gaussians8 density -o density.png\n  \
    ddpm picture runs/moons trajectories -n 7 -o paths.png")]
pub struct PictureArgs {
    /// A run, a checkpoint or a pipeline folder of a model of points
    model: PathBuf,
    /// What to draw
    #[arg(value_enum)]
    kind: Kind,
    /// The picture: .png, or for chain and score .apng or .gif
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Number of points. Defaults to 2000, or to 12 trajectories
    #[arg(short, long, value_parser = values::positive, value_name = "N")]
    n: Option<usize>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Points of the forward chain, and of the frame of a picture: a file, or `builtin:NAME`. Defaults to those that the model
    /// was trained on
    #[arg(long, value_name = "PATH")]
    data: Option<Dataset>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Chain,
    Score,
    Density,
    Trajectories,
}

pub fn run(arguments: PictureArgs, global: &Global) -> anyhow::Result<()> {
    let PictureArgs { kind, output, seed, .. } = &arguments;
    let extension = output.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let allowed: &[&str] = match kind {
        Kind::Chain => &["apng", "gif", "png"],
        Kind::Score => &["png", "apng", "gif"],
        Kind::Density | Kind::Trajectories => &["png"],
    };
    if !allowed.contains(&&*extension) {
        return Err(usage(format!("{}: expected a name that ends in .{}", output.display(), allowed.join(" or ."))));
    }
    let data = arguments.data.as_ref().and_then(Dataset::path);
    check_outputs(&[Some(output)], &[Some(&*arguments.model), data].into_iter().flatten().collect::<Vec<_>>())?;
    on_interrupt("nothing was written; start again with")?;
    let pipeline = model_source::load(&arguments.model, global)?;
    let default = if *kind == Kind::Trajectories { 12 } else { 2000 };
    let pictures = PointPictures::new(&pipeline)?.points(arguments.n.unwrap_or(default)).seed(*seed);
    if *kind == Kind::Trajectories && arguments.data.is_some() {
        bail!("--data: trajectories begin with noise and need no data; leave it out");
    }
    let mut report = json!({ "output": output.to_string_lossy() });
    if *kind == Kind::Trajectories {
        pictures.trajectories(output)?;
    } else {
        let dataset = data_choice::of_model(arguments.data.as_ref(), &pipeline)?;
        let (set, _) = open_data(&pipeline, &dataset, Split::Test)?;
        match kind {
            Kind::Chain => pictures.chain(&set, output)?,
            Kind::Score => pictures.score(&set, output)?,
            Kind::Density | Kind::Trajectories => {
                let exact = match &dataset {
                    Dataset::Points(points) => Some(points),
                    Dataset::Builtin | Dataset::Heartbeat | Dataset::Path(_) => None,
                };
                let drawn = pictures.density(&set, exact, output)?;
                report["mass"] = json!(drawn.mass);
                report["exact_mass"] = json!(drawn.exact_mass);
                report["total_variation"] = json!(drawn.total_variation);
                if !global.json {
                    let number =
                        |value: Option<f64>| value.map_or("not known".to_owned(), |value| format!("{value:.4}"));
                    println!("mass in the picture  {:.4} (exact: {})", drawn.mass, number(drawn.exact_mass));
                    println!("total variation      {}", number(drawn.total_variation));
                }
            }
        }
    }
    if global.json {
        println!("{report}");
    } else if !global.quiet {
        eprintln!("picture: {}", output.display());
    }
    Ok(())
}
