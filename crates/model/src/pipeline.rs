//! Pipelines: a network with its noise schedule and preprocessing, in the folder format of diffusers.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use data::{Dataset, Fit, LabelFrom, ReadOptions};
use diffusion::beta_schedule::scaled_beta_range;
use diffusion::prediction::EDM_IDDPM_TIMESTEPS;
use diffusion::{BetaSchedule, Prediction, SchedulerConfig, Values, Variance};
use weights::atomic::{self, Existing};
use weights::families::{ImportOptions, Imported, Unrecorded};
use weights::pipeline::ModelFiles;
use weights::{Tensors, Values as FileValues, digest, names, pipeline as folders};

use crate::bits::NetworkBits;
use crate::preprocessing::{self, Preprocessing};
use crate::{
    DataKind, Error, Images, LabelKind, Network, NetworkConfig, NetworkDenoiser, Process, Sampling, Signature,
    TrainingData,
};

/// A denoising diffusion model: diffusers' `DDPMPipeline`, plus image preprocessing.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The network.
    pub network: Network,
    /// The scheduler's configuration.
    pub scheduler: SchedulerConfig,
    /// The preprocessing of its images.
    pub preprocessing: Preprocessing,
    /// The sampler and guidance of its run; `None` if it has no run.
    pub sampling: Option<Sampling>,
    /// The folder or file that it was read from.
    pub root: PathBuf,
}

/// The longest side of images, in pixels.
const MAX_SIDE: usize = u16::MAX as usize;

/// Checks that all values of a file are finite; those of a run that diverged are not.
///
/// # Errors
/// Names the file and the tensor.
pub fn check_finite(path: &Path, tensors: &Tensors) -> Result<(), Error> {
    match tensors.iter().find(|(_, tensor)| tensor.data.iter().any(|value| !value.is_finite())) {
        Some((name, _)) => Err(Error::Pipeline {
            path: path.to_owned(),
            message: format!("the weights {name} are not finite: the file is damaged, or its training diverged"),
        }),
        None => Ok(()),
    }
}

/// Checks that a configuration does not describe a network that is far larger than its weights, before it is built: it might
/// not fit into memory.
fn check_count(config: &NetworkConfig, tensors: &Tensors) -> Result<(), String> {
    let (asked, held) = (config.parameter_count(), tensors.values().map(|t| t.data.len()).sum::<usize>());
    if asked / 2 > held + (1 << 20) {
        return Err(format!("describes a network of {asked} parameters, but the weights beside it are {held}"));
    }
    Ok(())
}

impl Pipeline {
    /// Reads a model: a run, a checkpoint, a diffusers folder, a flat `google/ddpm-*` repository or a `unet` folder
    /// (see [`weights::pipeline::locate`]).
    ///
    /// # Errors
    /// If a file, key or tensor is missing, damaged, unsupported or of the wrong shape; the error names it.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self, Error> {
        folders::with_files(path, |files| Self::from_files(files, device))
    }

    /// Reads a model whose files were [located](weights::pipeline::locate); [`ModelFiles::notes`] are the choices that were
    /// made among them.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub fn from_files(located: &ModelFiles, device: &Device) -> Result<Self, Error> {
        if digest::is_sealed(&located.root) {
            // What only training needs may have been removed to save space.
            let is_read = |name: &str| name == Sampling::FILE && located.root.join(name).exists();
            digest::verify_files(&located.root, |name| !name.starts_with("training/") || is_read(name))?;
        }
        let of_config = |message: String| Error::Pipeline { path: located.unet_config.clone(), message };
        let text = files::read_json_text(&located.unet_config)
            .map_err(|error| of_config(format!("cannot be read: {error}")))?;
        let config = NetworkConfig::from_json(&text).map_err(|error| of_config(error.to_string()))?;
        let scheduler = match &located.scheduler_config {
            Some(path) => read_scheduler(path)?,
            None => SchedulerConfig::default(),
        };
        let tensors = weights::read_tensors(&located.unet_weights)?;
        let tensors = names::modernize(&located.unet_weights, tensors)?;
        check_finite(&located.unet_weights, &tensors)?;
        check_count(&config, &tensors).map_err(of_config)?;
        let mut network = config.build(0, device)?;
        network
            .set_tensors(tensors)
            .map_err(|error| Error::Pipeline { path: located.unet_weights.clone(), message: error.to_string() })?;
        let preprocessing = Preprocessing::read(&located.root, &network.signature())?;
        let sampling = Sampling::of_model(&located.root)?;
        let pipeline = Self { network, scheduler, preprocessing, sampling, root: located.root.clone() };
        pipeline.check().map_err(of_config)?;
        Ok(pipeline)
    }

    /// Imports a network of another code base (see [`weights::families`]).
    ///
    /// Also returns the import report, without its tensors, which move into the network.
    ///
    /// # Errors
    /// If a file, tensor or key is missing, damaged or not supported; the error names it.
    pub fn import(path: &Path, options: &PipelineImport, device: &Device) -> Result<(Self, Imported), Error> {
        let mut imported = weights::families::import(path, &options.network)?;
        let fail = |message: String| Error::Pipeline { path: path.to_owned(), message };
        let config = NetworkConfig::from_json(&imported.config.to_string()).map_err(|error| fail(error.to_string()))?;
        let scheduler =
            SchedulerConfig::from_json(&imported.scheduler.to_string()).map_err(|error| fail(error.to_string()))?;
        options.check_recorded(&imported.unrecorded).map_err(fail)?;
        if scheduler.prediction_type.is_edm() && options.changes_process() {
            return Err(fail(
                "its process is EDM's, as the file says; leave out --beta-schedule, --prediction and --variance".into(),
            ));
        }
        let own = Some(scheduler.prediction_type).filter(|prediction| prediction.is_edm());
        let scheduler = match own.or(options.prediction) {
            // The processes of NVlabs/edm are their own, whatever the family.
            Some(prediction) if prediction.is_edm() => options.preconditioned(prediction).map_err(fail)?,
            _ => options.scheduler(scheduler, imported.family),
        };
        scheduler.noise_schedule().map_err(|error| fail(error.to_string()))?;
        let tensors = std::mem::take(&mut imported.tensors);
        check_finite(path, &tensors)?;
        check_count(&config, &tensors).map_err(fail)?;
        let mut network = config.build(0, device)?;
        network.set_tensors(tensors).map_err(|error| fail(error.to_string()))?;
        let signature = network.signature();
        let preprocessing = Preprocessing {
            resolution: signature.size,
            channels: Some(signature.in_channels),
            null_label: imported.null_label,
            ..Preprocessing::default()
        };
        let pipeline = Self { network, scheduler, preprocessing, sampling: None, root: path.to_owned() };
        pipeline.check().map_err(fail)?;
        Ok((pipeline, imported))
    }

    /// Returns the options for reading images for the pipeline, without their labels; `fit`, if given, replaces the fit of the
    /// pipeline.
    pub fn read_options(&self, fit: Option<Fit>) -> ReadOptions {
        let options = self.preprocessing.read_options();
        ReadOptions { fit: fit.unwrap_or(options.fit), label_from: LabelFrom::Folder, ..options }
    }

    /// Returns the options for reading an image file, as [`Pipeline::read_options`] does. If the preprocessing has a
    /// crop, a file of the network's size that is too small for it, such as a sample, is not cropped.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn image_options(&self, path: &Path, fit: Option<Fit>) -> Result<ReadOptions, Error> {
        Ok(self.read_options(fit).without_needless_crop(&Dataset::Path(path.to_owned()))?)
    }

    /// Returns what the run of the model says about the images that it was trained on; `None` for a model without a run.
    ///
    /// # Errors
    /// As [`TrainingData::of_model`].
    pub fn training_data(&self) -> Result<Option<TrainingData>, Error> {
        TrainingData::of_model(&self.root)
    }

    /// Reads image files for the network, as one batch without labels, with their [`image_options`](Pipeline::image_options).
    ///
    /// # Errors
    /// If a file cannot be read, or its size differs from that of the others; the error names it.
    pub fn read_images(&self, paths: &[impl AsRef<Path>], fit: Option<Fit>) -> Result<Images, Error> {
        self.check_images("reading image files")?;
        let mut images = Images::default();
        for path in paths {
            let path = path.as_ref();
            let image =
                Images { labels: None, ..Images::read(&data::open(path, &self.image_options(path, fit)?)?, &[0])? };
            if images.n > 0 && images.shape()[1..] != image.shape()[1..] {
                let size = |images: &Images| format!("{}x{}x{}", images.height, images.width, images.channels);
                let message = format!(
                    "the image is {}, but those before it are {}; give images of one size",
                    size(&image),
                    size(&images)
                );
                return Err(Error::Pipeline { path: path.to_owned(), message });
            }
            images.append(image);
        }
        Ok(images)
    }

    /// Reads the mask of an image, resized like [`Pipeline::read_images`]. Returns for each pixel, H,W, whether it is
    /// white: at least 128 of 255.
    ///
    /// # Errors
    /// If a file cannot be read, or the mask is not of the image's size; the error names it.
    pub fn read_mask(&self, mask: &Path, image: &Path, fit: Option<Fit>) -> Result<Vec<bool>, Error> {
        self.check_images("a mask")?;
        let size = |path| data::open(path, &ReadOptions::default()).map(|set| [set.height(), set.width()]);
        let ([h, w], [height, width]) = (size(mask)?, size(image)?);
        if [h, w] != [height, width] {
            let image = image.display();
            let message =
                format!("the mask is {h}x{w}, but {image} is {height}x{width}; give a mask of the image's size");
            return Err(Error::Pipeline { path: mask.to_owned(), message });
        }
        let options = ReadOptions { channels: Some(1), ..self.image_options(image, fit)? };
        let bytes = data::open(mask, &options)?.read([0])?;
        Ok(bytes.into_iter().map(|byte| byte >= 128).collect())
    }

    /// Writes the pipeline as a diffusers folder, atomically. The folder must not exist.
    ///
    /// # Errors
    /// If it exists, or a file cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<(), Error> {
        self.save_as(folder, Precision::F32)
    }

    /// Writes the pipeline as [`Pipeline::save`] does, with weights of this precision.
    ///
    /// # Errors
    /// As [`Pipeline::save`], and if a weight is too large for the precision.
    pub fn save_as(&self, folder: impl AsRef<Path>, precision: Precision) -> Result<(), Error> {
        let tensors = self.network.tensors()?;
        let parts = PipelineParts {
            config: &self.network.config(),
            scheduler: &self.scheduler,
            preprocessing: &self.preprocessing,
            tensors: &tensors,
            precision,
        };
        atomic::write_folder(folder.as_ref(), Existing::Refuse, |folder| parts.write(folder))
    }

    /// Writes the state dictionary of the network, as its original code names it, for `torch.load`. An existing file is replaced.
    ///
    /// # Errors
    /// If the file cannot be written, or a weight is too large for the precision.
    pub fn save_state_dict(&self, path: impl AsRef<Path>, precision: Precision) -> Result<(), Error> {
        let values = match precision {
            Precision::F32 => FileValues::F32,
            Precision::F16 => FileValues::F16,
        };
        Ok(weights::write_state_dict(path, &self.network.state_dict()?, values)?)
    }

    /// Returns the kind of values of the data.
    pub fn values(&self) -> Values {
        match &self.preprocessing.points {
            None => Values::Bytes,
            Some(points) => Values::Reals { log_scale: points.log_scale() },
        }
    }

    /// Checks that the model is one of images. `what` names what is asked of it.
    ///
    /// # Errors
    /// If it is one of points.
    pub fn check_images(&self, what: &str) -> Result<(), Error> {
        match self.network.signature().kind {
            DataKind::Images => Ok(()),
            DataKind::Points => Err(Error::Input(format!(
                "{}: {what} is for models of images, but this is one of points, vectors of numbers without pixels",
                self.root.display()
            ))),
        }
    }

    /// Returns the process that the network was trained for.
    ///
    /// # Errors
    /// If the scheduler's betas are invalid.
    pub fn process(&self) -> Result<Process, Error> {
        Process::new(&self.scheduler)
    }

    /// Returns the denoiser: the network with its process.
    ///
    /// # Errors
    /// If the scheduler's betas are invalid.
    pub fn denoiser(&self) -> Result<NetworkDenoiser, Error> {
        Ok(self.process()?.denoiser(self.network.clone()))
    }

    /// Returns the denoiser of a model of bits: the network with its binomial chain.
    ///
    /// # Errors
    /// If the model's chain is Gaussian.
    pub fn bit_denoiser(&self) -> Result<NetworkBits, Error> {
        Ok(NetworkBits { network: self.network.clone(), schedule: self.scheduler.binomial_schedule()? })
    }

    /// Returns the classes of samples: all labels except the one that means "no class". Returns `None` for a network
    /// without classes.
    pub fn classes(&self) -> Option<Vec<u32>> {
        let null_label = self.preprocessing.null_label;
        let classes = self.network.signature().classes()?;
        Some((0..classes as u32).filter(|&class| Some(class) != null_label).collect())
    }

    /// Checks that network and scheduler match: a learned variance needs twice the output channels.
    fn check(&self) -> Result<(), String> {
        let signature = self.network.signature();
        let steps = self.scheduler.num_train_timesteps;
        if let Some(rows) = signature.timesteps.filter(|&rows| rows < steps) {
            return Err(format!("`num_train_timesteps` is {rows}, but the scheduler's is {steps}"));
        }
        // EDM's time input is ln(σ/α)/4, which is negative for half of the noise levels.
        let embedding = &self.network.config_value()["time_embedding_type"];
        if self.scheduler.prediction_type.is_edm() && (embedding == "fourier" || embedding == "learned") {
            return Err(format!(
                "`time_embedding_type` is {embedding}; with EDM's process it should be \"positional\""
            ));
        }
        self.check_preprocessing(&signature)
            .map_err(|problem| format!("does not fit {}: {problem}", preprocessing::FILE))?;
        if signature.kind == DataKind::Points && self.scheduler.clip().is_some() {
            return Err("the network is one of points, but the scheduler clips x̂0 to the range of pixels: set `clip_sample` and \
                        `thresholding` to false"
                .to_owned());
        }
        let (inputs, outputs) = (signature.in_channels, signature.out_channels);
        let expected = if self.scheduler.variance_type.is_learned() { 2 * inputs } else { inputs };
        if outputs == expected || outputs == 2 * inputs {
            return Ok(());
        }
        Err(format!(
            "`out_channels` is {outputs}; with {inputs} input channels and variance_type {} it should be {expected}",
            self.scheduler.variance_type
        ))
    }
}

impl Pipeline {
    /// Checks that the images and the label of "no class" fit the network.
    fn check_preprocessing(&self, network: &Signature) -> Result<(), String> {
        let Preprocessing { resolution, channels, null_label, .. } = self.preprocessing;
        match (network.kind, &self.preprocessing.points) {
            (DataKind::Images, None) => {}
            (DataKind::Images, Some(_)) => {
                return Err("`points` has units of points, but the network is one of images".to_owned());
            }
            (DataKind::Points, None) => {
                return Err("the network is one of points, whose units the key `points` has to say: {\"mean\": […], \"scale\": […]}, \
                            zeros and ones for points as they are"
                    .to_owned());
            }
            (DataKind::Points, Some(points)) if points.mean.len() != network.in_channels => {
                let (found, expected) = (points.mean.len(), network.in_channels);
                return Err(format!("`points` has {found} dimensions, expected {expected}"));
            }
            (DataKind::Points, Some(_)) => {}
        }
        if let Some([height, width]) = resolution {
            if height.max(width) > MAX_SIDE {
                return Err(format!("`resolution` is {height}x{width}; each side must be 1 to {MAX_SIDE}"));
            }
            self.network.check_size(height, width).map_err(|error| format!("`resolution`: {error}"))?;
        }
        if let Some(found) = channels.filter(|&found| found != network.in_channels) {
            return Err(format!("`channels` is {found}, expected {}", network.in_channels));
        }
        match (null_label, network.labels) {
            (Some(label), LabelKind::Classes(classes)) if label as usize >= classes => {
                Err(format!("`null_label` is {label}, expected a class below {classes}"))
            }
            (Some(label), LabelKind::OptionalClass(classes)) if label as usize != classes => {
                Err(format!("`null_label` is {label}, expected {classes}"))
            }
            (Some(label), LabelKind::None) => Err(format!("`null_label` is {label}, but the network has no classes")),
            _ => Ok(()),
        }
    }
}

/// The options for importing a network of another code base as a pipeline. `None` keeps the default of the code base.
#[derive(Clone, Debug, Default)]
pub struct PipelineImport {
    /// The settings of the network that are not stored with its weights.
    pub network: ImportOptions,
    /// T, the number of training timesteps.
    pub timesteps: Option<usize>,
    /// The β rule.
    pub beta_schedule: Option<BetaSchedule>,
    /// The quantity that the network predicts.
    pub prediction: Option<Prediction>,
    /// The variance of the reverse process.
    pub variance: Option<Variance>,
}

impl PipelineImport {
    /// Checks that the options set what the file does not record.
    fn check_recorded(&self, unrecorded: &[Unrecorded]) -> Result<(), String> {
        let missing = unrecorded.iter().filter_map(|setting| match setting {
            Unrecorded::Schedule => self.beta_schedule.is_none().then_some("its noise schedule (--beta-schedule)"),
            Unrecorded::Prediction => self.prediction.is_none().then_some("what the network predicts (--prediction)"),
        });
        let missing: Vec<&str> = missing.collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("the file has a network without its process; say {}", missing.join(" and ")))
    }

    /// Returns whether an option replaces the process by another one, not only its number of timesteps.
    fn changes_process(&self) -> bool {
        self.beta_schedule.is_some() || self.prediction.is_some() || self.variance.is_some()
    }

    /// Returns the process of a preconditioner of NVlabs/edm.
    fn preconditioned(&self, prediction: Prediction) -> Result<SchedulerConfig, String> {
        let timesteps = self.timesteps.unwrap_or(1000);
        let Some(config) = SchedulerConfig::preconditioned(prediction, timesteps) else {
            return Err(format!("the prediction {prediction} has no noise levels of its own"));
        };
        let schedule = config.beta_schedule;
        if self.beta_schedule.is_some_and(|found| found != schedule) {
            return Err(format!("--prediction {prediction} has the schedule {schedule}; leave out --beta-schedule"));
        }
        if self.variance.is_some() {
            return Err(format!("--prediction {prediction} has the variance of the posterior; leave out --variance"));
        }
        if prediction == Prediction::EdmIddpm && timesteps != EDM_IDDPM_TIMESTEPS {
            return Err(format!(
                "--prediction {prediction} has the {EDM_IDDPM_TIMESTEPS} noise levels that its network knows; leave out \
                 --train-timesteps"
            ));
        }
        Ok(config)
    }

    /// Applies the options to the scheduler of the code base.
    fn scheduler(&self, mut scheduler: SchedulerConfig, family: &str) -> SchedulerConfig {
        let is_lucidrains = family.starts_with("lucidrains");
        if self.timesteps.is_some() || self.beta_schedule.is_some() {
            scheduler.trained_betas = None;
        }
        if let Some(timesteps) = self.timesteps {
            // OpenAI and lucidrains scale the linear betas so that their sum does not depend on T.
            if scheduler.beta_schedule == BetaSchedule::Linear && (family.starts_with("openai") || is_lucidrains) {
                (scheduler.beta_start, scheduler.beta_end) = scaled_beta_range(timesteps);
            }
            scheduler.num_train_timesteps = timesteps;
        }
        scheduler.beta_schedule = match self.beta_schedule {
            // The code base has another schedule of this name than diffusers.
            Some(BetaSchedule::Sigmoid) if is_lucidrains => BetaSchedule::SigmoidAlphaBar,
            named => named.unwrap_or(scheduler.beta_schedule),
        };
        scheduler.prediction_type = self.prediction.unwrap_or(scheduler.prediction_type);
        scheduler.variance_type = self.variance.unwrap_or(scheduler.variance_type);
        scheduler
    }
}

/// Reads a `scheduler_config.json`.
///
/// # Errors
/// If the file cannot be read or a key is not supported; the error names both.
pub fn read_scheduler(path: &Path) -> Result<SchedulerConfig, Error> {
    let text = files::read_json_text(path)
        .map_err(|e| Error::Pipeline { path: path.into(), message: format!("cannot be read: {e}") })?;
    SchedulerConfig::from_json(&text).map_err(|e| Error::Pipeline { path: path.into(), message: e.to_string() })
}

/// The contents of a pipeline's folder, for writing.
#[derive(Clone, Copy, Debug)]
pub struct PipelineParts<'a> {
    /// The text of the network's `config.json`.
    pub config: &'a str,
    /// The scheduler's configuration.
    pub scheduler: &'a SchedulerConfig,
    /// The preprocessing of images.
    pub preprocessing: &'a Preprocessing,
    /// The parameters by name, in the layout on disk.
    pub tensors: &'a Tensors,
    /// The precision of the parameters in the file.
    pub precision: Precision,
}

/// The precision of weights in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 16-bit floating point (IEEE 754 binary16).
    F16,
}

impl PipelineParts<'_> {
    /// Writes the files into an existing folder: `model_index.json`, `unet/` and `scheduler/`, which
    /// `DDPMPipeline.from_pretrained` reads, and `preprocessing.json`, which it ignores.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let create = |name: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(&path)
                .map_err(|e| Error::Pipeline { path: path.clone(), message: format!("cannot be created: {e}") })?;
            Ok::<_, Error>(path)
        };
        let write = |path: PathBuf, text: &str| atomic::write_file(path, |file| file.write_all(text.as_bytes()));
        let unet = create("unet")?;
        write(unet.join("config.json"), self.config)?;
        let path = unet.join("diffusion_pytorch_model.safetensors");
        let (views, metadata) = (weights::views(self.tensors), weights::Metadata::new());
        match self.precision {
            Precision::F32 => weights::write_safetensors(path, views, &metadata)?,
            Precision::F16 => weights::write_safetensors_f16(path, views, &metadata)?,
        }
        write(create("scheduler")?.join("scheduler_config.json"), &self.scheduler.to_json()?)?;
        write(folder.join(preprocessing::FILE), &self.preprocessing.to_json())?;
        let config: serde_json::Value = serde_json::from_str(self.config).unwrap_or_default();
        let network = config["_class_name"].as_str().unwrap_or("UNet2DModel");
        folders::write_model_index(folder, network, self.scheduler.class_name())?;
        Ok(())
    }
}
