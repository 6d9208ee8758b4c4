//! The observers of every run.

mod checkpoints;
mod ema_snapshots;
mod json_lines;
mod plots;
mod recorder;
mod sample_grids;
mod tensorboard;
mod validator;

pub(crate) use checkpoints::Checkpoints;
pub(crate) use ema_snapshots::EmaSnapshots;
pub(crate) use json_lines::JsonLines;
pub(crate) use plots::Plots;
pub(crate) use recorder::Recorder;
pub(crate) use sample_grids::SampleGrids;
pub(crate) use tensorboard::TensorBoard;
pub(crate) use validator::Validator;
