//! Builds what a configuration describes.

use std::collections::BTreeMap;
use std::path::Path;

use data::{Dataset, ImageSet, LabelFrom, PointOptions, ReadOptions, Split};
use diffusion::{LossWeight, Prediction, ProcessKind, SchedulerConfig, TimestepSpacing, Values, Variance};
use model::guidance::Guidance;
use model::{NetworkConfig, Pipeline, Preprocessing, Process, Sampling, TrainingData};
use sample::{Generation, Sampler, SamplerOptions};

use crate::Error;
use crate::config::{Diffusion, EdmImages, Loss, Model, Sample, TrainingConfig};
use crate::objective::{LossKind, Objective};

impl TrainingConfig {
    /// Returns the options that read the images.
    pub fn read_options(&self, split: Split) -> ReadOptions {
        ReadOptions {
            resolution: Some(self.data.resolution.height_width()),
            channels: Some(self.data.channels),
            crop: self.data.crop,
            fit: if split == Split::Train { self.data.fit } else { self.data.fit.deterministic() },
            background: self.data.background.0,
            label_from: self.data.label_from.clone(),
            range: self.data.range,
            points: self.model.is_of_points().then_some(match self.data.standardize {
                true => PointOptions::Standardize,
                false => PointOptions::AsIs,
            }),
            split,
            ..ReadOptions::default()
        }
    }

    /// Opens the images, or the built-in ones.
    ///
    /// # Errors
    /// Names the file and the fix.
    pub fn open(&self, split: Split) -> Result<ImageSet, Error> {
        let set = self.dataset().open(&self.read_options(split))?;
        if set.points().is_some() && set.channels() != self.data.channels {
            return Err(Error::Run(format!(
                "{} has points of {} dimensions, but `data.channels` is {}; set data.channels={}",
                set.name(),
                set.channels(),
                self.data.channels,
                set.channels()
            )));
        }
        match self.data.images_per_class {
            Some(n) if split == Split::Train => Ok(set.per_class(n, self.data.fold)?),
            _ => Ok(set),
        }
    }

    /// Points `data.path` to the images of the run in a folder, where they are now, if nothing is at the path: that of the
    /// run's configuration is relative to the folder in which it began.
    ///
    /// # Errors
    /// If they are no longer there, or it cannot be known which ones are meant.
    pub fn find_images(&mut self, run: &Path) -> Result<(), Error> {
        if self.data.path.as_deref().is_none_or(Path::exists) {
            return Ok(());
        }
        // Without `data.json`, the error is that nothing is at the path.
        if let Ok(Some(data)) = TrainingData::of_model(run)
            && data.path == self.data.path
        {
            self.data.path = data.find()?.path().map(ToOwned::to_owned);
        }
        Ok(())
    }

    /// Returns the choice of images.
    pub fn dataset(&self) -> Dataset {
        match (&self.data.path, self.data.points) {
            (None, Some(points)) => Dataset::Points(points),
            (path, _) => path.clone().into(),
        }
    }

    /// Returns the configuration of the network for a set of images.
    ///
    /// # Errors
    /// If the keys do not describe a network, or the set has no labels that `data.labels` requires.
    pub fn network(&self, set: &ImageSet) -> Result<NetworkConfig, Error> {
        let classes = set.class_names().len();
        let needed = classes + usize::from(self.train.label_dropout > 0.0);
        if self.data.labels && classes == 0 {
            return Err(Error::Run(format!(
                "`data.labels` is true, but {} has no labels: give it a folder for each class, or set data.labels=false",
                set.name()
            )));
        }
        let keys = match &self.model {
            Model::Unet2d(keys) => keys,
            Model::Mlp(keys) => {
                let rows = if self.data.labels { needed } else { 0 };
                let network = keys.network(set.channels(), rows, self.diffusion.variance.is_learned());
                network.validate().map_err(model::Error::from)?;
                return Ok(network.into());
            }
            Model::Hmdolatabadi(keys) => {
                let size = unet::SampleSize { height: set.height(), width: set.width() };
                let network = keys.network(size, self.data.channels);
                network.validate().map_err(model::Error::from)?;
                return Ok(network.into());
            }
            Model::Song(_) | Model::Dhariwal(_) => {
                let classes = if self.data.labels { classes } else { 0 };
                let has_variance = self.diffusion.prediction == Prediction::EdmIddpm;
                let images = EdmImages { size: set.height(), channels: self.data.channels, classes, has_variance };
                let network = self.model.edm(images).unwrap_or_default();
                network.validate().map_err(model::Error::from)?;
                return Ok(network.into());
            }
            Model::Lucidrains(keys) => {
                let size = unet::SampleSize { height: set.height(), width: set.width() };
                let mut network = keys.network(size, self.data.channels, self.diffusion.variance.is_learned());
                network.num_classes = if self.data.labels { classes } else { 0 };
                network.validate().map_err(model::Error::from)?;
                return Ok(network.into());
            }
        };
        let num_class_embeds = match (self.data.labels, keys.num_class_embeds) {
            (false, _) => None,
            // The row after the classes stands for no class.
            (true, None) => Some(needed),
            (true, Some(rows)) if rows < needed => {
                return Err(Error::Run(format!(
                    "`model.num_class_embeds` is {rows}, but {} has {classes} classes{}: expected {needed} or more, or \
                     leave the key out",
                    set.name(),
                    if needed > classes { ", and `train.label_dropout` needs one more" } else { "" }
                )));
            }
            (true, Some(rows)) => Some(rows),
        };
        let channels = self.data.channels;
        let network = unet::UnetConfig {
            sample_size: Some(unet::SampleSize { height: set.height(), width: set.width() }),
            in_channels: channels,
            out_channels: if self.diffusion.variance.is_learned() { 2 * channels } else { channels },
            freq_shift: keys.freq_shift,
            flip_sin_to_cos: keys.flip_sin_to_cos,
            layers_per_block: keys.layers_per_block,
            downsample_padding: keys.downsample_padding,
            dropout: keys.dropout,
            attention_head_dim: keys.attention_head_dim,
            norm_num_groups: keys.norm_num_groups,
            norm_eps: keys.norm_eps,
            time_embedding_type: keys.time_embedding_type,
            resnet_time_scale_shift: keys.resnet_time_scale_shift,
            num_class_embeds,
            ..unet::UnetConfig::default()
        }
        .with_levels(&keys.block_out_channels, set.height(), &keys.attention_resolutions);
        network.validate().map_err(model::Error::from)?;
        Ok(network.into())
    }

    /// Returns the chain as diffusers' scheduler describes it.
    pub fn scheduler(&self) -> SchedulerConfig {
        if let Some(own) = SchedulerConfig::preconditioned(self.diffusion.prediction, self.diffusion.timesteps) {
            return own;
        }
        if self.diffusion.process == ProcessKind::Binomial {
            let Diffusion { timesteps, schedule, beta_start, beta_end, ref betas, .. } = self.diffusion;
            let trained_betas = betas.clone();
            return SchedulerConfig {
                beta_start,
                beta_end,
                trained_betas,
                ..SchedulerConfig::binomial(schedule, timesteps)
            };
        }
        SchedulerConfig {
            num_train_timesteps: self.diffusion.timesteps,
            beta_start: self.diffusion.beta_start,
            beta_end: self.diffusion.beta_end,
            beta_schedule: self.diffusion.schedule,
            trained_betas: self.diffusion.betas.clone(),
            variance_type: self.diffusion.variance,
            clip_sample: self.sample.clip_sample,
            prediction_type: self.diffusion.prediction,
            timestep_spacing: TimestepSpacing::Leading,
            ..SchedulerConfig::default()
        }
    }

    /// Returns how images are read for the network, and the label that stands for no class.
    pub fn preprocessing(&self, set: &ImageSet) -> Preprocessing {
        Preprocessing {
            resolution: Some([set.height(), set.width()]),
            channels: Some(set.channels()),
            crop: self.data.crop,
            fit: self.data.fit.deterministic(),
            null_label: (self.train.label_dropout > 0.0).then(|| set.class_names().len() as u32),
            id2label: match self.data.labels {
                true => (0..).zip(set.class_names().iter().cloned()).collect(),
                false => BTreeMap::new(),
            },
            label_from: if self.data.labels { self.data.label_from.clone() } else { LabelFrom::Folder },
            background: self.data.background,
            range: self.data.range,
            points: set.points().cloned(),
        }
    }

    /// Returns the loss.
    ///
    /// # Errors
    /// If betas or weights do not describe a chain or a loss.
    pub fn objective(&self) -> Result<Objective, Error> {
        if self.diffusion.process == ProcessKind::Binomial {
            let (schedule, prediction) = (self.scheduler().binomial_schedule()?, Prediction::Sample);
            let kind = if self.diffusion.loss == Loss::Vlb { LossKind::BitBound } else { LossKind::BitCrossEntropy };
            let weights = vec![1.0; schedule.len()];
            return Objective::new(Process { schedule, prediction }, Variance::FixedSmall, kind, weights);
        }
        let process = Process::new(&self.scheduler())?;
        let weight = match (self.diffusion.loss, &self.diffusion.loss_weights) {
            (Loss::MinSnr, _) => LossWeight::MinSnr { gamma: self.diffusion.min_snr_gamma },
            (Loss::Weights, Some(list)) => LossWeight::List(list.clone()),
            (Loss::Weights, None) => {
                return Err(Error::Run("`diffusion.loss` = \"weights\" needs `diffusion.loss_weights`".into()));
            }
            _ => LossWeight::Simple,
        };
        let weights = weight.weights(&process.schedule, process.prediction)?;
        let kind = match self.diffusion.loss {
            Loss::Vlb => LossKind::Bound,
            Loss::Hybrid => LossKind::Hybrid,
            Loss::LSimple | Loss::MinSnr | Loss::Weights => LossKind::SquaredError,
        };
        let objective = Objective::new(process, self.diffusion.variance, kind, weights)?;
        let values = if self.model.is_of_points() { Values::Reals { log_scale: 0.0 } } else { Values::Bytes };
        Ok(objective.with_values(values).with_norm(self.diffusion.loss_norm, self.diffusion.huber_delta))
    }

    /// Returns how samples are drawn, as a model of the run says it.
    pub fn sampling(&self) -> Sampling {
        let Sample { sampler, steps, eta, guidance, guidance_interval, .. } = self.sample;
        Sampling { sampler: sampler.name().to_owned(), steps, eta, guidance, guidance_interval }
    }

    /// Returns the sampler.
    pub fn sampler(&self) -> Sampler {
        self.sample.sampler.with_eta(self.sample.eta)
    }

    /// Returns the steps of the sampler.
    pub fn sampler_options(&self) -> SamplerOptions {
        SamplerOptions { steps: self.sample.steps, ..SamplerOptions::default() }
    }

    /// Returns the classes that samples have in turn, if the network has classes.
    pub fn sampled_classes(&self, set: &ImageSet) -> Option<Vec<u32>> {
        self.data.labels.then(|| (0..set.class_names().len().max(1) as u32).collect())
    }

    /// Returns the guidance of samples, if there is any.
    pub fn guidance(&self, set: &ImageSet) -> Option<Guidance> {
        let scale = self.sample.guidance;
        let guidance = Guidance::new(scale, set.class_names().len() as u32);
        (scale != 1.0).then_some(guidance.within(self.sample.guidance_interval))
    }

    /// Returns `n` samples of a pipeline, still to be generated, with the run's sampler and always the same noise.
    pub fn generation<'a>(&self, pipeline: &'a Pipeline, set: &ImageSet, n: usize) -> Generation<'a> {
        Generation::new(pipeline, n).with(|options| {
            options.seed = self.train.seed;
            options.sampler = self.sampler().into();
            options.steps = self.sampler_options();
            options.batch_size = self.sample.batch_size;
            options.labels = self.sampled_classes(set);
            options.guidance = self.guidance(set);
        })
    }
}
