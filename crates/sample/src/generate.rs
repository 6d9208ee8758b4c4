//! Generation of samples from a pipeline: a builder with defaults. Images are returned in memory or written to files as
//! they are finished.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use diffusion::{SchedulerConfig, SolverTable, TimestepSpacing, timesteps};
use model::bits::{BitDenoiser, NetworkBits};
use model::guidance::Guidance;
use model::{DataKind, Denoiser, Images, Pipeline};
use mpi::{Division, Items};
use serde::{Deserialize, Serialize};

use crate::bits::{BitSteps, sample_bits};
use crate::frames::{self, sheet_column};
use crate::identity::Identity;
use crate::noise::{initial_noise, noised};
use crate::options::{GenerateOptions, SamplerChoice};
use crate::output::{self, Output, spool_folder};
use crate::provenance::{self, Provenance};
use crate::solve::{Request, SamplerStep, SharedNoise, check, sample};
use crate::writer::{WriteRequest, Writer};
use crate::{Error, Sampler, SamplerOptions};

/// A builder for samples of a pipeline.
///
/// An image depends only on the pipeline, the sampler, the seed and its number, not on the batch size or the number of
/// images.
pub struct Generation<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) options: GenerateOptions,
    pub(crate) division: Division,
    progress: Box<dyn FnMut(&GenerationProgress) -> bool + 'a>,
    step: Box<dyn FnMut(&SamplerStep) + 'a>,
}

/// The progress of a generation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenerationProgress {
    /// Finished evaluations of the network, counted per batch.
    pub done: usize,
    /// Total number of evaluations.
    pub total: usize,
    /// Images generated so far, including fractions.
    pub images: f64,
    /// Images that already existed.
    pub existing: usize,
}

/// The result of writing a generation.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The file or folder.
    pub path: PathBuf,
    /// `[N,H,W,C]`.
    pub shape: [usize; 4],
    /// Images that already existed, from an interrupted run.
    pub existing: usize,
    /// The sampler and its number of steps.
    pub sampler: String,
    /// Evaluations of the network per image.
    pub steps: usize,
}

/// Options for writing a generation.
#[derive(Clone, Debug, Default)]
pub struct SaveOptions {
    /// Stores intermediate predictions: a picture becomes an animation, and a folder gets `NAME-progress.png`
    /// next to it.
    pub animate: bool,
    /// The path of a PNG that shows the sampling process of the first images.
    pub sheet: Option<PathBuf>,
    /// Gives each class its own row in a grid, or its own folder in a folder, with a `metadata.csv`.
    pub by_class: bool,
    /// Text to write into the files, in addition to the model, the sampler and the seed.
    pub info: Vec<(String, String)>,
    /// The command that makes the images. It is shown to whoever finds them unfinished.
    pub command: Option<String>,
}

/// The images of a batch, and what shows how they were made.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub images: Images,
    pub previews: Vec<Images>,
    pub sheet: Vec<Images>,
    /// The timestep after which values were not finite. All processes that divide the work report it alike.
    pub not_finite: Option<f64>,
}

impl Batch {
    /// Returns a batch that was computed, or `None` if it was stopped.
    pub fn of(images: Result<Images, Error>, with: impl FnOnce(Images) -> Self) -> Result<Option<Self>, Error> {
        match images {
            Ok(images) => Ok(Some(with(images))),
            Err(Error::Stopped) => Ok(None),
            Err(Error::NotFinite { timestep }) => Ok(Some(Self { not_finite: Some(timestep), ..Self::default() })),
            Err(error) => Err(error),
        }
    }

    /// Checks the sizes: a batch can come from the file of a shard.
    pub fn checked(self, previews: usize, shape: [usize; 3]) -> Result<Self, Error> {
        if let Some(timestep) = self.not_finite {
            return Err(Error::NotFinite { timestep });
        }
        let fits = |images: &Images| {
            let values = shape.iter().try_fold(images.n, |all, &side| all.checked_mul(side));
            [images.height, images.width, images.channels] == shape && values == Some(images.pixels.len())
        };
        let same = |preview: &Images| fits(preview) && preview.n == self.images.n;
        if !fits(&self.images) || self.previews.len() != previews || !self.previews.iter().all(same) {
            return Err(Error::Request("a batch of a shard does not have the shape of the images".into()));
        }
        match self.sheet.iter().all(fits) {
            true => Ok(self),
            false => Err(Error::Request("a sheet of a shard does not have the shape of the images".into())),
        }
    }
}

/// The steps of a generation, with the model that they evaluate.
pub(crate) enum PlannedChain {
    Gaussian { denoiser: Box<dyn Denoiser>, sampler: Sampler, table: SolverTable },
    Binomial { denoiser: NetworkBits, timesteps: Vec<usize> },
}

impl PlannedChain {
    /// Returns the number of steps.
    pub fn rows(&self) -> usize {
        match self {
            Self::Gaussian { table, .. } => table.rows.len(),
            Self::Binomial { timesteps, .. } => timesteps.len(),
        }
    }

    /// Returns the factor of the initial noise.
    pub fn initial_scale(&self) -> f64 {
        match self {
            Self::Gaussian { table, .. } => table.initial_scale,
            Self::Binomial { .. } => 1.0,
        }
    }

    /// Returns the name of the sampler.
    pub fn sampler(&self) -> String {
        match self {
            Self::Gaussian { sampler, .. } => sampler.to_string(),
            Self::Binomial { .. } => "binomial".to_owned(),
        }
    }
}

/// A generation with all options resolved.
pub(crate) struct Plan {
    pub chain: PlannedChain,
    pub shape: [usize; 3],
    /// The classes, repeated cyclically.
    labels: Option<Vec<u32>>,
    guidance: Option<Guidance>,
    scheduler: SchedulerConfig,
}

impl<'a> Generation<'a> {
    /// Creates a generation of `n` images as the model's run draws its samples, or with the sampler of its
    /// scheduler ([`Sampler::of_model`]).
    pub fn new(pipeline: &'a Pipeline, n: usize) -> Self {
        let options = GenerateOptions {
            n,
            first: 0,
            seed: 0,
            sampler: SamplerChoice::Model,
            steps: SamplerOptions::default(),
            timesteps: None,
            mse_profile: None,
            clip: None,
            batch_size: 16,
            labels: None,
            guidance: None,
            size: None,
            init: None,
            from: None,
            share_until: None,
        };
        Self { pipeline, options, division: Division::default(), progress: Box::new(|_| true), step: Box::new(|_| {}) }
    }

    /// Sets the sampler, by name or by value.
    pub fn sampler(self, sampler: impl Into<SamplerChoice>) -> Self {
        self.with(|options| options.sampler = sampler.into())
    }

    /// Sets the number of steps. Defaults to all T steps for `ddpm` and `ddim`, 20 for higher-order samplers, and 50 for
    /// other scheduler classes of diffusers.
    pub fn steps(self, steps: usize) -> Self {
        self.with(|options| options.steps.steps = Some(steps))
    }

    /// Sets the seed; 0 by default.
    pub fn seed(self, seed: u64) -> Self {
        self.with(|options| options.seed = seed)
    }

    /// Sets the classes of the images, repeated cyclically. Defaults to all classes of the pipeline.
    pub fn labels(self, labels: impl Into<Vec<u32>>) -> Self {
        let labels = labels.into();
        self.with(|options| options.labels = Some(labels))
    }

    /// Sets the scale of classifier-free guidance. The pipeline must know the label that means "no class"; otherwise
    /// use [`Generation::guidance_with`].
    pub fn guidance(self, scale: f64) -> Self {
        let null_label = self.pipeline.preprocessing.null_label.unwrap_or(u32::MAX);
        self.guidance_with(Guidance::new(scale, null_label))
    }

    /// Sets classifier-free guidance.
    pub fn guidance_with(self, guidance: Guidance) -> Self {
        self.with(|options| options.guidance = Some(guidance))
    }

    /// Sets the number of images per batch; 16 by default.
    pub fn batch_size(self, batch_size: usize) -> Self {
        self.with(|options| options.batch_size = batch_size)
    }

    /// Starts from an image that is noised to timestep `t` (image-to-image).
    pub fn from_image(self, image: Images, t: usize) -> Self {
        self.with(|options| options.from = Some((image, t)))
    }

    /// Starts from given noise.
    pub fn init(self, noise: Images) -> Self {
        self.with(|options| options.init = Some(noise))
    }

    /// Divides the batches between processes. All of them get all images, and the first one writes files.
    pub fn divided(self, division: Division) -> Self {
        Self { division, ..self }
    }

    /// Sets any of the options.
    pub fn with(mut self, set: impl FnOnce(&mut GenerateOptions)) -> Self {
        set(&mut self.options);
        self
    }

    /// Calls `progress` after each evaluation of the network; it returns `false` to cancel.
    pub fn on_progress(self, progress: impl FnMut(&GenerationProgress) -> bool + 'a) -> Self {
        Self { progress: Box::new(progress), ..self }
    }

    /// Calls `step` with x_t and x̂0 after each step of each batch that this process makes.
    pub fn on_step(self, step: impl FnMut(&SamplerStep) + 'a) -> Self {
        Self { step: Box::new(step), ..self }
    }

    /// Returns the solver table of the options.
    ///
    /// # Errors
    /// If the sampler is unknown or its steps do not match the chain.
    pub fn table(&self) -> Result<SolverTable, Error> {
        match self.plan()?.chain {
            PlannedChain::Gaussian { table, .. } => Ok(table),
            PlannedChain::Binomial { .. } => Err(Error::Request(
                "the model's chain is binomial, of bits, and solver tables, shared noise among them, are for Gaussian ones".into(),
            )),
        }
    }

    /// Generates the images in memory.
    ///
    /// # Errors
    /// If an option does not match the pipeline, values become NaN or infinite, or the progress function cancels.
    pub fn run(self) -> Result<Images, Error> {
        let mut all = Images::default();
        self.run_batches(|images| all.append(images))?;
        Ok(all)
    }

    /// Generates the images and passes each batch to `each`, in bounded memory.
    ///
    /// # Errors
    /// As [`Generation::run`].
    pub fn run_batches(mut self, mut each: impl FnMut(Images)) -> Result<(), Error> {
        let plan = self.plan()?;
        let (division, n, size) = (self.division.clone(), self.options.n, self.options.batch_size);
        let key = self.identity(&plan);
        let finished = division.run(
            || key.digest(),
            n.div_ceil(size),
            |batch| {
                let range = batch * size..n.min((batch + 1) * size);
                Batch::of(self.batch(&plan, range, 0, |_| {}), |images| Batch { images, ..Batch::default() })
            },
            |_, batch| {
                let Batch { images, .. } = batch.checked(0, plan.shape)?;
                each(images);
                Ok(true)
            },
        )?;
        if finished { Ok(()) } else { Err(Error::Stopped) }
    }

    /// Generates the images and writes them in the format of the extension of `path`: a grid (`.png`), an animation
    /// (`.gif`, `.apng`), arrays (`.npz`, `.safetensors`) or a folder of PNGs; points as `.npy`, `.npz`, `.csv` or scatter plots. See [`Generation::save_with`].
    ///
    /// # Errors
    /// As [`Generation::save_with`].
    pub fn save(self, path: impl AsRef<Path>) -> Result<Saved, Error> {
        self.save_with(path, &SaveOptions::default())
    }

    /// Generates the images and writes each as soon as it is finished, in bounded memory.
    ///
    /// If an interrupted generation is repeated, only the missing images are generated; the resulting files are
    /// byte-identical.
    ///
    /// # Errors
    /// As [`Generation::run`]; also if `path` holds images of another model, seed or sampler, or cannot be written.
    pub fn save_with(mut self, path: impl AsRef<Path>, save: &SaveOptions) -> Result<Saved, Error> {
        let output = Output::parse(path.as_ref(), save.animate && path.as_ref().extension().is_some())?;
        if self.pipeline.network.signature().kind == DataKind::Points {
            return self.save_points(&output, save);
        }
        let plan = self.plan()?;
        let n = self.options.n;
        let shape = [n, plan.shape[0], plan.shape[1], plan.shape[2]];
        let (rows, sampler) = (plan.chain.rows(), plan.chain.sampler());
        let by_class = if save.by_class { Some(self.class_names(&plan, &output)?) } else { None };
        let writes = self.division.is_root() && !self.division.is_recorded();
        if writes {
            output.check_writable(shape)?;
        }

        let provenance = self.provenance(&plan);
        let finished = writes && save.sheet.is_none() && self.is_finished(&output, &provenance, shape);
        if self.division.of_root(finished)? {
            return Ok(Saved {
                path: output.path().to_owned(),
                shape,
                existing: n,
                sampler: format!("{sampler}, {rows} steps"),
                steps: rows,
            });
        }
        let info = info(&provenance, &save.info);
        let animated = save.animate || matches!(output, Output::Animation(_));
        // The finished images end the animation anyway, so the last row needs no preview.
        let animation = if animated { frames::rows(rows, frames::ANIMATION) } else { Vec::new() };
        let animation = &animation[..animation.len().saturating_sub(1)];
        let spooled = if matches!(output, Output::Folder(_)) { 0 } else { animation.len() };
        let (identity, command) = (provenance.identity.clone(), save.command.clone());
        let request = WriteRequest { identity, first: self.options.first, shape, frames: spooled, command };
        let division = self.division.clone();
        let mut writer = if writes { Some(Writer::open(&output, request, by_class)?) } else { None };
        let sheet_rows = frames::rows(rows, frames::SHEET);
        let progress_sheet = output.progress_sheet().filter(|_| save.animate);
        // A sheet shows all images of the first batch, also those that were there already.
        let is_shown = |batch: usize| batch == 0 && (save.sheet.is_some() || progress_sheet.is_some());
        let (size, batches) = (self.options.batch_size, n.div_ceil(self.options.batch_size));
        let range_of = |batch: usize| batch * size..n.min((batch + 1) * size);
        let missing_of = |writer: &Writer, batch: usize| {
            let missing = writer.missing(range_of(batch));
            // The missing images of a batch are consecutive unless somebody removed files.
            missing.first().zip(missing.last()).map(|(&first, &last)| first..last + 1)
        };
        let existing = division.of_root(writer.as_ref().map_or(0, Writer::existing))?;
        let is_due =
            |batch: usize| is_shown(batch) || writer.as_ref().is_none_or(|writer| missing_of(writer, batch).is_some());
        let due: Vec<Range<usize>> = (0..batches)
            .filter(|&batch| is_due(batch))
            .map(|batch| match &writer {
                Some(writer) if !is_shown(batch) => missing_of(writer, batch).unwrap_or(0..0),
                _ => range_of(batch),
            })
            .collect();
        // Process 0 knows which images are there.
        let due = division.of_root(due)?;
        let due: BTreeMap<usize, Range<usize>> = due.into_iter().map(|range| (range.start / size, range)).collect();
        let finished = division.run_some(
            || provenance.identity.clone(),
            Items { count: batches, due: &due.keys().copied().collect::<Vec<_>>() },
            |batch| {
                let (mut previews, mut sheet) = (Vec::new(), Vec::new());
                // Shards are merged in whole batches.
                let range = if division.is_recorded() { range_of(batch) } else { due[&batch].clone() };
                let images = self.batch(&plan, range, existing, |step| {
                    if animation.contains(&step.row) {
                        previews.push(step.sample());
                    }
                    if save.sheet.is_some() && batch == 0 && sheet_rows.contains(&step.row) {
                        sheet.push(sheet_column(step));
                    }
                });
                Batch::of(images, |images| Batch { images, previews, sheet, not_finite: None })
            },
            |batch, made| {
                let Batch { images, mut previews, sheet, .. } = made.checked(animation.len(), plan.shape)?;
                let Some(writer) = &mut writer else { return Ok(true) };
                // A shard has the whole batch.
                let made = if images.n == due[&batch].len() { due[&batch].clone() } else { range_of(batch) };
                if images.n != made.len() {
                    return Err(Error::Request(format!(
                        "batch {batch} has {} images; expected {}",
                        images.n,
                        made.len()
                    )));
                }
                let start = made.start;
                if let Some(missing) = missing_of(writer, batch) {
                    let part = |all: &Images| all.slice(missing.start - start, missing.len());
                    let previews: Vec<Images> = previews.iter().map(part).collect();
                    writer.write(missing.start, &part(&images), &previews, &info)?;
                }
                if let (Some(path), false) = (&save.sheet, sheet.is_empty()) {
                    output::sheet(path, &sheet, sheet.len(), &info)?;
                }
                if let (Some(sheet), 0) = (&progress_sheet, batch) {
                    previews.push(images);
                    output::sheet(sheet, &previews, 10, &info)?;
                }
                Ok(true)
            },
        )?;
        if !finished {
            return Err(Error::Stopped);
        }
        if let Some(writer) = writer {
            writer.finish(self.labels_of(&plan, 0..n), &info)?;
        }
        Ok(Saved {
            path: output.path().to_owned(),
            shape,
            existing,
            sampler: format!("{sampler}, {rows} steps"),
            steps: rows,
        })
    }

    /// Resolves the options and checks them against the pipeline.
    pub(crate) fn plan(&self) -> Result<Plan, Error> {
        let options = &self.options;
        if options.n == 0 || options.batch_size == 0 {
            return Err(Error::Request("the number of images and the batch size must be at least 1".into()));
        }
        if options.first.checked_add(options.n as u64).is_none_or(|end| end > 1 << 48) {
            return Err(Error::Request("images are numbered from 0 to 2^48".into()));
        }
        if options.clip.is_some() {
            self.pipeline.check_images("a clip of x̂0 to the range of pixels (--clip-sample, --threshold)")?;
        }
        let total = self.pipeline.scheduler.num_train_timesteps;
        if let Some(until) = options.share_until.filter(|until| !(0.0..=total as f64).contains(until)) {
            return Err(Error::Request(format!("images cannot share noise until t = {until}; expected 0 to {total}")));
        }
        let labels = options.labels.clone().or_else(|| self.pipeline.classes()).filter(|labels| !labels.is_empty());
        if self.pipeline.scheduler.is_binomial() {
            return self.bit_plan(labels);
        }
        let (sampler, steps) = match (&options.sampler, &options.mse_profile) {
            // The optimal chain is one of the scheduler's sampler.
            (SamplerChoice::Model, Some(_)) => (Sampler::of(&self.pipeline.scheduler), None),
            (choice, _) => choice.resolve(self.pipeline)?,
        };
        let steps = SamplerOptions { steps: options.steps.steps.or(steps), ..options.steps };
        let scheduler = self.pipeline.scheduler.clone();
        let scheduler = options.clip.map_or(scheduler.clone(), |clip| clip.apply(scheduler));
        let table = self.solver_table(sampler, &scheduler, steps)?;
        if options.share_until.is_some() && !table.rows.iter().any(|row| row.is_noisy()) {
            let name = &table.name;
            return Err(Error::Request(format!("{name} adds no noise, so images that share noise would be equal")));
        }
        let guidance = options.guidance(self.pipeline);
        let denoiser = Guidance::around_boxed(guidance, self.pipeline.denoiser()?);
        let shape = self.shape()?;
        self.check_memory(shape)?;
        let chain = PlannedChain::Gaussian { denoiser, sampler, table };
        let plan = Plan { chain, shape, labels, guidance, scheduler };
        let first = self.start(&plan, 0..1)?.with_labels(self.labels_of(&plan, 0..1));
        if let PlannedChain::Gaussian { denoiser, table, .. } = &plan.chain {
            check(&**denoiser, table, &first)?;
            if let Some(all) = &plan.labels {
                let [height, width, channels] = plan.shape;
                denoiser.check([all.len(), height, width, channels], model::Condition::classes(Some(all)))?;
            }
        }
        Ok(plan)
    }

    /// Resolves the options for a model of bits. Those that are about Gaussian noise are refused.
    fn bit_plan(&self, labels: Option<Vec<u32>>) -> Result<Plan, Error> {
        let options = &self.options;
        let SamplerOptions { steps, spacing, grid, snap, variance } = options.steps;
        let named = match &options.sampler {
            SamplerChoice::Model => false,
            SamplerChoice::Name(name) => name != "ddpm",
            SamplerChoice::Sampler(sampler) => *sampler != Sampler::Ddpm,
        };
        let refused = [
            (named, "samplers are"),
            (spacing.is_some() || grid.is_some() || snap, "timestep grids are"),
            (variance.is_some(), "variances are"),
            (options.mse_profile.is_some(), "optimal sub-chains by squared error are"),
            (options.clip.is_some(), "clips of x̂0 are"),
            (options.guidance(self.pipeline).is_some(), "guidance is"),
            (options.init.is_some(), "initial noise is"),
            (options.from.is_some(), "image-to-image is"),
            (options.share_until.is_some(), "shared noise is"),
        ];
        if let Some((_, what)) = refused.into_iter().find(|(is_given, _)| *is_given) {
            return Err(Error::Request(format!(
                "the model's chain is binomial, of bits, and {what} for Gaussian chains: it is sampled step by step, and steps or \
                 timesteps may be given"
            )));
        }
        let denoiser = self.pipeline.bit_denoiser()?;
        let total = denoiser.schedule.len();
        let own = self.pipeline.sampling.as_ref().and_then(|own| own.steps);
        let timesteps = match (&options.timesteps, steps.or(own)) {
            (Some(list), _) => timesteps::explicit(total, list)?,
            (None, Some(steps)) => TimestepSpacing::Linspace.timesteps(total, steps, 0)?,
            (None, None) => timesteps::all(total),
        };
        let shape = self.shape()?;
        self.check_memory(shape)?;
        let [height, width, channels] = shape;
        let images = labels.as_ref().map_or(1, Vec::len);
        denoiser.check([images, height, width, channels], model::Condition::classes(labels.as_deref()))?;
        let scheduler = self.pipeline.scheduler.clone();
        Ok(Plan { chain: PlannedChain::Binomial { denoiser, timesteps }, shape, labels, guidance: None, scheduler })
    }

    /// Checks that a batch fits into memory.
    fn check_memory(&self, [height, width, channels]: [usize; 3]) -> Result<(), Error> {
        let n = self.options.batch_size.min(self.options.n);
        let fail = |message: String| {
            Error::Request(format!("{message}; lower the batch size (--batch-size) or the size (--size)"))
        };
        let sides = [n, height, width, channels, size_of::<f32>()];
        let bytes = sides.into_iter().try_fold(1, usize::checked_mul);
        if bytes.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
            return Err(fail(format!("{n} images of {height}x{width}x{channels} do not fit into memory")));
        }
        self.pipeline.network.check_memory(n, height, width).map_err(|error| fail(error.to_string()))
    }

    fn solver_table(
        &self,
        sampler: Sampler,
        scheduler: &SchedulerConfig,
        steps: SamplerOptions,
    ) -> Result<SolverTable, Error> {
        let options = &self.options;
        if let Some(profile) = &options.mse_profile {
            let Some(steps) = steps.steps else {
                return Err(Error::Request("an optimal sub-chain needs a number of steps".into()));
            };
            return sampler.optimal_table(scheduler, profile, steps);
        }
        match (&options.timesteps, &options.from) {
            (Some(list), _) => {
                let variance_type = steps.variance.unwrap_or(scheduler.variance_type);
                sampler.with_timesteps(&SchedulerConfig { variance_type, ..scheduler.clone() }, list)
            }
            (None, Some((_, t))) => sampler.table_from(scheduler, steps, *t),
            (None, None) => sampler.table(scheduler, steps),
        }
    }

    /// Returns the shape [H, W, C] of the images.
    fn shape(&self) -> Result<[usize; 3], Error> {
        let signature = self.pipeline.network.signature();
        let of = |images: &Images| [images.height, images.width, images.channels];
        if let Some(init) = &self.options.init {
            if init.n < self.options.n {
                let (found, wanted) = (init.n, self.options.n);
                return Err(Error::Request(format!("the noise is for {found} images, but {wanted} are asked for")));
            }
            return Ok(of(init));
        }
        if let Some((image, _)) = &self.options.from {
            return Ok(of(image));
        }
        let size = self.options.size.or(signature.size).or(self.pipeline.preprocessing.resolution);
        let [height, width] = size.ok_or_else(|| {
            Error::Request("the model does not say which size its images have: give one (--size HEIGHTxWIDTH)".into())
        })?;
        Ok([height, width, signature.in_channels])
    }

    /// Generates the images of a range and calls `look` after each step.
    pub(crate) fn batch(
        &mut self,
        plan: &Plan,
        range: Range<usize>,
        existing: usize,
        mut look: impl FnMut(&SamplerStep),
    ) -> Result<Images, Error> {
        let GenerateOptions { n, first, seed, batch_size, share_until, .. } = self.options;
        let start = self.start(plan, range.clone())?.with_labels(self.labels_of(plan, range.clone()));
        let request = Request {
            seed,
            first_image: first + range.start as u64,
            noise: &start,
            batch_size,
            shared: share_until.map(|until| SharedNoise { until, image: first }),
        };
        let rows = plan.chain.rows();
        let batches = n.div_ceil(batch_size);
        let (done, total) = self.division.progress(range.start / batch_size, batches, (rows, batches * rows));
        let (progress, on_step) = (&mut self.progress, &mut self.step);
        let mut after = |step: &SamplerStep| {
            look(step);
            on_step(step);
            progress(&GenerationProgress {
                done: done + step.row + 1,
                total,
                images: (done / rows * batch_size + range.start % batch_size) as f64
                    + range.len() as f64 * (step.row + 1) as f64 / rows as f64,
                existing,
            })
        };
        match &plan.chain {
            PlannedChain::Gaussian { denoiser, table, .. } => sample(&**denoiser, table, &request, after),
            PlannedChain::Binomial { denoiser, timesteps } => {
                sample_bits(denoiser, BitSteps { schedule: &denoiser.schedule, timesteps }, &request, &mut after)
            }
        }
    }

    /// Returns x at the first timestep of the table.
    pub(crate) fn start(&self, plan: &Plan, range: Range<usize>) -> Result<Images, Error> {
        let GenerateOptions { first, seed, share_until, .. } = self.options;
        let noise = |first: u64, count| initial_noise(seed, first, count, plan.shape);
        let repeated = |one: Images| {
            let pixels = one.pixels.repeat(range.len());
            Images { n: range.len(), pixels, ..one }
        };
        let start = match (&self.options.init, share_until) {
            (Some(init), Some(_)) => repeated(init.slice(0, 1)),
            (Some(init), None) => init.slice(range.start, range.len()),
            (None, Some(_)) => repeated(noise(first, 1)),
            (None, None) => noise(first + range.start as u64, range.len()),
        };
        Ok(match &self.options.from {
            Some((image, t)) => noised(image, plan.scheduler.noise_schedule()?.level(*t), start),
            None => start,
        })
    }

    pub(crate) fn labels_of(&self, plan: &Plan, range: Range<usize>) -> Option<Vec<u32>> {
        let labels = plan.labels.as_ref()?;
        Some(range.map(|i| labels[(self.options.first as usize + i) % labels.len()]).collect())
    }

    /// Returns the names of the classes that images have in turn, for a grid with a row or a folder with a folder for each.
    ///
    /// # Errors
    /// If the model has no classes, or the output is neither a grid nor a folder.
    fn class_names(&self, plan: &Plan, output: &Output) -> Result<Vec<String>, Error> {
        let names = &self.pipeline.preprocessing.id2label;
        match &plan.labels {
            Some(labels) if matches!(output, Output::Grid(_) | Output::Folder(_)) => {
                Ok(labels.iter().map(|label| names.get(label).cloned().unwrap_or_else(|| label.to_string())).collect())
            }
            _ => Err(Error::Request("--by-class needs a model with classes, and a .png or a folder to write".into())),
        }
    }

    /// Returns the identity of the images: everything that determines them, except their number.
    pub(crate) fn identity(&self, plan: &Plan) -> Identity {
        let options = &self.options;
        let mut identity = Identity::of(self.pipeline);
        match &plan.chain {
            PlannedChain::Gaussian { table, .. } => identity.add("table", table),
            PlannedChain::Binomial { timesteps, .. } => identity.add("binomial", timesteps),
        }
        identity.add("seed", &options.seed);
        identity.add("shape", &plan.shape);
        identity.add("labels", &plan.labels);
        identity.add("guidance", &plan.guidance.map(|g| (g.scale, g.null_label, g.interval)));
        identity.add("share", &options.share_until.map(|until| (until, options.first)));
        let start = options.init.as_ref().or(options.from.as_ref().map(|(image, _)| image));
        identity.add("start", &start.map(|images| &images.pixels));
        identity
    }

    /// Returns the sampler, the number of steps, the guidance and the seed, in words.
    ///
    /// # Errors
    /// If the options do not fit the model.
    pub fn description(&self) -> Result<String, Error> {
        Ok(self.provenance(&self.plan()?).how())
    }

    /// Returns what the images say about themselves.
    pub(crate) fn provenance(&self, plan: &Plan) -> Provenance {
        let GenerateOptions { seed, first, .. } = self.options;
        Provenance {
            sampler: plan.chain.sampler(),
            steps: plan.chain.rows(),
            seed,
            first,
            guidance: plan.guidance.map(|guidance| guidance.scale),
            identity: self.identity(plan).digest(),
            ..Provenance::new(self.pipeline, plan.shape)
        }
    }

    /// Returns whether a file holds exactly these images already. Only an `.npz` can tell; a folder is checked image by
    /// image.
    fn is_finished(&self, output: &Output, provenance: &Provenance, shape: [usize; 4]) -> bool {
        let Output::Npz(path) = output else { return false };
        // An interruption after the file was written can leave the unfinished images, which are still to be removed.
        if spool_folder(path).exists() {
            return false;
        }
        let Ok(Some(found)) = Provenance::read(path) else { return false };
        // No image is read.
        let options = data::ReadOptions { memory_limit_bytes: 0, ..data::ReadOptions::default() };
        let is_whole = || {
            data::open(path, &options).is_ok_and(|set| set.len() == shape[0] && set.shape() == shape[1..])
                && data::verify_npz(path).is_ok()
        };
        (&found.identity, found.first) == (&provenance.identity, provenance.first) && is_whole()
    }

    /// Returns what a file at `path` says about its images, if they are others than these and [`Generation::save_with`]
    /// would replace them.
    ///
    /// # Errors
    /// As [`Generation::save_with`].
    pub fn replaces(&self, path: &Path) -> Result<Option<Provenance>, Error> {
        if path.is_dir() {
            return Ok(None);
        }
        let Ok(Some(found)) = Provenance::read(path) else { return Ok(None) };
        let own = self.provenance(&self.plan()?);
        Ok(Some(found).filter(|found| (&found.identity, found.first) != (&own.identity, own.first)))
    }
}

/// Returns the text that is written into the files.
pub(crate) fn info(provenance: &Provenance, more: &[(String, String)]) -> Vec<(String, String)> {
    let own = [
        ("model", provenance.model.clone()),
        ("sampler", format!("{}, {} steps", provenance.sampler, provenance.steps)),
        ("seed", provenance.seed.to_string()),
        ("first", provenance.first.to_string()),
        (provenance::KEYWORD, provenance.to_json()),
    ];
    more.iter().cloned().chain(own.map(|(key, value)| (key.to_owned(), value))).collect()
}
