//! Images as users have them: parts, classes, the program's own output, arrays, pipes.

use crate::common::*;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::json as object;
use std::fs;
use std::path::Path;

/// Writes `count` grey 8x8 PNGs.
fn write_photos(folder: &Path, count: u8) {
    fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        let pixels: Vec<u8> = noise(64).map(|v| (v * 200.0) as u8 ^ i).collect();
        image::save_buffer(folder.join(format!("{i}.png")), &pixels, 8, 8, image::ColorType::L8).unwrap();
    }
}

fn stderr(mut command: assert_cmd::Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

#[test]
fn held_out_images_are_not_trained_on() {
    let place = Place::new();
    write_photos(&place.path("set/train/cats"), 5);
    write_photos(&place.path("set/test/cats"), 3);
    fs::create_dir_all(place.path("set/annotations")).unwrap();
    fs::write(place.path("set/annotations/train.json"), "{}").unwrap();
    let inspected = json(place.ddpm(&["inspect", "set"]));
    assert_eq!((&inspected["images"]["images"], &inspected["images"]["classes"]), (&5.into(), &object!([])));
    assert_eq!(json(place.ddpm(&["inspect", "set", "--test"]))["images"]["images"], 3);
    let said = stderr(place.train("run", 2, &["--data", "set"]));
    assert!(said.contains("set (training part), 5 images") && !said.contains("warning"), "{said}");

    // An image in another folder makes classes of the parts, which is said, also with --quiet.
    write_photos(&place.path("set/masks"), 1);
    for command in [place.train("run2", 2, &["--data", "set", "--quiet"]), place.ddpm(&["inspect", "set", "--quiet"])] {
        let said = stderr(command);
        assert!(said.contains("warning: folders named as parts") && said.contains("test, train"), "{said}");
        assert!(said.contains("masks"), "{said}");
    }
    let evaluate = ["evaluate", "run", "--data", "set", "--train", "-n", "2", "--quiet"];
    assert!(stderr(place.ddpm(&evaluate)).contains("warning: folders named as parts"));
    assert_eq!(json(place.ddpm(&["inspect", "set"]))["images"]["warnings"].as_array().unwrap().len(), 1);
}

#[test]
fn an_image_in_the_way_of_classes_is_named() {
    let place = Place::new();
    write_photos(&place.path("set/cats"), 2);
    write_photos(&place.path("set/dogs"), 2);
    fs::copy(place.path("set/cats/0.png"), place.path("set/cover.png")).unwrap();
    place
        .ddpm(&["inspect", "set", "-o", "sheet.png"])
        .assert()
        .success()
        .stderr(contains("warning:").and(contains("cover.png")));
    let train = place.train("run", 2, &["--data", "set", "--set", "data.labels=true"]);
    fails(train, 1, &["set", "no labels"]);
}

#[test]
fn the_programs_own_output_is_not_training_data() {
    let place = Place::new();
    write_photos(&place.path("set/cats"), 4);
    write_photos(&place.path("set/dogs"), 4);
    // The contact sheet, a run and samples inside of the images, and the folder of the images as working directory.
    let mut inspect = place.ddpm(&["inspect", "."]);
    inspect.current_dir(place.path("set"));
    assert!(stderr(inspect).contains("contact-sheet.png lies in ."));
    let said = stderr(place.train("set/runs/a", 4, &["--data", "set", "--set", "data.labels=true"]));
    assert!(said.contains("set/runs/a, lies inside of set"), "{said}");
    assert!(said.contains("skipped 1 of 9 images") && said.contains("contact-sheet.png"), "{said}");
    place.ddpm(&["sample", "set/runs/a", "-n", "3", "-o", "set/samples/", "--quiet"]).assert().success().stderr("");
    place.ddpm(&["sample", "set/runs/a", "-n", "3", "-o", "set/making.gif", "--animate"]).assert().success();

    let output = place.ddpm(&["inspect", "set", "-o", "sheet.png", "--json"]).output().unwrap();
    let images = &serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["images"];
    let classes = object!([{ "name": "cats", "images": 4 }, { "name": "dogs", "images": 4 }]);
    assert_eq!((&images["images"], &images["classes"]), (&8.into(), &classes));
    let said = String::from_utf8(output.stderr).unwrap();
    for words in ["skipped training runs", "runs/a", "skipped 5 of 13 images", "samples/000000.png"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let said = stderr(place.resume("set/runs/a", 8, &[]));
    assert!(said.contains("8 images, 8x8 grey, 2 classes"), "{said}");

    // Samples that are named directly are read.
    let text = contains("3 images of 8x8x1").and(contains("3 of the images were written by this program"));
    place.ddpm(&["inspect", "set/samples", "-o", "sheet.png"]).assert().success().stdout(text);
    let evaluate = ["evaluate", "set/samples", "--data", "set/cats", "--metrics", "nearest", "--quiet"];
    place.ddpm(&evaluate).assert().success();
    let said = stderr(place.train("b", 2, &["--data", "set/samples"]));
    assert!(said.contains("warning: 3 of 3 images were written by this program"), "{said}");
    fails(place.train("c", 2, &["--data", "set/runs/a"]), 1, &["set/runs/a", "training run"]);
}

#[test]
fn classes_have_names_from_training_to_sampling() {
    let place = Place::new();
    for class in ["owl", "jay", "10", "9"] {
        write_photos(&place.path(format!("birds/train/{class}")), 3);
    }
    write_photos(&place.path("birds/test/owl"), 2);
    write_photos(&place.path("birds/test/9"), 2);
    place.trained("run", 4, &["--data", "birds", "--set", "data.labels=true", "--set", "train.label_dropout=0.2"]);
    let model = json(place.ddpm(&["inspect", "run"]));
    let names = object!({ "0": "9", "1": "10", "2": "jay", "3": "owl" });
    assert_eq!(model["preprocessing"]["id2label"], names);
    place
        .ddpm(&["inspect", "run"])
        .assert()
        .success()
        .stdout(contains("classes:    4: 0 9, 1 10, 2 jay, 3 owl; 4 means no class"));
    assert_eq!(json(place.ddpm(&["inspect", "birds"]))["images"]["id2label"], names);
    place
        .ddpm(&["inspect", "birds", "-o", "s.png"])
        .assert()
        .success()
        .stdout(contains("labels    0 9, 1 10, 2 jay, 3 owl"));

    // A name and its label are the same class.
    let sample = |labels: &str, out: &str| {
        let labels = format!("--labels={labels}");
        place.ddpm(&["sample", "run", "-n", "2", "--steps", "3", "--quiet", "-o", out, &labels])
    };
    for (labels, out) in
        [("owl,10", "a.safetensors"), ("3,name:10", "b.safetensors"), ("label:3,label:1", "c.safetensors")]
    {
        sample(labels, out).assert().success();
        assert_eq!(tensor(&place.path(out), "labels").data, [3.0, 1.0], "{labels}");
        assert_eq!(fs::read(place.path(out)).unwrap(), fs::read(place.path("a.safetensors")).unwrap());
    }
    fails(sample("owk", "d.png"), 2, &["\"owk\"", "the classes are owl, "]);
    fails(sample("name:3", "d.png"), 2, &["\"name:3\"", "jay"]);
    let photo = "birds/test/owl/0.png";
    for command in [
        &["interpolate", "run", photo, photo, "--between", "2", "--steps", "3", "--at", "9"][..],
        &["invert", "run", photo, "--steps", "3"],
    ] {
        place.ddpm(&[command, &["--label", "jay", "--quiet"]].concat()).assert().success();
        fails(place.ddpm(&[command, &["--label", "jai"]].concat()), 2, &["\"jai\"", "the classes are jay, "]);
    }
    // The held-out part lacks classes; the others keep their labels.
    let evaluated = |data: &str| {
        json(place.ddpm(&["evaluate", "run", "--data", data, "-n", "4", "--steps", "5", "--quiet"]))["nll"]["bits_per_dim"].clone()
    };
    let bits = evaluated("birds");
    write_photos(&place.path("same/train"), 1);
    write_photos(&place.path("same/test/9"), 2);
    write_photos(&place.path("same/test/owl"), 2);
    // Numbers are the labels themselves.
    let table = "file_name,label\n9/0.png,0\n9/1.png,0\nowl/0.png,3\nowl/1.png,3\n";
    fs::write(place.path("same/test/metadata.csv"), table).unwrap();
    assert_eq!(evaluated("same"), bits);
    write_photos(&place.path("other/robin"), 2);
    write_photos(&place.path("other/wren"), 2);
    fails(place.ddpm(&["evaluate", "run", "--data", "other"]), 1, &["class robin", "9, 10, jay, owl"]);
    // A run does not continue with other classes.
    fs::rename(place.path("birds/train/jay"), place.path("birds/train/kite")).unwrap();
    fails(place.resume("run", 8, &[]), 1, &["9, 10, kite, owl", "trained on 9, 10, jay, owl"]);
    // Networks without classes have no names.
    place.trained("plain", 2, &["--data", "birds"]);
    assert!(json(place.ddpm(&["inspect", "plain"]))["preprocessing"].get("id2label").is_none());
}

#[test]
fn labels_come_from_names_or_columns() {
    let place = Place::new();
    write_photos(&place.path("pets"), 4);
    for (i, name) in ["cat_0", "cat_1", "dog_2", "dog_3"].iter().enumerate() {
        fs::rename(place.path(format!("pets/{i}.png")), place.path(format!("pets/{name}.png"))).unwrap();
    }
    let table = "id,breed\ncat_0,tabby\ncat_1,siam\ndog_2,collie\ndog_3,collie\n";
    fs::write(place.path("pets/labels.csv"), table).unwrap();
    let names = |from: &str| json(place.ddpm(&["inspect", "pets", "--label-from", from]))["images"]["id2label"].clone();
    assert_eq!(names("filename"), object!({ "0": "cat", "1": "dog" }));
    assert_eq!(names("column:breed"), object!({ "0": "collie", "1": "siam", "2": "tabby" }));
    assert_eq!(names("folder"), object!({}));
    mistaken(place.ddpm(&["inspect", "pets", "--label-from", "names"]), &["names", "filename"]);
    let keys = ["--data", "pets", "--set", "data.labels=true", "--set", "data.label_from=column:breed"];
    place.trained("run", 4, &keys);
    assert!(fs::read_to_string(place.path("run/config.toml")).unwrap().contains("label_from = \"column:breed\""));
    let preprocessing = &json(place.ddpm(&["inspect", "run"]))["preprocessing"];
    assert_eq!(
        (&preprocessing["label_from"], &preprocessing["id2label"]["0"]),
        (&"column:breed".into(), &"collie".into())
    );
    // Evaluation reads the same labels; single images need none.
    let invert = ["invert", "run", "pets/cat_0.png", "--steps", "3", "--label", "tabby", "--quiet"];
    place.ddpm(&invert).assert().success();
    place.ddpm(&["evaluate", "run", "--data", "pets", "-n", "2", "--steps", "5", "--quiet"]).assert().success();
    fails(
        place.train("b", 2, &["--data", "pets", "--set", "data.label_from=breed"]),
        2,
        &["data.label_from", "column:"],
    );
    // A configuration that predates the keys.
    let text = fs::read_to_string(place.path("run/config.toml")).unwrap();
    let old: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("label_from") && !line.starts_with("background")).collect();
    fs::write(place.path("old.toml"), old.join("\n")).unwrap();
    place
        .ddpm(&["train", "--config", "old.toml", "--set", "data.labels=false", "--dry-run"])
        .assert()
        .success()
        .stdout(contains("label_from = \"folder\""));
}

/// An `.npy` of f32.
fn write_npy(path: &Path, shape: &str, values: &[f32]) {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    fs::write(path, bytes).unwrap();
}

#[test]
fn arrays_of_floats_need_a_range() {
    let place = Place::new();
    let values: Vec<f32> = noise(5 * 64).map(|v| 2.0 * v - 1.0).collect();
    write_npy(&place.path("a.npy"), "(5, 8, 8)", &values);
    let error = fails(place.ddpm(&["inspect", "a.npy"]), 1, &["a.npy", "<f4", "data.range=[-1, 1]", "--range"]);
    assert!(!error.contains("astype"), "{error}");
    fails(place.train("run", 2, &["--data", "a.npy"]), 1, &["a.npy", "data.range"]);
    assert!(!place.path("run").exists());
    let mean = json(place.ddpm(&["inspect", "a.npy", "--range", "-1,1"]))["images"]["mean"][0].as_f64().unwrap();
    let expected = values.iter().map(|v| f64::from(*v + 1.0) / 2.0).sum::<f64>() / values.len() as f64;
    assert!((mean - expected).abs() < 2e-3, "{mean} {expected}");
    mistaken(place.ddpm(&["inspect", "a.npy", "--range", "1,-1"]), &["--range", "lower"]);
    place.trained("run", 2, &["--data", "a.npy", "--set", "data.range=[-1,1]"]);
    // The model reads other arrays in the same way.
    place.ddpm(&["evaluate", "run", "--data", "a.npy", "-n", "2", "--steps", "5", "--quiet"]).assert().success();
    fails(place.train("b", 2, &["--data", "a.npy", "--set", "data.range=[1,-1]"]), 2, &["data.range", "lower"]);
}

#[cfg(unix)]
#[test]
fn pipes_and_missing_downloads_are_named_at_once() {
    let place = Place::new();
    assert!(std::process::Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
    fails(place.ddpm(&["inspect", "pipe"]), 1, &["pipe", "named pipe"]);
    fails(place.train("run", 2, &["--data", "pipe"]), 1, &["pipe", "named pipe"]);
    fails(place.ddpm(&["inspect", "/dev/zero"]), 1, &["/dev/zero", "device"]);
    fs::write(place.path("a.zip"), "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n").unwrap();
    fails(place.ddpm(&["inspect", "a.zip"]), 1, &["a.zip", "Git LFS pointer", "git lfs pull"]);
}

#[test]
fn crops_and_backgrounds_are_those_of_training() {
    let place = Place::new();
    write_pngs(&place.path("wide"), 8, 24, image::ColorType::Rgba8);
    let keys = |fit: &str| {
        let fit = format!("data.fit={fit}");
        ["--data", "wide", "--set", "data.channels=3", "--set", "data.background=#00ff00", "--set"]
            .map(str::to_owned)
            .into_iter()
            .chain([fit])
            .collect::<Vec<_>>()
    };
    let train = |out: &str, fit: &str| {
        let keys = keys(fit);
        place.trained(out, 4, &keys.iter().map(String::as_str).collect::<Vec<_>>());
    };
    train("a", "random-crop");
    train("b", "random-crop");
    train("c", "crop");
    assert_eq!(place.weights("a", 4), place.weights("b", 4));
    assert_ne!(place.weights("a", 4), place.weights("c", 4));
    let config = fs::read_to_string(place.path("a/config.toml")).unwrap();
    assert!(config.contains("fit = \"random-crop\"") && config.contains("background = ["), "{config}");
    // Evaluation crops at the centre, over the same background.
    let preprocessing = &json(place.ddpm(&["inspect", "a"]))["preprocessing"];
    assert_eq!((&preprocessing["fit"], &preprocessing["background"]), (&"crop".into(), &object!([0, 255, 0])));
    // A resumed run crops as an uninterrupted one.
    let keys = keys("random-crop");
    place.trained("d", 8, &keys.iter().map(String::as_str).collect::<Vec<_>>());
    place.resume("a", 8, &["--quiet"]).assert().success();
    assert_eq!(place.weights("a", 8), place.weights("d", 8));
    let wrong = place.train("e", 2, &["--data", "wide", "--set", "data.background=green"]);
    fails(wrong, 2, &["data.background", "#ffffff"]);
}
