//! Commands that people type and files that they have: each works, or is refused in words that say what to do.

use std::fs;
use std::path::Path;

use crate::common::*;

#[test]
fn numbers_out_of_range_are_explained() {
    let place = Place::new();
    let wrong = |flag: &str, value: &str, words: &[&str]| {
        mistaken(place.ddpm(&["sample", "run", flag, value]), &[&[flag, value], words].concat());
    };
    wrong("--n", "-1", &["whole number of at least 1"]);
    wrong("--n", "0", &["at least 1"]);
    wrong("--seed", "-1", &["whole number of at least 0"]);
    wrong("--seed", "18446744073709551616", &["too large"]);
    wrong("--eta", "x", &["expected 0 to 1"]);
    wrong("--timesteps", "abc", &["whole timesteps"]);
    let object = json_error(place.ddpm(&["sample", "run", "--seed", "-1", "--json"]));
    assert_eq!(object, "invalid value '-1' for '--seed <N>': expected a whole number of at least 0");
}

/// Each kind of device that the program was built with is listed: one is the default, and a named one is found or explained.
#[test]
fn devices_are_listed() {
    let place = Place::new();
    let output = place.ddpm(&["devices", "--json"]).output().unwrap();
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let devices = object["devices"].as_array().unwrap();
    assert_eq!(devices.iter().filter(|device| device["is_default"] == true).count(), 1, "{object}");
    let processor = devices.last().unwrap();
    assert_eq!(processor["device"], "cpu");
    assert!(processor["description"].as_str().unwrap().contains("threads"), "{object}");
    for device in devices.iter().filter(|device| device["is_found"] == false) {
        assert!(device["description"].as_str().unwrap().contains("it takes"), "{object}");
    }
    for kind in ["cuda", "rocm", "metal", "vulkan", "wgpu"] {
        if !devices.iter().any(|device| device["device"].as_str().unwrap().starts_with(kind)) {
            mistaken(place.ddpm(&["bench", "--device", kind]), &[&format!("--features {kind}"), "this build has"]);
        }
    }
}

/// The error of a command with `--json`, which is its one object on standard output.
fn json_error(mut command: assert_cmd::Command) -> String {
    let output = command.output().unwrap();
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    object["error"].as_str().unwrap().to_owned()
}

#[test]
fn foreign_names_do_not_reach_the_terminal_as_they_are() {
    let place = Place::new();
    fs::create_dir(place.path("photos")).unwrap();
    for name in ["a\u{1b}[2J.png", "b\nc.png"] {
        fs::write(place.path("photos").join(name), "no image").unwrap();
    }
    let output = place.ddpm(&["inspect", "photos"]).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(text.contains("\\u001b[2J.png") && !text.contains('\u{1b}'), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
}

/// Writes PNGs of noise.
fn write_photos(folder: &Path, count: usize) {
    fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        let values: Vec<u8> = noise(64).map(|v| (v * 255.0) as u8 ^ i as u8).collect();
        image::GrayImage::from_raw(8, 8, values).unwrap().save(folder.join(format!("{i}.png"))).unwrap();
    }
}

#[test]
fn images_that_are_elsewhere_or_something_else() {
    let place = Place::new();
    let wrong = |path: &str, words: &[&str]| {
        fails(place.ddpm(&["inspect", path]), 1, &[&[path], words].concat());
        fails(place.train("run", 2, &["--data", path]), 1, &[&[path], words].concat());
        assert!(!place.path("run").exists());
    };
    wrong("https://example.org/photos.zip", &["is a URL; download it"]);
    wrong("~/photos", &["the shell replaces ~ only"]);
    wrong("nielsr/CelebA-faces", &["does not exist", "hf download --repo-type dataset"]);
    fs::write(place.path("train-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 1, 7]).unwrap();
    wrong("train-labels-idx1-ubyte", &["holds labels; give the images"]);
    fs::create_dir(place.path("outer")).unwrap();
    fs::write(place.path("outer/photos.zip"), "PK").unwrap();
    wrong("outer", &["contains no image files", "contains archives", "photos.zip"]);
}

#[test]
fn tables_as_spreadsheets_write_them() {
    let place = Place::new();
    write_photos(&place.path("photos"), 4);
    let inspect = || {
        let output = place.ddpm(&["inspect", "photos", "-o", "sheet.png", "--json"]).output().unwrap();
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (object["images"]["id2label"].clone(), String::from_utf8(output.stderr).unwrap())
    };
    let table = place.path("photos/metadata.csv");
    // Semicolons, as in countries with a decimal comma.
    fs::write(&table, "file_name;label\n0.png;a\n1.png;b\n2.png;a\n3.png;b\n").unwrap();
    let (names, said) = inspect();
    assert_eq!(names, serde_json::json!({}));
    assert!(said.contains("warning: ") && said.contains("metadata.csv has no column file_name"), "{said}");
    // A byte order mark and carriage returns.
    fs::write(&table, "\u{feff}file_name,label\r\n0.png,a\r\n1.png,b\r\n2.png,a\r\n3.png,b\r\n").unwrap();
    assert_eq!(inspect(), (serde_json::json!({ "0": "a", "1": "b" }), String::new()));
    fs::remove_file(&table).unwrap();
    // Integers as floats.
    let lines: String = (0..4).map(|i| format!("{{\"file_name\": \"{i}.png\", \"label\": {}.0}}\n", i % 2)).collect();
    fs::write(place.path("photos/metadata.jsonl"), lines).unwrap();
    assert_eq!(inspect(), (serde_json::json!({ "0": "0", "1": "1" }), String::new()));
}

#[test]
fn models_that_are_elsewhere_or_something_else() {
    let place = Place::new();
    let wrong = |path: &str, words: &[&str]| {
        fails(place.ddpm(&["sample", path]), 1, &[&[path], words].concat());
    };
    wrong("https://huggingface.co/google/ddpm-cifar10-32", &["it is a URL; download"]);
    wrong("~/runs/fashion", &["the shell replaces ~ only"]);
    wrong("google/ddpm-cifar10-32", &["hf download NAME"]);
    for name in ["model.zip", "model.tar.gz"] {
        fs::write(place.path(name), "x").unwrap();
        wrong(name, &["it is an archive; unpack it"]);
    }
    fs::write(place.path("model.onnx"), "x").unwrap();
    wrong("model.onnx", &["expected a folder of diffusers", "ddpm import"]);
    place.trained("run", 2, &[]);
    let checkpoint = place.path("run/checkpoints/000000002");
    fs::copy(checkpoint.join("unet/diffusion_pytorch_model.safetensors"), place.path("alone.safetensors")).unwrap();
    wrong("alone.safetensors", &["expected its config.json next to it"]);
    // What only training needs may be gone; what sampling needs may not.
    fs::remove_dir_all(checkpoint.join("training")).unwrap();
    // Some editors begin files with a byte order mark.
    let config = fs::read_to_string(checkpoint.join("unet/config.json")).unwrap();
    place.ddpm(&["sample", "run", "-n", "1", "--quiet", "-o", "a.png"]).assert().success().stderr("");
    fs::write(checkpoint.join("unet/config.json"), format!("\u{feff}{config}")).unwrap();
    wrong("run", &["config.json", "was changed after it was written"]);
    fs::remove_file(checkpoint.join("checksums.json")).unwrap();
    place.ddpm(&["sample", "run", "-n", "1", "--quiet", "-o", "b.png"]).assert().success().stderr("");
    assert_eq!(fs::read(place.path("a.png")).unwrap(), fs::read(place.path("b.png")).unwrap());
}

#[test]
fn outputs_are_what_their_names_say() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    for (name, words) in [("-", "cannot write to standard output"), (".png", "a name before its extension")] {
        mistaken(place.ddpm(&["sample", "run", "-n", "1", "-o", name]), &[words]);
    }
    mistaken(
        place.ddpm(&["export", "run", "-o", "model.safetensors"]),
        &["model.safetensors", "export writes a folder"],
    );
    assert!(!place.path("model.safetensors").exists());
    place
        .ddpm(&["sample", "run", "-n", "1", "-o", "one.png"])
        .assert()
        .success()
        .stderr(predicates::str::contains("\n1 image in "));
}

#[test]
fn defaults_fit_models_with_few_timesteps() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    write_photos(&place.path("photos"), 2);
    let (a, b) = ("photos/0.png", "photos/1.png");
    place.ddpm(&["interpolate", "run", a, b, "--between", "2", "-o", "i.png"]).assert().success();
    place.ddpm(&["invert", "run", a, "-o", "z.safetensors"]).assert().success();
}

#[test]
fn threads_of_the_environment_are_checked() {
    let place = Place::new();
    for (value, words) in [("many", "whole number"), ("99999999", "at most")] {
        let mut command = place.ddpm(&["schedule", "--steps", "2"]);
        command.env("RAYON_NUM_THREADS", value);
        mistaken(command, &["RAYON_NUM_THREADS is", value, words]);
    }
    let mut command = place.ddpm(&["schedule", "--steps", "2"]);
    command.env("RAYON_NUM_THREADS", "2");
    command.assert().success();
}

#[test]
fn files_of_the_users_are_not_replaced() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    write_photos(&place.path("photos"), 2);
    let weights = "run/checkpoints/000000002/unet/diffusion_pytorch_model.safetensors";
    for (from, name) in [("photos/0.png", "photo.png"), (weights, "weights.safetensors")] {
        fs::copy(place.path(from), place.path(name)).unwrap();
        fails(place.ddpm(&["sample", "run", "-n", "1", "-o", name]), 1, &[name, "is a file from elsewhere"]);
        assert!(fs::read(place.path(from)).unwrap() == fs::read(place.path(name)).unwrap());
    }
    let inpaint = ["inpaint", "run", "photos/0.png", "photos/1.png", "-n", "1", "-o", "photos/0.png"];
    fails(place.ddpm(&inpaint), 1, &["photos/0.png", "is a file from elsewhere"]);
    let interpolate = ["interpolate", "run", "photos/0.png", "photos/1.png", "-o", "photos/1.png"];
    fails(place.ddpm(&interpolate), 1, &["photos/1.png", "is a file from elsewhere"]);
    fails(place.ddpm(&["inspect", "photos", "-o", "photo.png"]), 1, &["photo.png", "is a file from elsewhere"]);
    // Its own files are.
    for name in ["own.png", "own.gif", "own.npz", "own.safetensors"] {
        for seed in ["0", "1"] {
            place.ddpm(&["sample", "run", "-n", "1", "--seed", seed, "-q", "-o", name]).assert().success();
        }
    }
}

#[test]
fn other_images_in_the_place_of_the_models_are_noticed() {
    let place = Place::new();
    for (project, count) in [("a", 5), ("b", 7)] {
        write_photos(&place.path(format!("{project}/images/train")), count);
        write_photos(&place.path(format!("{project}/images/test")), 2);
        let mut train = place.train("run", 2, &["--data", "images", "--quiet"]);
        train.current_dir(place.path(project)).assert().success();
        let mut sample = place.ddpm(&["sample", "run", "-n", "2", "-q", "-o", "../samples.npz"]);
        sample.current_dir(place.path(project)).assert().success();
    }
    let mut elsewhere = place.ddpm(&["evaluate", "../samples.npz"]);
    let said = elsewhere.current_dir(place.path("a")).output().unwrap();
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("has 5 training images, but the model was trained on 7"), "{said}");
    // Replaced images.
    write_photos(&place.path("b/images/train"), 9);
    let mut replaced = place.ddpm(&["evaluate", "run", "-n", "2", "--steps", "3"]);
    let said = replaced.current_dir(place.path("b")).output().unwrap();
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("has 9 training images, but the model was trained on 7"), "{said}");
    // A moved project, and another one in its old place.
    fs::rename(place.path("a"), place.path("c")).unwrap();
    write_photos(&place.path("a/images/train"), 3);
    let words = ["was moved or copied", "a/images", "c/images", "--data"];
    fails(place.ddpm(&["evaluate", "c/run", "-n", "2", "--steps", "3"]), 1, &words);
}

#[test]
fn a_grid_is_not_one_sample() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    place.ddpm(&["sample", "run", "-n", "4", "-q", "-o", "grid.png"]).assert().success();
    fails(place.ddpm(&["evaluate", "grid.png"]), 1, &["grid.png", "is a grid of samples", ".npz"]);
}

#[test]
fn a_studio_says_where_its_page_is_and_ends_at_a_signal() {
    use std::io::{BufRead, BufReader, Read, Write};
    let place = Place::new();
    let command = place.ddpm(&["studio", "--port", "0"]);
    let mut studio = std::process::Command::new(command.get_program());
    studio.args(command.get_args()).current_dir(place.path(""));
    let mut studio = studio.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(studio.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let address = url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{url}");
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.contains("<title>ddpm studio</title>"), "{page}");
    let port = address.rsplit(':').next().unwrap();
    fails(place.ddpm(&["studio", "--port", port]), 1, &["another program has this port", "--port"]);
    fails(place.ddpm(&["studio", "nowhere", "--port", "0"]), 1, &["nowhere"]);
    let ended = std::process::Command::new("kill").args(["-INT", &studio.id().to_string()]).status().unwrap();
    assert!(ended.success() && studio.wait().unwrap().success());
}
