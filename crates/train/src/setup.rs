//! Prepares a run: checks, folder, trainer, observers.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Device;
use data::{ImageSet, Reading, Split};
use model::{Preprocessing, TrainingData};
use mpi::{Division, SingleProcess};
use weights::atomic;

use crate::Error;
use crate::checkpoint;
use crate::command::Commands;
use crate::config::{ConfigChange, ProcessKind, TrainingConfig};
use crate::event::Event;
use crate::images_digest::ImagesDigest;
use crate::init_from::Source;
use crate::memory;
use crate::observer::{Context, Hooks, Observer};
use crate::observers::{Checkpoints, EmaSnapshots, JsonLines, Plots, Recorder, SampleGrids, TensorBoard, Validator};
use crate::processes::{self, Work};
use crate::records;
use crate::restore::{changes, resume};
use crate::run_folder::RunFolder;
use crate::session::Session;
use crate::trainer::Trainer;

/// The observers of a run. One is absent while it is at work.
pub(crate) type Observers<'o> = Vec<Option<Box<dyn Observer + 'o>>>;

/// Prepares a run up to its first step, from the beginning or from the newest intact checkpoint in the folder. Only process
/// 0 touches the folder; the others get its weights and state.
pub(crate) fn set_up<'o>(
    config: &TrainingConfig,
    folder: &RunFolder,
    device: &Device,
    hooks: Hooks<'o>,
) -> Result<(Session, Observers<'o>), Error> {
    let communicator = hooks.communicator.clone().unwrap_or_else(|| Arc::new(SingleProcess));
    let is_root = communicator.is_root();
    config.validate()?;
    config.check_processes(&*communicator)?;
    if is_root {
        folder.check()?;
        check_places(config, folder)?;
    }
    let set = Arc::new(config.open(Split::Train)?);
    let network = config.network(&set)?;
    check_sampler(config)?;
    let (memory, tight) = memory::check(config, &network, &set, (device, communicator.size()))?;
    let digest = ImagesDigest::new(&set)?;
    let validator = Validator::new(config, &set, device, Division::from(communicator.clone()).checked())?;
    let validation = validator.as_ref().and_then(Validator::reading);
    let work = Work {
        device: device_name(device, 1),
        images: digest.clone(),
        held_out: validator.as_ref().and_then(Validator::digest),
    };
    processes::check(&*communicator, config, &network, work)?;
    let source = match &config.train.init_from {
        Some(path) if is_root && folder.steps_done().is_none() => Some(Source::load(path, config, &network)?),
        _ => None,
    };
    // Everything above can fail and must not leave a folder behind.
    let claimed = if is_root { Some(Claimed::new(config, folder)?) } else { None };

    let mut network = network.build(config.train.seed, &device.clone().autodiff())?;
    let messages =
        source.map(|source| source.initialize(&mut network, set.class_names())).transpose()?.unwrap_or_default();
    let mut session = Session {
        trainer: Trainer::new(config, network)?.with_communicator(communicator),
        preprocessing: config.preprocessing(&set),
        commands: Commands::new(hooks.commands),
        config: config.clone(),
        folder: claimed.as_ref().map_or_else(|| folder.path().to_owned(), |claimed| claimed.folder.clone()),
        set: set.clone(),
        records: Vec::new(),
        stopped: false,
        requests: Vec::new(),
        failed_validation: None,
        failure: None,
        spoiled: None,
        last_samples: None,
        last_checkpoint: None,
        lock: None,
    };
    let mut observers = observers(if is_root { hooks.observers } else { Vec::new() }, validator, is_root);
    let mut context = Context::new(&mut session, &mut observers);
    if let Some(claimed) = claimed {
        for bad in &set.report().bad {
            context.warn(format!("{}: {}; skipped", bad.path.display(), bad.reason))?;
        }
        for warning in data_warnings(config, &claimed.folder, &set).into_iter().chain(tight) {
            context.warn(warning)?;
        }
        for message in messages {
            context.emit(message)?;
        }
        begin(&mut context, claimed, digest, hooks.sets_rate)?;
    }
    context.session.trainer.share()?;
    let started = started(context.session, validation, memory.map(|memory| memory.total()));
    context.emit(started)?;
    Ok((session, observers))
}

/// Returns the observers in the order in which they work after a step. Process 0 has all of them, the others those that
/// compute something together.
fn observers<'o>(of_caller: Vec<Box<dyn Observer + 'o>>, validator: Option<Validator>, is_root: bool) -> Observers<'o> {
    let mut observers: Observers = of_caller.into_iter().map(Some).collect();
    observers.extend(validator.map(|validator| Some(Box::new(validator) as Box<dyn Observer>)));
    let writers: [Box<dyn Observer>; 6] = [
        Box::new(Recorder::default()),
        Box::new(JsonLines),
        Box::new(TensorBoard::default()),
        Box::new(Plots),
        Box::new(Checkpoints::default()),
        Box::new(EmaSnapshots),
    ];
    if is_root {
        observers.extend(writers.map(|observer| Some(observer as Box<dyn Observer + 'o>)));
    }
    observers.push(Some(Box::new(SampleGrids)));
    observers
}

/// The folder of a run, locked.
struct Claimed {
    folder: PathBuf,
    lock: Option<File>,
    /// The keys that have other values than in the run's checkpoint.
    changes: Vec<ConfigChange>,
    /// Leftovers of an interrupted run that cannot be removed.
    left: Vec<weights::Error>,
}

impl Claimed {
    fn new(config: &TrainingConfig, folder: &RunFolder) -> Result<Self, Error> {
        let (folder, lock) = folder.claim()?;
        let changes = changes(config, &folder)?;
        let mut left = Vec::new();
        for folder in [folder.clone(), folder.join("samples"), folder.join("checkpoints")] {
            std::fs::create_dir_all(&folder).map_err(|source| Error::Write { path: folder.clone(), source })?;
            left.extend(atomic::remove_leftovers(&folder, Duration::ZERO).err());
        }
        Ok(Self { folder, lock, changes, left })
    }
}

/// Continues the run in its folder, or begins it there.
fn begin(context: &mut Context, claimed: Claimed, digest: ImagesDigest, sets_rate: bool) -> Result<(), Error> {
    let Claimed { folder, lock, changes, left } = claimed;
    context.session.lock = lock;
    for error in left {
        context.warn(format!("what an interrupted run left cannot be removed: {error}"))?;
    }
    resume(context, &changes, digest, sets_rate)?;
    check_classes(context.session)?;
    for change in changes {
        context.emit(Event::Changed(change))?;
    }
    let text = context.config().to_toml()?;
    atomic::replace_file(folder.join("config.toml"), |file| file.write_all(text.as_bytes()))?;
    TrainingData::new(&context.config().dataset(), &context.session.set, &folder).write()?;
    context.session.records = records::read(&folder, context.session.step())?;
    Ok(())
}

/// Checks that the folder of the run is not that of the images, which could not be read again.
fn check_places(config: &TrainingConfig, folder: &RunFolder) -> Result<(), Error> {
    let real = |path: &Path| path.canonicalize().ok();
    match config.data.path.as_deref().and_then(real) {
        images @ Some(_) if real(folder.path()) == images => Err(Error::Run(format!(
            "{}: has the images, so it cannot be the folder of the run; choose another one",
            folder.path().display()
        ))),
        _ => Ok(()),
    }
}

/// Returns what may not be as intended about the images of a run in `folder`.
fn data_warnings(config: &TrainingConfig, folder: &Path, set: &ImageSet) -> Vec<String> {
    let mut warnings = set.report().warnings.clone();
    let generated = set.report().generated;
    if generated > 0 {
        warnings.push(format!("{generated} of {} images were written by this program, such as samples", set.len()));
    }
    let inside = |data: &Path| Some(folder.canonicalize().ok()?.starts_with(data.canonicalize().ok()?));
    if let Some(data) = config.data.path.as_deref().filter(|data| inside(data) == Some(true)) {
        warnings.push(format!(
            "the folder of the run, {}, lies inside of {}, the images; it is skipped when they are read, but another place \
             is better",
            folder.display(),
            data.display()
        ));
    }
    if config.diffusion.process == ProcessKind::Binomial {
        warnings.extend(grey_warning(set));
    }
    warnings
}

/// Returns a warning if the first images of a binomial chain have other pixels than black and white.
fn grey_warning(set: &ImageSet) -> Option<String> {
    let pixels = set.read(0..set.len().min(100)).ok()?;
    let is_grey = pixels.iter().any(|&pixel| !matches!(pixel, 0 | 255));
    is_grey.then(|| format!("{}: has grey pixels; those of 128 or more are bits of 1, the others of 0", set.name()))
}

/// Checks that the classes of a run that continues have the labels that they had.
fn check_classes(session: &Session) -> Result<(), Error> {
    let names = &session.preprocessing.id2label;
    if session.step() == 0 || names.is_empty() {
        return Ok(());
    }
    let checkpoint = checkpoint::folder(&session.folder, session.step());
    let trained = Preprocessing::read(&checkpoint, &session.trainer.network().signature())?.id2label;
    if trained.is_empty() || trained == *names {
        return Ok(());
    }
    let list = |names: &BTreeMap<u32, String>| names.values().take(20).cloned().collect::<Vec<_>>().join(", ");
    Err(Error::Run(format!(
        "{} has the classes {}, but the run was trained on {}; restore the images, or begin another run",
        session.set.name(),
        list(names),
        list(&trained)
    )))
}

/// Checks that the sampler of the sample grids fits the prediction, so that it does not fail at the first grid.
fn check_sampler(config: &TrainingConfig) -> Result<(), Error> {
    let objective = config.objective()?;
    if objective.is_of_bits() {
        return Ok(());
    }
    let table = config.sampler().table(&config.scheduler(), config.sampler_options())?;
    Ok(table.rows.iter().try_for_each(|row| objective.process().check_node(row.node))?)
}

fn started(session: &Session, validation: Option<Reading>, memory: Option<f64>) -> Event {
    let (set, network) = (&session.set, session.trainer.network());
    Event::Started {
        run: session.folder.clone(),
        data: set.describe(),
        reading: Box::new(Reading::new(set, &session.config.read_options(Split::Train))),
        validation: validation.map(Box::new),
        images: set.len(),
        shape: set.shape(),
        parameters: network.parameter_count(),
        memory,
        device: device_name(&network.device(), session.trainer.communicator().size()),
        step: session.step(),
        steps: session.steps(),
    }
}

fn device_name(device: &Device, ranks: usize) -> String {
    let threads = rayon::current_num_threads();
    let threads = format!("{threads} thread{}", if threads == 1 { "" } else { "s" });
    let each = if unet::ops::is_cpu(device) { format!("cpu, {threads}") } else { format!("{device:?}") };
    if ranks == 1 { each } else { format!("{ranks} ranks, each with {each}") }
}
