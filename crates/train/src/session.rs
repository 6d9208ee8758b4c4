//! The data of a run: its folder, images, trainer and log.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data::ImageSet;
use model::Preprocessing;
use mpi::tree;

use crate::Error;
use crate::checkpoint;
use crate::command::{Command, Commands};
use crate::config::TrainingConfig;
use crate::data_loader::{Batch, Batches, DataLoader};
use crate::event::{Event, Finished};
use crate::records::LogRecord;
use crate::trainer::{StepReport, Trainer};

/// The data of a run.
pub(crate) struct Session {
    pub config: TrainingConfig,
    pub folder: PathBuf,
    pub set: Arc<ImageSet>,
    pub preprocessing: Preprocessing,
    pub trainer: Trainer,
    pub commands: Commands,
    pub records: Vec<LogRecord>,
    /// Whether the run ends with this step, before its last one.
    pub stopped: bool,
    /// The commands that this step carries out.
    pub requests: Vec<Command>,
    /// The reason why a checkpoint that was due after this step could not be saved: its weights are of no use.
    pub spoiled: Option<String>,
    /// The error of this step's validation, which ends the run once the other observers have been called.
    pub failed_validation: Option<Error>,
    /// The error of an observer while another one was working.
    pub failure: Option<Error>,
    pub last_samples: Option<PathBuf>,
    pub last_checkpoint: Option<PathBuf>,
    /// The folder, locked until the run ends.
    pub lock: Option<File>,
}

impl Session {
    /// Steps done.
    pub fn step(&self) -> u64 {
        self.trainer.state().step
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> u64 {
        self.config.train.steps as u64
    }

    /// Returns the batches of the next step and all later ones.
    pub fn batches(&self) -> Batches {
        let train = &self.config.train;
        let global_size = train.batch_size * train.gradient_accumulation;
        let communicator = self.trainer.communicator();
        let own = tree::share(train.gradient_accumulation, communicator.rank(), communicator.size());
        let loader = DataLoader {
            range: own.start * train.batch_size..own.end * train.batch_size,
            flip: self.config.data.flip,
            augment: self.config.data.augment,
            labels: self.config.data.labels,
            label_dropout: train.label_dropout,
            ..DataLoader::new(self.set.clone(), self.trainer.random(), global_size)
        };
        loader.stream(self.step())
    }

    /// Returns the folder's new place if it was moved, where the system tells it, and goes on there.
    #[cfg(target_os = "linux")]
    pub fn follow_folder(&mut self) -> Option<PathBuf> {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::MetadataExt;
        let lock = self.lock.as_ref()?;
        let held = lock.metadata().ok()?;
        let is_held = |path: &Path| {
            std::fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino()))
        };
        if is_held(&self.folder) {
            return None;
        }
        let now = std::fs::read_link(format!("/proc/self/fd/{}", lock.as_raw_fd())).ok().filter(|now| is_held(now))?;
        self.folder = now.clone();
        Some(now)
    }

    /// Returns the folder's new place if it was moved, where the system tells it, and goes on there.
    #[cfg(not(target_os = "linux"))]
    pub fn follow_folder(&mut self) -> Option<PathBuf> {
        None
    }

    /// Returns the next batch, if every process has its part.
    pub fn next_batch(&self, batches: &mut Batches) -> Result<Batch, Error> {
        let batch = batches.next();
        let error = batch.as_ref().err().map(ToString::to_string);
        let errors = self.trainer.communicator().all_gather_values(&error)?;
        let of_another = errors.into_iter().enumerate().find_map(|(rank, error)| Some((rank, error?)));
        match (batch, of_another) {
            (Ok(_), Some((rank, error))) => Err(Error::Run(format!("rank {rank}: {error}"))),
            (batch, _) => batch,
        }
    }

    /// Does a step, unless a process is stopped before the step is complete.
    pub fn do_step(&mut self, batch: &Batch) -> Result<Option<StepReport>, Error> {
        let Self { trainer, commands, .. } = self;
        trainer.step_unless(batch, &mut || commands.is_stopping())
    }

    /// Reads the commands that all processes carry out after this step.
    pub fn read_commands(&mut self) -> Result<(), Error> {
        let mine = (self.commands.is_stopping(), self.commands.take());
        let all = self.trainer.communicator().all_gather_values(&mine)?;
        self.stopped = all.iter().any(|(stopped, _)| *stopped);
        self.requests = all.into_iter().flat_map(|(_, requests)| requests).collect();
        Ok(())
    }

    /// Gives all processes what process 0 found when it saved, and the first error of a validation.
    pub fn agree(&mut self) -> Result<(), Error> {
        let failed = self.failed_validation.as_ref().map(ToString::to_string);
        let all = self.trainer.communicator().all_gather_values(&(self.spoiled.clone(), failed))?;
        self.spoiled = all[0].0.clone();
        let of_another = all.into_iter().find_map(|(_, failed)| failed).map(Error::Run);
        self.failed_validation = self.failed_validation.take().or(of_another);
        Ok(())
    }

    /// Keeps what the end of the run reports.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Logged(record) => self.records.push(record.clone()),
            Event::Sampled { path } => self.last_samples = Some(path.clone()),
            Event::Saved { path } => self.last_checkpoint = Some(path.clone()),
            Event::RolledBack { step } => self.records.retain(|record| record.step <= *step),
            _ => {}
        }
    }

    /// Returns whether a checkpoint has all steps that were done.
    pub fn is_saved(&self) -> bool {
        self.last_checkpoint == Some(checkpoint::folder(&self.folder, self.step()))
    }

    /// Returns the result of the run.
    pub fn finished(&self) -> Finished {
        // Without a new checkpoint there was no step to do.
        let checkpoint = self.last_checkpoint.clone();
        Finished {
            run: self.folder.clone(),
            step: self.step(),
            stopped: self.step() < self.steps(),
            samples: self.last_samples.clone(),
            checkpoint: checkpoint.unwrap_or_else(|| checkpoint::folder(&self.folder, self.step())),
            records: self.records.clone(),
        }
    }
}
