//! Samples of a model of points: arrays, tables and scatter plots.

use std::path::Path;

use data::points::{csv, npy};
use model::Images;
use weights::atomic;

use crate::Error;
use crate::frames;
use crate::generate::{Batch, Generation, Plan, SaveOptions, Saved, info};
use crate::output::{self, Output};
use crate::scatter::{PointCloud, View, scatter};

/// Frames of an animation.
const FRAMES: usize = 30;
/// The side of a scatter plot, in pixels.
pub const SIDE: usize = 480;
/// The side of the frames of an animation.
pub const FRAME_SIDE: usize = 256;

impl PointCloud {
    /// Returns points of a model in the units of its data.
    ///
    /// # Errors
    /// If the model is one of images.
    pub fn of(pipeline: &model::Pipeline, points: &Images) -> Result<Self, Error> {
        let Some(scaling) = &pipeline.preprocessing.points else {
            return Err(Error::Request("the model is one of images, not of points".into()));
        };
        Ok(Self { dims: points.channels, values: scaling.undo(&points.pixels), labels: points.labels.clone() })
    }
}

/// Writes pictures of clouds: a scatter plot, or an animation of the frames that ends with the cloud.
///
/// # Errors
/// If the file cannot be written.
pub fn write_scatter(
    output: &Output,
    cloud: &PointCloud,
    frames: &[PointCloud],
    info: &[(String, String)],
) -> Result<(), Error> {
    let view = View::of(frames.first().into_iter().chain([cloud]));
    let side = if frames.is_empty() { SIDE } else { FRAME_SIDE };
    let frames: Vec<Images> = frames.iter().map(|frame| scatter(frame, view, side)).collect();
    Ok(output::write(output, &scatter(cloud, view, side), &frames, info)?)
}

impl Generation<'_> {
    /// Generates points and writes them: `.npy` `[N,D]` f32, `.npz` with `arr_0` and labels `arr_1`, `.csv`, or a scatter plot of
    /// the first two dimensions (`.png`; animated `.png`, `.apng` or `.gif`: the reverse chain from noise, x_t).
    pub(crate) fn save_points(mut self, output: &Output, save: &SaveOptions) -> Result<Saved, Error> {
        let refuse = |what: &str| {
            let message = format!(
                "{what} is about images, and the model is one of points; write .npy, .npz, .csv, .png or .apng"
            );
            Err(Error::Request(message))
        };
        match output {
            Output::Folder(_) => return refuse("a folder of images"),
            Output::Safetensors(_) => return refuse("a .safetensors of samples [N,C,H,W]"),
            _ if save.sheet.is_some() => return refuse("a sheet (--sheet)"),
            _ if save.by_class => return refuse("a row or folder for each class (--by-class)"),
            _ => {}
        }
        let plan = self.plan()?;
        let provenance = self.provenance(&plan);
        let writes = self.division.is_root() && !self.division.is_recorded();
        if writes {
            output.create_folder()?;
        }
        let animated = matches!(output, Output::Animation(_));
        let rows = if animated { frames::rows(plan.chain.rows(), FRAMES) } else { Vec::new() };
        let (points, frames) = self.points_and_frames(&plan, &rows)?;
        if writes {
            let cloud = PointCloud::of(self.pipeline, &points)?;
            let frames =
                frames.iter().map(|frame| PointCloud::of(self.pipeline, frame)).collect::<Result<Vec<_>, _>>()?;
            write(output, &cloud, &frames, &info(&provenance, &save.info))?;
        }
        Ok(Saved {
            path: output.path().to_owned(),
            shape: points.shape(),
            existing: 0,
            sampler: format!("{}, {} steps", plan.chain.sampler(), plan.chain.rows()),
            steps: plan.chain.rows(),
        })
    }

    /// Generates all points, and x_t of all points before the first row and after each of `rows`.
    fn points_and_frames(&mut self, plan: &Plan, rows: &[usize]) -> Result<(Images, Vec<Images>), Error> {
        let (division, n, size) = (self.division.clone(), self.options.n, self.options.batch_size);
        let key = self.identity(plan);
        let mut all = Images::default();
        let mut frames = vec![Images::default(); if rows.is_empty() { 0 } else { rows.len() + 1 }];
        let count = frames.len();
        let finished = division.run(
            || format!("{} {rows:?}", key.digest()),
            n.div_ceil(size),
            |batch| {
                let range = batch * size..n.min((batch + 1) * size);
                let mut previews = Vec::new();
                if count > 0 {
                    let labels = self.labels_of(plan, range.clone());
                    let mut start = self.start(plan, range.clone())?.with_labels(labels);
                    let scale = plan.chain.initial_scale() as f32;
                    start.pixels.iter_mut().for_each(|x| *x *= scale);
                    previews.push(start);
                }
                let points = self.batch(plan, range, 0, |step| {
                    if rows.contains(&step.row) {
                        previews.push(step.x());
                    }
                });
                Batch::of(points, |images| {
                    let with_labels = |preview: Images| preview.with_labels(images.labels.clone());
                    let previews = previews.into_iter().map(with_labels).collect();
                    Batch { images, previews, ..Batch::default() }
                })
            },
            |_, batch| {
                let Batch { images, previews, .. } = batch.checked(count, plan.shape)?;
                all.append(images);
                frames.iter_mut().zip(previews).for_each(|(frame, preview)| frame.append(preview));
                Ok::<_, Error>(true)
            },
        )?;
        if finished { Ok((all, frames)) } else { Err(Error::Stopped) }
    }
}

/// Writes points in the format of the output.
fn write(output: &Output, cloud: &PointCloud, frames: &[PointCloud], info: &[(String, String)]) -> Result<(), Error> {
    let PointCloud { dims, ref values, ref labels } = *cloud;
    let labels = labels.as_deref();
    let whole = |path: &Path, bytes: &[u8]| {
        Ok::<_, Error>(atomic::write_file(path, |file| file.write_all(bytes)).map_err(output::Error::from)?)
    };
    match output {
        Output::Npy(path) => whole(path, &npy(dims, values, false)),
        Output::Csv(path) => whole(path, csv(dims, values, labels).as_bytes()),
        Output::Npz(path) => {
            let shape = [values.len() / dims, dims];
            let numbers: Option<Vec<f64>> = labels.map(|labels| labels.iter().map(|&label| f64::from(label)).collect());
            let mut arrays: Vec<(&str, &[usize], &[f64])> = vec![("arr_0", &shape, values)];
            arrays.extend(numbers.as_deref().map(|numbers| ("arr_1", &shape[..1], numbers)));
            let note = info.iter().find(|(key, _)| key == crate::provenance::KEYWORD);
            let note = note.map(|(_, text)| (crate::provenance::NOTE, text.as_str()));
            let write = atomic::write_seekable_file(path, |file| data::write_npz_arrays_with_note(file, &arrays, note));
            Ok(write.map_err(output::Error::from)?)
        }
        _ => write_scatter(output, cloud, frames, info),
    }
}
