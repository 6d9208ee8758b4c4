//! The jobs themselves, by the builders of the crate `ddpm`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use ddpm::data::{self, ReadOptions, Split};
use ddpm::diffusion::TimestepGrid;
use ddpm::model::Images;
use ddpm::model::guidance::Guidance;
use ddpm::model::images::from_u8;
use ddpm::sample::{self, SamplerStep};
use ddpm::train::{Event, RunFolder, TrainingConfig};
use ddpm::{Device, Pipeline, PipelineExt, Training};

use crate::api::Failure;
use crate::bound;
use crate::folder::Folder;
use crate::jobs::{Frame, Outcome, Queue, Task};
use crate::models::{Models, class_name};
use crate::picture::Pixels;
use crate::requests::{Generate, ImageRef, Inpaint, Interpolate, Invert, JobRequest, Train};
use crate::uploads::Uploads;

/// The most frames of a trajectory that are kept.
const MOST_FRAMES: usize = 64;
/// The images of a trajectory that are kept: those of the first batch.
const BATCH: usize = 16;
/// The time between reports of a training.
const REPORTS: Duration = Duration::from_millis(500);

/// Where images of requests are.
pub struct Places<'a> {
    pub queue: &'a Queue,
    pub folder: &'a Folder,
    pub uploads: Arc<Uploads>,
    pub models: Arc<Models>,
    pub device: &'a Device,
}

/// Does the jobs of a queue until it ends.
pub fn run(places: &Places) {
    while let Some(task) = places.queue.next() {
        // A fault of one job must not end the others.
        let outcome = catch_unwind(AssertUnwindSafe(|| places.work(&task)));
        task.finish(match outcome {
            Ok(outcome) => outcome.map_err(|failure| failure.message),
            Err(_) => Err("the job ended unexpectedly; the terminal says more".to_owned()),
        });
    }
}

impl Places<'_> {
    fn work(&self, task: &Task) -> Result<Outcome, Failure> {
        match &task.request {
            JobRequest::Generate(request) => self.generate(task, request),
            JobRequest::Inpaint(request) => self.inpaint(task, request),
            JobRequest::Interpolate(request) => self.interpolate(task, request),
            JobRequest::Invert(request) => self.invert(task, request),
            JobRequest::Bound(request) => bound::measure(self, task, request),
            JobRequest::Train(request) => self.train(task, request),
        }
    }

    fn generate(&self, task: &Task, request: &Generate) -> Result<Outcome, Failure> {
        let pipeline = self.models.load(&request.model)?;
        let mut generation = pipeline.sample(request.n).seed(request.seed).batch_size(BATCH);
        if let Some(sampler) = &request.sampler {
            generation = generation.sampler(&**sampler);
        }
        let grid = request.grid.as_deref().map(str::parse::<TimestepGrid>).transpose()?;
        let guidance =
            request.guidance.map(|scale| guidance(&pipeline, scale, request.guidance_interval)).transpose()?;
        let from = request.from.as_ref().map(|image| self.image(task, &pipeline, image)).transpose()?;
        let classes = classes(&pipeline, request.classes.as_deref())?;
        generation = generation.with(|options| {
            (options.first, options.steps.steps, options.steps.grid) = (request.first, request.steps, grid);
            options.guidance = guidance;
            options.labels = classes;
            options.from = from.zip(request.at);
            options.share_until = request.share_until;
        });
        let table = generation.table()?;
        let rows = table.rows.len();
        let kept = kept_rows(rows);
        let images = generation
            .on_step(|step| {
                if step.first == 0 && kept.contains(&step.row) {
                    task.frame(frame(step, table.rows[step.row].node.timestep));
                }
            })
            .on_progress(|progress| task.progress(progress.done, progress.total))
            .run()?;
        let message = format!("{}, {rows} evaluations of the network", table.name);
        let labels = images.labels.iter().flatten();
        let classes = labels.map(|&label| class_name(&pipeline, label)).collect();
        Ok(Outcome { images: Some(images), classes, message: Some(message), ..Outcome::default() })
    }

    fn inpaint(&self, task: &Task, request: &Inpaint) -> Result<Outcome, Failure> {
        let pipeline = self.models.load(&request.model)?;
        let image = self.image(task, &pipeline, &request.image)?;
        let unknown = mask(&request.mask, &image)?;
        let mut inpaint = pipeline.inpaint(&image, &unknown).n(request.n).seed(request.seed).resample(request.resample);
        if let Some(steps) = request.steps {
            inpaint = inpaint.steps(steps);
        }
        if let Some(label) = class(&pipeline, request.class)? {
            inpaint = inpaint.label(label);
        }
        let mut kept: Option<Vec<usize>> = None;
        let images = inpaint
            .on_step(|step, timestep| {
                let kept = kept.get_or_insert_with(|| kept_rows(step.rows));
                if step.first == 0 && kept.contains(&step.row) {
                    task.frame(frame(step, timestep));
                }
                task.progress(step.row + 1, step.rows)
            })
            .run()?;
        Ok(Outcome { images: Some(images), ..Outcome::default() })
    }

    fn interpolate(&self, task: &Task, request: &Interpolate) -> Result<Outcome, Failure> {
        let pipeline = self.models.load(&request.model)?;
        let [a, b] = [&request.ends[0], &request.ends[1]].map(|image| self.image(task, &pipeline, image));
        let (a, b) = (a?, b?);
        let total = pipeline.scheduler.num_train_timesteps;
        if request.at >= total {
            let message = format!("`at` is {}; expected a timestep below {total}", request.at);
            return Err(Failure::new(StatusCode::BAD_REQUEST, message));
        }
        let mut interpolate = pipeline
            .interpolate(&a, &b)
            .at([request.at])
            .frames(request.frames)
            .seed(request.seed)
            .steps(request.steps);
        if let Some(label) = class(&pipeline, request.class)? {
            interpolate = interpolate.label(label);
        }
        let mixtures = interpolate.on_progress(|done, total| task.progress(done, total)).run()?;
        let mut images = Images::default();
        mixtures.into_iter().for_each(|more| images.append(more));
        Ok(Outcome { images: Some(images), ..Outcome::default() })
    }

    fn invert(&self, task: &Task, request: &Invert) -> Result<Outcome, Failure> {
        let pipeline = self.models.load(&request.model)?;
        let label = class(&pipeline, request.class)?;
        let image = self.image(task, &pipeline, &request.image)?.with_labels(label.map(|label| vec![label]));
        let inversion =
            sample::Inversion { at: pipeline.scheduler.num_train_timesteps - 1, steps: request.steps, batch_size: 1 };
        let inverted =
            sample::invert(&pipeline.denoiser()?, &pipeline.scheduler, (&image, inversion), |done, total| {
                task.progress(done, total)
            })?;
        let facts = [("rmse", inverted.rmse), ("latent_rms", inverted.latent_rms)];
        let mut images = image;
        images.append(inverted.latents.with_labels(images.labels.clone()));
        images.append(inverted.reconstruction.with_labels(images.labels.as_ref().map(|labels| labels[..1].to_vec())));
        let facts = facts.into_iter().map(|(name, values)| (name.to_owned(), values)).collect();
        Ok(Outcome { images: Some(images), facts, ..Outcome::default() })
    }

    fn train(&self, task: &Task, request: &Train) -> Result<Outcome, Failure> {
        let folder = self.folder.new_path(&request.run)?;
        let (run, mut config) = match request.resume {
            true => (RunFolder::existing(&folder), TrainingConfig::from_file(&folder.join("config.toml"))?),
            false => (RunFolder::new_run(&folder), TrainingConfig::preset(request.preset())?),
        };
        let mut own = request.resume.then(|| config.clone());
        if let Some(data) = &request.data {
            config.data.path = Some(data.into());
        }
        for assignment in &request.set {
            config.set(assignment)?;
        }
        // What is read lies below the studio's folder, too, but for what a run that continues has read before.
        let before = own.as_mut().map(paths_of).map_or([const { None }; 4], |paths| paths.map(|path| path.clone()));
        for (path, before) in paths_of(&mut config).into_iter().zip(before) {
            if let Some(path) = path.as_mut().filter(|path| before.as_ref() != Some(*path)) {
                *path = self.folder.find(&path.to_string_lossy())?;
            }
        }
        let chosen = match request.resume {
            true => Vec::new(),
            false => config.decide_rest(&request.keys(), request.preset.is_some())?,
        };
        let training = Training::config(config);
        let (commands, received) = channel();
        task.take_commands(commands);
        let mut last = Instant::now() - REPORTS;
        let mut steps = 0;
        let finished = training
            .commands(received)
            .on_event(|event| match event {
                Event::Started { step, steps: all, device, .. } => {
                    steps = *all;
                    task.progress(*step as usize, steps as usize);
                    task.say(match chosen.is_empty() {
                        true => format!("training on {device}"),
                        false => format!("training on {device}; chosen by the images: {}", chosen.join(" ")),
                    });
                }
                Event::Step { report, .. } if last.elapsed() >= REPORTS || report.step == steps => {
                    last = Instant::now();
                    task.progress(report.step as usize, steps as usize);
                    task.say(format!("loss {:.4}", report.loss));
                }
                Event::Sampling { done, total } => task.say(format!("samples: {done} of {total} evaluations")),
                Event::Validating { part, done, total } => task.say(format!("validation: {part}, {done} of {total}")),
                Event::Warning { message } | Event::Notice { message } => task.say(message.clone()),
                _ => {}
            })
            .run(run, self.device)?;
        let message = if finished.stopped { "stopped" } else { "finished" };
        let message =
            format!("{message} after {} steps; saved in {}", finished.step, self.folder.name_of(&finished.checkpoint));
        Ok(Outcome { message: Some(message), ..Outcome::default() })
    }

    /// Returns the image of a request, as the model takes it.
    pub(crate) fn image(&self, task: &Task, pipeline: &Pipeline, image: &ImageRef) -> Result<Images, Failure> {
        let images = image_of(self.queue, &self.uploads, pipeline, image)?;
        // Files and jobs are forgotten; PNGs have what they were made from inside.
        if !matches!(image, ImageRef::Data { .. }) {
            task.keep_source(image.clone(), Pixels::from(&images));
        }
        Ok(images)
    }
}

/// The paths that a training reads.
fn paths_of(config: &mut TrainingConfig) -> [&mut Option<PathBuf>; 4] {
    let train = &mut config.train;
    [&mut config.data.path, &mut train.init_from, &mut train.evaluate_features, &mut train.evaluate_reference]
}

/// Returns the image of a request, as a model takes it.
pub fn image_of(queue: &Queue, uploads: &Uploads, pipeline: &Pipeline, image: &ImageRef) -> Result<Images, Failure> {
    let signature = pipeline.network.signature();
    let images = match *image {
        ImageRef::Upload { upload } => pipeline.read_images(&[uploads.path(upload)], None)?,
        ImageRef::Job { job, image } => {
            let all = queue.images(job)?;
            if image >= all.n {
                let message = format!("job {job} has {} images, and none of number {image}", all.n);
                return Err(Failure::new(StatusCode::NOT_FOUND, message));
            }
            // As its PNG has it, so that the same comes out of the file.
            let image = all.slice(image, 1);
            Images::new(image.shape(), from_u8(&image.bytes()))
        }
        ImageRef::Data { data } => {
            let set = pipeline.open_training_data(Split::Test).or_else(|_| builtin_as(pipeline))?;
            of_set(&set, data)?
        }
    };
    if images.channels != signature.in_channels {
        let (found, expected) = (images.channels, signature.in_channels);
        let message = format!("the image has {found} channels, and the model takes {expected}");
        return Err(Failure::new(StatusCode::BAD_REQUEST, message));
    }
    Ok(images.with_labels(None))
}

/// Reads an image of a set.
pub fn of_set(set: &data::ImageSet, number: usize) -> Result<Images, Failure> {
    if number >= set.len() {
        let message = format!("{} has {} images, numbered from 0, and none of number {number}", set.name(), set.len());
        return Err(Failure::new(StatusCode::NOT_FOUND, message));
    }
    Ok(Images::read(set, &[number])?)
}

/// The built-in images, as a model takes its own.
fn builtin_as(pipeline: &Pipeline) -> Result<data::ImageSet, ddpm::Error> {
    let options = ReadOptions { split: Split::Test, ..pipeline.read_options(None) };
    // A crop is a part of the images that the model was trained on; these, of 28x28 pixels, may be too small to have it.
    let crop = options.crop.filter(|crop| crop.check_image(28, 28).is_ok());
    let options = ReadOptions { crop, ..options };
    Ok(data::builtin(&options)?)
}

/// Returns the rows whose images are kept: at most [`MOST_FRAMES`], evenly spaced, the last one among them.
pub fn kept_rows(rows: usize) -> Vec<usize> {
    let frames = rows.min(MOST_FRAMES);
    (1..=frames).map(|i| i * rows / frames - 1).collect()
}

fn frame(step: &SamplerStep, timestep: f64) -> Frame {
    Frame { timestep, x: Pixels::from(&step.x()), sample: Pixels::from(&step.sample()) }
}

fn guidance(pipeline: &Pipeline, scale: f64, interval: Option<(f64, f64)>) -> Result<Guidance, Failure> {
    match pipeline.preprocessing.null_label {
        Some(null_label) => Ok(Guidance::new(scale, null_label).within(interval)),
        None if scale == 1.0 => Ok(Guidance::new(1.0, u32::MAX)),
        None => Err(Failure::new(StatusCode::BAD_REQUEST, "the model was not trained for guidance: leave it at 1")),
    }
}

fn classes(pipeline: &Pipeline, classes: Option<&[u32]>) -> Result<Option<Vec<u32>>, Failure> {
    let Some(asked) = classes.filter(|classes| !classes.is_empty()) else { return Ok(None) };
    let known = pipeline.classes().unwrap_or_default();
    match asked.iter().find(|class| !known.contains(class)) {
        Some(class) => Err(Failure::new(StatusCode::BAD_REQUEST, format!("the model has no class {class}"))),
        None => Ok(Some(asked.to_vec())),
    }
}

/// Returns the class of one image: where the model has classes, the one that means no class by default, or the first.
pub fn class(pipeline: &Pipeline, class: Option<u32>) -> Result<Option<u32>, Failure> {
    let one = class.map(|class| vec![class]);
    let asked = classes(pipeline, one.as_deref())?.map(|classes| classes[0]);
    let of_model = || pipeline.preprocessing.null_label.or_else(|| pipeline.classes()?.first().copied());
    Ok(asked.or_else(of_model))
}

/// Reads a mask of an image.
fn mask(text: &str, image: &Images) -> Result<Vec<bool>, Failure> {
    let fail = |message: String| Failure::new(StatusCode::BAD_REQUEST, message);
    let pixels = image.height * image.width;
    if text.len() != pixels {
        return Err(fail(format!("the mask has {} pixels, and the image {pixels}", text.len())));
    }
    let is_unknown = |byte: u8| match byte {
        b'0' => Ok(false),
        b'1' => Ok(true),
        _ => Err(fail("the mask has other characters than 0 and 1".into())),
    };
    let unknown = text.bytes().map(is_unknown).collect::<Result<Vec<bool>, Failure>>()?;
    if unknown.contains(&true) { Ok(unknown) } else { Err(fail("the mask is empty: paint what is to be made".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trajectories_have_few_frames_and_the_last_one() {
        assert_eq!(kept_rows(3), [0, 1, 2]);
        let kept = kept_rows(1000);
        assert_eq!((kept.len(), kept.last()), (MOST_FRAMES, Some(&999)));
        assert!(kept.is_sorted() && kept_rows(0).is_empty());
    }

    #[test]
    fn masks_are_checked() {
        let image = Images::new([1, 2, 2, 1], vec![0.0; 4]);
        assert_eq!(mask("0110", &image).unwrap(), [false, true, true, false]);
        for wrong in ["", "011", "01102", "0000", "01x0"] {
            assert_eq!(mask(wrong, &image).unwrap_err().status, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
}
