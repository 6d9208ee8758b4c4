//! A training run from its first step to its last, with everything that its folder holds.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use data::ImageSet;
use diffusion::SchedulerConfig;
use diffusion::timestep_sampler::LossSecondMoment;
use sample::output::{self, Output};
use sample::{Request, initial_noise, walk};
use unet::Unet;
use weights::atomic;

use crate::Error;
use crate::batches::Plan;
use crate::checkpoint::{self, Checkpoint, State};
use crate::config::{Config, TimestepSampler};
use crate::measure::{Measured, Measures};
use crate::metrics::{Logs, Record, Window};
use crate::optimizer::Optimizer;
use crate::trainer::Trainer;

/// What a run tells while it goes on.
#[non_exhaustive]
pub enum Event<'a> {
    /// Everything is ready.
    Started {
        /// The images.
        set: &'a ImageSet,
        /// The network.
        unet: &'a Unet,
        /// Steps done before.
        step: u64,
        /// Steps in all.
        steps: u64,
    },
    /// A step is done.
    Step {
        /// Steps done.
        step: u64,
        /// Its loss.
        loss: f64,
    },
    /// A line was logged.
    Logged(&'a Record),
    /// A step of the sampler that draws a picture of samples.
    Sampling {
        /// Rows done.
        done: usize,
        /// Rows in all.
        total: usize,
    },
    /// Samples were drawn.
    Sampled(&'a Path),
    /// So many of so many were done of a measurement.
    Evaluating {
        /// What: held-out images, samples, features of either.
        what: &'static str,
        /// Done.
        done: usize,
        /// In all.
        total: usize,
    },
    /// A measurement is done.
    Evaluated {
        /// What came out.
        measured: &'a Measured,
        /// Whether the figure that chooses the best checkpoint was never less.
        best: bool,
    },
    /// A checkpoint was written.
    Saved(&'a Path),
    /// Something that is not as it should be, but does not end the run.
    Warning(String),
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// Steps done.
    pub step: u64,
    /// Whether it was asked to stop before its last step.
    pub stopped: bool,
    /// The newest picture of samples.
    pub samples: Option<PathBuf>,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
    /// Lines logged in all.
    pub records: Vec<Record>,
}

/// Trains as `config` says in the folder `run`, from the beginning or from the newest whole checkpoint there. `stop` is
/// asked after every step; when it says so, the run is saved and ends.
///
/// # Errors
/// Names the file or key at fault. Checkpoints that were written stay.
pub fn train(
    config: &Config,
    run: &Path,
    device: &Device,
    stop: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(Event),
) -> Result<Finished, Error> {
    config.validate()?;
    let set = Arc::new(config.open(data::Split::Train)?);
    for data::BadFile { path, reason } in &set.report().bad {
        tell(Event::Warning(format!("{}: {reason}; left out", path.display())));
    }
    let device = device.clone().autodiff();
    let mut run = Run::begin(config, run, set, device, tell)?;
    run.go(stop, tell)
}

struct Run<'a> {
    config: &'a Config,
    folder: &'a Path,
    /// Held until the run ends.
    _lock: Option<File>,
    set: Arc<ImageSet>,
    measures: Option<Measures>,
    scheduler: SchedulerConfig,
    trainer: Option<Trainer>,
    logs: Logs,
    last_samples: Option<PathBuf>,
    last_checkpoint: Option<PathBuf>,
}

impl<'a> Run<'a> {
    fn begin(
        config: &'a Config,
        folder: &'a Path,
        set: Arc<ImageSet>,
        device: Device,
        tell: &mut dyn FnMut(Event),
    ) -> Result<Self, Error> {
        let network = config.network(&set)?;
        let scheduler = config.scheduler();
        let objective = config.objective()?;
        let measures = Measures::new(config, &set, &device)?;
        let image = set.shape();
        // A sampler that cannot read the network's prediction should not come to light at the first picture.
        let table = config.sampler().table(&scheduler, config.sampler_options())?;
        for row in &table.rows {
            let prediction = scheduler.prediction_type;
            prediction.maps(row.node, prediction.previous_level(&objective.schedule, row.node.timestep)?)?;
        }
        // Only now: what could not begin leaves no folder behind, and changes none.
        std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.into(), source })?;
        let lock = lock(folder)?;
        for folder in [folder.to_path_buf(), folder.join("samples"), folder.join("checkpoints")] {
            std::fs::create_dir_all(&folder).map_err(|source| Error::Write { path: folder.clone(), source })?;
            atomic::remove_leftovers(&folder, Duration::ZERO)?;
        }
        let found = newest(folder, &device, |_| true, tell)?;
        let Checkpoint { unet, optimizer, mut state } = match found {
            Some(checkpoint) if *checkpoint.unet.config() != network => {
                return Err(Error::Run(format!(
                    "{}: the checkpoint's network is not the one that the configuration describes; \
                     use another folder, or the configuration that the run began with",
                    folder.display()
                )));
            }
            Some(checkpoint) => checkpoint,
            None => {
                let unet = Unet::new(&network, config.train.seed, &device)?;
                Checkpoint { optimizer: Optimizer::new(&unet), unet, state: State::default() }
            }
        };
        // The memory of the importance sampler goes with the chain and with the choice, both of which may have changed.
        let timesteps = config.diffusion.timesteps;
        let remembered = state.importance.take().filter(|all| all.distribution().probabilities().len() == timesteps);
        if config.diffusion.timestep_sampler == TimestepSampler::Importance {
            state.importance = Some(remembered.map_or_else(|| LossSecondMoment::new(timesteps), Ok)?);
        }
        // A least figure of another kind says nothing.
        if let Some(measures) = &measures
            && measures.best_by() != state.best_by
        {
            (state.best, state.best_by) = (None, measures.best_by());
        }
        let text = config.to_toml()?;
        atomic::write_file(folder.join("config.toml"), |file| file.write_all(text.as_bytes()))?;
        let logs = Logs::open(folder, &folder.display().to_string(), state.step)?;
        tell(Event::Started { set: &set, unet: &unet, step: state.step, steps: config.train.steps as u64 });
        let trainer = Trainer { unet, optimizer, objective, state, image, config: config.clone(), device };
        Ok(Self {
            config,
            folder,
            _lock: lock,
            set,
            measures,
            scheduler,
            trainer: Some(trainer),
            logs,
            last_samples: None,
            last_checkpoint: None,
        })
    }

    fn plan(&self, trainer: &Trainer) -> Plan {
        Plan {
            random: trainer.random(),
            images: self.config.train.batch_size * self.config.train.gradient_accumulation,
            flip: self.config.data.flip,
            labels: trainer.unet.config().num_class_embeds.is_some(),
            label_dropout: self.config.train.label_dropout,
            null_label: self.set.class_names().len() as u32,
        }
    }

    fn go(&mut self, stop: &dyn Fn() -> bool, tell: &mut dyn FnMut(Event)) -> Result<Finished, Error> {
        let Some(mut trainer) = self.trainer.take() else {
            return Err(Error::Run("the run is over".into()));
        };
        let train = &self.config.train;
        let steps = train.steps as u64;
        let due = |step: u64, every: usize| every > 0 && step.is_multiple_of(every as u64);
        let mut batches = self.plan(&trainer).stream(self.set.clone(), trainer.state.step);
        let mut window = Window::default();
        let mut since = Instant::now();
        let mut unsaved = false;
        let mut stopped = false;
        while trainer.state.step < steps && !stopped {
            let batch = batches
                .recv()
                .unwrap_or_else(|_| Err(Error::Run("the thread that reads images ended unexpectedly".into())));
            let batch = match batch {
                Ok(batch) => batch,
                // An image that cannot be read any more costs no step that was done.
                Err(error) => {
                    self.save(&trainer, usize::MAX, tell)?;
                    return Err(error);
                }
            };
            let (next, report) = trainer.step(&batch)?;
            trainer = next;
            let step = trainer.state.step;
            window.add(&report, self.config.diffusion.timesteps);
            tell(Event::Step { step, loss: report.loss });

            if !report.moved {
                tell(Event::Warning(format!(
                    "step {step}: loss {} and gradient norm {} are not finite; the step is skipped",
                    report.loss, report.gradient_norm
                )));
            }
            if trainer.state.skipped_in_a_row >= train.nonfinite_limit {
                trainer = self.roll_back(trainer, tell)?;
                batches = self.plan(&trainer).stream(self.set.clone(), trainer.state.step);
                (window, since, unsaved) = (Window::default(), Instant::now(), false);
                continue;
            }

            stopped = stop();
            let last = step == steps || stopped;
            let pause = Instant::now();
            let measures = due(step, train.evaluate_every) || (last && !stopped && train.evaluate_every > 0);
            let measured = match &mut self.measures {
                Some(all) if measures => all.measure(&trainer.averaged(), self.config, &self.set, stop, tell)?,
                _ => None,
            };
            if let (Some(all), Some(measured)) = (&self.measures, &measured) {
                let figure = measured.chooses(all.best_by());
                let best = figure.filter(|figure| trainer.state.best.is_none_or(|(_, least)| *figure < least));
                if let Some(figure) = best {
                    trainer.state.best = Some((step, figure));
                    unsaved = true;
                }
                tell(Event::Evaluated { measured, best: best.is_some() });
            }
            since += pause.elapsed();
            if !window.is_empty() && (due(step, train.log_every) || last || measured.is_some()) {
                let elapsed = since.elapsed().as_secs_f64();
                trainer.state.seconds += elapsed;
                let State { seconds, skipped, .. } = trainer.state;
                let record = window.record(step, report.learning_rate, elapsed, seconds, skipped);
                let measured = measured.unwrap_or_default();
                let distance = measured.distance.map(|distance| distance.value);
                let record = Record { held_out: measured.bits_per_dim, frechet_distance: distance, ..record };
                tell(Event::Logged(&record));
                self.logs.record(record)?;
                (window, since) = (Window::default(), Instant::now());
            }
            let pause = Instant::now();
            // While steps are skipped the weights may be those that a roll-back has to undo: they wait, and at the end
            // they do not take the place of better ones.
            unsaved |= due(step, train.checkpoint_every);
            let sound = trainer.state.skipped_in_a_row == 0;
            if (unsaved && sound) || last {
                let keep = if sound { train.keep_checkpoints } else { usize::MAX };
                self.save(&trainer, keep, tell)?;
                unsaved = false;
            }
            if due(step, train.sample_every) || (last && !stopped && train.sample_every > 0) {
                self.draw(&trainer, stop, tell)?;
            }
            since += pause.elapsed();
        }
        let checkpoint = match self.last_checkpoint.take() {
            Some(path) => path,
            // Nothing was left to do.
            None => self.folder.join("checkpoints").join(format!("{:09}", trainer.state.step)),
        };
        let (step, records) = (trainer.state.step, self.logs.records().to_vec());
        Ok(Finished { step, stopped: step < steps, samples: self.last_samples.take(), checkpoint, records })
    }

    fn save(&mut self, trainer: &Trainer, keep: usize, tell: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let Trainer { unet, optimizer, state, .. } = trainer;
        let path = checkpoint::save(self.folder, unet, optimizer, &self.scheduler, state, keep)?;
        tell(Event::Saved(&path));
        self.last_checkpoint = Some(path);
        Ok(())
    }

    /// Goes back to the newest whole checkpoint with half the learning rate and other random numbers.
    fn roll_back(&mut self, trainer: Trainer, tell: &mut dyn FnMut(Event)) -> Result<Trainer, Error> {
        let skipped = trainer.state.skipped_in_a_row;
        const LIMIT: u32 = 8;
        let rollbacks = trainer.state.rollbacks + 1;
        if rollbacks > LIMIT {
            let message = format!(
                "training diverged {rollbacks} times in spite of smaller learning rates; it ends here, and the last good \
                 checkpoint stays. Try a smaller `train.learning_rate`, or a `train.grad_clip` such as 1"
            );
            return Err(Error::Run(message));
        }
        let at = trainer.state.step;
        let Trainer { objective, image, config, device, state, .. } = trainer;
        // One that was saved after the last update has the very weights that fail.
        let found = newest(self.folder, &device, |saved| saved.updates < state.updates, tell)?;
        let Some(Checkpoint { unet, optimizer, state: saved }) = found else {
            let message = format!(
                "step {at}: {skipped} steps in a row were not finite, and no checkpoint is there to go back to. \
                 Try a smaller `train.learning_rate`, or a `train.grad_clip` such as 1"
            );
            return Err(Error::Run(message));
        };
        let state = State { rollbacks, skipped: state.skipped, skipped_in_a_row: 0, ..saved };
        tell(Event::Warning(format!(
            "step {at}: {skipped} steps in a row were not finite; back to step {} with half the learning rate",
            state.step
        )));
        self.logs = Logs::open(self.folder, &self.folder.display().to_string(), state.step)?;
        Ok(Trainer { unet, optimizer, objective, state, image, config, device })
    }

    /// Draws a picture of samples of the averaged network, always from the same noise; or none, if asked to stop.
    fn draw(&mut self, trainer: &Trainer, stop: &dyn Fn() -> bool, tell: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let count = self.config.train.samples;
        if count == 0 {
            return Ok(());
        }
        let unet = trainer.averaged();
        let table = self.config.sampler().table(&self.scheduler, self.config.sampler_options())?;
        let seed = self.config.train.seed;
        let noise = initial_noise(seed, 0, count, trainer.image);
        let classes = self.config.sampled_classes(&self.set, &unet);
        let labels: Option<Vec<u32>> = classes.map(|classes| (0..count).map(|i| classes[i % classes.len()]).collect());
        let batch_size = self.config.sample.batch_size;
        let request = Request {
            seed,
            first_image: 0,
            noise: &noise,
            labels: labels.as_deref(),
            batch_size,
            share_until: None,
            guidance: self.config.guidance(&self.set),
        };
        let batches = count.div_ceil(batch_size);
        let images = walk(&unet, &table, &self.scheduler, &request, |step| {
            let (done, total) = (step.first / batch_size * step.rows + step.row + 1, batches * step.rows);
            tell(Event::Sampling { done, total });
            !stop()
        });
        let images = match images {
            Err(sample::Error::Stopped) => return Ok(()),
            // A network that is still far from any image is not an end of training.
            Err(error @ sample::Error::NotFinite { .. }) => {
                tell(Event::Warning(error.to_string()));
                return Ok(());
            }
            images => images?,
        };
        let step = trainer.state.step;
        let path = self.folder.join("samples").join(format!("{step:09}.png"));
        let info = [("step".to_owned(), step.to_string()), ("seed".to_owned(), seed.to_string())];
        output::write(&Output::Grid(path.clone()), &images, None, &[], &info).map_err(sample::Error::from)?;
        self.logs.picture(step, &path)?;
        self.logs.plot()?;
        tell(Event::Sampled(&path));
        self.last_samples = Some(path);
        Ok(())
    }
}

/// Keeps another process from training in the same folder, where the file system can; until the file is dropped.
///
/// A process that was just killed holds its lock until the system has taken its memory back, so a held lock is asked for
/// again for a while: whoever starts a killed run anew at once should not be refused.
fn lock(folder: &Path) -> Result<Option<File>, Error> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let Ok(file) = File::open(folder) else {
        return Ok(None);
    };
    let start = Instant::now();
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if start.elapsed() >= PATIENCE {
            let folder = folder.display();
            return Err(Error::Run(format!("{folder}: another process is training there; choose another folder")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Some(file))
}

/// The newest whole checkpoint that is wanted. If there are some, but none is whole, that is an error: beginning again
/// would bury them.
fn newest(
    run: &Path,
    device: &Device,
    wanted: impl Fn(&State) -> bool,
    tell: &mut dyn FnMut(Event),
) -> Result<Option<Checkpoint>, Error> {
    let mut damaged = 0;
    let found = checkpoint::newest(run, device, wanted, |path, error| {
        damaged += 1;
        // Most errors name the file already.
        let (path, error) = (path.display().to_string(), error.to_string());
        let place = if error.contains(&path) { String::new() } else { format!("{path}: ") };
        tell(Event::Warning(format!("{place}{error}; this checkpoint is passed over")));
    })?;
    if found.is_none() && damaged > 0 {
        return Err(Error::Run(format!(
            "{}: no checkpoint is whole ({damaged} damaged); bring one back, or begin again in another folder",
            run.join("checkpoints").display()
        )));
    }
    Ok(found)
}

/// Steps a run has done, by its newest checkpoint; `None` where there is no run.
pub fn steps_done(run: &Path) -> Option<u64> {
    let all = weights::pipeline::checkpoints(run.join("checkpoints")).ok()?;
    all.last().map(|(step, _)| *step)
}
