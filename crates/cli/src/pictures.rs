//! Images as a comparison takes them: drawn from a model, or read from a set.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use ddpm::data::{self, ImageSet, Split};
use ddpm::evaluate::Error;
use ddpm::evaluate::network::{Extracted, FeatureNetwork};
use ddpm::evaluate::quality::Features;
use ddpm::sample::{self, Draw};
use ddpm::{Images, Pipeline, Sampler, SamplerOptions, output};

use crate::Global;
use crate::classes::Guide;
use crate::terminal::{Progress, duration};

/// Images of bytes, all of one size.
pub enum Pictures {
    /// `[N,H,W,C]` with `[H,W,C]`.
    Drawn(Vec<u8>, [usize; 3]),
    /// The first so many of a set.
    Set(Box<ImageSet>, usize),
}

impl Pictures {
    /// N.
    pub fn count(&self) -> usize {
        match self {
            Self::Drawn(bytes, shape) => bytes.len() / shape.iter().product::<usize>().max(1),
            Self::Set(_, count) => *count,
        }
    }

    /// The first `most` of a set.
    pub fn first(self, most: usize) -> Self {
        match self {
            Self::Set(set, count) => Self::Set(set, count.min(most)),
            drawn => drawn,
        }
    }

    /// `[H,W,C]`.
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Self::Drawn(_, shape) => *shape,
            Self::Set(set, _) => set.shape(),
        }
    }

    /// The bytes of some.
    pub fn read(&self, indices: &[usize]) -> Result<Vec<u8>, data::Error> {
        match self {
            Self::Drawn(bytes, shape) => {
                let size = shape.iter().product::<usize>();
                Ok(indices.iter().flat_map(|&i| &bytes[i * size..][..size]).copied().collect())
            }
            Self::Set(set, _) => set.read(indices.iter().copied()),
        }
    }

    /// Some, to be written as a picture.
    pub fn images(&self, indices: &[usize]) -> Result<Images, data::Error> {
        let [height, width, channels] = self.shape();
        let pixels = output::from_u8(&self.read(indices)?);
        Ok(Images { n: indices.len(), height, width, channels, pixels })
    }

    /// All pixels of the first `count` as vectors, in units of 1/255; `None` if they would take more than `bytes`.
    pub fn pixels(&self, count: usize, bytes: usize) -> Result<Option<Features>, Error> {
        let size = self.shape().iter().product::<usize>();
        if count.saturating_mul(size).saturating_mul(size_of::<f32>()) > bytes {
            return Ok(None);
        }
        let values = self.read(&(0..count).collect::<Vec<_>>())?;
        Features::new(values.into_iter().map(|byte| f32::from(byte) / 255.0).collect(), size).map(Some)
    }

    /// What a network makes of all of them.
    pub fn features(
        &self,
        name: &'static str,
        network: &FeatureNetwork,
        batch: usize,
        global: &Global,
    ) -> Result<Extracted, Error> {
        let mut meter = Meter::new(name, self.count(), global);
        let read = |first: usize, count: usize| Ok(self.read(&(first..first + count).collect::<Vec<_>>())?);
        let result = network.extract(self.count(), self.shape(), batch, read, |done| {
            meter.show(done);
            true
        });
        meter.progress.finish();
        result
    }
}

/// How samples are drawn.
pub struct Drawing<'a> {
    pub sampler: &'a Sampler,
    pub steps: usize,
    pub seed: u64,
    pub batch_size: usize,
    pub guide: &'a Guide,
}

/// `count` samples of a model, as bytes: what a metric sees is what a file would hold.
pub fn draw(pipeline: &Pipeline, count: usize, drawing: &Drawing, global: &Global) -> anyhow::Result<Pictures> {
    let config = pipeline.unet.config();
    let size =
        config.sample_size.context("the model does not say for which size it is; draw with `ddpm sample --size`")?;
    let (height, width) = size.height_width();
    let shape = [height, width, config.in_channels];
    let options = SamplerOptions { steps: Some(drawing.steps), spacing: None, grid: None, snap: false, variance: None };
    let table = drawing.sampler.table(&pipeline.scheduler, options)?;
    let (classes, guidance) = drawing.guide.of(pipeline)?;
    let mut meter = Meter::new("sample", count, global);
    // Classes in turn, as `ddpm sample` has them.
    let draw = Draw {
        seed: drawing.seed,
        count,
        shape,
        classes: classes.as_deref(),
        guidance,
        batch_size: drawing.batch_size,
    };
    let bytes = sample::draw(&pipeline.unet, &table, &pipeline.scheduler, &draw, |done, rows| {
        meter.show(done * count / rows);
        true
    })?;
    meter.progress.finish();
    Ok(Pictures::Drawn(bytes, shape))
}

/// A part of the set at a path, or of the built-in one; `None` if it has no such part.
pub fn open(path: Option<&Path>, options: &data::ReadOptions, split: Split) -> anyhow::Result<Option<Pictures>> {
    let options = data::ReadOptions { split, ..options.clone() };
    let set = match path {
        Some(path) => data::open(path, &options),
        None => data::builtin(&options),
    };
    match set {
        Err(data::Error::NoHeldOut { .. }) => Ok(None),
        set => {
            let set = set?;
            let count = set.len();
            Ok(Some(Pictures::Set(Box::new(set), count)))
        }
    }
}

/// Shows how many images are done.
struct Meter {
    progress: Progress,
    start: Instant,
    total: usize,
}

impl Meter {
    fn new(name: &'static str, total: usize, global: &Global) -> Self {
        Self { progress: Progress::new(name, total as u64, 0, global.quiet), start: Instant::now(), total }
    }

    fn show(&mut self, done: usize) {
        let rate = done as f64 / self.start.elapsed().as_secs_f64();
        let left = (self.total - done) as f64 / rate;
        self.progress.set(done as u64, || format!("{rate:.1} images/s"));
        let line = || format!("{done} of {} images, {rate:.1} a second, {} left", self.total, duration(left));
        self.progress.line_every(Duration::from_secs(10), line);
    }
}
