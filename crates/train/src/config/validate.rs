//! Checks of values, and of keys that must agree with each other.

use std::ops::RangeInclusive;

use diffusion::power_ema::exponent;
use diffusion::prediction::EDM_IDDPM_TIMESTEPS;

use super::*;
use crate::augment::WIDTH;

/// A side of an image, a number of channels or of images. Products of them fit into 64 bits.
const SIZE: RangeInclusive<usize> = 1..=65_535;
/// T. Tables of this many f64 are a few MB.
const TIMESTEPS: RangeInclusive<usize> = 1..=1_000_000;
/// TOML's integers are i64.
const COUNT: RangeInclusive<usize> = 1..=i64::MAX as usize;

type Checked = Result<(), ConfigError>;

pub(super) fn validate(config: &TrainingConfig) -> Checked {
    data(config)?;
    model(config)?;
    augment(config)?;
    diffusion(&config.diffusion)?;
    train(config)?;
    let SampleSize { height, width } = config.data.resolution;
    let sides = [config.train.batch_size, config.train.gradient_accumulation, height, width, config.data.channels];
    let pixels = sides.into_iter().try_fold(1usize, usize::checked_mul);
    check(pixels.is_some_and(|pixels| pixels <= 1 << 34), "train.batch_size", || {
        format!("a step of {} images of {height}×{width} does not fit into memory", sides[0].saturating_mul(sides[1]))
    })?;
    if config.diffusion.process == ProcessKind::Binomial {
        binomial(config)?;
    }
    sample(config)
}

/// The keys that are about Gaussian noise, which a binomial chain does not have.
fn binomial(config: &TrainingConfig) -> Checked {
    let TrainingConfig { data, diffusion, sample, .. } = config;
    let gaussian = "is about Gaussian noise; with `diffusion.process = \"binomial\"`";
    check(!config.model.is_of_points(), "diffusion.process", || {
        "a binomial chain is one of images of bits, and an Mlp is a network of points: set model.class to a network of images".to_owned()
    })?;
    for (key, is_default, expected) in [
        (
            "diffusion.prediction",
            diffusion.prediction == Prediction::Sample,
            "the network predicts bits of b_0: set it to \"sample\"",
        ),
        ("diffusion.variance", diffusion.variance == Variance::FixedSmall, "set it to \"fixed_small\""),
        (
            "diffusion.loss",
            matches!(diffusion.loss, Loss::Vlb | Loss::LSimple),
            "use \"vlb\", or \"l_simple\" for the cross-entropy",
        ),
        ("diffusion.loss_norm", diffusion.loss_norm == LossNorm::L2, "leave it at \"l2\""),
        ("diffusion.offset_noise", diffusion.offset_noise == 0.0, "leave it out"),
        (
            "diffusion.timestep_sampler",
            diffusion.timestep_sampler != TimestepSampler::LogNormal,
            "use another than \"log_normal\"",
        ),
        ("data.augment", data.augment == 0.0, "interpolated pixels are no bits: leave it out"),
        ("sample.sampler", sample.sampler == Sampler::Ddpm, "samples are drawn step by step: set it to \"ddpm\""),
        ("sample.clip_sample", !sample.clip_sample, "set it to false"),
        ("sample.guidance", sample.guidance == 1.0, "set it to 1"),
    ] {
        check(is_default, key, || format!("{gaussian} {expected}"))?;
    }
    Ok(())
}

/// The keys of points, and those about images that points do not have.
fn points(config: &TrainingConfig) -> Checked {
    let (data, given) = (&config.data, "is about images; the network is one of points, so leave the key out");
    let SampleSize { height, width } = data.resolution;
    check((height, width) == (1, 1), "data.resolution", || {
        format!(
            "got {height}x{width}, but a point has no height and width: set data.resolution=1, and data.channels to its dimensions"
        )
    })?;
    between("data.channels", data.channels, SIZE)?;
    check(data.points.is_none() || data.path.is_none(), "data.points", || {
        "points are drawn or read: leave out `data.points` or `data.path`".to_owned()
    })?;
    check(data.points.is_some() || data.path.is_some(), "data.path", || {
        "the built-in images are no points: set `data.points` to a built-in distribution, or `data.path` to a file of points".to_owned()
    })?;
    check(data.points.is_none() || data.channels == 2, "data.channels", || {
        format!("got {}, but the built-in points have 2 dimensions", data.channels)
    })?;
    for (key, is_default) in [
        ("data.flip", !data.flip),
        ("data.augment", data.augment == 0.0),
        ("data.crop", data.crop.is_none()),
        ("data.fit", data.fit == Fit::Crop),
        ("data.background", data.background.is_white()),
        ("data.range", data.range.is_none()),
        ("data.label_from", data.label_from == LabelFrom::Folder),
        ("train.evaluate_features", config.train.evaluate_features.is_none()),
    ] {
        check(is_default, key, || given.to_owned())?;
    }
    check(!config.sample.clip_sample, "sample.clip_sample", || {
        "points are not within the range of pixels: set `sample.clip_sample = false`".to_owned()
    })
}

fn data(config: &TrainingConfig) -> Checked {
    let data = &config.data;
    if let Some(images) = data.images_per_class {
        between("data.images_per_class", images, COUNT)?;
    }
    if config.model.is_of_points() {
        return points(config);
    }
    let is_of_points = data.points.is_some() || data.standardize;
    check(!is_of_points, if data.points.is_some() { "data.points" } else { "data.standardize" }, || {
        format!(
            "is about points, and a {} is a network of images: set model.class=Mlp, or leave the key out",
            config.model.class()
        )
    })?;
    let SampleSize { height, width } = data.resolution;
    check(SIZE.contains(&height) && SIZE.contains(&width), "data.resolution", || {
        format!("{height}×{width} is not a size: each side must be 1 to {}", SIZE.end())
    })?;
    if let Some(crop) = data.crop {
        crop.check().or_else(|message| fail("data.crop", message))?;
    }
    if let Some([low, high]) = data.range {
        check(low.is_finite() && high.is_finite() && low < high, "data.range", || {
            format!("got [{low}, {high}], expected two numbers, the lower first")
        })?;
    }
    check(matches!(data.channels, 1 | 3 | 4), "data.channels", || {
        format!("got {}, expected 1 (grey), 3 (RGB) or 4 (RGBA)", data.channels)
    })
}

/// Without being told of them, a network would draw augmented images.
fn augment(config: &TrainingConfig) -> Checked {
    let probability = config.data.augment;
    check((0.0..=1.0).contains(&probability), "data.augment", || {
        format!("got {probability}, expected a number from 0 to 1")
    })?;
    let width = match &config.model {
        Model::Song(keys) => keys.augment_dim,
        Model::Dhariwal(keys) => keys.augment_dim,
        _ => 0,
    };
    check(probability == 0.0 || width == WIDTH, "data.augment", || {
        format!(
            "the network must be told how its images were augmented: set `model.class` to SongUNet or DhariwalUNet, and \
             `model.augment_dim = {WIDTH}`; `data.flip` mirrors images for any network"
        )
    })
}

fn model(config: &TrainingConfig) -> Checked {
    match &config.model {
        Model::Unet2d(keys) => unet(config, keys),
        Model::Lucidrains(keys) => {
            let Data { resolution, channels, labels, .. } = config.data;
            let mut network = keys.network(resolution, channels, config.diffusion.variance.is_learned());
            // The number of classes does not matter here.
            network.num_classes = usize::from(labels);
            network.validate().or_else(|error| fail("model.class", error.to_string()))
        }
        Model::Hmdolatabadi(keys) => {
            let Data { resolution, channels, labels, .. } = config.data;
            check(!labels, "data.labels", || "a HmdolatabadiUNet has no classes; set data.labels=false".to_owned())?;
            check(channels == 3, "data.channels", || {
                format!("got {channels}, but a HmdolatabadiUNet has three channels of output; set data.channels=3")
            })?;
            check(!config.diffusion.variance.is_learned(), "diffusion.variance", || {
                "a HmdolatabadiUNet has no channels for a learned variance: use `fixed_small` or `fixed_large`"
                    .to_owned()
            })?;
            let network = keys.network(resolution, channels);
            network.validate().or_else(|error| fail("model.class", error.to_string()))
        }
        Model::Mlp(keys) => {
            let network = keys.network(config.data.channels, 0, config.diffusion.variance.is_learned());
            network.validate().or_else(|error| fail("model.class", error.to_string()))
        }
        Model::Song(_) | Model::Dhariwal(_) => {
            let Data { resolution: SampleSize { height, width }, channels, labels, .. } = config.data;
            let class = config.model.class();
            check(height == width, "data.resolution", || {
                format!("got {height}x{width}, but a {class} takes square images")
            })?;
            check(!config.diffusion.variance.is_learned(), "diffusion.variance", || {
                format!("a {class} is trained with a fixed variance: use `fixed_small` or `fixed_large`")
            })?;
            let has_variance = config.diffusion.prediction == Prediction::EdmIddpm;
            let images = EdmImages { size: height, channels, classes: usize::from(labels), has_variance };
            let network = config.model.edm(images);
            network.map_or(Ok(()), |network| network.validate()).or_else(|error| fail("model.class", error.to_string()))
        }
    }
}

fn unet(config: &TrainingConfig, model: &UnetKeys) -> Checked {
    let channels = &model.block_out_channels;
    let levels = channels.len();
    check((1..=16).contains(&levels), "model.block_out_channels", || {
        format!("got {levels} levels, expected a list of 1 to 16 numbers")
    })?;
    between("model.norm_num_groups", model.norm_num_groups, SIZE)?;
    between("model.layers_per_block", model.layers_per_block, 1..=64)?;
    for &c in channels {
        between("model.block_out_channels", c, SIZE)?;
        check(c % model.norm_num_groups == 0, "model.norm_num_groups", || {
            format!("{} groups do not divide the {c} channels of `model.block_out_channels`", model.norm_num_groups)
        })?;
    }

    check(model.time_embedding_type == TimeEmbeddingType::Positional, "model.time_embedding_type", || {
        "training requires \"positional\": \"fourier\" has no value at t = 0, and \"learned\" is supported for existing \
         networks only"
            .into()
    })?;

    let SampleSize { height, width } = config.data.resolution;
    let factor = 1usize << (levels - 1);
    check(height % factor == 0 && width % factor == 0, "data.resolution", || {
        format!(
            "{height}×{width} cannot be halved {} times for the {levels} levels of `model.block_out_channels`: \
             both sides must be multiples of {factor}",
            levels - 1
        )
    })?;
    let heights: Vec<usize> = (0..levels).map(|level| height >> level).collect();
    if let Some(wrong) = model.attention_resolutions.iter().find(|h| !heights.contains(h)) {
        let heights = heights.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let presets: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).filter(|name| is_for(name, height)).collect();
        let hint = match presets.is_empty() {
            true => String::new(),
            false => format!("; presets for images of this height: {}", presets.join(", ")),
        };
        return fail(
            "model.attention_resolutions",
            format!("no level is {wrong} pixels high; the levels are {heights}{hint}"),
        );
    }
    if let Some(dim) = model.attention_head_dim {
        between("model.attention_head_dim", dim, SIZE)?;
        // The middle block, at the last level's width, always has attention.
        let attends = |level: usize| level + 1 == levels || model.attention_resolutions.contains(&heights[level]);
        if let Some(level) = (0..levels).find(|&level| attends(level) && !channels[level].is_multiple_of(dim)) {
            let message =
                format!("heads of {dim} channels do not divide the {} channels of level {level}", channels[level]);
            return fail("model.attention_head_dim", message);
        }
    }

    positive("model.norm_eps", model.norm_eps)?;
    share("model.dropout", model.dropout)?;
    between("model.downsample_padding", model.downsample_padding, 0..=1)?;
    check(channels[0].is_multiple_of(2), "model.block_out_channels", || {
        format!(
            "the first number must be even, since the time embedding is half sines, half cosines; got {}",
            channels[0]
        )
    })?;
    let half = channels[0] as f64 / 2.0;
    check((0.0..half).contains(&model.freq_shift), "model.freq_shift", || {
        format!(
            "got {}, expected 0 or more and less than half the first of `model.block_out_channels`",
            model.freq_shift
        )
    })?;
    if let Some(classes) = model.num_class_embeds {
        between("model.num_class_embeds", classes, 1..=1_000_000)?;
        check(config.data.labels, "model.num_class_embeds", || {
            "class embeddings need labels: set `data.labels = true`".to_owned()
        })?;
    }
    Ok(())
}

/// Returns whether a preset is for images of this height.
fn is_for(preset: &str, height: usize) -> bool {
    TrainingConfig::preset(preset).is_ok_and(|preset| preset.data.resolution.height == height)
}

fn diffusion(diffusion: &Diffusion) -> Checked {
    let t = diffusion.timesteps;
    between("diffusion.timesteps", t, TIMESTEPS)?;
    for (key, beta) in [("diffusion.beta_start", diffusion.beta_start), ("diffusion.beta_end", diffusion.beta_end)] {
        check(beta > 0.0 && beta < 1.0, key, || format!("got {beta}, expected a number between 0 and 1"))?;
    }
    if let Some(betas) = &diffusion.betas {
        check(betas.len() == t, "diffusion.betas", || {
            format!("has {} numbers, but `diffusion.timesteps` is {t}", betas.len())
        })?;
        let wrong = betas.iter().enumerate().find(|(_, beta)| !(**beta > 0.0 && **beta < 1.0));
        if let Some((i, beta)) = wrong {
            return fail("diffusion.betas", format!("got {beta} at index {i}, expected numbers between 0 and 1"));
        }
    }

    let learned = matches!(diffusion.variance, Variance::Learned | Variance::LearnedRange);
    match diffusion.loss {
        Loss::LSimple | Loss::MinSnr | Loss::Weights if learned => {
            let message = "does not train a learned variance: use `hybrid` or `vlb`, or a fixed `diffusion.variance`";
            return fail("diffusion.loss", message.to_owned());
        }
        Loss::Hybrid if !learned => {
            let message =
                "`hybrid` requires the variance `learned` or `learned_range`; with a fixed one it is `l_simple`";
            return fail("diffusion.loss", message.to_owned());
        }
        Loss::MinSnr if diffusion.prediction == Prediction::PreviousMean => {
            return fail("diffusion.loss", "`min_snr` is not defined for the prediction `previous_mean`".to_owned());
        }
        _ => (),
    }
    if let Some(schedule) = diffusion.prediction.own_schedule() {
        let prediction = diffusion.prediction;
        check(diffusion.schedule == schedule && diffusion.betas.is_none(), "diffusion.schedule", || {
            format!(
                "the prediction `{prediction}` has the noise levels `{schedule}`: set `diffusion.schedule = \
                 \"{schedule}\"`, without `diffusion.betas`"
            )
        })?;
        check(diffusion.variance == Variance::FixedSmall, "diffusion.variance", || {
            format!(
                "the prediction `{prediction}` has the variance of the posterior: set `diffusion.variance = \
                 \"fixed_small\"`"
            )
        })?;
        check(prediction != Prediction::EdmIddpm || t == EDM_IDDPM_TIMESTEPS, "diffusion.timesteps", || {
            format!("the prediction `{prediction}` has {EDM_IDDPM_TIMESTEPS} timesteps, found {t}")
        })?;
    }
    let offset = diffusion.offset_noise;
    check((0.0..=1e3).contains(&offset), "diffusion.offset_noise", || format!("got {offset}, expected 0 to 1000"))?;
    check(offset == 0.0 || !matches!(diffusion.loss, Loss::Vlb | Loss::Hybrid), "diffusion.offset_noise", || {
        "the losses `vlb` and `hybrid` are bounds for independent noise: leave the key out".to_owned()
    })?;
    check(diffusion.p_mean.is_finite(), "diffusion.p_mean", || format!("got {}, expected a number", diffusion.p_mean))?;
    positive("diffusion.p_std", diffusion.p_std)?;
    positive("diffusion.min_snr_gamma", diffusion.min_snr_gamma)?;
    positive("diffusion.huber_delta", diffusion.huber_delta)?;
    check(diffusion.loss != Loss::Vlb || diffusion.loss_norm == LossNorm::L2, "diffusion.loss_norm", || {
        "the loss `vlb` is a bound, not a norm of an error: leave the key at \"l2\"".to_owned()
    })?;
    match (&diffusion.loss_weights, diffusion.loss == Loss::Weights) {
        (None, false) => Ok(()),
        (None, true) => fail("diffusion.loss_weights", format!("the loss `weights` needs a list of {t} numbers")),
        (Some(_), false) => fail("diffusion.loss_weights", "needs `diffusion.loss = \"weights\"`".to_owned()),
        (Some(weights), true) => {
            check(weights.len() == t, "diffusion.loss_weights", || {
                format!("has {} numbers, but `diffusion.timesteps` is {t}", weights.len())
            })?;
            let wrong = weights.iter().find(|w| !(**w >= 0.0 && w.is_finite()));
            wrong
                .map_or(Ok(()), |w| fail("diffusion.loss_weights", format!("got {w}, expected numbers, 0 or more")))?;
            check(weights.iter().any(|w| *w > 0.0), "diffusion.loss_weights", || "all weights are 0".to_owned())
        }
    }
}

fn train(config: &TrainingConfig) -> Checked {
    let train = &config.train;
    between("train.steps", train.steps, COUNT)?;
    between("train.batch_size", train.batch_size, SIZE)?;
    between("train.gradient_accumulation", train.gradient_accumulation, SIZE)?;
    positive("train.learning_rate", train.learning_rate)?;
    between("train.lr_reference_steps", train.lr_reference_steps, COUNT)?;
    check(train.weight_decay >= 0.0 && train.learning_rate * train.weight_decay < 1.0, "train.weight_decay", || {
        format!("got {}, expected 0 or more, and less than 1/`train.learning_rate`", train.weight_decay)
    })?;
    share("train.beta1", train.beta1)?;
    share("train.beta2", train.beta2)?;
    positive("train.adam_eps", train.adam_eps)?;
    between("train.warmup_steps", train.warmup_steps, 0..=*COUNT.end())?;
    check(train.grad_clip >= 0.0 && train.grad_clip.is_finite(), "train.grad_clip", || {
        format!("got {}, expected a number greater than 0, or 0 for none", train.grad_clip)
    })?;
    share("train.ema_decay", train.ema_decay)?;
    train.ema_half_life.map_or(Ok(()), |images| positive("train.ema_half_life", images))?;
    positive("train.ema_rampup", train.ema_rampup)?;
    for (i, &length) in train.ema_lengths.iter().enumerate() {
        let valid = exponent(length).is_ok() && !train.ema_lengths[..i].contains(&length);
        check(valid, "train.ema_lengths", || {
            format!("got {length}, expected different numbers above 0 and up to .2886, such as [0.05, 0.1]")
        })?;
    }
    between("train.ema_snapshots", train.ema_snapshots, COUNT)?;
    check((0.0..=1.0).contains(&train.label_dropout), "train.label_dropout", || {
        format!("got {}, expected a number from 0 to 1", train.label_dropout)
    })?;
    check(train.label_dropout == 0.0 || config.data.labels, "train.label_dropout", || {
        "there are no labels to drop: set `data.labels = true`, or `train.label_dropout = 0`".to_owned()
    })?;
    check(i64::try_from(train.seed).is_ok(), "train.seed", || {
        format!("got {}, expected at most {}", train.seed, i64::MAX)
    })?;
    between("train.log_every", train.log_every, COUNT)?;
    between("train.sample_every", train.sample_every, 0..=*COUNT.end())?;
    between("train.evaluate_every", train.evaluate_every, 0..=*COUNT.end())?;
    between("train.evaluate_images", train.evaluate_images, SIZE)?;
    check(train.evaluate_seed.is_none_or(|seed| i64::try_from(seed).is_ok()), "train.evaluate_seed", || {
        format!("expected at most {}", i64::MAX)
    })?;
    between("train.evaluate_samples", train.evaluate_samples, 2..=*COUNT.end())?;
    check(train.evaluate_reference.is_none() || train.evaluate_features.is_some(), "train.evaluate_reference", || {
        "these statistics are of features: set `train.evaluate_features` to their network".to_owned()
    })?;
    between("train.checkpoint_every", train.checkpoint_every, 0..=*COUNT.end())?;
    between("train.keep_checkpoints", train.keep_checkpoints, COUNT)?;
    between("train.nonfinite_limit", train.nonfinite_limit, COUNT)?;
    between("train.samples", train.samples, 0..=*SIZE.end())
}

fn sample(config: &TrainingConfig) -> Checked {
    let sample = &config.sample;
    let t = config.diffusion.timesteps;
    if let Some(steps) = sample.steps {
        check((1..=t).contains(&steps), "sample.steps", || {
            format!("got {steps}, expected 1 to `diffusion.timesteps`, which is {t}")
        })?;
    }
    let prediction = config.diffusion.prediction;
    check(!sample.clip_sample || !prediction.is_edm(), "sample.clip_sample", || {
        format!("the prediction `{prediction}` is sampled without clipping: set `sample.clip_sample = false`")
    })?;
    check((0.0..=1.0).contains(&sample.eta), "sample.eta", || {
        format!("got {}, expected a number from 0 (no noise) to 1 (the noise of DDPM)", sample.eta)
    })?;
    check(sample.guidance.is_finite(), "sample.guidance", || format!("got {}, expected a number", sample.guidance))?;
    check(sample.guidance == 1.0 || config.train.label_dropout > 0.0, "sample.guidance", || {
        "guidance requires training with dropped labels: set `train.label_dropout`".to_owned()
    })?;
    let interval = sample.guidance_interval.unwrap_or((0.0, 1.0));
    check((0.0..=interval.1).contains(&interval.0) && interval.1.is_finite(), "sample.guidance_interval", || {
        format!("got [{}, {}], expected the first and the last timestep", interval.0, interval.1)
    })?;
    between("sample.batch_size", sample.batch_size, SIZE)
}

fn fail(key: &str, message: String) -> Checked {
    Err(ConfigError::value(key, message))
}

fn check(good: bool, key: &str, message: impl FnOnce() -> String) -> Checked {
    if good { Ok(()) } else { fail(key, message()) }
}

fn between(key: &str, value: usize, range: RangeInclusive<usize>) -> Checked {
    check(range.contains(&value), key, || match *range.end() {
        end if end == *COUNT.end() => format!("got {value}, expected {} or more", range.start()),
        end => format!("got {value}, expected {} to {end}", range.start()),
    })
}

fn positive(key: &str, value: f64) -> Checked {
    check(value > 0.0 && value.is_finite(), key, || format!("got {value}, expected a number greater than 0"))
}

fn share(key: &str, value: f64) -> Checked {
    check((0.0..1.0).contains(&value), key, || format!("got {value}, expected a number from 0 to less than 1"))
}
