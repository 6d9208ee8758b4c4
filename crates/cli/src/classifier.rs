//! `ddpm classifier`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use ddpm::data::{self, Dataset, ImageSet, Reading, Split};
use ddpm::train::{ClassifierData, ClassifierOptions, Error, TrainingConfig, train_classifier};

use crate::config_args::ConfigArgs;
use crate::data_choice::announce;
use crate::foreign::check_replaceable;
use crate::interrupt::on_interrupt;
use crate::terminal::{self, Progress, rate};
use crate::{Global, ranks, values};

/// Opens the images of --extra, with the labels of the training images.
fn extra_images(
    path: &Path,
    config: &TrainingConfig,
    set: &ImageSet,
    global: &Global,
) -> anyhow::Result<Arc<ImageSet>> {
    let dataset = Dataset::Path(path.to_owned());
    let options = config.read_options(Split::Train).without_needless_crop(&dataset)?;
    let extra = dataset.open(&options)?.with_class_names(set.class_names())?;
    announce("extra data", &Reading::new(&extra, &options), global);
    Ok(Arc::new(extra))
}

/// Train a small classifier, whose features compare samples and images.
///
/// `ddpm evaluate` and training compute Fréchet distances with its features where Inception's mean little: for sets of
/// small images with classes, such as MNIST or Fashion-MNIST. The images are read as `ddpm train` reads them with the same
/// configuration, so that both see the same pixels. Distances are comparable only if they were computed with the same file.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  ddpm classifier -o clothes.safetensors                    of the built-in images\n  \
    ddpm classifier --preset mnist --data data/mnist -o digits.safetensors\n  \
    ddpm classifier --set data.images_per_class=20 --extra synthetic/ -o few.safetensors      with samples\n  \
    ddpm evaluate runs/fashion --features clothes.safetensors --metrics fd,prdc --samples 1000\n  \
    ddpm train --set train.evaluate_every=500 --set train.evaluate_features=clothes.safetensors"
)]
pub struct ClassifierArgs {
    /// Steps of the optimizer
    #[arg(long, default_value_t = ClassifierOptions::default().steps, value_parser = values::positive, value_name = "N")]
    steps: usize,
    /// Images of a step
    #[arg(long, default_value_t = ClassifierOptions::default().batch_size, value_parser = values::positive, value_name = "B")]
    batch_size: usize,
    /// Passes that the images of a step are divided into; as many as ranks under mpirun, or more
    #[arg(long, default_value_t = 1, value_parser = values::positive, value_name = "P")]
    passes: usize,
    /// Seed of the parameters and of the order of the images
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// More images of the same classes, such as samples of `ddpm sample --by-class`: half of the images of each step
    #[arg(long, value_name = "PATH")]
    extra: Option<PathBuf>,
    /// The file to write: a .safetensors
    #[arg(short, long, value_parser = values::safetensors, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
}

pub fn run(arguments: ClassifierArgs, global: &Global) -> anyhow::Result<()> {
    let ClassifierArgs { steps, batch_size, passes, seed, .. } = arguments;
    check_replaceable(&arguments.output)?;
    on_interrupt("nothing was written; start again with")?;
    let mut config = arguments.config.read(global)?;
    // Transparency goes over white, as where features are computed.
    if config.data.channels == 4 {
        config.data.channels = 3;
    }
    let set = Arc::new(config.open(Split::Train)?);
    let reading = Reading::new(&set, &config.read_options(Split::Train));
    announce("data", &reading, global);
    let extra = arguments.extra.as_deref().map(|path| extra_images(path, &config, &set, global)).transpose()?;
    let held_out = match config.open(Split::Test) {
        Ok(held_out) => {
            let held_out = held_out.with_class_names(set.class_names())?;
            announce("held-out data", &Reading::new(&held_out, &config.read_options(Split::Test)), global);
            Some(held_out)
        }
        Err(Error::Data(data::Error::NoHeldOut { .. })) => None,
        Err(error) => return Err(error.into()),
    };
    terminal::warn_about(&set);
    let mut progress = Progress::new("classifier", "steps", global);
    let options =
        ClassifierOptions { steps, batch_size, passes, seed, flip: config.data.flip, ..ClassifierOptions::default() };
    let communicator = ranks::communicator();
    let data = ClassifierData {
        training: &set,
        extra: extra.as_ref(),
        held_out: held_out.as_ref(),
        communicator: &communicator,
    };
    let (classifier, about) = train_classifier(data, options, &global.device()?, |done, loss| {
        let images = (done * batch_size) as f64;
        progress.update_with(done, steps, |seconds| format!("loss {loss:.3}, {}", rate(images / seconds, "images")));
        true
    })?;
    drop(progress);
    if !communicator.is_root() {
        return Ok(());
    }
    classifier.write(&arguments.output, &about)?;
    let held_out = held_out.map_or(0, |set| set.len());
    if global.json {
        let object = serde_json::json!({
            "output": arguments.output.to_string_lossy(), "set": about.set, "classes": about.classes.len(), "accuracy": about.accuracy,
            "held_out": held_out, "data": reading,
        });
        println!("{object}");
    } else if !global.quiet {
        match about.accuracy {
            Some(accuracy) => eprintln!("accuracy: {accuracy:.4} of {held_out} held-out images"),
            None => eprintln!("accuracy: unknown, as {} has no held-out part", about.set),
        }
        eprintln!("saved: {}", arguments.output.display());
    }
    Ok(())
}
