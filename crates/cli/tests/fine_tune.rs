//! `train.init_from`: runs that start from the weights of a model.

use crate::common::*;
use ddpm::weights::Tensors;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use std::fs;
use std::path::Path;

const AVERAGES: &str = "unet/diffusion_pytorch_model.safetensors";
const WEIGHTS: &str = "training/weights.safetensors";

fn tensors(path: &Path) -> Tensors {
    ddpm::weights::read_safetensors(path).unwrap().0
}

/// Flags of a run whose only step changes no weight noticeably.
const STILL: [&str; 6] =
    ["--set", "train.learning_rate=1e-30", "--set", "train.weight_decay=0", "--set", "train.ema_decay=0.5"];

#[test]
fn a_run_starts_from_the_averages_of_another() {
    let place = Place::new();
    place.trained("first", 4, &["--set", "train.ema_warmup=false"]);
    let first = place.path("first/checkpoints/000000004");
    let averages = tensors(&first.join(AVERAGES));
    assert_ne!(averages, tensors(&first.join(WEIGHTS)), "the averages lag behind");
    for source in
        ["first", "first/checkpoints/000000004", "first/checkpoints/latest", "first/checkpoints/000000004/unet"]
    {
        let set = format!("train.init_from={source}");
        let more = [&["--set", set.as_str()][..], &STILL].concat();
        let said = contains(format!("network: starts from the weights of {source}"));
        // --config, so that the keys of the configuration must fit.
        place
            .ddpm(&["train", "--config", "first/config.toml", "--out", "second", "--set", "train.steps=1"])
            .args(&more)
            .assert()
            .success()
            .stderr(said.and(contains("warning").not()));
        let second = place.path("second/checkpoints/000000001");
        // Weights and averages both.
        assert_eq!(tensors(&second.join(WEIGHTS)), averages, "{source}");
        assert_eq!(tensors(&second.join(AVERAGES)), averages, "{source}");
        let config = fs::read_to_string(place.path("second/config.toml")).unwrap();
        assert!(config.contains(&format!("init_from = \"{source}\"")), "{config}");
        let state: serde_json::Value =
            serde_json::from_slice(&fs::read(second.join("training/state.json")).unwrap()).unwrap();
        assert_eq!((state["step"].as_u64(), state["updates"].as_u64()), (Some(1), Some(1)));
        fs::remove_dir_all(place.path("second")).unwrap();
    }
}

/// Stopped and resumed, a fine-tuning is the same to the byte, and does not need its source any more.
#[test]
fn a_resumed_fine_tuning_does_not_start_again() {
    let place = Place::new();
    place.trained("first", 4, &[]);
    let from = ["--set", "train.init_from=first"];
    place.train("whole", 8, &from).assert().success();
    place.train("halves", 3, &from).assert().success();
    fs::rename(place.path("first"), place.path("elsewhere")).unwrap();
    place.resume("halves", 8, &[]).assert().success();
    assert_eq!(place.weights("whole", 8), place.weights("halves", 8));
    let error = fails(place.resume("halves", 12, &["--set", "train.init_from=elsewhere"]), 1, &["`train.init_from`"]);
    assert!(error.contains("\"first\" → \"elsewhere\""), "{error}");
}

/// Without --preset and --config the source decides about the network and the noise schedule.
#[test]
fn the_network_is_that_of_the_source() {
    let place = Place::new();
    let other = ["diffusion.schedule=cosine", "diffusion.prediction=sample", "model.layers_per_block=2"];
    let other: Vec<&str> = other.iter().flat_map(|set| ["--set", set]).collect();
    place.trained("first", 2, &other);
    let command = ["train", "--set", "train.init_from=first", "--data", "train-images-idx3-ubyte", "--out", "second"];
    let short = ["--set", "train.steps=1", "--set", "train.batch_size=2", "--set", "train.samples=0"];
    let said = contains("from first: model.block_out_channels = [8, 8]")
        .and(contains("from first: diffusion.prediction = \"sample\""))
        .and(contains("from first: diffusion.timesteps = 50"))
        .and(contains("warning").not());
    place.ddpm(&[&command[..], &short].concat()).assert().success().stderr(said);
    let network = |run: &str, step: &str| {
        fs::read_to_string(place.path(format!("{run}/checkpoints/{step}/unet/config.json"))).unwrap()
    };
    assert_eq!(network("first", "000000002"), network("second", "000000001"));
}

#[test]
fn another_number_of_classes_starts_the_class_embedding_anew() {
    let place = Place::new();
    place.trained("plain", 2, &[]);
    place.trained("three", 2, &["--set", "data.labels=true"]);
    let two = ["--data", "two", "--set", "data.labels=true"];
    for class in ["a", "b"] {
        write_pngs(&place.path(format!("two/{class}")), 8, 8, image::ColorType::L8);
    }
    for (source, said) in [("plain", "has 0 rows and the images need 2"), ("three", "has 3 rows and the images need 2")]
    {
        let run = format!("from-{source}");
        let set = format!("train.init_from={source}");
        let more = [&two[..], &["--set", &set], &STILL].concat();
        place.train(&run, 1, &more).assert().success().stderr(contains(said).and(contains("starts anew")));
        let old = tensors(&place.path(source).join("checkpoints/000000002").join(AVERAGES));
        let new = tensors(&place.path(&run).join("checkpoints/000000001").join(WEIGHTS));
        assert_eq!(new["class_embedding.weight"].shape[0], 2);
        for (name, tensor) in new.iter().filter(|(name, _)| !name.starts_with("class_embedding")) {
            assert_eq!(tensor, &old[name], "{name}");
        }
    }
    // As many classes: their embedding is kept. None: refused.
    let more = [&["--set", "data.labels=true", "--set", "train.init_from=three"][..], &STILL].concat();
    place.train("same", 1, &more).assert().success().stderr(contains("anew").not());
    let error = ["`train.init_from`", "three", "class embeddings", "`data.labels`"];
    let none = ["--set", "data.labels=false", "--set", "train.init_from=three"];
    fails(place.train("none", 1, &none), 1, &error);
}

#[test]
fn what_does_not_fit_is_named() {
    let place = Place::new();
    place.trained("first", 2, &[]);
    let from = |more: &[&str]| place.train("second", 1, &[&["--set", "train.init_from=first"], more].concat());
    let wider = ["--preset", "fashion-ho", "--set", "model.block_out_channels=[8,16]"];
    let words = ["first", "another one", "`model.block_out_channels` is [8,8] there and [8,16] in the configuration"];
    fails(from(&wider), 1, &words);
    let learned = ["--preset", "fashion-ho", "--set", "diffusion.variance=learned", "--set", "diffusion.loss=hybrid"];
    fails(from(&learned), 1, &["first", "diffusion.variance"]);
    fails(place.train("second", 1, &["--set", "train.init_from=nowhere"]), 1, &["nowhere", "no such file"]);
    assert!(!place.path("second").exists());
    // Another noise schedule is possible, and said.
    let cosine =
        ["--preset", "fashion-ho", "--set", "diffusion.schedule=cosine", "--set", "diffusion.prediction=sample"];
    let said = contains("warning: first: was trained with `diffusion.prediction` = epsilon, and this run has sample")
        .and(contains("`diffusion.schedule` = linear from 0.0001 to 0.02, and this run has squaredcos_cap_v2"));
    from(&cosine).assert().success().stderr(said);
}

/// A row of the class embedding belongs to a name, not to a number.
#[test]
fn other_classes_start_the_class_embedding_anew() {
    let place = Place::new();
    for (set, classes) in [("one", ["cat", "dog"]), ("two", ["car", "dog"])] {
        for class in classes {
            write_pngs(&place.path(format!("{set}/{class}")), 8, 8, image::ColorType::L8);
        }
    }
    let labels = ["--set", "data.labels=true"];
    place.trained("first", 2, &[&["--data", "one"], &labels[..]].concat());
    let tune = |run: &str, data: &str| {
        place.train(run, 2, &[&["--data", data, "--set", "train.init_from=first"], &labels[..]].concat())
    };
    let anew = contains("its classes are cat, dog and those of the images car, dog").and(contains("starts anew"));
    tune("second", "two").assert().success().stderr(anew);
    tune("third", "one").assert().success().stderr(contains("starts anew").not());
}
