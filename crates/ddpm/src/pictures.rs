//! Pictures of what a model of points has learned: its chains, its score, its density, its trajectories.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use data::{BuiltinPoints, ImageSet};
use diffusion::Node;
use evaluate::{Evaluation, Trace};
use model::{Condition, Denoiser, Images, Pipeline};
use random::{Random, Stream};
use sample::output::{self, Output};
use sample::scatter::{Canvas, PointCloud, View, color, scatter, side_by_side};
use sample::{Generation, Sampler};

use crate::Error;

/// The side of a picture in pixels: half of two that stand side by side.
const SIDE: usize = 320;
/// Frames of each half of an animation.
const FRAMES: usize = 24;
/// The side of the frames of a chain, which are many.
const FRAME_SIDE: usize = 256;
/// Arrows of a score field in each direction.
const ARROWS: usize = 20;
/// Pixels of a density in each direction, before enlargement.
const CELLS: usize = 80;
const GREY: [f32; 3] = [150.0, 150.0, 150.0];

/// Pictures of a model of points in two dimensions or more, of which the first two are shown.
#[derive(Clone, Debug)]
pub struct PointPictures<'a> {
    pipeline: &'a Pipeline,
    n: usize,
    seed: u64,
}

/// A density that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct DensityPicture {
    /// ∫p over the picture for the flow of the model.
    pub mass: f64,
    /// ∫p over the picture for the exact density, where it is known.
    pub exact_mass: Option<f64>,
    /// ½∫|p − q| over the picture, the total variation distance, where the exact density is known.
    pub total_variation: Option<f64>,
}

impl<'a> PointPictures<'a> {
    /// Pictures of 2000 points with the seed 0.
    ///
    /// # Errors
    /// If the model is one of images.
    pub fn new(pipeline: &'a Pipeline) -> Result<Self, Error> {
        if pipeline.preprocessing.points.is_none() {
            let root = pipeline.root.display();
            let message = format!("{root}: is a model of images; these are pictures of models of points");
            return Err(sample::Error::Request(message).into());
        }
        Ok(Self { pipeline, n: 2000, seed: 0 })
    }

    /// Sets the number of points.
    pub fn points(self, n: usize) -> Self {
        Self { n, ..self }
    }

    /// Sets the seed.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Draws an animation: the forward chain from points of a set to noise, then the reverse chain from noise to samples.
    ///
    /// # Errors
    /// If the points do not fit the model, or the file cannot be written.
    pub fn chain(&self, set: &ImageSet, path: &Path) -> Result<(), Error> {
        let x0 = evaluate::read_images(self.pipeline, set, self.n)?;
        let schedule = self.pipeline.scheduler.noise_schedule().map_err(sample::Error::from)?;
        let size = x0.channels;
        // One path for each point: x_t of one noise, which is what q(x_t | x_0) needs.
        let mut noise = vec![0.0f32; x0.pixels.len()];
        for (i, noise) in noise.chunks_mut(size).enumerate() {
            Random::new(self.seed).normals(Stream::Evaluate, i as u64, 0, noise);
        }
        let mut frames = vec![self.cloud(&x0)?];
        for frame in 0..FRAMES {
            let t = frame * (schedule.len() - 1) / (FRAMES - 1).max(1);
            let mut x_t = vec![0.0; x0.pixels.len()];
            schedule.level(t).q_sample(&x0.pixels, &noise, &mut x_t);
            frames.push(self.cloud(&Images { pixels: x_t, ..x0.clone() })?);
        }
        let view = View::of([&frames[0], &frames[FRAMES]]);
        let (samples, reverse) = self.trajectories_of(Sampler::Ddpm, self.n)?;
        let rows = reverse.len() - 1;
        frames.extend((0..FRAMES).map(|i| reverse[i * rows / (FRAMES - 1)].clone()));
        self.animate(path, &frames, &samples, view)
    }

    /// Draws the learned score ∇ log p_t = −ε̂/σ as arrows over points of the chain. An animation over t, from noise to data; a
    /// `.png` has four timesteps side by side.
    ///
    /// # Errors
    /// If the points do not fit the model, or the file cannot be written.
    pub fn score(&self, set: &ImageSet, path: &Path) -> Result<(), Error> {
        let x0 = evaluate::read_images(self.pipeline, set, self.n.min(1000))?;
        let schedule = self.pipeline.scheduler.noise_schedule().map_err(sample::Error::from)?;
        let last = schedule.len() - 1;
        let is_png = matches!(Output::parse(path, false).map_err(sample::Error::from)?, Output::Grid(_));
        // Small t come late and need more frames: structures form there.
        let count = if is_png { 4 } else { FRAMES };
        let share = |i: usize| 1.0 - i as f64 / (count - 1) as f64;
        let timesteps = (0..count).map(|i| (share(i).powi(2) * 0.9 * last as f64).round() as usize);
        let view = View::of([&self.cloud(&x0)?]);
        let view = View { half: 1.25 * view.half, ..view };
        let panels = timesteps.map(|t| self.score_at(&x0, t, view)).collect::<Result<Vec<_>, _>>()?;
        let info = self.info();
        if is_png {
            let output = Output::Grid(path.to_owned());
            return Ok(output::write(&output, &side_by_side(&panels), &[], &info).map_err(sample::Error::from)?);
        }
        let output = Output::parse(path, true).map_err(sample::Error::from)?;
        Ok(output::write(&output, &panels[count - 1], &panels, &info).map_err(sample::Error::from)?)
    }

    fn score_at(&self, x0: &Images, t: usize, view: View) -> Result<Images, Error> {
        let schedule = self.pipeline.scheduler.noise_schedule().map_err(sample::Error::from)?;
        let level = schedule.level(t);
        let mut noise = vec![0.0f32; x0.pixels.len()];
        Random::new(self.seed).normals(Stream::Evaluate, t as u64, 1, &mut noise);
        let mut x_t = vec![0.0; x0.pixels.len()];
        level.q_sample(&x0.pixels, &noise, &mut x_t);
        let cloud = PointCloud { labels: None, ..self.cloud(&Images { pixels: x_t, ..x0.clone() })? };
        let mut canvas = Canvas::new(view, SIDE);
        cloud.plane().into_iter().for_each(|point| canvas.dot(point, 0.7, GREY, 0.7));
        let cell = SIDE as f64 / ARROWS as f64;
        let place = |i: usize| (i as f64 + 0.5) * cell;
        let starts: Vec<[f64; 2]> =
            (0..ARROWS * ARROWS).map(|i| view.at(place(i % ARROWS), place(i / ARROWS), SIDE)).collect();
        let grid = self.network_points(&starts, x0)?;
        let denoiser = self.pipeline.denoiser()?;
        let labels = self.classes(grid.n);
        let x: Tensor<4> = grid.tensor(&denoiser.device());
        let denoised = denoiser.denoise(x, &[Node::at(&schedule, t as f64)], Condition::classes(labels.as_deref()))?;
        let epsilon = Images::from_tensor(&denoised.epsilon());
        // A displacement in the units of the data, along the score of x in the units of the network.
        let scale = |axis: usize| self.scaling().scale.get(axis).copied().unwrap_or(0.0);
        let score = |i: usize| {
            let at = |axis: usize| -f64::from(epsilon.pixels[i * epsilon.channels + axis]) / level.sigma;
            [at(0) / scale(0), at(1.min(epsilon.channels - 1)) / scale(1)]
        };
        let scores: Vec<[f64; 2]> = (0..starts.len()).map(score).collect();
        let longest = scores.iter().map(|[x, y]| x.hypot(*y)).fold(1e-12, f64::max);
        let unit = 0.95 * 2.0 * view.half / ARROWS as f64;
        for (&[x, y], [sx, sy]) in starts.iter().zip(scores) {
            // Lengths by the square root, so that short arrows can be seen too.
            let length = sx.hypot(sy).max(1e-12);
            let shown = unit * (length / longest).sqrt() / length;
            let tip = [x + shown * sx, y + shown * sy];
            canvas.line([x, y], tip, color(0), 1.0);
            canvas.dot(tip, 1.2, color(0), 1.0);
        }
        Ok(canvas.into_picture())
    }

    /// Draws the density of the probability flow, and beside it the exact one where `exact` is known.
    ///
    /// # Errors
    /// If the points do not have two dimensions, they do not fit the model, or the file cannot be written.
    pub fn density(&self, set: &ImageSet, exact: Option<&BuiltinPoints>, path: &Path) -> Result<DensityPicture, Error> {
        let x0 = evaluate::read_images(self.pipeline, set, self.n)?;
        if x0.channels != 2 {
            let message = format!("the points have {} dimensions; a density is drawn for two", x0.channels);
            return Err(sample::Error::Request(message).into());
        }
        let view = View::of([&self.cloud(&x0)?]);
        let place = |i: usize| view.at((i % CELLS) as f64 + 0.5, (i / CELLS) as f64 + 0.5, CELLS);
        let centers: Vec<[f64; 2]> = (0..CELLS * CELLS).map(place).collect();
        let evaluation = Evaluation::new(self.pipeline).batch_size(1024).with(|options| {
            options.trace = Trace::Exact;
            options.flow_steps = 24;
        });
        let points = self.network_points(&centers, &x0)?;
        let points = points.with_labels(None);
        let bits = match self.classes(1) {
            None => evaluation.flow_likelihood(&points)?.each,
            Some(_) => {
                let message =
                    "the model has classes, and the flow has a density for each; train one with data.labels=false";
                return Err(sample::Error::Request(message.to_owned()).into());
            }
        };
        let learned: Vec<f64> = bits.iter().map(|bits| (-2.0 * bits * std::f64::consts::LN_2).exp()).collect();
        let known: Option<Vec<f64>> =
            exact.and_then(|points| centers.iter().map(|&x| points.log_density(x).map(f64::exp)).collect());
        let area = (2.0 * view.half / CELLS as f64).powi(2);
        let mass = |densities: &[f64]| area * densities.iter().sum::<f64>();
        let distance =
            |known: &Vec<f64>| 0.5 * area * known.iter().zip(&learned).map(|(p, q)| (p - q).abs()).sum::<f64>();
        let top = |densities: &[f64]| {
            let mut sorted = densities.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted[(0.995 * (sorted.len() - 1) as f64) as usize].max(1e-12)
        };
        let highest = top(known.as_deref().unwrap_or(&learned));
        let draw = |densities: &[f64]| {
            let mut canvas = Canvas::new(view, SIDE);
            canvas.fill(|[x, y]| {
                let share =
                    |z: f64, low: f64| (((z - low) / (2.0 * view.half)) * CELLS as f64).clamp(0.0, CELLS as f64 - 1.0);
                let column = share(x, view.center[0] - view.half) as usize;
                let row = CELLS - 1 - share(y, view.center[1] - view.half) as usize;
                shade((densities[row * CELLS + column] / highest).clamp(0.0, 1.0).sqrt() as f32)
            });
            canvas.into_picture()
        };
        let panels: Vec<Images> = [Some(&learned), known.as_ref()].into_iter().flatten().map(|d| draw(d)).collect();
        let output = Output::Grid(path.to_owned());
        output::write(&output, &side_by_side(&panels), &[], &self.info()).map_err(sample::Error::from)?;
        Ok(DensityPicture {
            mass: mass(&learned),
            exact_mass: known.as_deref().map(mass),
            total_variation: known.as_ref().map(distance),
        })
    }

    /// Draws the paths from the same noise to samples of an ODE sampler (DDIM, left) and of the chain (DDPM, right).
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn trajectories(&self, path: &Path) -> Result<(), Error> {
        let background = self.trajectories_of(Sampler::Ddpm, 1000)?.0;
        let mut panels = Vec::new();
        let mut view = None;
        for sampler in [Sampler::Ddim { eta: 0.0 }, Sampler::Ddpm] {
            let (_, steps) = self.trajectories_of(sampler, self.n)?;
            let around = || View::of([&background]);
            let view = *view.get_or_insert_with(|| View { half: 1.4 * around().half, ..around() });
            let mut canvas = Canvas::new(view, SIDE);
            background.plane().into_iter().for_each(|point| canvas.dot(point, 0.7, GREY, 0.5));
            let planes: Vec<Vec<[f64; 2]>> = steps.iter().map(PointCloud::plane).collect();
            for i in 0..self.n {
                for pair in planes.windows(2) {
                    canvas.line(pair[0][i], pair[1][i], color(i), 0.7);
                }
                canvas.dot(planes[0][i], 1.5, color(i), 1.0);
                canvas.dot(planes[planes.len() - 1][i], 2.0, color(i), 1.0);
            }
            panels.push(canvas.into_picture());
        }
        let output = Output::Grid(path.to_owned());
        Ok(output::write(&output, &side_by_side(&panels), &[], &self.info()).map_err(sample::Error::from)?)
    }

    /// Samples `n` points. Returns them, and x_t before the first step and after each, all from the same noise.
    fn trajectories_of(&self, sampler: Sampler, n: usize) -> Result<(PointCloud, Vec<PointCloud>), Error> {
        let dims = self.pipeline.network.signature().in_channels;
        let labels = self.classes(n);
        let mut steps = vec![sample::initial_noise(self.seed, 0, n, [1, 1, dims]).with_labels(labels.clone())];
        let total = self.pipeline.scheduler.num_train_timesteps;
        let generation = Generation::new(self.pipeline, n).sampler(sampler).steps(total).seed(self.seed).batch_size(n);
        let samples = generation.on_step(|step| steps.push(step.x().with_labels(labels.clone()))).run()?;
        let clouds = steps.iter().map(|step| self.cloud(step)).collect::<Result<_, _>>()?;
        Ok((self.cloud(&samples.with_labels(labels))?, clouds))
    }

    /// Returns the classes of n points in turn, if the model has classes.
    fn classes(&self, n: usize) -> Option<Vec<u32>> {
        let classes = self.pipeline.classes()?;
        (!classes.is_empty()).then(|| (0..n).map(|i| classes[i % classes.len()]).collect())
    }

    fn scaling(&self) -> data::PointScaling {
        self.pipeline.preprocessing.points.clone().unwrap_or(data::PointScaling::identity(2))
    }

    /// Returns points of the plane in the units of the network; further dimensions are those of the first of `others`.
    fn network_points(&self, plane: &[[f64; 2]], others: &Images) -> Result<Images, Error> {
        let (scaling, dims) = (self.scaling(), others.channels);
        let rest = scaling.undo(&others.pixels[..dims]);
        let values: Vec<f64> = plane
            .iter()
            .flat_map(|[x, y]| [*x, *y].into_iter().chain(rest.iter().skip(2).copied()).take(dims))
            .collect();
        Ok(Images::new([plane.len(), 1, 1, dims], scaling.apply(&values)))
    }

    fn cloud(&self, points: &Images) -> Result<PointCloud, Error> {
        Ok(PointCloud::of(self.pipeline, points)?)
    }

    fn animate(&self, path: &Path, frames: &[PointCloud], last: &PointCloud, view: View) -> Result<(), Error> {
        let output = Output::parse(path, true).map_err(sample::Error::from)?;
        let frames: Vec<Images> = frames.iter().map(|frame| scatter(frame, view, FRAME_SIDE)).collect();
        Ok(output::write(&output, &scatter(last, view, FRAME_SIDE), &frames, &self.info())
            .map_err(sample::Error::from)?)
    }

    fn info(&self) -> Vec<(String, String)> {
        let root: PathBuf = self.pipeline.root.clone();
        vec![("model".to_owned(), sample::model_name(&root)), ("seed".to_owned(), self.seed.to_string())]
    }
}

/// Returns a color from white (0) over blue to dark blue (1).
fn shade(share: f32) -> [f32; 3] {
    let mix = |from: f32, to: f32, share: f32| from + share * (to - from);
    match share {
        s if s < 0.5 => [mix(255.0, 86.0, 2.0 * s), mix(255.0, 180.0, 2.0 * s), mix(255.0, 233.0, 2.0 * s)],
        s => [mix(86.0, 0.0, 2.0 * s - 1.0), mix(180.0, 32.0, 2.0 * s - 1.0), mix(233.0, 96.0, 2.0 * s - 1.0)],
    }
}
