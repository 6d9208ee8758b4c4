//! Training: Ho et al. (2020), Algorithm 1, from a configuration to a folder of checkpoints, logs and sample grids.
//!
//! | item | what |
//! |---|---|
//! | [`train()`] | a whole run in a folder, with its [`Hooks`]: observers of [`Event`]s and a channel of [`Command`]s |
//! | [`TrainingConfig`] | the configuration of a run: presets, TOML files, single keys |
//! | [`Trainer`] | one step on a [`Batch`] of the [`DataLoader`] |
//! | [`augment`] | augmentations that the network is told of |
//! | [`objective`] | L_simple and its weightings, the variational bound, L_hybrid |
//! | [`optimizer`] | Adam with an exponential moving average |
//! | [`power_ema`] | averages of other lengths, made after training |
//! | [`checkpoint`] | diffusers pipeline folders with the state of training |
//! | [`mpi::Communicator`] | the processes that divide a batch |
//! | [`train_classifier`] | a small classifier, for the features that sample quality is measured by |
//!
//! A step depends on the seed and the step's number alone. So a run that was stopped or killed continues from its newest
//! checkpoint to the same bytes as one that was not.

pub mod augment;
mod bits;
pub mod checkpoint;
mod classifier;
mod command;
pub mod config;
mod data_loader;
mod error;
mod event;
mod from_config;
mod images_digest;
mod init_from;
pub mod lucidrains_file;
mod memory;
mod metrics;
pub mod objective;
mod observer;
mod observers;
pub mod optimizer;
mod plan;
pub mod plot;
pub mod power_ema;
mod processes;
pub mod records;
mod reduction;
mod restore;
mod run;
mod run_folder;
mod session;
mod setup;
mod state;
pub mod tensorboard;
mod trainer;

pub use checkpoint::{Checkpoint, steps_done};
pub use classifier::{ClassifierData, ClassifierOptions, train_classifier};
pub use command::Command;
pub use config::{ConfigError, TrainingConfig, planned_steps};
pub use data_loader::{Batch, Batches, DataLoader};
pub use error::Error;
pub use event::{Event, Finished};
pub use images_digest::ImagesDigest;
pub use memory::MemoryEstimate;
pub use metrics::{FrechetMetric, Metrics, SelectionMetric};
pub use observer::{Context, Hooks, Observer};
pub use plan::Plan;
pub use records::LogRecord;
pub use reduction::BUCKET_BYTES;
pub use run::train;
pub use run_folder::RunFolder;
pub use state::TrainState;
pub use trainer::{StepReport, Trainer};
