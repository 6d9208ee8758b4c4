//! Draws sample grids.

use std::path::PathBuf;

use model::{DataKind, Pipeline};
use sample::SaveOptions;
use sample::output::{self, Output};
use sample::scatter::PointCloud;
use sample::write_scatter;

use crate::Error;
use crate::command::Command;
use crate::event::Event;
use crate::observer::{Context, Observer};

/// Draws grids of samples from the averaged network, always from the same noise: every `train.sample_every` steps, on
/// request and at the end. A grid is cancelled when the run is stopped. One that was due when the run ended unexpectedly is
/// drawn when it is resumed.
pub(crate) struct SampleGrids;

impl Observer for SampleGrids {
    fn on_event(&mut self, event: &Event, context: &mut Context) -> Result<(), Error> {
        let (every, count) = (context.config().train.sample_every, context.config().train.samples);
        let due = || context.is_due(every) || (every > 0 && context.is_last()) || context.is_requested(Command::Sample);
        let draws = match event {
            Event::Started { step: 1.., .. } => due() && !path(context).exists(),
            Event::Step { .. } => context.session.spoiled.is_none() && !context.is_stopped() && due(),
            _ => return Ok(()),
        };
        // Process 0 knows the files, and whether the weights could be saved.
        if count > 0 && context.division().of_root(draws)? { draw(context, count) } else { Ok(()) }
    }
}

/// Returns the file of the grid of this step.
fn path(context: &Context) -> PathBuf {
    context.folder().join("samples").join(format!("{:09}.png", context.trainer().state().step))
}

fn draw(context: &mut Context, count: usize) -> Result<(), Error> {
    let pipeline = context.pipeline();
    let (step, seed, path) = (context.trainer().state().step, context.config().train.seed, path(context));
    let generation = context.config().generation(&pipeline, context.images(), count).divided(context.division());
    let is_of_points = pipeline.network.signature().kind == DataKind::Points;
    let images = generation
        .on_progress(|progress| context.progress(Event::Sampling { done: progress.done, total: progress.total }))
        .run();
    let images = match images {
        Err(sample::Error::Stopped) => return Ok(()),
        // A network that is still far from any image does not end the training.
        Err(error @ sample::Error::NotFinite { .. }) => return context.warn(error.to_string()),
        images => images?,
    };
    if !context.is_root() {
        return Ok(());
    }
    let info = [("step".to_owned(), step.to_string()), ("seed".to_owned(), seed.to_string())];
    if is_of_points {
        write_scatter(&Output::Grid(path.clone()), &PointCloud::of(&pipeline, &images)?, &[], &info)?;
        if context.is_last() {
            animate(context, &pipeline, count)?;
        }
    } else {
        output::write(&Output::Grid(path.clone()), &images, &[], &info).map_err(sample::Error::from)?;
    }
    context.emit(Event::Sampled { path })
}

/// Draws the reverse chain of points from noise to samples as an animation, at the end of a run.
fn animate(context: &mut Context, pipeline: &Pipeline, count: usize) -> Result<(), Error> {
    let path = context.folder().join("samples").join("chain.apng");
    let generation = context.config().generation(pipeline, context.images(), count);
    generation.save_with(&path, &SaveOptions { animate: true, ..SaveOptions::default() })?;
    Ok(())
}
