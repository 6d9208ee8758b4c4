//! The data of a run: its folder, images, trainer and log.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data::ImageSet;
use model::Preprocessing;

use crate::Error;
use crate::checkpoint;
use crate::command::{Command, Commands};
use crate::config::TrainingConfig;
use crate::data_loader::{Batches, DataLoader};
use crate::event::{Event, Finished};
use crate::records::LogRecord;
use crate::trainer::Trainer;

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
        let (rank, processes) = (self.trainer.communicator().rank(), self.trainer.communicator().size());
        let loader = DataLoader {
            // The part of this process.
            range: global_size * rank / processes..global_size * (rank + 1) / processes,
            flip: self.config.data.flip,
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

    /// Reads the commands that this step carries out.
    pub fn read_commands(&mut self) {
        self.requests = self.commands.take();
        self.stopped = self.commands.is_stopping();
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
