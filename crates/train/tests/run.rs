//! Whole runs: events, commands, files.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};

use burn::tensor::Device;
use ddpm_train::{Command, Context, Error, Event, Finished, Hooks, Observer, TrainingConfig, train};
use evaluate::network::{Classifier, ClassifierInfo};
use serde_json::Value;

fn config(sets: &[&str]) -> TrainingConfig {
    let tiny = [
        "data.resolution=8",
        "model.block_out_channels=[8, 8]",
        "model.norm_num_groups=4",
        "model.attention_resolutions=[]",
        "diffusion.timesteps=20",
        "sample.steps=3",
        "train.steps=6",
        "train.batch_size=4",
        "train.log_every=2",
        "train.checkpoint_every=4",
        "train.sample_every=0",
        "train.samples=2",
        "train.evaluate_every=3",
        "train.evaluate_images=2",
    ];
    let mut config = TrainingConfig::preset("fashion-ho").unwrap();
    tiny.iter().chain(sets).for_each(|set| config.set(set).unwrap());
    config
}

fn run(config: &TrainingConfig, folder: &Path, hooks: Hooks) -> Finished {
    train(config, folder, &Device::flex(), hooks).unwrap()
}

/// The events of a run in short, without progress.
fn summary(events: &[Event]) -> Vec<String> {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let short = |event: &Event| match event {
        Event::Started { step, steps, .. } => Some(format!("started {step}/{steps}")),
        Event::Step { report, .. } => Some(format!("step {}", report.step)),
        Event::Logged(record) => Some(format!("logged {}", record.step)),
        Event::Sampled { path } => Some(format!("sampled {}", name(path))),
        Event::Validated { best, .. } => Some(format!("validated {best}")),
        Event::Saved { path } => Some(format!("saved {}", name(path))),
        Event::Finished(finished) => Some(format!("finished {}", finished.step)),
        Event::Interrupted { message } => Some(format!("interrupted: {message}")),
        Event::Sampling { .. } | Event::Validating { .. } => None,
        other => panic!("unexpected {other:?}"),
    };
    events.iter().filter_map(short).collect()
}

#[test]
fn events_come_in_order_and_are_json() {
    let folder = tempfile::tempdir().unwrap();
    let mut events = Vec::new();
    let hooks = Hooks::new().on_event(|event| events.push(event.clone()));
    let finished = run(&config(&["train.sample_every=5"]), folder.path(), hooks);
    let found = summary(&events);
    // Whether the second validation is better does not matter here.
    let best = found.iter().filter(|line| line.starts_with("validated")).nth(1).unwrap().as_str();
    let expected = [
        "started 0/6",
        "step 1",
        "step 2",
        "logged 2",
        "step 3",
        "validated true",
        "logged 3",
        "saved 000000003",
        "step 4",
        "logged 4",
        "saved 000000004",
        "step 5",
        "sampled 000000005.png",
        "step 6",
        best,
        "logged 6",
        "saved 000000006",
        "sampled 000000006.png",
        "finished 6",
    ];
    assert_eq!(found, expected);
    assert_eq!((finished.step, finished.stopped, finished.records.len()), (6, false, 4));
    assert_eq!(finished.checkpoint, folder.path().join("checkpoints/000000006"));

    let json: Vec<Value> = events.iter().map(|event| serde_json::to_value(event).unwrap()).collect();
    let named = |name: &str| json.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    assert_eq!(named("started")[0]["images"], 10_000);
    assert_eq!(named("started")[0]["shape"], serde_json::json!([8, 8, 1]));
    assert!(named("started")[0]["parameters"].as_u64() > Some(1000));
    assert_eq!(named("step")[0]["losses"].as_array().unwrap().len(), 4);
    assert!(named("step")[0]["loss"].as_f64() > Some(0.0));
    assert_eq!(named("sampling").len(), 2 * 3);
    assert!(named("validating").iter().all(|event| event["part"] == "held-out images"));
    assert!(named("validated")[0]["metrics"]["bits_per_dim"].as_f64() > Some(0.0));
    assert_eq!(named("finished")[0]["records"].as_array().unwrap().len(), 4);
}

/// A checkpoint is a pipeline that knows how to read images, and its null label.
#[test]
fn a_checkpoint_has_its_preprocessing() {
    let folder = tempfile::tempdir().unwrap();
    let sets = ["data.labels=true", "train.label_dropout=0.5", "data.fit=crop", "train.evaluate_every=0"];
    let finished = run(&config(&sets), folder.path(), Hooks::new());
    let pipeline = model::Pipeline::load(&finished.checkpoint, &Device::flex()).unwrap();
    assert!(finished.checkpoint.join("preprocessing.json").exists());
    let preprocessing = model::Preprocessing {
        resolution: Some([8, 8]),
        channels: Some(1),
        fit: data::Fit::Crop,
        null_label: Some(10),
        id2label: pipeline.preprocessing.id2label.clone(),
        ..Default::default()
    };
    assert_eq!(pipeline.preprocessing, preprocessing);
    assert!(!std::fs::read_to_string(folder.path().join("config.toml")).unwrap().contains("crop = ["));
    let cropped = tempfile::tempdir().unwrap();
    let finished = run(&config(&["data.crop=[4, 2, 20, 24]", "train.evaluate_every=0"]), cropped.path(), Hooks::new());
    let found = model::Pipeline::load(&finished.checkpoint, &Device::flex()).unwrap().preprocessing;
    assert_eq!(found.crop, Some([4, 2, 20, 24].into()));
    assert_eq!((preprocessing.id2label.len(), &*preprocessing.id2label[&9]), (10, "Ankle boot"));
    assert_eq!(preprocessing.label("Bag").unwrap(), 8);
    assert_eq!(pipeline.classes(), Some((0..10).collect()));
    assert_eq!(ddpm_train::planned_steps(&finished.checkpoint), Some(6));
    assert_eq!(ddpm_train::steps_done(folder.path()), Some(6));
}

/// Sends commands when a step is done, and records events.
struct Remote {
    commands: Vec<(u64, Command)>,
    sender: Sender<Command>,
    events: Vec<Event>,
}

impl Observer for &mut Remote {
    fn on_event(&mut self, event: &Event, context: &mut Context) -> Result<(), Error> {
        self.events.push(event.clone());
        if let Event::Step { report, .. } = event {
            assert_eq!(report.step, context.trainer().state().step);
            for (step, command) in &self.commands {
                if *step == report.step {
                    self.sender.send(*command).unwrap();
                }
            }
        }
        Ok(())
    }
}

fn remote(config: &TrainingConfig, folder: &Path, commands: &[(u64, Command)]) -> (Finished, Vec<String>) {
    let (sender, receiver) = channel();
    let mut remote = Remote { commands: commands.to_vec(), sender, events: Vec::new() };
    let finished = run(config, folder, Hooks::new().observe(&mut remote).commands(receiver));
    (finished, summary(&remote.events))
}

#[test]
fn commands_save_sample_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&["train.evaluate_every=0", "train.checkpoint_every=0", "train.log_every=100"]);
    let commands = [(1, Command::Save), (2, Command::Sample), (4, Command::Sample), (4, Command::Stop)];
    let (finished, events) = remote(&config, folder.path(), &commands);
    let expected = [
        "started 0/6",
        "step 1",
        "step 2",
        "saved 000000002",
        "step 3",
        "sampled 000000003.png",
        "step 4",
        // Step 5 is given up, and what was done is logged and saved, but not sampled.
        "interrupted: stopped",
        "logged 4",
        "saved 000000004",
        "finished 4",
    ];
    assert_eq!(events, expected);
    assert_eq!((finished.step, finished.stopped), (4, true));

    // The rest gives the bytes of a run that was not stopped.
    let (finished, events) = remote(&config, folder.path(), &[]);
    assert_eq!(events[0], "started 4/6");
    assert_eq!((finished.step, finished.stopped), (6, false));
    let whole = tempfile::tempdir().unwrap();
    let other = run(&config, whole.path(), Hooks::new());
    for file in ["training/weights.safetensors", "training/optimizer.safetensors"] {
        let bytes = |finished: &Finished| std::fs::read(finished.checkpoint.join(file)).unwrap();
        assert!(bytes(&finished) == bytes(&other), "{file}");
    }
}

/// Stops the run once a grid, or a validation, is half done.
struct StopHalfWay(Sender<Command>);

impl Observer for StopHalfWay {
    fn on_event(&mut self, event: &Event, _: &mut Context) -> Result<(), Error> {
        match event {
            Event::Sampling { done: 2, .. } | Event::Validating { done: 4, .. } => {
                self.0.send(Command::Stop).unwrap();
            }
            Event::Sampling { done, .. } => assert_eq!(*done, 1),
            Event::Validating { done, .. } => assert!(*done <= 4),
            Event::Sampled { .. } | Event::Validated { .. } => panic!("it was stopped"),
            _ => {}
        }
        Ok(())
    }
}

#[test]
fn stopping_cancels_sampling_and_validation() {
    for sets in [
        ["train.sample_every=1", "train.evaluate_every=0", "sample.steps=4"],
        ["train.sample_every=0", "train.evaluate_every=1", "sample.steps=4"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (sender, receiver) = channel();
        let hooks = Hooks::new().observe(StopHalfWay(sender)).commands(receiver);
        let finished = run(&config(&sets), folder.path(), hooks);
        assert!(finished.stopped && finished.samples.is_none());
        assert_eq!(finished.checkpoint, folder.path().join(format!("checkpoints/{:09}", finished.step)));
        assert!(finished.checkpoint.is_dir());
    }
}

#[test]
fn an_observers_error_ends_the_run() {
    for progress in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        struct Failing(bool);
        impl Observer for Failing {
            fn on_event(&mut self, event: &Event, _: &mut Context) -> Result<(), Error> {
                match (event, self.0) {
                    (Event::Validating { .. }, true) | (Event::Step { .. }, false) => Err(Error::Run("enough".into())),
                    _ => Ok(()),
                }
            }
        }
        let hooks = Hooks::new().observe(Failing(progress));
        let error = train(&config(&[]), folder.path(), &Device::flex(), hooks).unwrap_err();
        assert_eq!(error.to_string(), "enough");
    }
}

/// A network of zeros, whose features are all the same.
#[test]
fn a_failed_validation_costs_no_step() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.safetensors");
    let info = ClassifierInfo {
        set: "pets".into(),
        side: 8,
        channels: 1,
        classes: ["cat", "dog"].map(str::to_owned).to_vec(),
        accuracy: None,
    };
    Classifier::new(1, 2, 3, &Device::flex()).write(&path, &info).unwrap();
    let (mut tensors, metadata) = weights::read_safetensors(&path).unwrap();
    tensors.values_mut().for_each(|tensor| tensor.data.fill(0.0));
    weights::write_safetensors(&path, weights::views(&tensors), &metadata).unwrap();
    let features = format!("train.evaluate_features={:?}", path.display().to_string());
    let config = config(&[&features, "train.evaluate_samples=4", "train.log_every=1"]);
    let run = folder.path().join("run");
    let error = train(&config, &run, &Device::flex(), Hooks::new()).unwrap_err().to_string();
    assert!(error.contains("all have the same features"), "{error}");
    assert_eq!(ddpm_train::steps_done(&run), Some(3));
    assert_eq!(std::fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().count(), 3);
}

/// The first observer of each step renames the folder before the others write there.
#[cfg(target_os = "linux")]
#[test]
fn a_run_whose_folder_is_renamed_goes_on_there() {
    struct Renaming(usize);
    impl Observer for Renaming {
        fn on_event(&mut self, event: &Event, context: &mut Context) -> Result<(), Error> {
            if let Event::Step { .. } = event {
                self.0 += 1;
                let new = context.folder().with_file_name(format!("run-{}", self.0));
                std::fs::rename(context.folder(), new).unwrap();
            }
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut moves = 0;
    let hooks = Hooks::new().observe(Renaming(0));
    let hooks = hooks.on_event(|event| moves += usize::from(format!("{event:?}").contains("folder was moved")));
    let finished = run(&config(&["train.sample_every=2"]), &folder.path().join("run"), hooks);
    assert_eq!(moves, 6);
    assert_eq!(finished.run.file_name().unwrap(), "run-6");
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["run-6"]);
    let whole = folder.path().join("whole");
    run(&config(&["train.sample_every=2"]), &whole, Hooks::new());
    let weights = "checkpoints/000000006/unet/diffusion_pytorch_model.safetensors";
    assert!(std::fs::read(whole.join(weights)).unwrap() == std::fs::read(finished.run.join(weights)).unwrap());
    let log = |run: &Path| std::fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().count();
    assert_eq!(log(&finished.run), log(&whole));
}

/// The first update after the checkpoint makes the parameters overflow, with every learning rate that is tried.
#[test]
fn a_roll_back_is_an_event() {
    let folder = tempfile::tempdir().unwrap();
    run(&config(&["train.evaluate_every=0", "train.steps=4"]), folder.path(), Hooks::new());
    let sets = [
        "train.evaluate_every=0",
        "train.checkpoint_every=20",
        "train.learning_rate=1e30",
        "train.grad_clip=0",
        "train.nonfinite_limit=1",
    ];
    let mut events = Vec::new();
    let hooks = Hooks::new().on_event(|event| events.push(event.clone()));
    let error = train(&config(&sets), folder.path(), &Device::flex(), hooks).unwrap_err().to_string();
    assert!(error.starts_with("training diverged 9 times"), "{error}");
    let warnings = |words: &str| {
        let contains = |event: &&Event| matches!(event, Event::Warning { message } if message.contains(words));
        events.iter().filter(contains).count()
    };
    assert_eq!(warnings("the step is skipped"), 9);
    assert_eq!(warnings("back to step 4 with half the learning rate"), 8);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::RolledBack { step: 4 })).count(), 8);
    assert_eq!(ddpm_train::steps_done(folder.path()), Some(4));
}
