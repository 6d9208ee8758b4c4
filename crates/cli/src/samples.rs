//! The samples of `ddpm evaluate`: drawn from a model, or read from a file, which may say what they are.

use std::path::Path;

use anyhow::bail;
use ddpm::data::{self, Dataset, Part, ReadOptions, Reading};
use ddpm::evaluate::ImageSource;
use ddpm::sample::{Generation, Provenance, Sampler, SamplerChoice};
use ddpm::weights::pipeline::{self, ModelFiles};
use ddpm::{Device, Pipeline};

use crate::quality::{QualityArgs, Shared};
use crate::terminal::{self, Progress, rate, say, warn};
use crate::{Global, data_choice, model_source};

/// Samples of a model where no number is given.
const SAMPLES: usize = 10_000;

/// Steps of a model's samples by default, if no run says how many.
const STEPS: usize = 50;

/// Samples that are still to be drawn, or those of a file.
pub enum Samples {
    Model(Box<Pipeline>),
    File(Box<SampleFile>),
}

/// Samples of a file or a folder.
pub struct SampleFile {
    set: ImageSource,
    reading: Reading,
    provenance: Option<Provenance>,
}

impl Samples {
    /// Opens the model or the samples.
    pub fn open(arguments: &QualityArgs, shared: &Shared, device: &Device) -> anyhow::Result<Self> {
        let path = shared.source.display();
        let read = |files: &ModelFiles| Pipeline::from_files(files, device);
        let no_model = match pipeline::locate(shared.source) {
            Ok(_) if arguments.size.is_some() => bail!("{path}: is a model; --size is for samples of a file"),
            Ok(_) => return Ok(Self::Model(Box::new(model_source::with_files(shared.source, read)?))),
            Err(no_model) => no_model,
        };
        // A run without a model has pictures too, but they are not what is meant.
        if is_run(shared.source) {
            return Err(no_model.into());
        }
        let options = ReadOptions {
            resolution: arguments.size.map(Into::into),
            fit: shared.fit.unwrap_or_default(),
            ..ReadOptions::default()
        };
        let set = match data::open(shared.source, &options) {
            Ok(set) => set,
            // A path that holds neither is most often meant to be a model.
            Err(data::Error::Io { .. } | data::Error::UnknownFormat { .. }) => return Err(no_model.into()),
            Err(data::Error::MixedSizes { common: (height, width), differ, total, .. }) => bail!(
                "{path}: images differ in size: most are {height}x{width}, {differ} of {total} are not; \
             fit them to one size with --size {height}x{width}"
            ),
            Err(error) => return Err(error.into()),
        };
        terminal::warn_about(&set);
        let count = arguments.samples.unwrap_or(set.len());
        if count > set.len() {
            bail!("{path}: holds {} images, fewer than --samples {count}", set.len());
        }
        let provenance = Provenance::read(shared.source).unwrap_or_else(|several| {
            warn(several);
            None
        });
        let made = provenance.as_ref().map(|made| (made.height, made.width));
        let is_grid = shared.source.is_file() && made.is_some_and(|made| !set.report().sizes.contains_key(&made));
        if is_grid && set.len() == 1 && arguments.size.is_none() {
            bail!("{path}: is a grid of samples, not one image; sample to an .npz or a folder to evaluate them");
        }
        let reading = Reading::new(&set, &options).part(Part::All).first(count);
        let set = ImageSource::from(set).first(count);
        Ok(Self::File(Box::new(SampleFile { set, reading, provenance })))
    }

    /// Returns the number of samples.
    pub fn count(&self, arguments: &QualityArgs) -> usize {
        match self {
            Self::Model(_) => arguments.samples.unwrap_or(SAMPLES),
            Self::File(file) => file.set.count(),
        }
    }

    /// Returns the real images: those of --data, or those that the model was trained on.
    pub fn dataset(&self, shared: &Shared) -> anyhow::Result<Dataset> {
        match self {
            Self::Model(pipeline) => data_choice::of_model(shared.data, pipeline),
            Self::File(file) => data_choice::of_samples(shared.data, file.provenance.as_ref(), shared.source),
        }
    }

    /// Returns how real images are read to be compared with the samples.
    pub fn read_options(&self, shared: &Shared) -> ReadOptions {
        match self {
            Self::Model(pipeline) => pipeline.read_options(shared.fit),
            Self::File(file) => {
                let [height, width, channels] = file.set.shape();
                ReadOptions {
                    resolution: Some((height, width)),
                    channels: Some(channels),
                    crop: file.provenance.as_ref().and_then(|known| known.crop),
                    fit: shared.fit.or(file.provenance.as_ref().map(|known| known.fit)).unwrap_or_default(),
                    ..ReadOptions::default()
                }
            }
        }
    }

    /// Prints what the samples of a file are, and warns if they are not as they were made.
    pub fn announce(&self, global: &Global) -> Option<Reading> {
        let Self::File(file) = self else { return None };
        let SampleFile { reading, provenance, .. } = &**file;
        let made = provenance
            .as_ref()
            .map_or("from elsewhere".to_owned(), |made| format!("of {} ({})", made.model, made.how()));
        say(format!("samples: {reading}, {made}"), global);
        let size = reading.source_size;
        if let Some(made) =
            provenance.as_ref().filter(|made| size.is_some_and(|size| size != [made.height, made.width]))
        {
            warn(format!(
                "{}: the samples were made as {}x{}, but were resized since",
                reading.set, made.height, made.width
            ));
        }
        if reading.is_resized() {
            warn(format!("{}: the samples were resized to {}x{}", reading.set, reading.height, reading.width));
        }
        Some(reading.clone())
    }

    /// Warns if real images were fitted in a way that nobody asked for, or have other colors than the samples.
    pub fn warn_of_fit(&self, real: &Reading, shared: &Shared) {
        if shared.data.is_some() || !matches!(self, Self::Model(_)) {
            data_choice::warn_of_colors(real);
        }
        let is_guess = shared.fit.is_none() && matches!(self, Self::File(file) if file.provenance.is_none());
        if is_guess && real.is_resized() {
            let (set, height, width) = (&real.set, real.height, real.width);
            warn(format!(
                "{set}: the real images were scaled and cropped to the samples' {height}x{width}; if the model was trained \
                 on padded images, add --fit pad"
            ));
        }
    }

    /// Returns the number of images that the model was trained on, if these are compared with its samples.
    pub fn training_images(&self, shared: &Shared) -> Option<usize> {
        match self {
            _ if shared.data.is_some() => None,
            Self::Model(pipeline) => pipeline.training_data().ok()??.images,
            Self::File(file) => file.provenance.as_ref()?.data.as_ref()?.images,
        }
    }

    /// Draws the samples of a model.
    pub fn images(self, arguments: &QualityArgs, shared: &Shared, global: &Global) -> anyhow::Result<ImageSource> {
        match self {
            Self::Model(_) if shared.division.is_recorded() => {
                bail!(
                    "samples of a model cannot be part of a --shard: draw them with `ddpm sample`, and evaluate the file"
                )
            }
            Self::Model(mut pipeline) => draw(arguments, shared, &mut pipeline, global),
            Self::File(file) => Ok(file.set),
        }
    }
}

/// Returns whether a folder is a run, with or without a model.
fn is_run(path: &Path) -> bool {
    ["config.toml", "checkpoints", "model_index.json", "unet"].iter().any(|name| path.join(name).exists())
}

/// Draws samples from a model, as `ddpm sample` does.
fn draw(
    arguments: &QualityArgs,
    shared: &Shared,
    pipeline: &mut Pipeline,
    global: &Global,
) -> anyhow::Result<ImageSource> {
    let guidance = arguments.guidance.apply(pipeline)?;
    let (sampler, steps) = match (arguments.sampler, &pipeline.sampling) {
        (None, Some(_)) => (SamplerChoice::Model, arguments.sampler_steps),
        (named, _) => (named.unwrap_or(Sampler::Ddim { eta: 0.0 }).into(), arguments.sampler_steps.or(Some(STEPS))),
    };
    let generation = Generation::new(pipeline, arguments.samples.unwrap_or(SAMPLES))
        .seed(shared.seed)
        .batch_size(shared.batch_size)
        .with(|options| {
            options.sampler = sampler;
            options.steps.steps = steps;
            options.guidance = guidance;
        })
        .divided(shared.division.clone());
    let mut progress = Progress::new("samples", "steps", global);
    progress.say(format!("samples: {}", generation.description()?));
    let generation = generation.on_progress(|now| {
        progress.update_with(now.done, now.total, |seconds| rate(now.images / seconds, "images"));
        true
    });
    Ok(ImageSource::generate(generation)?)
}
