//! `ddpm inspect`, `ddpm schedule` and the help.

use crate::common::*;
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;

const COMMANDS: [&str; 19] = [
    "merge",
    "train",
    "sample",
    "evaluate",
    "interpolate",
    "inpaint",
    "invert",
    "classifier",
    "import",
    "export",
    "inspect",
    "predict",
    "schedule",
    "bench",
    "devices",
    "picture",
    "studio",
    "completions",
    "man",
];

#[test]
fn images_are_described_and_shown() {
    let place = Place::new();
    write_pngs(&place.path("photos/cats"), 8, 12, image::ColorType::Rgb8);
    write_pngs(&place.path("photos/dogs"), 8, 12, image::ColorType::Rgb8);
    fs::write(place.path("photos/dogs/broken.png"), "not a picture").unwrap();
    let whole = fs::read(place.path("photos/dogs/3.png")).unwrap();
    fs::write(place.path("photos/dogs/3.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(place.path("photos/notes.txt"), "not a picture, and not meant as one").unwrap();

    let set = json(place.ddpm(&["inspect", "photos", "-o", "sheet.png"]));
    let images = &set["images"];
    assert_eq!((&images["images"], &images["channels"]), (&11.into(), &3.into()));
    assert_eq!(images["sizes"], serde_json::json!([{ "height": 8, "width": 12, "images": 11 }]));
    let classes = serde_json::json!([{ "name": "cats", "images": 6 }, { "name": "dogs", "images": 5 }]);
    assert_eq!(images["classes"], classes);
    let mut bad: Vec<_> = images["bad"].as_array().unwrap().iter().map(|bad| bad["path"].as_str().unwrap()).collect();
    bad.sort_unstable();
    assert_eq!(bad, ["photos/dogs/3.png", "photos/dogs/broken.png"]);
    assert_eq!(images["other_files"], 1);
    assert!(image::image_dimensions(place.path("sheet.png")).unwrap().0 > 12);

    let text = contains("11 images of 8x12x3").and(contains("photos/dogs/broken.png")).and(contains("sheet.png"));
    place.ddpm(&["inspect", "photos", "-o", "sheet.png"]).assert().success().stdout(text).stderr("");
}

/// Images of a camera would make a sheet of gigabytes, or of more pixels than a file can have.
#[test]
fn large_images_are_shrunk_on_the_sheet() {
    let place = Place::new();
    write_pngs(&place.path("photos"), 40, 7000, image::ColorType::L8);
    place.ddpm(&["inspect", "photos", "-o", "sheet.png", "--memory", "500M"]).assert().success();
    assert_eq!(image::image_dimensions(place.path("sheet.png")).unwrap(), (6 * 256 + 5, 1));
}

/// An image that is there twice, under two classes, and one that training and held-out part share.
#[test]
fn copies_and_leaks_are_named() {
    let place = Place::new();
    write_pngs(&place.path("photos/train/cats"), 4, 4, image::ColorType::Rgb8);
    write_pngs(&place.path("photos/test/cats"), 4, 6, image::ColorType::Rgb8);
    fs::create_dir_all(place.path("photos/train/dogs")).unwrap();
    fs::copy(place.path("photos/train/cats/2.png"), place.path("photos/train/dogs/again.png")).unwrap();
    fs::copy(place.path("photos/train/cats/4.png"), place.path("photos/test/cats/known.png")).unwrap();
    let inspect = ["inspect", "photos", "--duplicates", "--size", "4"];
    let found = &json(place.ddpm(&inspect))["duplicates"];
    assert_eq!((&found["copies"], &found["labels_differ"]), (&1.into(), &1.into()), "{found}");
    let group = found["groups"][0]["images"].as_array().unwrap();
    assert!(
        group[0].as_str().unwrap().ends_with("cats/2.png") && group[1].as_str().unwrap().ends_with("dogs/again.png")
    );
    let leaks = found["leaked"].as_array().unwrap();
    let leak = (leaks[0]["held_out"].as_str().unwrap(), leaks[0]["train"].as_str().unwrap());
    assert!(leaks.len() == 1 && leak.0.ends_with("test/cats/known.png") && leak.1.ends_with("train/cats/4.png"));
    let said = contains("1 in 1 groups of equal images, 1 with several labels").and(contains("leaked    1 held-out"));
    place.ddpm(&inspect).assert().success().stdout(said);
    assert!(json(place.ddpm(&["inspect", "photos", "--size", "4"]))["duplicates"].is_null());
}

#[test]
fn the_built_in_images_are_shown_without_a_path() {
    let place = Place::new();
    for (test, count) in [(false, 10_000), (true, 1_000)] {
        let mut command = place.ddpm(&["inspect"]);
        command.args(test.then_some("--test"));
        let images = &json(command)["images"];
        assert_eq!(images["images"], count);
        assert_eq!(images["classes"].as_array().unwrap().len(), 10);
    }
    assert_eq!(names(&place.path("")), ["contact-sheet.png"]);
}

#[test]
fn a_model_is_described() {
    let place = Place::new();
    place.trained("run", 4, &["--set", "data.labels=true"]);
    let model = json(place.ddpm(&["inspect", "run"]));
    assert_eq!(model["root"], "run/checkpoints/000000004");
    assert_eq!(model["training"]["step"], 4);
    assert_eq!(model["config"]["num_class_embeds"], 3);
    assert_eq!(model["scheduler"]["num_train_timesteps"], 50);
    // Parameters are the numbers in the file.
    let file = place.path("run/checkpoints/000000004/unet/diffusion_pytorch_model.safetensors");
    let count: usize = ddpm::weights::read_safetensors(file).unwrap().0.values().map(|tensor| tensor.data.len()).sum();
    assert_eq!(model["parameters"], count);
    assert_eq!(model["parts"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>(), count as u64);
    let text =
        contains("parameters:").and(contains("step 4 of 4")).and(contains("T = 50")).and(contains("classes:    3"));
    place.ddpm(&["inspect", "run"]).assert().success().stdout(text).stderr("");
}

#[test]
fn nothing_there_is_said_so() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    fails(place.ddpm(&["inspect", "nowhere"]), 1, &["nowhere", "No such file"]);
    fails(place.ddpm(&["inspect", "empty"]), 1, &["empty", "no image files"]);
    fails(place.ddpm(&["inspect", "--size", "0"]), 1, &["0x0"]);
    mistaken(place.ddpm(&["inspect", "--size", "big"]), &["--size", "'big'", "HEIGHTxWIDTH"]);
    fails(place.ddpm(&["inspect", "-o", "empty"]), 1, &["empty", "is a folder"]);
}

#[test]
fn a_schedule_is_a_table() {
    let place = Place::new();
    let table = json(place.ddpm(&["schedule", "--sampler", "ddim", "--steps", "10"]));
    let timesteps: Vec<_> =
        table["rows"].as_array().unwrap().iter().map(|row| row["timestep"].as_f64().unwrap()).collect();
    assert_eq!(timesteps, (0..10).rev().map(|i| 100.0 * f64::from(i)).collect::<Vec<_>>());
    place.ddpm(&["schedule", "--steps", "10"]).assert().success().stdout(contains("timestep").and(contains("900")));
    mistaken(place.ddpm(&["schedule", "--steps", "0"]), &["--steps", "at least 1"]);
    mistaken(place.ddpm(&["schedule", "--sampler", "euler"]), &["'euler'", "unipc-3"]);
    // The flags of a sampler are those of `ddpm sample`.
    let given = json(place.ddpm(&["schedule", "--timesteps", "9,5,0", "--sampler", "ddim", "--eta", "1"]));
    assert_eq!(given["rows"].as_array().unwrap().len(), 3);
}

#[test]
fn every_command_has_help_with_an_example() {
    let place = Place::new();
    for command in COMMANDS {
        let example = contains("Example").and(contains(format!("ddpm {command}"))).and(contains("--json"));
        place.ddpm(&[command, "--help"]).assert().success().stdout(example).stderr("");
        place.ddpm(&["--help"]).assert().success().stdout(contains(command));
    }
    // The long text, not only the title; options under headings; the values of a fixed set.
    let train = contains("the images inside the program").and(contains("Configuration:")).and(contains("lsun-cat"));
    place.ddpm(&["train", "--help"]).assert().success().stdout(train.and(contains("Global options:")));
    let sample = contains("Sampler:").and(contains("dpmpp-sde-2m")).and(contains("learned_range"));
    place.ddpm(&["sample", "--help"]).assert().success().stdout(sample.and(contains("[possible values: crop, pad]")));
    place.ddpm(&["--version"]).assert().success().stdout(contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = place.ddpm(&["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
        for word in COMMANDS.into_iter().chain(["--sampler"]) {
            assert!(script.contains(word.trim_start_matches('-')), "{shell}: {word}");
        }
        assert!(["powershell", "elvish"].contains(&shell) || script.contains("unipc-2"), "{shell}: values");
    }
    mistaken(place.ddpm(&["completions", "ash"]), &["'ash'", "bash"]);

    let output = place.ddpm(&["man"]).output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && page.contains(".TH ddpm"), "{page}");
    for command in COMMANDS {
        assert!(page.contains(&format!("ddpm\\-{command}(1)")), "{command}: {page}");
    }
    place.ddpm(&["man", "-o", "man/man1", "--quiet"]).assert().success().stdout("").stderr("");
    let mut expected: Vec<String> = COMMANDS.iter().map(|command| format!("ddpm-{command}.1")).collect();
    expected.push("ddpm.1".into());
    expected.sort();
    assert_eq!(names(&place.path("man/man1")), expected);
    let sample = fs::read_to_string(place.path("man/man1/ddpm-sample.1")).unwrap();
    assert!(sample.contains("ddpm sample") && sample.contains("unipc\\-2"), "{sample}");
    let object = json(place.ddpm(&["man", "-o", "man/man1"]));
    assert_eq!(object["pages"].as_array().unwrap().len(), COMMANDS.len() + 1);
    assert!(json(place.ddpm(&["completions", "bash"]))["script"].as_str().unwrap().contains("sample"));
}

/// With --json, an error is one object too, for mistakes that clap finds as well as for others.
#[test]
fn errors_for_programs_are_one_object() {
    let place = Place::new();
    let error = |arguments: &[&str], status: i32, words: &[&str]| {
        let output = place.ddpm(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let message = object["error"].as_str().unwrap();
        assert_eq!(object.as_object().unwrap().len(), 1);
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
        assert!(!message.contains('\n') && !message.starts_with("error:"), "{message}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("error:"));
    };
    error(&["sample", "nowhere", "--json"], 1, &["nowhere", "no such file or folder"]);
    error(&["--json", "sample", "nowhere", "--quiet"], 1, &["nowhere"]);
    error(&["sample", "nowhere", "--json", "-o", "x.jpg"], 2, &["x.jpg", ".png"]);
    error(&["sample", "run", "--sampler", "euler", "--json"], 2, &["'euler'", "--sampler", "ddpm, ddim"]);
    error(&["invert", "--json"], 2, &["required", "<MODEL>"]);
    error(&["tran", "--json"], 2, &["'tran'", "'train'"]);
    error(&["--json"], 2, &["subcommand"]);
    error(&["train", "--json", "--set", "train.batchsize=3"], 2, &["`train.batch_size`"]);
    // What was asked for is no error.
    place.ddpm(&["--help", "--json"]).assert().success().stdout(contains("Usage:"));
}

#[test]
fn a_classifier_is_described() {
    let place = Place::new();
    let small = ["--steps", "2", "--batch-size", "8", "--set", "data.resolution=8", "--quiet"];
    place.ddpm(&[&["classifier", "-o", "clothes.safetensors"][..], &small].concat()).assert().success();
    let about = &json(place.ddpm(&["inspect", "clothes.safetensors"]))["classifier"];
    assert_eq!((&about["set"], &about["side"]), (&"fashion-mnist".into(), &8.into()), "{about}");
    assert_eq!(about["classes"].as_array().unwrap().len(), 10);
    let count: usize = ddpm::weights::read_safetensors(place.path("clothes.safetensors"))
        .unwrap()
        .0
        .values()
        .map(|tensor| tensor.data.len())
        .sum();
    assert_eq!(about["parameters"], count);
    let text = contains("classifier:").and(contains("fashion-mnist, 10 classes")).and(contains("8x8, 1 channels"));
    place.ddpm(&["inspect", "clothes.safetensors"]).assert().success().stdout(text.and(contains("--features")));
}
