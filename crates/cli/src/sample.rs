//! `ddpm sample`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use ddpm::data::Fit;
use ddpm::diffusion::SolverTable;
use ddpm::evaluate::{MeasuredModel, read_mse_profile};
use ddpm::model::Sampling;
use ddpm::model::guidance::Guidance;
use ddpm::sample::{ClipChoice, GenerateOptions, Generation, SamplerChoice, SaveOptions, Saved, read_noise};
use ddpm::weights::builtin::NAME as BUILTIN;
use ddpm::{Images, Output, Pipeline};

use crate::error::usage;
use crate::foreign::{check_not_input, check_outputs};
use crate::guidance_args::GuidanceArgs;
use crate::image_args;
use crate::interrupt::{on_interrupt, this_command};
use crate::preview::PreviewArgs;
use crate::sampler_args::{Line, SamplerArgs};
use crate::shard_args::{ShardArgs, unless_recorded};
use crate::terminal::{Progress, counted, duration, rate, warn};
use crate::{Global, model_source, values};

/// Sample images from a model.
///
/// MODEL is a run, a checkpoint, a diffusers pipeline folder, a flat google/ddpm-* repository, or `fashion`, the model of
/// clothes in this program. An image depends on the
/// model, the sampler, the seed and its number only: neither the batch size, nor the threads, nor -n changes it.
///
/// Images are written as they are made. If the program is interrupted, the same command continues with the images that
/// are missing, and the files are the same to the byte: a folder keeps its finished images, any other output OUT keeps
/// them in OUT.partial until OUT is complete.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  ddpm sample                                                                     clothes, into samples.png\n  \
    ddpm sample runs/fashion -n 64 -o grid.png\n  \
    ddpm sample runs/fashion -n 50000 -o samples.npz --sampler ddim --steps 50      OpenAI's arr_0\n  \
    ddpm sample google-ddpm-cifar10-32/ -n 16 -o images/                            numbered PNGs\n  \
    ddpm sample runs/fashion -n 16 --animate -o denoising.gif                       from noise to images\n  \
    ddpm sample MODEL --sampler unipc-2 --steps 20 -o grid.png                      few steps\n  \
    ddpm sample MODEL --init noise.safetensors --sampler ddim -o out.safetensors    from given noise\n  \
    ddpm sample MODEL --from photo.png --at 500 -n 9 -o like-it.png                 image-to-image\n  \
    ddpm sample MODEL --share-until 250 --sampler ddpm -n 9 -o siblings.png         decodings of one x_t\n  \
    ddpm sample MODEL --by-class -n 8 --guidance 2 -o classes.png                   a row for each class\n  \
    ddpm sample MODEL --by-class -n 1000 -o synthetic/                              a folder for each class\n  \
    ddpm sample MODEL -n 4 --sheet steps.png                                        x_t and x̂0 along the trajectory"
)]
pub struct SampleArgs {
    /// A run, a checkpoint or a diffusers folder. Defaults to the model in this program
    #[arg(default_value = BUILTIN)]
    model: PathBuf,
    /// Number of images. Defaults to 16, or with --init to those in the file
    #[arg(short, long, value_parser = values::positive, value_name = "N")]
    n: Option<usize>,
    /// Output: .png (a grid), .npz, .safetensors, .gif, or a folder
    #[arg(short, long, default_value = "samples.png", value_name = "OUT")]
    output: PathBuf,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Number of the first image, to extend a set of samples
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << 48), value_name = "I")]
    first: u64,
    /// Images that go through the network at once; the result does not depend on it
    #[arg(long, default_value_t = 16, value_parser = values::positive, value_name = "B")]
    batch_size: usize,
    /// Require an interrupted run to continue; without it, the same command continues one if there is one
    #[arg(long = "continue", alias = "resume")]
    must_continue: bool,
    #[command(flatten)]
    preview: PreviewArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    refinement: RefinementArgs,
    #[command(flatten)]
    classes: ClassArgs,
    #[command(flatten)]
    start: StartArgs,
    #[command(flatten)]
    trajectory: TrajectoryArgs,
    #[command(flatten)]
    shards: ShardArgs,
}

/// Flags that improve on a sampler.
#[derive(Args)]
#[command(next_help_heading = "Sampler")]
struct RefinementArgs {
    /// Use the optimal schedule and variances that `ddpm evaluate --denoising` measured on this model
    #[arg(long, conflicts_with_all = ["spacing", "grid", "timesteps", "variance"], requires = "steps", value_name = "FILE")]
    denoising: Option<PathBuf>,
    /// Clip every prediction of the image to the range of pixels. Defaults to the model's choice
    #[arg(long, value_name = "BOOL")]
    clip_sample: Option<bool>,
    /// Use dynamic thresholding in place of a clip: the quantile of each prediction that is scaled to 1, and the largest
    /// such quantile, e.g. 0.995,1.5
    #[arg(long, value_parser = values::threshold, conflicts_with = "clip_sample", value_name = "RATIO,MAX")]
    threshold: Option<(f64, f64)>,
}

/// Flags of the classes.
#[derive(Args)]
#[command(next_help_heading = "Classes")]
struct ClassArgs {
    /// Class of each image, by its name or label: one for all, or N of them. Defaults to the classes in turn
    #[arg(long, alias = "label", value_delimiter = ',', value_name = "CLASS,…")]
    labels: Option<Vec<String>>,
    /// Write -n images of each class: a .png with a row for each, or a folder with a folder for each and a metadata.csv
    #[arg(long, conflicts_with_all = ["labels", "animate", "init"])]
    by_class: bool,
    #[command(flatten)]
    guidance: GuidanceArgs,
}

/// Flags of what sampling starts from.
#[derive(Args)]
#[command(next_help_heading = "Start")]
struct StartArgs {
    /// Height and width: 32 or 32x48. Defaults to the model's
    #[arg(long, value_parser = values::size, value_name = "SIZE")]
    size: Option<[usize; 2]>,
    /// Read x_T from the tensor `noise` [N,C,H,W] of a safetensors file
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Start from this image, noised to timestep --at (image-to-image)
    #[arg(long, conflicts_with_all = ["init", "timesteps", "denoising", "size"], requires = "at", value_name = "IMAGE")]
    from: Option<PathBuf>,
    /// Timestep of --from: the higher it is, the less is left of the image
    #[arg(long, requires = "from", value_name = "T")]
    at: Option<usize>,
    /// Fit of the image of --from. Defaults to the fit that the model was trained with
    #[arg(long, requires = "from", value_parser = values::fit(), value_name = "FIT")]
    fit: Option<Fit>,
    /// Share all noise until x at this timestep; from there on each image has its own (for ddpm, or ddim with --eta)
    #[arg(long, value_parser = values::non_negative, value_name = "T")]
    share_until: Option<f64>,
}

/// Flags that show the trajectory from noise to images.
#[derive(Args)]
#[command(next_help_heading = "Trajectory")]
struct TrajectoryArgs {
    /// Keep predictions along the trajectory: .png and .gif become animations, a folder OUT gets OUT-progress.png
    #[arg(long, alias = "progress")]
    animate: bool,
    /// Draw the trajectory of the first 8 images, x_t above its prediction of the image, from left to right: a PNG
    #[arg(long, value_parser = values::png, value_name = "FILE")]
    sheet: Option<PathBuf>,
}

pub fn run(arguments: SampleArgs, global: &Global) -> anyhow::Result<()> {
    let animated = arguments.trajectory.animate && arguments.output.extension().is_some();
    let output = Output::parse(&arguments.output, animated).map_err(usage)?;
    if arguments.classes.by_class && !matches!(output, Output::Grid(_) | Output::Folder(_)) {
        return Err(usage("--by-class writes a grid or a folder; give -o a name that ends in .png or /"));
    }
    if arguments.must_continue && !output.is_begun() && !arguments.shards.is_shard() {
        let path = arguments.output.display();
        bail!("{path}: there is no interrupted run to continue; leave out --continue to begin one");
    }
    let preview = arguments.preview.preview_of(&arguments.output, global)?;
    let options = arguments.options()?;
    let frames = output.progress_sheet().filter(|_| arguments.trajectory.animate);
    let inputs = [&arguments.start.init, &arguments.start.from, &arguments.refinement.denoising].map(Option::as_deref);
    let inputs: Vec<&Path> = inputs.into_iter().flatten().collect();
    let sheet = arguments.trajectory.sheet.as_deref();
    let shard = arguments.shards.file(&arguments.output);
    check_outputs(&[Some(output.path()), sheet, frames.as_deref()], &inputs)?;
    if let Some(shard) = &shard {
        check_not_input(shard, &[&inputs[..], &[output.path()]].concat())?;
    }
    on_interrupt("the finished images are kept; continue with")?;
    let mut pipeline = model_source::load(&arguments.model, global)?;
    let guidance = arguments.classes.guidance.apply(&mut pipeline)?;
    let options = GenerateOptions { guidance, ..arguments.fitted(options, &pipeline, global)? };
    let guidance_of_run = options.guidance(&pipeline).filter(|_| guidance.is_none());
    let n = options.n;
    let division = arguments.shards.division(&arguments.output, global)?;
    let generation = Generation::new(&pipeline, n).with(|own| *own = options).divided(division);
    let mut progress = Progress::new("sample", "steps", global);
    if !pipeline.scheduler.is_binomial() {
        announce_sampler(&arguments, &pipeline, &generation.table()?, &mut progress)?;
    }
    if let Some(Guidance { scale, interval: (from, to), .. }) = guidance_of_run {
        let interval = if from.is_finite() { format!(" from t = {from} to {to}") } else { String::new() };
        progress.say(format!("guidance: {scale}{interval}, as the run draws its samples"));
    }
    let mut made = 0.0;
    let generation = generation.on_progress(|now| {
        progress.set_before(now.total * now.existing / n);
        made = now.images - now.existing as f64;
        progress.update_with(now.done, now.total, |seconds| rate(made / seconds, "images"));
        true
    });
    let save = SaveOptions {
        animate: arguments.trajectory.animate,
        sheet: arguments.trajectory.sheet.clone(),
        by_class: arguments.classes.by_class,
        info: Vec::new(),
        command: Some(this_command()),
    };
    if let (Some(others), false) = (generation.replaces(output.path())?, arguments.shards.is_shard()) {
        let path = output.path().display();
        warn(format!("{path}: samples of {} ({}) are replaced", others.model, others.how()));
    }
    let saved = unless_recorded(generation.save_with(&arguments.output, &save).map_err(Into::into))?;
    let seconds = progress.seconds();
    drop(progress);
    let Some(saved) = saved else {
        arguments.shards.print(&arguments.output, global);
        return Ok(());
    };
    preview.show(&saved.path);
    print(&saved, seconds, global);
    if let Some(sheet) = save.sheet.filter(|_| !global.json && !global.quiet) {
        eprintln!("trajectory: {}", sheet.display());
    }
    Ok(())
}

/// Prints which sampler is the model's, and warnings about its steps.
fn announce_sampler(
    arguments: &SampleArgs,
    pipeline: &Pipeline,
    table: &SolverTable,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    match arguments.sampler.own_sampler(&pipeline.scheduler, arguments.run(pipeline), table) {
        Some(Line::Note(line)) => progress.say(line),
        Some(Line::Warning(line)) => progress.warn(line),
        None => {}
    }
    // A chain from --at has fewer steps than the whole one.
    if arguments.start.from.is_none() {
        let (sampler, _) = arguments.sampler.of_model(&pipeline.scheduler, arguments.run(pipeline))?;
        arguments.sampler.warnings(sampler, table).into_iter().for_each(|line| progress.warn(line));
    }
    Ok(())
}

impl SampleArgs {
    /// Returns the files and folders that the command writes.
    pub fn outputs(&self) -> Vec<&Path> {
        [Some(&*self.output), self.trajectory.sheet.as_deref()].into_iter().flatten().collect()
    }

    /// Returns how the run of a model draws samples, unless the optimal chain is asked for, which is that of the scheduler.
    fn run<'a>(&self, pipeline: &'a Pipeline) -> Option<&'a Sampling> {
        pipeline.sampling.as_ref().filter(|_| self.refinement.denoising.is_none())
    }

    /// Returns the options that do not depend on the model.
    fn options(&self) -> anyhow::Result<GenerateOptions> {
        let RefinementArgs { clip_sample, threshold, .. } = self.refinement;
        self.sampler.check()?;
        let init = self.start.init.as_deref().map(|path| self.noise(path)).transpose()?;
        Ok(GenerateOptions {
            n: self.n.unwrap_or(init.as_ref().map_or(16, |noise| noise.n)),
            first: self.first,
            seed: self.seed,
            sampler: SamplerChoice::Model,
            steps: self.sampler.options(),
            timesteps: self.sampler.timesteps.clone(),
            mse_profile: None,
            clip: threshold
                .map(|(ratio, max)| ClipChoice::Threshold { ratio, max })
                .or(clip_sample.map(ClipChoice::Range)),
            batch_size: self.batch_size,
            labels: None,
            guidance: None,
            size: self.start.size,
            init,
            from: None,
            share_until: self.start.share_until,
        })
    }

    /// Adds what depends on the model.
    fn fitted(
        &self,
        options: GenerateOptions,
        pipeline: &Pipeline,
        global: &Global,
    ) -> anyhow::Result<GenerateOptions> {
        let mut options = options;
        let (sampler, steps) = self.sampler.of_model(&pipeline.scheduler, self.run(pipeline))?;
        (options.sampler, options.steps) = (sampler.into(), steps);
        if self.classes.by_class {
            let Some(classes) = pipeline.classes() else {
                bail!("--by-class: the model has no classes");
            };
            options.n = options.n.saturating_mul(classes.len());
        }
        options.labels = self.labels(pipeline, options.n)?;
        let is_related = self.start.from.is_some() || self.start.share_until.is_some();
        if is_related && options.labels.is_none() && !self.classes.by_class {
            image_args::check_without_class(pipeline, "--labels")?;
        }
        if let Some(path) = &self.refinement.denoising {
            let read = read_mse_profile(path, &pipeline.scheduler.noise_schedule()?, &MeasuredModel::of(pipeline))?;
            if read.model.is_none() {
                eprintln!(
                    "warning: {} does not say which model it was measured on, so it may be that of another one",
                    path.display()
                );
            }
            options.mse_profile = Some(read.profile);
        }
        if let (Some(path), Some(t)) = (&self.start.from, self.start.at) {
            options.from = Some((image_args::read(pipeline, &[path], self.start.fit, global)?.0, t));
        }
        self.check_shared_noise(&options, pipeline)?;
        Ok(options)
    }

    /// Checks that images with shared noise differ.
    fn check_shared_noise(&self, options: &GenerateOptions, pipeline: &Pipeline) -> anyhow::Result<()> {
        if options.share_until.is_none() {
            return Ok(());
        }
        let options = GenerateOptions { share_until: None, ..options.clone() };
        let table = Generation::new(pipeline, options.n).with(|own| *own = options).table()?;
        if table.rows.iter().any(|row| row.is_noisy()) {
            return Ok(());
        }
        let name = &table.name;
        Err(usage(format!(
            "--share-until: {name} adds no noise, so all images would be the same; use --sampler ddpm, or ddim with --eta"
        )))
    }

    /// Returns the classes that images have in turn, by their numbers.
    fn labels(&self, pipeline: &Pipeline, n: usize) -> anyhow::Result<Option<Vec<u32>>> {
        let label = |class: &String| pipeline.preprocessing.label(class).map_err(usage);
        let labels =
            self.classes.labels.as_ref().map(|classes| classes.iter().map(label).collect::<Result<Vec<u32>, _>>());
        match labels.transpose()? {
            Some(mut labels) if labels.len() == n => {
                // The first class is that of the first image, whatever its number.
                labels.rotate_right((self.first % n as u64) as usize);
                Ok(Some(labels))
            }
            Some(labels) if labels.len() != 1 => {
                Err(usage(format!("--labels has {} classes; expected 1 or {n}", labels.len())))
            }
            labels => Ok(labels),
        }
    }

    /// Reads noise for all images.
    fn noise(&self, path: &Path) -> anyhow::Result<Images> {
        let noise = read_noise(path)?;
        if let Some(n) = self.n.filter(|n| noise.n < *n) {
            let (path, found) = (path.display(), noise.n);
            bail!("{path}: `noise` is for {found} images, but -n asks for {n}; use -n {found} or fewer");
        }
        Ok(noise)
    }
}

fn print(saved: &Saved, seconds: f64, global: &Global) {
    let [n, height, width, channels] = saved.shape;
    let made = n - saved.existing;
    let per_second = made as f64 / seconds;
    let path = saved.path.display();
    if global.json {
        let object = serde_json::json!({
            "output": saved.path.to_string_lossy(), "images": n, "existing": saved.existing, "height": height, "width": width,
            "channels": channels, "steps": saved.steps, "seconds": seconds, "images_per_second": per_second,
        });
        println!("{object}");
    } else if !global.quiet {
        let made = match saved.existing {
            0 => counted(n, "image"),
            existing if existing == n => return eprintln!("{}, all of them from before: {path}", counted(n, "image")),
            existing => format!("{}, {existing} of them from before,", counted(n, "image")),
        };
        eprintln!("{made} in {}, {}: {path}", duration(seconds), rate(per_second, "images"));
    }
}
