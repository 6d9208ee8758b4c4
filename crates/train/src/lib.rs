//! Training: Ho et al. (2020), Algorithm 1, from a configuration to a folder of checkpoints, logs and pictures.
//!
//! [`train()`] runs all of it. What happens in a step depends on the seed and the step's number alone, so a run that was
//! stopped or killed goes on from its newest checkpoint to the same bytes as one that was not.

mod batches;
pub mod checkpoint;
mod classifier;
pub mod config;
mod error;
mod measure;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod plot;
mod run;
mod setup;
pub mod tensorboard;
pub mod trainer;

pub use batches::{Batch, Plan};
pub use classifier::{ClassifierOptions, train_classifier};
pub use config::Config;
pub use error::Error;
pub use measure::{BestBy, Distance, Measured};
pub use run::{Event, Finished, steps_done, train};
