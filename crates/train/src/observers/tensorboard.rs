//! Writes TensorBoard events.

use std::io;
use std::path::Path;

use crate::Error;
use crate::event::Event;
use crate::observer::{Context, Observer};
use crate::records::LogRecord;
use crate::tensorboard::EventWriter;

/// Writes records and sample grids to a TensorBoard event file, a new one whenever the run starts or rolls back.
#[derive(Default)]
pub(crate) struct TensorBoard {
    writer: Option<EventWriter>,
}

impl Observer for TensorBoard {
    fn on_event(&mut self, event: &Event, context: &mut Context) -> Result<(), Error> {
        let step = context.trainer().state().step;
        match (event, &mut self.writer) {
            (Event::Started { .. } | Event::RolledBack { .. }, writer) => {
                *writer = Some(EventWriter::create(context.folder(), step + 1)?);
            }
            (Event::Logged(record), Some(writer)) => writer.scalars(record.step, &scalars(record))?,
            (Event::Sampled { path }, Some(writer)) => {
                let (png, size) = read_png(path).map_err(|source| Error::Read { path: path.clone(), source })?;
                writer.image(step, "samples", &png, size)?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn scalars(record: &LogRecord) -> Vec<(&'static str, f32)> {
    let mut scalars = vec![
        ("train/loss", record.loss as f32),
        ("train/gradient_norm", record.gradient_norm as f32),
        ("train/learning_rate", record.learning_rate as f32),
        ("train/images_per_second", record.images_per_second as f32),
    ];
    let names = ["train/loss_q0", "train/loss_q1", "train/loss_q2", "train/loss_q3"];
    scalars.extend(names.into_iter().zip(record.loss_q).filter_map(|(name, loss)| Some((name, loss? as f32))));
    scalars.extend(record.held_out.map(|bits| ("held_out/bits_per_dim", bits as f32)));
    scalars.extend(record.frechet_distance.map(|distance| ("samples/frechet_distance", distance as f32)));
    scalars
}

/// Reads a PNG's bytes and its `(width, height)`.
fn read_png(path: &Path) -> io::Result<(Vec<u8>, (u32, u32))> {
    let png = std::fs::read(path)?;
    let size = image::image_dimensions(path).map_err(io::Error::other)?;
    Ok((png, size))
}
