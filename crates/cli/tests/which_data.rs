//! Which images a command reads: those that the model was trained on, fitted as for its training, unless others are given.

use std::fs;

use crate::common::*;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

/// A run on 40 images of 8x8, padded to 12x12, with 20 held-out images, all in the folder `squares`.
fn place_with_padded_run() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("squares")).unwrap();
    write_idx(&place.path("squares/train-images-idx3-ubyte"), 40, 8);
    write_idx(&place.path("squares/t10k-images-idx3-ubyte"), 20, 8);
    let keys = ["--set", "data.resolution=12", "--set", "model.attention_resolutions=[6]", "--set", "data.fit=pad"];
    place.trained("run", 4, &[&["--data", "squares"], &keys[..]].concat());
    place
}

/// Standard error of a command that succeeds.
#[track_caller]
fn said(place: &Place, arguments: &[&str]) -> String {
    let output = place.ddpm(arguments).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    error
}

const HELD_OUT: &str = "data: squares (held-out part), 3 of 20 images, 8x8 grey padded to 12x12";
const TRAINING: &str = "data: squares (training part), 40 images, 8x8 grey padded to 12x12";

#[test]
fn a_run_is_scored_on_its_own_images_wherever_it_is_called_from() {
    let place = place_with_padded_run();
    let command = ["evaluate", "run", "-n", "3", "--steps", "3"];
    assert!(said(&place, &command).lines().any(|line| line == HELD_OUT));
    let own = json(place.ddpm(&command));
    let expected = serde_json::json!({
        "set": "squares", "part": "held-out", "images": 3, "of": 20, "classes": 3, "source_size": [8, 8], "source_channels": [1],
        "height": 12, "width": 12, "channels": 1, "fit": "pad",
    });
    assert_eq!(own["data"], expected);
    let given = json(place.ddpm(&[&command[..], &["--data", "squares"]].concat()));
    assert_eq!(own["nll"], given["nll"]);
    // From another folder, and after both were moved.
    fs::create_dir(place.path("elsewhere")).unwrap();
    let from_elsewhere = |run: &str| {
        let mut command = place.ddpm(&["evaluate", run, "-n", "3", "--steps", "3"]);
        command.current_dir(place.path("elsewhere"));
        json(command)["nll"].clone()
    };
    assert_eq!(own["nll"], from_elsewhere("../run"));
    fs::create_dir(place.path("moved")).unwrap();
    fs::rename(place.path("run"), place.path("moved/run")).unwrap();
    assert_eq!(own["nll"], from_elsewhere("../moved/run"), "the images are still in their place");
    fs::rename(place.path("squares"), place.path("gone")).unwrap();
    let lost = ["evaluate", "moved/run", "-n", "3"];
    fails(place.ddpm(&lost), 1, &["squares", "was trained on are not there", "--data"]);
    fails(place.ddpm(&[&lost[..], &["--metrics", "nearest"]].concat()), 1, &["squares", "--data"]);
    place.ddpm(&[&lost[..], &["--steps", "3", "--data", "gone"]].concat()).assert().success();
    // The built-in images on purpose.
    let builtin = said(&place, &[&lost[..], &["--steps", "3", "--data", "builtin"]].concat());
    assert!(builtin.contains("data: fashion-mnist (held-out part), 3 of 1,000 images, 28x28 grey shrunk and padded"));
}

#[test]
fn a_model_without_a_run_is_not_scored_on_any_images() {
    let place = place_with_padded_run();
    fs::rename(place.path("run/checkpoints/000000004"), place.path("model")).unwrap();
    for metrics in ["nll", "nearest"] {
        let command = ["evaluate", "model", "-n", "3", "--metrics", metrics];
        fails(place.ddpm(&command), 1, &["model", "--data PATH", "--data builtin"]);
    }
    // Older runs have no data.json, but a configuration.
    fs::rename(place.path("model"), place.path("run/checkpoints/000000004")).unwrap();
    fs::remove_file(place.path("run/data.json")).unwrap();
    assert!(said(&place, &["evaluate", "run", "-n", "3", "--steps", "3"]).contains(HELD_OUT));
    fs::write(place.path("run/data.json"), "{").unwrap();
    fails(place.ddpm(&["evaluate", "run"]), 1, &["data.json"]);
}

#[test]
fn images_that_the_model_has_seen_are_not_called_unseen() {
    let place = Place::new();
    place.trained("run", 4, &[]);
    let nll = said(&place, &["evaluate", "run", "-n", "3", "--steps", "3"]);
    assert!(nll.contains("(all images, as it has no held-out part), 3 of 40 images, 8x8 grey"), "{nll}");
    assert!(nll.contains("warning: train-images-idx3-ubyte: has no held-out part"), "{nll}");
    let nearest = ["evaluate", "run", "--metrics", "nearest", "--samples", "5", "--sampler-steps", "2"];
    let table = place.ddpm(&nearest).assert().success();
    table.stdout(contains("than other training images are").and(contains("unseen").not()));
    assert_eq!(json(place.ddpm(&nearest))["nearest"]["pixels"]["held_out"], false);
    let padded = place_with_padded_run();
    let table = padded.ddpm(&nearest).assert().success();
    table.stdout(contains("than held-out images are")).stderr(contains("held-out data: squares (held-out part), 5 of"));
    assert_eq!(json(padded.ddpm(&nearest))["nearest"]["pixels"]["held_out"], true);
}

#[test]
fn colors_that_differ_are_a_warning() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    write_pngs(&place.path("photos"), 8, 8, image::ColorType::Rgb8);
    let warned = |arguments: &[&str], words: &str| {
        let said = said(&place, arguments);
        let warnings: Vec<&str> = said.lines().filter(|line| line.starts_with("warning: ")).collect();
        assert!(warnings.iter().any(|line| line.contains(words)), "{said}");
    };
    warned(&["evaluate", "run", "-n", "2", "--steps", "2", "--data", "photos", "-q"], "6 images are in color");
    warned(&["invert", "run", "photos/0.png", "--steps", "3", "-q"], "1 images are in color");
    let color = ["--set", "data.channels=3", "--set", "data.resolution=8"];
    place.trained("color", 2, &[&["--data", "photos"], &color[..]].concat());
    warned(
        &["evaluate", "color", "-n", "2", "--steps", "2", "--data", "train-images-idx3-ubyte"],
        "40 images are grey",
    );
}

/// Samples are compared as their provenance says.
#[test]
fn samples_are_compared_with_the_images_of_their_model_fitted_alike() {
    let place = place_with_padded_run();
    let itself =
        ["evaluate", "run", "--metrics", "nearest", "--samples", "9", "--sampler-steps", "3", "--sampler", "ddim"];
    let itself = json(place.ddpm(&itself))["nearest"].clone();
    for out in ["drawn.npz", "drawn"] {
        let draw = ["sample", "run", "-n", "9", "--sampler", "ddim", "--steps", "3", "-q", "-o", out];
        place.ddpm(&draw).assert().success();
        let evaluated = ["evaluate", out];
        assert_eq!(json(place.ddpm(&evaluated))["nearest"], itself, "{out}");
        let said = said(&place, &evaluated);
        let samples = format!(
            "samples: {out}, 9 images, 12x12 grey, of run/checkpoints/000000004 (ddim (eta 0), 3 steps, seed 0)"
        );
        assert!(said.contains(&samples) && said.contains(TRAINING) && !said.contains("warning"), "{said}");
        assert!(said.contains("metrics: nearest; --features"), "{said}");
    }
    // In any spelling of the model, the same bytes.
    let bytes = |model: &str, out: &str| {
        place.ddpm(&["sample", model, "-n", "1", "--steps", "2", "-q", "-o", out]).assert().success();
        fs::read(place.path(out)).unwrap()
    };
    let absolute = place.path("run").display().to_string();
    for form in ["png", "npz", "safetensors"] {
        let expected = bytes("run", &format!("a.{form}"));
        assert_eq!(expected, bytes("./run", &format!("b.{form}")));
        assert_eq!(expected, bytes(&absolute, &format!("c.{form}")));
    }
    // Numbers and NumPy's readers do not see it.
    let set = json(place.ddpm(&["inspect", "drawn.npz", "-o", "sheet.png"]));
    assert_eq!((&set["images"]["images"], &set["images"]["height"]), (&9.into(), &12.into()));

    fs::rename(place.path("squares"), place.path("gone")).unwrap();
    fails(place.ddpm(&["evaluate", "drawn.npz"]), 1, &["drawn.npz", "squares", "--data PATH"]);
    place.ddpm(&["evaluate", "drawn.npz", "--data", "gone"]).assert().success().stderr(contains("padded to 12x12"));
}

/// A model of a part of each image reads the same part of them in every command.
#[test]
fn a_crop_is_that_of_the_training_images_everywhere() {
    let place = Place::new();
    write_pngs(&place.path("photos"), 12, 14, image::ColorType::L8);
    fs::create_dir(place.path("parts")).unwrap();
    for i in 0..6 {
        let photo = image::open(place.path(format!("photos/{i}.png"))).unwrap();
        photo.crop_imm(3, 2, 8, 8).save(place.path(format!("parts/{i}.png"))).unwrap();
    }
    place.trained("cropped", 2, &["--data", "photos", "--set", "data.crop=[3, 2, 8, 8]"]);
    place.trained("plain", 2, &["--data", "parts"]);
    assert_eq!(place.weights("cropped", 2), place.weights("plain", 2));
    let known = |run: &str| json(place.ddpm(&["inspect", run]))["preprocessing"]["crop"].clone();
    assert_eq!((known("cropped"), known("plain")), (serde_json::json!([3, 2, 8, 8]), Value::Null));
    let config = |run: &str| fs::read_to_string(place.path(run).join("config.toml")).unwrap();
    assert!(config("cropped").contains("crop = [") && !config("plain").contains("crop = ["));

    // Likelihoods, and distances of a model's and of drawn samples, are those of the parts.
    let text = "12x14 grey cropped to 8x8 at column 3, row 2";
    let nll = |run: &str| json(place.ddpm(&["evaluate", run, "-n", "2", "--steps", "4"]))["nll"].clone();
    assert_eq!(nll("cropped"), nll("plain"));
    assert!(said(&place, &["evaluate", "cropped", "-n", "2", "--steps", "2"]).contains(text));
    let draw = ["sample", "cropped", "-n", "5", "--sampler", "ddim", "--steps", "2", "-q", "-o", "drawn.npz"];
    place.ddpm(&draw).assert().success();
    let nearest = |arguments: &[&str]| json(place.ddpm(arguments))["nearest"].clone();
    assert_eq!(
        nearest(&["evaluate", "drawn.npz"]),
        nearest(&["evaluate", "drawn.npz", "--data", "parts", "--fit", "crop"])
    );
    assert!(said(&place, &["evaluate", "drawn.npz"]).contains(text));
    // An image of the network's size is such a part.
    let invert = |image: &str, out: &str| {
        place.ddpm(&["invert", "cropped", image, "--steps", "2", "-q", "-o", out]).assert().success();
        tensor(&place.path(out), "noise")
    };
    assert_eq!(invert("photos/0.png", "a.safetensors"), invert("parts/0.png", "b.safetensors"));
    fails(place.train("e", 2, &["--data", "photos", "--set", "data.crop=[3, 2, 8]"]), 2, &["data.crop"]);
    let large = place.train("e", 2, &["--data", "photos", "--set", "data.crop=[3, 2, 12, 8]"]);
    fails(large, 1, &["photos", "12x14", "smaller than the 10x15"]);
}

#[test]
fn samples_from_elsewhere_are_compared_with_what_is_given() {
    let place = place_with_padded_run();
    fs::create_dir(place.path("theirs")).unwrap();
    let write = |name: &str, side: u32| {
        let pixels: Vec<u8> = noise((side * side) as usize).map(|v| (v * 255.0) as u8).collect();
        image::save_buffer(place.path(name), &pixels, side, side, image::ColorType::L8).unwrap();
    };
    (0..6).for_each(|i| write(&format!("theirs/{i}.png"), 12));
    let evaluate = |more: &[&str]| place.ddpm(&[&["evaluate", "theirs"], more].concat());
    fails(evaluate(&[]), 1, &["theirs", "does not say", "--data PATH", "--data builtin"]);
    let guessed = said(&place, &["evaluate", "theirs", "--data", "squares"]);
    assert!(guessed.contains("samples: theirs, 6 images, 12x12 grey, from elsewhere"), "{guessed}");
    assert!(guessed.contains("data: squares (training part), 40 images, 8x8 grey scaled to 12x12"), "{guessed}");
    assert!(
        guessed.contains("warning: squares: the real images were scaled and cropped") && guessed.contains("--fit pad")
    );
    let padded = said(&place, &["evaluate", "theirs", "--data", "squares", "--fit", "pad"]);
    assert!(padded.contains(TRAINING) && !padded.contains("warning"), "{padded}");

    write("theirs/6.png", 10);
    fails(evaluate(&["--data", "squares"]), 1, &["theirs", "12x12", "1 of 7", "--size 12x12"]);
    let sized = said(&place, &["evaluate", "theirs", "--data", "squares", "--size", "12", "--fit", "pad"]);
    assert!(sized.contains("warning: theirs: the samples were resized to 12x12"), "{sized}");
    fails(place.ddpm(&["evaluate", "run", "--metrics", "nearest", "--size", "12"]), 1, &["--size"]);
    // The pictures of a run that has no model yet are not samples.
    fs::remove_dir_all(place.path("run/checkpoints/000000004")).unwrap();
    fails(place.ddpm(&["evaluate", "run"]), 1, &["run"]);
}

#[test]
fn samples_of_two_kinds_are_told_apart() {
    let place = place_with_padded_run();
    for (seed, out) in [("0", "mixed"), ("1", "others")] {
        let draw = ["sample", "run", "-n", "2", "--steps", "2", "--seed", seed, "-q", "-o", out];
        place.ddpm(&draw).assert().success();
    }
    fs::rename(place.path("others/000001.png"), place.path("mixed/000002.png")).unwrap();
    let mixed = ["evaluate", "mixed", "--data", "squares"];
    assert!(said(&place, &mixed).contains("warning: mixed/000000.png and mixed/000002.png are of different models"));
    fails(place.ddpm(&["evaluate", "mixed"]), 1, &["mixed", "--data"]);

    // A file of other samples is not replaced without a word, and the same samples are not drawn again.
    let draw = |seed: &str| said(&place, &["sample", "run", "-n", "2", "--steps", "2", "--seed", seed, "-o", "s.npz"]);
    draw("0");
    let first = fs::read(place.path("s.npz")).unwrap();
    assert!(draw("0").contains("2 images, all of them from before"));
    assert_eq!(fs::read(place.path("s.npz")).unwrap(), first);
    let replaced = draw("1");
    assert!(
        replaced.contains(
            "warning: s.npz: samples of run/checkpoints/000000004 (ddim (eta 0), 2 steps, seed 0) are replaced"
        )
    );
    assert_ne!(fs::read(place.path("s.npz")).unwrap(), first);
    let more = said(&place, &["sample", "run", "-n", "3", "--steps", "2", "--seed", "1", "-o", "s.npz"]);
    assert!(more.contains("3 images in"), "{more}");
}

/// Without a preset, shape and channels are the images'; with one, what is lost is said.
#[test]
fn a_run_without_a_preset_takes_the_shape_of_its_images() {
    let place = Place::new();
    let resolved = |data: &str, more: &[&str]| -> (Value, String) {
        let command = [&["train", "--data", data, "--dry-run", "--json"], more].concat();
        let output = place.ddpm(&command).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{error}");
        (serde_json::from_slice(&output.stdout).unwrap(), error)
    };
    write_pngs(&place.path("photos"), 90, 120, image::ColorType::Rgb8);
    write_pngs(&place.path("icons"), 48, 48, image::ColorType::Rgba8);
    write_idx(&place.path("train-images-idx3-ubyte"), 6, 28);
    let (photos, printed) = resolved("photos", &[]);
    assert_eq!(
        printed.lines().next().unwrap(),
        "chosen by the images: data.resolution=64 data.channels=3 data.fit=crop \
        model.attention_resolutions=[16] data.labels=false (change with --set)"
    );
    assert_eq!(photos["data"]["channels"], 3);
    assert_eq!(photos["model"]["attention_resolutions"], serde_json::json!([16]));
    assert!(resolved("icons", &[]).1.contains("data.resolution=48 data.channels=3 data.fit=crop"));
    assert!(resolved("train-images-idx3-ubyte", &[]).1.contains("data.resolution=32 data.channels=1 data.fit=pad"));
    // Keys that are set stay, and a file states keys too.
    assert_eq!(resolved("photos", &["--set", "data.channels=1"]).0["data"]["channels"], 1);
    fs::write(place.path("c.toml"), "[data]\nresolution = 16\n").unwrap();
    assert!(resolved("photos", &["--config", "c.toml"]).1.starts_with("chosen by the images: data.channels=3"));
    let (preset, printed) = resolved("photos", &["--preset", "fashion-ho"]);
    assert_eq!((&preset["data"]["channels"], printed.contains("chosen by the images")), (&1.into(), false));
    let builtin = resolved("builtin", &[]).0;
    assert_eq!((&builtin["data"]["channels"], &builtin["data"]["path"]), (&1.into(), &Value::Null));
    // The default network is class-conditional; without labels there are none to drop.
    assert_eq!((&builtin["data"]["labels"], &builtin["train"]["label_dropout"]), (&true.into(), &0.1.into()));
    for (data, more) in [("builtin", &["--set", "data.labels=false"][..]), ("photos", &[])] {
        let unlabelled = resolved(data, more).0;
        assert_eq!(
            (&unlabelled["data"]["labels"], &unlabelled["train"]["label_dropout"]),
            (&false.into(), &0.0.into())
        );
    }
    // What the default network is not for.
    let large = ["train", "--data", "photos", "--set", "data.resolution=256"];
    fails(place.ddpm(&large), 2, &["model.attention_resolutions", "celebahq256"]);

    let has_key = |set: &&&str| !set.starts_with("data.") && !set.starts_with("model.attention");
    let sets = TINY.iter().filter(has_key).flat_map(|set| ["--set", set]);
    let sets: Vec<&str> = sets.chain(["--set", "train.steps=1", "--set", "model.block_out_channels=[8,8,8]"]).collect();
    let train = |out: &str, data: &str, more: &[&str]| {
        let command = [&["train", "--out", out, "--data", data], more, &sets[..]].concat();
        said(&place, &command)
    };
    let warned = train("grey", "photos", &["--preset", "fashion-ho"]);
    for words in
        ["6 of 6 images in color become grey; --set data.channels=3", "6 of 6 images are shrunk", "data.resolution"]
    {
        assert!(warned.lines().any(|line| line.starts_with("warning: photos: ") && line.contains(words)), "{warned}");
    }
    let line = "data:    photos (training part), 6 images, 90x120 RGB shrunk and padded to 32x32, made grey";
    assert!(warned.lines().any(|text| text == line), "{warned}");
    let opaque = train("icons-run", "icons", &["--preset", "fashion-ho", "--set", "data.channels=3", "-q"]);
    assert_eq!(opaque, "", "a key that is set, and a shrink by less than half");
    let chosen = train("color", "photos", &[]);
    assert!(!chosen.contains("warning") && chosen.contains("90x120 RGB scaled and cropped to 64x64"), "{chosen}");
}

#[test]
fn few_samples_for_many_features_are_a_warning() {
    let place = Place::new();
    write_idx(&place.path("train-images-idx3-ubyte"), 60, 8);
    write_idx(&place.path("t10k-images-idx3-ubyte"), 20, 8);
    let sets = ["--data", "train-images-idx3-ubyte", "--set", "data.resolution=8", "--steps", "2", "--batch-size", "8"];
    place.ddpm(&[&["classifier", "-o", "c.safetensors", "-q"], &sets[..]].concat()).assert().success();
    place.trained("run", 2, &[]);
    place.ddpm(&["sample", "run", "-n", "24", "--steps", "2", "-q", "-o", "s.npz"]).assert().success();
    let said = said(&place, &["evaluate", "s.npz", "--features", "c.safetensors"]);
    assert!(said.contains("metrics: fd, kd, prdc (--metrics chooses others)"), "{said}");
    assert!(said.contains("warning: 24 samples for 128 features: their covariance is singular"), "{said}");
    let report = json(place.ddpm(&["evaluate", "s.npz", "--features", "c.safetensors"]));
    assert!(report["fd"].is_object() && report["kd"].is_object() && report["prdc"].is_object(), "{report}");
    assert_eq!(report["reference"]["of"], 60);
}

/// An interrupted command names itself, and exits as shells expect.
#[cfg(unix)]
#[test]
fn an_interrupted_command_says_how_to_continue() {
    let place = place_with_padded_run();
    let interrupt = |arguments: &[&str], begun: &dyn Fn() -> bool| {
        let mut child = place.start(&place.ddpm(arguments), "log");
        while !begun() {
            assert!(child.0.try_wait().unwrap().is_none(), "finished too early");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let sent = std::process::Command::new("kill").args(["-INT", &child.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
        assert_eq!(child.0.wait().unwrap().code(), Some(130));
        fs::read_to_string(place.path("log")).unwrap()
    };
    let partial = place.path("my samples.npz.partial");
    let begun = || fs::metadata(partial.join("checksums")).is_ok_and(|file| file.len() >= 16);
    let sample = ["sample", "run", "-n", "900", "--batch-size", "2", "--steps", "50", "-o", "my samples.npz"];
    let log = interrupt(&sample, &begun);
    let command = "sample run -n 900 --batch-size 2 --steps 50 -o 'my samples.npz'";
    assert!(
        log.contains("interrupted; the finished images are kept; continue with: ") && log.contains(command),
        "{log}"
    );
    fails(place.ddpm(&[&sample[..], &["--seed", "1"]].concat()), 1, &["repeat that command (", command]);
    // The images are read, so it is at work.
    let reads = || fs::read_to_string(place.path("log")).is_ok_and(|log| log.contains("data: "));
    let log = interrupt(&["evaluate", "run", "-n", "0", "--draws", "500"], &reads);
    assert!(log.contains("interrupted; there is no result yet; start again with: "), "{log}");
}

#[test]
fn flags_that_a_model_would_ignore_are_refused() {
    let place = Place::new();
    place.trained("run", 1, &[]);
    fails(place.ddpm(&["inspect", "run", "-o", "sheet.png"]), 1, &["run", "is a model", "--output"]);
    assert!(!place.path("sheet.png").exists());
    place.ddpm(&["inspect", "run"]).assert().success();
    place.ddpm(&["inspect", "train-images-idx3-ubyte"]).assert().success();
    assert!(place.path("contact-sheet.png").is_file());
}
