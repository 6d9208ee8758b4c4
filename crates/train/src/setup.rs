//! From a configuration to the things it describes.

use data::{ImageSet, ReadOptions, Split};
use diffusion::{LossWeight, SchedulerConfig, TimestepSpacing};
use sample::{Guidance, Sampler};
use unet::Unet;

use crate::Error;
use crate::config::{self, Config, Loss};
use crate::objective::{Minimised, Objective};

impl Config {
    /// How the images are read.
    pub fn data_options(&self, split: Split) -> ReadOptions {
        let config::Resolution { height, width } = self.data.resolution;
        ReadOptions {
            resolution: Some((height, width)),
            channels: Some(self.data.channels),
            fit: self.data.fit,
            split,
            ..ReadOptions::default()
        }
    }

    /// Opens the images, or the built-in ones.
    ///
    /// # Errors
    /// Names the file and the fix.
    pub fn open(&self, split: Split) -> Result<ImageSet, Error> {
        let options = self.data_options(split);
        Ok(match &self.data.path {
            Some(path) => data::open(path, &options)?,
            None => data::builtin(&options)?,
        })
    }

    /// The network for a set of images.
    ///
    /// # Errors
    /// If the keys do not describe a network, or labels are wanted and there are none.
    pub fn network(&self, set: &ImageSet) -> Result<unet::Config, Error> {
        let classes = set.class_names().len();
        let needed = classes + usize::from(self.train.label_dropout > 0.0);
        let num_class_embeds = match (self.data.labels, self.model.num_class_embeds) {
            (false, _) => None,
            (true, _) if classes == 0 => {
                return Err(Error::Run(format!("`data.labels` is true, but {} has no labels", set.name())));
            }
            // One row more stands for "no class".
            (true, None) => Some(needed),
            (true, Some(rows)) if rows < needed => {
                return Err(Error::Run(format!(
                    "`model.num_class_embeds` is {rows}, but {} has {classes} classes{}: expected {needed} or more, \
                     or leave it out",
                    set.name(),
                    if needed > classes { ", and `train.label_dropout` needs one more" } else { "" }
                )));
            }
            (true, Some(rows)) => Some(rows),
        };
        let model = &self.model;
        let channels = self.data.channels;
        let network = unet::Config {
            sample_size: Some(unet::SampleSize { height: set.height(), width: set.width() }),
            in_channels: channels,
            out_channels: if self.diffusion.variance.is_learned() { 2 * channels } else { channels },
            freq_shift: model.freq_shift,
            flip_sin_to_cos: model.flip_sin_to_cos,
            layers_per_block: model.layers_per_block,
            downsample_padding: model.downsample_padding,
            dropout: model.dropout,
            attention_head_dim: model.attention_head_dim,
            norm_num_groups: model.norm_num_groups,
            norm_eps: model.norm_eps,
            time_embedding_type: model.time_embedding_type,
            resnet_time_scale_shift: model.resnet_time_scale_shift,
            num_class_embeds,
            ..unet::Config::default()
        }
        .with_levels(&model.block_out_channels, set.height(), &model.attention_resolutions);
        network.validate()?;
        Ok(network)
    }

    /// The chain, in diffusers' words.
    pub fn scheduler(&self) -> SchedulerConfig {
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

    /// What is minimised.
    ///
    /// # Errors
    /// If betas or weights do not make a chain or a loss.
    pub fn objective(&self) -> Result<Objective, Error> {
        let schedule = self.scheduler().noise_schedule()?;
        let weight = match (self.diffusion.loss, &self.diffusion.loss_weights) {
            (Loss::MinSnr, _) => LossWeight::MinSnr { gamma: self.diffusion.min_snr_gamma },
            (Loss::Weights, Some(list)) => LossWeight::List(list.clone()),
            (Loss::Weights, None) => {
                return Err(Error::Run("`diffusion.loss` = \"weights\" needs `diffusion.loss_weights`".into()));
            }
            _ => LossWeight::Simple,
        };
        Ok(Objective {
            weights: weight.weights(&schedule, self.diffusion.prediction)?,
            schedule,
            prediction: self.diffusion.prediction,
            variance: self.diffusion.variance,
            minimised: match self.diffusion.loss {
                Loss::Vlb => Minimised::Bound,
                Loss::Hybrid => Minimised::Hybrid,
                Loss::LSimple | Loss::MinSnr | Loss::Weights => Minimised::SquaredError,
            },
        })
    }

    /// The sampler that the run's pictures are drawn with.
    pub fn sampler(&self) -> Sampler {
        self.sample.sampler.with_eta(self.sample.eta)
    }

    /// Classes that the run's samples have in turn, where the network has classes.
    pub fn sampled_classes(&self, set: &ImageSet, unet: &Unet) -> Option<Vec<u32>> {
        unet.config().num_class_embeds.map(|_| (0..set.class_names().len().max(1) as u32).collect())
    }

    /// Guidance of the run's samples towards their classes.
    pub fn guidance(&self, set: &ImageSet) -> Option<Guidance> {
        let (scale, interval) = (self.sample.guidance, (f64::NEG_INFINITY, f64::INFINITY));
        (scale != 1.0).then(|| Guidance { scale, null_label: set.class_names().len() as u32, interval })
    }

    /// Its steps.
    pub fn sampler_options(&self) -> sample::Options {
        sample::Options { steps: self.sample.steps, ..Default::default() }
    }
}
