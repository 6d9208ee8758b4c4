//! Starts a run from the weights of a model (`train.init_from`): what must fit, and what is taken from the model.

use std::path::{Path, PathBuf};

use diffusion::{Prediction, ProcessKind, SchedulerConfig, Variance};
use model::backbone::Signature;
use model::{Network, NetworkConfig, Preprocessing, preprocessing};
use sample::Sampler;
use serde_json::Value;
use unet::edm::{EdmClass, EdmConfig};
use unet::hmdolatabadi::HmdolatabadiConfig;
use unet::lucidrains::LucidrainsConfig;
use unet::mlp::MlpConfig;
use unet::{DownBlockType, UnetConfig};
use weights::pipeline::ModelFiles;
use weights::{Tensors, digest, names, pipeline};

use crate::Error;
use crate::config::{
    ConfigChange, DhariwalKeys, HmdolatabadiKeys, Loss, LucidrainsKeys, MlpKeys, Model, SongKeys, TimestepSampler,
    TrainingConfig, UnetKeys,
};
use crate::event::Event;

/// The starts of the names of the class embedding's parameters: in `UNet2DModel`, and in the networks of NVlabs/edm.
const CLASS_EMBEDDINGS: [&str; 2] = ["class_embedding.", "map_label."];
/// Keys of a network's `config.json` that do not change what its weights mean.
const FREE_KEYS: [&str; 4] = ["sample_size", "dropout", "num_class_embeds", "label_dim"];
/// The probability with which labels are dropped for a model that has a null label.
const LABEL_DROPOUT: f64 = 0.1;

/// The weights that a run starts from.
pub(crate) struct Source {
    path: PathBuf,
    tensors: Tensors,
    messages: Vec<Event>,
    class_names: Vec<String>,
}

/// The configuration files of a model.
struct SourceConfig {
    network: String,
    scheduler: SchedulerConfig,
}

fn fail(path: &Path, message: impl std::fmt::Display) -> Error {
    Error::Run(format!("`train.init_from`: {}: {message}", path.display()))
}

impl SourceConfig {
    fn read(files: &ModelFiles) -> Result<Self, Error> {
        let read = |source| Error::Read { path: files.unet_config.clone(), source };
        let text = ::files::read_json_text(&files.unet_config).map_err(read)?;
        let network = NetworkConfig::from_json(&text).map_err(|error| fail(&files.unet_config, error))?.to_json();
        let scheduler = match &files.scheduler_config {
            Some(path) => model::pipeline::read_scheduler(path)?,
            None => SchedulerConfig::default(),
        };
        Ok(Self { network, scheduler })
    }
}

impl Source {
    /// Reads the weights of the model at `path` for a configuration and its network.
    ///
    /// # Errors
    /// If the model cannot be read, or its network is another one; the error names the keys.
    pub fn load(path: &Path, config: &TrainingConfig, network: &NetworkConfig) -> Result<Self, Error> {
        pipeline::with_files(path, |files| Self::of_files(path, files, config, network))
    }

    fn of_files(
        path: &Path,
        files: &ModelFiles,
        config: &TrainingConfig,
        network: &NetworkConfig,
    ) -> Result<Self, Error> {
        let SourceConfig { network: theirs, scheduler } = SourceConfig::read(files)?;
        let differences = network_differences(&theirs, &network.to_json());
        let differences: Vec<&ConfigChange> =
            differences.iter().filter(|change| !FREE_KEYS.iter().any(|key| change.key.ends_with(key))).collect();
        if !differences.is_empty() {
            let list: Vec<String> = differences
                .iter()
                .map(|ConfigChange { key, old, new }| format!("`{key}` is {old} there and {new} in the configuration"))
                .collect();
            return Err(fail(
                path,
                format!(
                    "its network is another one: {}; set these keys to its values, or leave them out with \
                         --preset and --config to take its network",
                    list.join(", ")
                ),
            ));
        }
        if digest::is_sealed(&files.root) {
            digest::verify(&files.root)?;
        }
        let tensors = weights::read_tensors(&files.unet_weights)?;
        let tensors = names::modernize(&files.unet_weights, tensors)?;
        let mut messages = Vec::new();
        for ConfigChange { key, old, new } in process_differences(&scheduler, &config.scheduler())? {
            messages.push(Event::warning(format!(
                "{}: was trained with `{key}` = {old}, and this run has {new}; its weights are only a start, which the \
                 first steps must adapt",
                path.display()
            )));
        }
        Ok(Self { path: path.to_owned(), tensors, messages, class_names: class_names(&files.root) })
    }

    /// Copies the weights into a network. Returns what the user should know.
    ///
    /// # Errors
    /// Names the tensor that does not fit.
    pub fn initialize(mut self, network: &mut Network, class_names: &[String]) -> Result<Vec<Event>, Error> {
        let path = self.path.display();
        let own = network.tensors()?;
        let is_embedding = |name: &str| CLASS_EMBEDDINGS.iter().any(|start| name.starts_with(start));
        let kept =
            |tensors: &Tensors| -> Vec<String> { tensors.keys().filter(|name| is_embedding(name)).cloned().collect() };
        // A table has a row for each class, a layer a column.
        let rows = |tensors: &Tensors| {
            let row = |shape: &[usize]| shape.first().copied();
            let table = tensors.get("class_embedding.weight").and_then(|tensor| row(&tensor.shape));
            table.or_else(|| tensors.get("map_label.weight")?.shape.last().copied())
        };
        let mut notice = format!("network: starts from the weights of {path}");
        let other_names = !kept(&own).is_empty() && !self.class_names.is_empty() && self.class_names != class_names;
        if other_names || rows(&own) != rows(&self.tensors) || kept(&own) != kept(&self.tensors) {
            let count = |tensors: &Tensors| rows(tensors).unwrap_or(0);
            if kept(&own).is_empty() {
                return Err(fail(
                    &self.path,
                    "its network has class embeddings, and the images of this run have no classes (`data.labels` is false); \
                     give images with classes, such as a folder for each class, or start from a model without classes",
                ));
            }
            notice += &match rows(&own) == rows(&self.tensors) && other_names {
                true => format!(
                    "; its classes are {} and those of the images {}, so the class embedding starts anew",
                    self.class_names.join(", "),
                    class_names.join(", ")
                ),
                false => format!(
                    "; its class embedding has {} rows and the images need {}, so the class embedding starts anew",
                    count(&self.tensors),
                    count(&own)
                ),
            };
            self.tensors.retain(|name, _| !is_embedding(name));
            let anew = own.into_iter().filter(|(name, _)| is_embedding(name));
            self.tensors.extend(anew);
        }
        network.set_tensors(self.tensors).map_err(|error| fail(&self.path, error))?;
        self.messages.insert(0, Event::Notice { message: notice });
        Ok(self.messages)
    }
}

/// Returns the names of a model's classes by label; empty if it has none.
fn class_names(root: &Path) -> Vec<String> {
    let text = files::read_text(root.join(preprocessing::FILE)).unwrap_or_default();
    serde_json::from_str::<Preprocessing>(&text).unwrap_or_default().class_names()
}

/// Returns the keys in which the `config.json` of two networks differ, by their names in a configuration.
pub(crate) fn network_differences(old: &str, new: &str) -> Vec<ConfigChange> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let (old, new) = (parse(old), parse(new));
    let keys = old.as_object().into_iter().chain(new.as_object()).flat_map(|keys| keys.keys());
    let mut keys: Vec<&String> =
        keys.filter(|key| !key.starts_with('_') && old[key.as_str()] != new[key.as_str()]).collect();
    keys.sort();
    keys.dedup();
    let changes = keys.into_iter().map(|key| {
        let key = key.as_str();
        let name = match key {
            "in_channels" | "in_channel" | "channels" => "data.channels",
            "out_channels" => "diffusion.variance (channels of the output)",
            "down_block_types" | "up_block_types" => "model.attention_resolutions",
            "sample_size" | "img_resolution" => "data.resolution",
            _ => "",
        };
        let name = if name.is_empty() { format!("model.{key}") } else { name.to_owned() };
        ConfigChange { key: name, old: old[key].to_string(), new: new[key].to_string() }
    });
    changes.collect()
}

/// Returns the keys in which the processes of two schedulers differ.
///
/// # Errors
/// If the betas of one are invalid.
pub(crate) fn process_differences(old: &SchedulerConfig, new: &SchedulerConfig) -> Result<Vec<ConfigChange>, Error> {
    let mut changes = Vec::new();
    let mut compare = |key: &str, old: String, new: String| {
        if old != new {
            changes.push(ConfigChange { key: key.to_owned(), old, new });
        }
    };
    let learned = |config: &SchedulerConfig| match config.variance_type {
        variance @ (Variance::Learned | Variance::LearnedRange) => variance.to_string(),
        _ => "fixed".to_owned(),
    };
    if old.process != new.process {
        let name = |config: &SchedulerConfig| if config.is_binomial() { "binomial" } else { "gaussian" }.to_owned();
        compare("diffusion.process", name(old), name(new));
        return Ok(changes);
    }
    let timesteps = |config: &SchedulerConfig| config.num_train_timesteps.to_string();
    compare("diffusion.timesteps", timesteps(old), timesteps(new));
    compare("diffusion.prediction", old.prediction_type.to_string(), new.prediction_type.to_string());
    compare("diffusion.variance", learned(old), learned(new));
    let schedule = |config: &SchedulerConfig| match config.is_binomial() {
        true => config.binomial_schedule(),
        false => config.noise_schedule(),
    };
    let (old_schedule, new_schedule) = (schedule(old)?, schedule(new)?);
    let same = (0..old_schedule.len().min(new_schedule.len())).all(|t| {
        let (a, b) = (old_schedule.level(t), new_schedule.level(t));
        (a.alpha - b.alpha).abs() < 1e-6 && (a.sigma - b.sigma).abs() < 1e-6
    });
    if !same && old_schedule.len() == new_schedule.len() {
        let shown = |config: &SchedulerConfig| match &config.trained_betas {
            Some(_) => "a list of betas".to_owned(),
            None => {
                let zero = if config.rescale_betas_zero_snr { " with zero terminal SNR" } else { "" };
                format!("{} from {} to {}{zero}", config.beta_schedule, config.beta_start, config.beta_end)
            }
        };
        changes.push(ConfigChange { key: "diffusion.schedule".to_owned(), old: shown(old), new: shown(new) });
    }
    Ok(changes)
}

impl TrainingConfig {
    /// Takes network, noise schedule, prediction, size and channels from the model at `path`, and sets `train.init_from`
    /// to it. The model can be a run, a checkpoint or a diffusers folder.
    ///
    /// # Errors
    /// If its configuration cannot be read, or `[model]` cannot describe its network.
    pub fn take_from(&mut self, path: &Path) -> Result<(), Error> {
        pipeline::with_files(path, |files| self.take_from_files(path, files))
    }

    fn take_from_files(&mut self, path: &Path, files: &ModelFiles) -> Result<(), Error> {
        let SourceConfig { network, scheduler } = SourceConfig::read(files)?;
        let class = serde_json::from_str::<Value>(&network).unwrap_or_default()["_class_name"].clone();
        let is_edm = EdmClass::NAMES.iter().any(|(name, _)| class == *name);
        let preprocessing = if class == LucidrainsConfig::CLASS_NAME {
            self.take_lucidrains(&network, files)
        } else if is_edm {
            self.take_edm(&network, files)
        } else if class == HmdolatabadiConfig::CLASS_NAME {
            self.take_hmdolatabadi(&network, files)
        } else if class == MlpConfig::CLASS_NAME {
            self.take_mlp(&network, files)
        } else {
            self.take_unet(&network, files)
        };
        let preprocessing = preprocessing.map_err(|error| fail(path, error))?;
        self.take_process(scheduler, preprocessing);
        self.train.init_from = Some(path.to_owned());
        Ok(())
    }

    /// Takes a `LucidrainsUnet`. Returns the model's preprocessing.
    fn take_lucidrains(&mut self, network: &str, files: &ModelFiles) -> Result<Preprocessing, Error> {
        let network = LucidrainsConfig::from_json(network).map_err(model::Error::from)?;
        let (out, channels) = (network.out_channels(), network.channels);
        if out != if network.learned_variance { 2 * channels } else { channels } {
            return Err(Error::Run(format!(
                "its network has an `out_dim` of {out} for {channels} channels, which can be sampled but not trained"
            )));
        }
        let signature = Signature::from(&network);
        let preprocessing = Preprocessing::read(&files.root, &signature)?;
        self.data.resolution = network.sample_size.unwrap_or(self.data.resolution);
        self.data.channels = network.channels;
        match signature.classes() {
            None => self.without_classes(),
            Some(_) => self.data.labels = true,
        }
        self.model = Model::Lucidrains(LucidrainsKeys::of(network));
        Ok(preprocessing)
    }

    /// Takes a network of hmdolatabadi/denoising_diffusion. Returns the model's preprocessing.
    fn take_hmdolatabadi(&mut self, network: &str, files: &ModelFiles) -> Result<Preprocessing, Error> {
        let network = HmdolatabadiConfig::from_json(network).map_err(model::Error::from)?;
        let preprocessing = Preprocessing::read(&files.root, &Signature::from(&network))?;
        self.without_classes();
        self.data.resolution = network.sample_size.unwrap_or(self.data.resolution);
        self.data.channels = network.in_channel;
        self.model = Model::Hmdolatabadi(HmdolatabadiKeys::of(network));
        Ok(preprocessing)
    }

    /// Takes an `Mlp`. Returns the model's preprocessing.
    fn take_mlp(&mut self, network: &str, files: &ModelFiles) -> Result<Preprocessing, Error> {
        let network = MlpConfig::from_json(network).map_err(model::Error::from)?;
        let signature = Signature::from(&network);
        let preprocessing = Preprocessing::read(&files.root, &signature)?;
        self.data.resolution = unet::SampleSize::square(1);
        self.data.channels = network.dims;
        self.data.standardize = preprocessing.points.as_ref().is_some_and(|points| !points.is_identity());
        match signature.classes() {
            None => self.without_classes(),
            Some(_) => self.data.labels = true,
        }
        self.model = Model::Mlp(MlpKeys::of(network));
        Ok(preprocessing)
    }

    /// Sets the keys of a network without classes.
    fn without_classes(&mut self) {
        self.data.labels = false;
        self.train.label_dropout = 0.0;
        self.sample.guidance = 1.0;
    }

    /// Takes a network of NVlabs/edm. Returns the model's preprocessing.
    fn take_edm(&mut self, network: &str, files: &ModelFiles) -> Result<Preprocessing, Error> {
        let network = EdmConfig::from_json(network).map_err(model::Error::from)?;
        let signature = Signature::from(&network);
        let preprocessing = Preprocessing::read(&files.root, &signature)?;
        self.data.resolution = unet::SampleSize::square(network.img_resolution);
        self.data.channels = network.in_channels;
        match signature.classes() {
            None => self.without_classes(),
            Some(_) => self.data.labels = true,
        }
        self.model = match network.class {
            EdmClass::SongUnet => Model::Song(SongKeys::of(network)),
            EdmClass::DhariwalUnet => Model::Dhariwal(DhariwalKeys::of(network)),
        };
        Ok(preprocessing)
    }

    /// Takes a `UNet2DModel`. Returns the model's preprocessing.
    fn take_unet(&mut self, network: &str, files: &ModelFiles) -> Result<Preprocessing, Error> {
        let network = UnetConfig::from_json(network).map_err(model::Error::from)?;
        let signature = Signature::from(&network);
        let preprocessing = Preprocessing::read(&files.root, &signature)?;
        self.data.resolution = network.sample_size.unwrap_or(self.data.resolution);
        self.data.channels = network.in_channels;
        self.data.labels = signature.classes().is_some();
        let height = self.data.resolution.height;
        let attends = |(level, kind): (usize, &DownBlockType)| {
            (*kind == DownBlockType::AttnDownBlock2D).then_some(height >> level)
        };
        self.model = Model::Unet2d(UnetKeys {
            attention_resolutions: network.down_block_types.iter().enumerate().filter_map(attends).collect(),
            block_out_channels: network.block_out_channels,
            layers_per_block: network.layers_per_block,
            attention_head_dim: network.attention_head_dim,
            norm_num_groups: network.norm_num_groups,
            norm_eps: network.norm_eps,
            // That of the weights does not matter.
            dropout: self.model.dropout(),
            downsample_padding: network.downsample_padding,
            flip_sin_to_cos: network.flip_sin_to_cos,
            freq_shift: network.freq_shift,
            time_embedding_type: network.time_embedding_type,
            resnet_time_scale_shift: network.resnet_time_scale_shift,
            // The images decide how many classes there are.
            num_class_embeds: None,
        });
        if preprocessing.null_label.is_some() && self.train.label_dropout == 0.0 {
            self.train.label_dropout = LABEL_DROPOUT;
        }
        Ok(preprocessing)
    }

    /// Takes the scheduler and the fit of images of a model.
    fn take_process(&mut self, scheduler: SchedulerConfig, preprocessing: Preprocessing) {
        self.data.fit = preprocessing.fit;
        let diffusion = &mut self.diffusion;
        diffusion.timesteps = scheduler.num_train_timesteps;
        diffusion.process = scheduler.process;
        if diffusion.process == ProcessKind::Binomial {
            (diffusion.loss, self.sample.sampler) = (Loss::Vlb, Sampler::Ddpm);
            (self.sample.clip_sample, self.sample.guidance) = (false, 1.0);
        }
        diffusion.schedule = scheduler.beta_schedule;
        diffusion.beta_start = scheduler.beta_start;
        diffusion.beta_end = scheduler.beta_end;
        diffusion.betas = scheduler.trained_betas;
        diffusion.prediction = scheduler.prediction_type;
        diffusion.variance = scheduler.variance_type;
        if diffusion.variance.is_learned() && diffusion.loss != Loss::Vlb {
            diffusion.loss = Loss::Hybrid;
        } else if !diffusion.variance.is_learned() && diffusion.loss == Loss::Hybrid {
            diffusion.loss = Loss::LSimple;
        }
        if let Some(schedule) = diffusion.prediction.own_schedule() {
            // The losses of NVlabs/edm have weight 1 in terms of the network's output. Its VP and VE chains are evenly spaced in
            // what they draw uniformly.
            (diffusion.schedule, diffusion.betas, diffusion.loss) = (schedule, None, Loss::LSimple);
            diffusion.timestep_sampler = match diffusion.prediction {
                Prediction::Edm => TimestepSampler::LogNormal,
                _ => TimestepSampler::Uniform,
            };
            self.sample.clip_sample = false;
        }
        self.sample.steps = self.sample.steps.map(|steps| steps.min(diffusion.timesteps));
    }
}
