//! A model draws as its run does; the model in the program; samples in a folder for each class.

use crate::common::*;
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;

/// The values of all pixels of a picture.
fn pixels(place: &Place, path: &str) -> Vec<u8> {
    image::open(place.path(path)).unwrap_or_else(|error| panic!("{path}: {error}")).into_bytes()
}

#[test]
fn a_run_is_sampled_as_its_section_says() {
    let place = Place::new();
    let keys = ["--set", "sample.sampler=ddim", "--set", "sample.eta=0.5", "--set", "train.samples=4"];
    place.trained("run", 4, &keys);
    let own = pixels(&place, "run/samples/000000004.png");
    for (model, name) in [("run", "run.png"), ("run/checkpoints/000000004", "checkpoint.png")] {
        let mut command = place.ddpm(&["sample", model, "-n", "4", "-o", name]);
        command.assert().success().stderr(contains("sampler: ddim, 3 evaluations, as the run draws its samples"));
        assert!(pixels(&place, name) == own, "{model}");
    }
    // The flags replace what they name.
    let draw = |name: &str, flags: &[&str]| {
        place.ddpm(&["sample", "run", "-n", "4", "--quiet", "-o", name]).args(flags).assert().success();
        pixels(&place, name)
    };
    let named = draw("named.png", &["--sampler", "ddim", "--eta", "0.5", "--steps", "3"]);
    assert!(named == own);
    let plain = draw("plain.png", &["--eta", "0"]);
    assert!(plain == draw("named-plain.png", &["--sampler", "ddim", "--steps", "3"]));
    assert!(plain != own);
    assert!(draw("more.png", &["--steps", "5"]) != own);
    let table =
        |flags: &[&str]| json(place.ddpm(&[&["schedule", "run"], flags].concat()))["rows"].as_array().unwrap().len();
    assert_eq!((table(&[]), table(&["--sampler", "ddpm"])), (3, 50));
    // A copy without the configuration is sampled as its scheduler says.
    place.ddpm(&["export", "run", "-o", "plain", "--quiet"]).assert().success();
    place
        .ddpm(&["sample", "plain", "-n", "4", "-o", "ancestral.png"])
        .assert()
        .success()
        .stderr(contains("the model's DDPMScheduler"));
    // A damaged configuration is an error, not another sampler.
    let config = place.path("run/checkpoints/000000004/training/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("steps = 3", "steps = 4")).unwrap();
    place.ddpm(&["sample", "run/checkpoints/000000004"]).assert().failure().stderr(contains("training/config.toml"));
}

#[test]
fn the_guidance_of_a_run_is_that_of_its_samples() {
    let place = Place::new();
    let mut command = place.ddpm(&["train", "--out", "run", "--data", "builtin", "--quiet"]);
    for key in TINY.into_iter().chain([
        "data.labels=true",
        "train.label_dropout=0.5",
        "sample.guidance=3",
        "sample.guidance_interval=[10,40]",
        "train.samples=10",
        "train.steps=4",
    ]) {
        command.args(["--set", key]);
    }
    command.assert().success();
    let mut own = place.ddpm(&["sample", "run", "-n", "10", "-o", "own.png"]);
    own.assert().success().stderr(contains("guidance: 3 from t = 10 to 40, as the run draws its samples"));
    assert!(pixels(&place, "own.png") == pixels(&place, "run/samples/000000004.png"));
    let draw = |flags: &[&str]| {
        place.ddpm(&["sample", "run", "-n", "10", "--quiet", "-o", "x.safetensors"]).args(flags).assert().success();
        tensor(&place.path("x.safetensors"), "samples").data
    };
    let own = draw(&[]);
    assert!(draw(&["--guidance", "3", "--guidance-interval", "10,40"]) == own);
    assert!(draw(&["--guidance", "1"]) != own);
    assert!(draw(&["--guidance", "3"]) != own);

    // A folder for each class, which continues, and is additional data of a classifier.
    let folder = ["sample", "run", "-n", "2", "--by-class", "-o", "synthetic/"];
    place.ddpm(&folder).assert().success();
    let all = files(&place.path("synthetic"));
    assert_eq!(all.iter().filter(|name| name.ends_with(".png")).count(), 20);
    assert!(all.contains(&"Ankle boot/000009.png".to_owned()) && all.contains(&"Ankle boot/000019.png".to_owned()));
    let metadata = fs::read_to_string(place.path("synthetic/metadata.csv")).unwrap();
    assert!(metadata.starts_with("file_name,label\n\"T-shirt-top/000000.png\",\"T-shirt/top\"\n"), "{metadata}");
    assert_eq!(metadata.lines().count(), 21);
    let bytes = |name: &str| fs::read(place.path("synthetic").join(name)).unwrap();
    let before: Vec<_> = all.iter().map(|name| bytes(name)).collect();
    fs::remove_file(place.path("synthetic/Ankle boot/000009.png")).unwrap();
    fs::remove_file(place.path("synthetic/metadata.csv")).unwrap();
    place.ddpm(&folder).assert().success().stderr(contains("20 images, 19 of them from before"));
    assert_eq!(files(&place.path("synthetic")), all);
    assert!(all.iter().zip(&before).all(|(name, before)| bytes(name) == *before));
    let inspected = json(place.ddpm(&["inspect", "synthetic"]));
    assert_eq!(inspected["images"]["images"], 20);

    let classifier = |more: &[&str], log: &'static str| {
        let mut command = place.ddpm(&["classifier", "--steps", "2", "--batch-size", "8", "-o", "few.safetensors"]);
        command.args(["--set", "data.resolution=8", "--set", "data.images_per_class=5"]).args(more);
        command
            .assert()
            .success()
            .stderr(contains("data: fashion-mnist (training part), 50 images"))
            .stderr(contains(log));
        fs::read(place.path("few.safetensors")).unwrap()
    };
    let alone = classifier(&[], "accuracy");
    assert!(alone != classifier(&["--extra", "synthetic"], "extra data: synthetic (training part), 20 images"));
    assert!(alone != classifier(&["--set", "data.fold=1"], "accuracy"));
    let mut wrong = place.ddpm(&["classifier", "-o", "x.safetensors", "--set", "data.images_per_class=5000"]);
    wrong.assert().failure().stderr(contains("5000 are asked for"));
}

#[test]
fn the_model_in_the_program_has_a_name() {
    let place = Place::new();
    let ddpm = |arguments: &[&str]| {
        let mut command = place.ddpm(arguments);
        command.env("XDG_CACHE_HOME", place.path("cache")).env("TMPDIR", place.path("tmp"));
        command
    };
    fs::create_dir(place.path("tmp")).unwrap();
    ddpm(&["sample", "-n", "2", "--steps", "2"])
        .assert()
        .success()
        .stderr(contains("note: fashion is the model in this program"));
    assert_eq!(names(&place.path("cache/ddpm")).len(), 1);
    let picture = fs::read(place.path("samples.png")).unwrap();
    assert!(String::from_utf8_lossy(&picture).contains(r#""model":"fashion""#), "files do not name the user's folders");
    let described = json(ddpm(&["inspect", "fashion"]));
    assert!(described["parameters"].as_u64().unwrap() < 1_500_000, "{described}");
    // The folder has the weights, and not how they are sampled.
    let said = contains("--sampler dpmpp-2m --steps 20 --guidance 1.2");
    ddpm(&["export", "fashion", "-o", "exported", "--half"]).assert().success().stderr(said);
    let size = |path: &str| fs::metadata(place.path(path)).unwrap().len();
    let weights = "exported/unet/diffusion_pytorch_model.safetensors";
    assert!(size(weights) < 3_000_000);
    // Rounding what was rounded changes nothing. Guidance is the run's, and a plain folder has no run.
    let draw = |model: &str, out: &str| {
        let same = ["--sampler", "ddim", "--steps", "2", "--guidance", "1", "--quiet", "-o", out];
        ddpm(&[&["sample", model, "-n", "2"], &same[..]].concat()).assert().success();
        tensor(&place.path(out), "samples").data
    };
    let own = draw("fashion", "own.safetensors");
    assert!(draw("exported", "exported.safetensors") == own);
    // Held-out images are those in the program.
    ddpm(&["evaluate", "fashion", "-n", "2"])
        .assert()
        .success()
        .stderr(contains("fashion-mnist (held-out part), 2 of"));
    // Without a folder for caches, temporary files do.
    fs::write(place.path("file"), "").unwrap();
    let mut command = place.ddpm(&["sample", "fashion", "-n", "1", "--steps", "1", "--quiet"]);
    command.env("XDG_CACHE_HOME", place.path("file")).env("TMPDIR", place.path("tmp"));
    command.assert().success();
    assert_eq!(names(&place.path("tmp")).len(), 1);
    // A folder of this name comes first.
    fs::create_dir(place.path("fashion")).unwrap();
    ddpm(&["sample", "fashion"]).assert().failure().stderr(contains("fashion: "));
}

/// The picture is a file in any case; a terminal that cannot show it is a warning.
#[test]
fn a_preview_is_of_a_png_and_needs_a_terminal() {
    let place = Place::new();
    place.trained("run", 1, &[]);
    let said = contains("warning: --preview: this terminal takes no pictures");
    place.ddpm(&["sample", "run", "-n", "1", "--preview", "-o", "a.png"]).assert().success().stderr(said);
    assert!(place.path("a.png").exists());
    fails(place.ddpm(&["sample", "run", "--preview", "-o", "a.npz"]), 2, &["--preview shows a PNG", ".png"]);
    let said = contains("takes no pictures").not();
    let mut quiet = place.ddpm(&["sample", "run", "-n", "1", "--preview", "-q", "-o", "b.png"]);
    quiet.env("TERM", "xterm-kitty").assert().success().stdout("").stderr(said);
}
