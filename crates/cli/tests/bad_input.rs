//! Bad input: each one clear line that names the file or key, exit status 1 (2 for usage), and nothing lost.

use crate::common::*;
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;
use std::path::Path;

/// Training on `data`; nothing may be left of a run that could not begin.
#[track_caller]
fn refused(place: &Place, more: &[&str], status: i32, words: &[&str]) {
    fails(place.train("run", 2, more), status, words);
    assert!(!place.path("run").exists(), "a folder is left behind");
}

#[test]
fn usage() {
    let place = Place::new();
    mistaken(place.train("run", 2, &["--preset", "fashon"]), &["'fashon'", "similar", "'fashion'", "cifar10"]);
    refused(&place, &["--set", "train.batchsize=3"], 2, &["`train.batchsize`", "`train.batch_size`"]);
    refused(&place, &["--set", "train.steps"], 2, &["`train.steps`", "section.key=value"]);
    refused(&place, &["--set", "train.steps=many"], 2, &["`train.steps`", "\"many\"", "whole number"]);
    refused(&place, &["--set", "train.steps=0"], 2, &["`train.steps`", "1 or more"]);
    refused(&place, &["--set", "diffusion.schedule=cosin"], 2, &["`diffusion.schedule`", "cosine"]);
    refused(&place, &["--set", "sample.sampler=euler"], 2, &["`sample.sampler`", "ddim"]);
    refused(&place, &["--set", "diffusion.beta_end=nan"], 2, &["`diffusion.beta_end`"]);
    refused(&place, &["--set", "data.resolution=9"], 2, &["`data.resolution`", "9×9", "multiples of 2"]);
    refused(&place, &["--set", "model.attention_resolutions=[5]"], 2, &["`model.attention_resolutions`", "8, 4"]);
    refused(&place, &["--set", "train.label_dropout=0.1"], 2, &["`train.label_dropout`", "data.labels"]);
    refused(&place, &["--device", "tpu"], 2, &["`tpu`", "cpu"]);
    mistaken(place.train("run", 2, &["--threads", "0"]), &["--threads", "at least 1"]);
    assert!(!place.path("run").exists());
    refused(&place, &["--resume"], 1, &["run", "no run to resume", "leave out --resume"]);
    fails(place.ddpm(&["train", "--config", "nowhere.toml"]), 1, &["nowhere.toml", "No such file"]);
    fs::write(place.path("bad.toml"), "[train]\nsteps = 3\nbatchsize = 4\n").unwrap();
    fails(place.ddpm(&["train", "--config", "bad.toml"]), 1, &["bad.toml:3", "`train.batch_size`"]);
    // The value of a file, and one of --set beside it.
    fs::write(place.path("bad.toml"), "preset = \"fashion-ho\"\n[train]\nlabel_dropout = 0.1\n").unwrap();
    mistaken(place.ddpm(&["train", "--config", "bad.toml"]), &["bad.toml: `train.label_dropout`"]);
    let set = ["train", "--config", "bad.toml", "--set", "train.label_dropout=0", "--set", "diffusion.beta_end=nan"];
    mistaken(place.ddpm(&set), &["error: `diffusion.beta_end`"]);
    for arguments in [&["train", "--threads", "x"][..], &["tran"], &["inpaint"], &["predict", "run"]] {
        mistaken(place.ddpm(arguments), &[]);
    }
}

#[test]
fn images() {
    let place = Place::new();
    refused(&place, &["--data", "nowhere"], 1, &["nowhere", "No such file"]);
    fs::create_dir(place.path("empty")).unwrap();
    refused(&place, &["--data", "empty"], 1, &["empty", "no image files"]);
    fs::create_dir(place.path("broken")).unwrap();
    fs::write(place.path("broken/a.png"), "x").unwrap();
    refused(&place, &["--data", "broken"], 1, &["broken/a.png", "not an image"]);
    fs::write(place.path("notes.txt"), "x").unwrap();
    refused(&place, &["--data", "notes.txt"], 1, &["notes.txt", "IDX", "npz"]);

    // IDX: cut short in the values, in the header; and a header that promises more than there is memory.
    let images = place.path("images");
    fs::create_dir(&images).unwrap();
    let file = images.join("train-images-idx3-ubyte");
    write_idx(&file, 40, 8);
    let whole = fs::read(&file).unwrap();
    for length in [whole.len() - 1, 100, 16, 10, 3, 0] {
        fs::write(&file, &whole[..length]).unwrap();
        refused(&place, &["--data", file.to_str().unwrap()], 1, &["train-images-idx3-ubyte"]);
    }
    let mut lie = whole.clone();
    lie[4..8].fill(255);
    fs::write(&file, lie).unwrap();
    refused(&place, &["--data", file.to_str().unwrap()], 1, &["train-images-idx3-ubyte"]);
    fs::write(&file, &whole).unwrap();
    // Labels for other images.
    let labels = images.join("train-labels-idx1-ubyte");
    let all = fs::read(&labels).unwrap();
    fs::write(&labels, &all[..all.len() - 5]).unwrap();
    refused(&place, &["--data", file.to_str().unwrap()], 1, &["train-labels-idx1-ubyte"]);
    fs::remove_file(&labels).unwrap();
    let wanted = ["--data", file.to_str().unwrap(), "--set", "data.labels=true"];
    refused(&place, &wanted, 1, &["`data.labels`", "no labels"]);
}

#[test]
fn a_file_of_float_images_is_refused_with_the_fix() {
    let place = Place::new();
    fs::write(place.path("x.npz"), npz("<f4", &[2, 8, 8, 1], &[0x7f; 2 * 64 * 4])).unwrap();
    refused(&place, &["--data", "x.npz"], 1, &["x.npz", "arr_0", "<f4", "data.range"]);
    fs::write(place.path("x.npz"), npz("|u1", &[2, 8, 8, 1], &[7; 128])).unwrap();
    place.train("run", 2, &["--data", "x.npz", "-q"]).assert().success();
    let whole = fs::read(place.path("x.npz")).unwrap();
    fs::write(place.path("x.npz"), &whole[..whole.len() / 2]).unwrap();
    fs::remove_dir_all(place.path("run")).unwrap();
    refused(&place, &["--data", "x.npz"], 1, &["x.npz"]);
}

/// A zip with one stored `arr_0.npy`.
fn npz(dtype: &str, shape: &[usize], values: &[u8]) -> Vec<u8> {
    let mut header =
        format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape:?}, }}").replace(['[', ']'], "#");
    for bracket in ["(", ")"] {
        header = header.replacen('#', bracket, 1);
    }
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16 + 1).to_le_bytes());
    npy.extend(header.bytes());
    npy.push(b'\n');
    npy.extend(values);
    let crc = !npy.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    });
    let name = b"arr_0.npy";
    let entry = |out: &mut Vec<u8>| {
        out.extend([20, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for number in [crc, npy.len() as u32, npy.len() as u32] {
            out.extend(number.to_le_bytes());
        }
        out.extend((name.len() as u16).to_le_bytes());
        out.extend([0, 0]);
    };
    let mut zip = b"PK\x03\x04".to_vec();
    entry(&mut zip);
    zip.extend(name);
    zip.extend(&npy);
    let directory = zip.len() as u32;
    zip.extend(b"PK\x01\x02\x14\x00");
    entry(&mut zip);
    zip.extend([0; 14 - 2]);
    zip.extend(0u32.to_le_bytes().iter().take(2));
    zip.extend(name);
    let size = zip.len() as u32 - directory;
    zip.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    zip.extend(size.to_le_bytes());
    zip.extend(directory.to_le_bytes());
    zip.extend([0, 0]);
    zip
}

#[test]
fn bad_files_among_good_ones_are_named_and_left_out() {
    let place = Place::new();
    let folder = place.path("photos");
    write_pngs(&folder, 8, 8, image::ColorType::L8);
    let whole = fs::read(folder.join("3.png")).unwrap();
    fs::write(folder.join("3.png"), &whole[..whole.len() - 30]).unwrap();
    fs::write(folder.join("zz.png"), "hello").unwrap();
    // Of another size: fitted, as asked for.
    image::GrayImage::new(20, 9).save(folder.join("wide.png")).unwrap();
    let warned = contains("warning: photos/3.png")
        .and(contains("warning: photos/zz.png"))
        .and(contains("6 images, of several sizes, grey scaled and cropped to 8x8"));
    place.train("run", 2, &["--data", "photos"]).assert().success().stderr(warned);
    // Also where little is said.
    let quiet = contains("warning: photos/3.png").and(contains("network").not());
    place.train("quiet", 2, &["--data", "photos", "--quiet"]).assert().success().stderr(quiet);
}

#[test]
fn classes() {
    let place = Place::new();
    let few = ["--set", "data.labels=true", "--set", "model.num_class_embeds=2"];
    refused(&place, &few, 1, &["`model.num_class_embeds` is 2", "3 classes"]);
    let no_room =
        ["--set", "data.labels=true", "--set", "model.num_class_embeds=3", "--set", "train.label_dropout=0.1"];
    refused(&place, &no_room, 1, &["`model.num_class_embeds` is 3", "train.label_dropout", "4 or more"]);
}

#[test]
fn places_that_cannot_be_written() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    fails(place.train("file", 2, &[]), 1, &["file", "is a file, expected a folder"]);
    fails(place.train("file/run", 2, &[]), 1, &["file/run", "Not a directory"]);
    assert_eq!(fs::read(place.path("file")).unwrap(), b"");
}

/// A copy of the checkpoint of a tiny run, without its checksums so that it can be changed, and changed.
fn changed(place: &Place, name: &str, change: impl FnOnce(&Path)) -> String {
    let (from, to) = (place.path("run/checkpoints/000000002"), place.path(name));
    for file in files(&from) {
        fs::create_dir_all(to.join(&file).parent().unwrap()).unwrap();
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
    fs::remove_file(to.join("checksums.json")).unwrap();
    change(&to);
    name.to_owned()
}

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn models() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    let sample = |model: &str| place.ddpm(&["sample", model, "-n", "2", "--steps", "2"]);
    let weights = "unet/diffusion_pytorch_model.safetensors";

    let model = changed(&place, "unchanged", |_| {});
    sample(&model).assert().success();

    let whole = fs::read(place.path("run/checkpoints/000000002").join(weights)).unwrap();
    for length in [whole.len() - 4, 2000, 100, 8, 3, 0] {
        let model = changed(&place, "cut", |root| fs::write(root.join(weights), &whole[..length]).unwrap());
        fails(sample(&model), 1, &["cut/unet/diffusion_pytorch_model.safetensors"]);
        fails(place.ddpm(&["inspect", &model]), 1, &["cut/unet/diffusion_pytorch_model.safetensors"]);
    }
    let model = changed(&place, "lie", |root| {
        let mut lie = whole.clone();
        lie[..8].fill(255);
        fs::write(root.join(weights), lie).unwrap();
    });
    fails(sample(&model), 1, &["lie/unet/diffusion_pytorch_model.safetensors"]);

    let model = changed(&place, "nan", |root| {
        let mut bytes = whole.clone();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(root.join(weights), bytes).unwrap();
    });
    fails(sample(&model), 1, &["not finite", "weights"]);
    assert!(!place.path("samples.png").exists() || place.path("samples.png").metadata().unwrap().len() > 0);

    let model = changed(&place, "shape", |root| {
        edit(&root.join("unet/config.json"), |config| config["block_out_channels"] = serde_json::json!([8, 16]));
    });
    fails(
        sample(&model),
        1,
        &["shape/unet/diffusion_pytorch_model.safetensors", "shape", "[8, 8, 3, 3]", "[16, 8, 3, 3]"],
    );

    let model = changed(&place, "deeper", |root| {
        edit(&root.join("unet/config.json"), |config| config["layers_per_block"] = 2.into());
    });
    fails(sample(&model), 1, &["deeper/unet/diffusion_pytorch_model.safetensors"]);

    let model = changed(&place, "activation", |root| {
        edit(&root.join("unet/config.json"), |config| config["act_fn"] = "gelu".into());
    });
    let line = fails(sample(&model), 1, &["activation/unet/config.json", "`act_fn`", "\"gelu\"", "\"silu\""]);
    assert_eq!(line.matches("gelu").count(), 1, "said once: {line}");

    let model = changed(&place, "key", |root| {
        edit(&root.join("unet/config.json"), |config| config["novelty"] = true.into());
    });
    fails(sample(&model), 1, &["key/unet/config.json", "novelty"]);

    let model = changed(&place, "threshold", |root| {
        edit(&root.join("scheduler/scheduler_config.json"), |config| {
            config["thresholding"] = true.into();
            config["sample_max_value"] = 0.into();
        });
    });
    fails(sample(&model), 1, &["threshold/scheduler/scheduler_config.json", "`sample_max_value`"]);

    let model = changed(&place, "json", |root| fs::write(root.join("unet/config.json"), "{\"a\": ").unwrap());
    fails(sample(&model), 1, &["json/unet/config.json"]);
    let model = changed(&place, "gone", |root| fs::remove_file(root.join(weights)).unwrap());
    fails(sample(&model), 1, &["gone"]);

    // With its checksums, a change is found before anything is read.
    let sealed = place.path("run/checkpoints/000000002").join(weights);
    let mut bytes = whole;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(sealed, bytes).unwrap();
    fails(sample("run"), 1, &["run/checkpoints/000000002/unet/diffusion_pytorch_model.safetensors", "CRC-32"]);
}

/// A page without a header, found by fuzzing: the reader of Parquet panics on it, and nobody is to see that.
#[test]
fn a_damaged_parquet_file_is_one_line() {
    let place = Place::new();
    let found = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/no_page_header.parquet");
    fs::copy(found, place.path("images.parquet")).unwrap();
    fails(place.ddpm(&["inspect", "images.parquet"]), 1, &["images.parquet", "corrupt"]);
}

/// Opening a named pipe waits until another process writes to it, so a pipe in the place of any file is an error of that
/// file, or the file counts as absent. Each command ends by itself.
#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_any_file_of_a_run_does_not_hang() {
    let place = Place::new();
    place.trained("run", 8, &["--set", "train.keep_checkpoints=2"]);
    let commands: [&[&str]; 5] = [
        &["sample", "run", "-n", "1", "--steps", "2", "-q", "-o", "one.png"],
        &["inspect", "run"],
        &["evaluate", "run", "-n", "1", "-q"],
        &["train", "--resume", "--out", "run", "-q", "--set", "train.steps=8"],
        &["train", "--out", "other", "-q", "--set", "train.init_from=run", "--set", "train.steps=1"],
    ];
    for name in files(&place.path("run")) {
        // Those that are only written. A line is added to the log after it was read.
        if ["events.out", ".png"].iter().any(|part| name.contains(part)) {
            continue;
        }
        let (file, aside) = (place.path("run").join(&name), place.path("aside"));
        fs::rename(&file, &aside).unwrap();
        for command in commands {
            assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
            let mut command = place.ddpm(command);
            let output = command.timeout(std::time::Duration::from_secs(60)).output().unwrap();
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(0 | 1)), "{name}: {command:?} hangs or dies: {message}");
            if !output.status.success() {
                let last = name.rsplit('/').next().unwrap();
                assert!(message.contains(last) || message.contains("is not a regular file"), "{name}: {message}");
            }
            let _ = fs::remove_dir_all(place.path("other"));
            let _ = fs::remove_file(&file);
        }
        fs::rename(&aside, &file).unwrap();
    }
}

/// A pipe in the place of each file of a set of images.
#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_any_file_of_a_set_does_not_hang() {
    let place = Place::new();
    for name in ["dataset.json", "metadata.csv", "metadata.jsonl", "b.png", "labels.csv"] {
        let folder = place.path(name.replace('.', "-"));
        write_pngs(&folder, 8, 8, image::ColorType::L8);
        assert!(std::process::Command::new("mkfifo").arg(folder.join(name)).status().unwrap().success());
        let folder = folder.to_string_lossy().into_owned();
        for command in [&["inspect", &folder][..], &["train", "--out", "run", "--dry-run", "--data", &folder]] {
            let mut command = place.ddpm(command);
            let output = command.timeout(std::time::Duration::from_secs(60)).output().unwrap();
            let message = [output.stdout, output.stderr].concat();
            let message = String::from_utf8_lossy(&message);
            assert!(matches!(output.status.code(), Some(0 | 1)), "{name}: {command:?} hangs or dies: {message}");
        }
    }
}

/// A picture in a file of another extension would be one that its viewer does not open.
#[test]
fn files_have_the_extension_of_what_is_written() {
    let place = Place::new();
    for words in [
        &["sample", "-n", "1", "--sheet", "s.jpg"][..],
        &["evaluate", "fashion", "--plot", "rd.jpg"],
        &["invert", "fashion", "x.png", "--sheet", "there.webp"],
        &["inspect", "x", "-o", "sheet.jpg"],
    ] {
        mistaken(place.ddpm(words), &["is written as png", ".png"]);
    }
    mistaken(place.ddpm(&["classifier", "-o", "x.txt"]), &["is written as safetensors"]);
}

#[test]
fn a_folder_that_stands_in_for_the_model_in_the_program_is_said() {
    let place = Place::new();
    place.ddpm(&["export", "fashion", "-o", "fashion"]).assert().success();
    let said = predicates::str::contains("fashion is the folder of this name here, not the model in this program");
    place
        .ddpm(&["sample", "fashion", "-n", "1", "--steps", "2", "-o", "x.png"])
        .assert()
        .success()
        .stderr(said.clone());
    place.ddpm(&["sample", "-n", "1", "--steps", "2", "-o", "y.png"]).assert().success().stderr(said);
}
