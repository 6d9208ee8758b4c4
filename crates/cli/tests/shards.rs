//! Work that is divided between independent runs, and joined: the same bytes as of one run.

use std::fs;

use crate::common::*;
use predicates::str::contains;

/// A trained model of 8x8 images with held-out images.
fn model() -> Place {
    let place = Place::new();
    write_idx(&place.path("t10k-images-idx3-ubyte"), 12, 8);
    place.trained("run", 4, &["--set", "train.sample_every=0"]);
    place
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn merged_samples_are_those_of_one_run() {
    let place = model();
    let sample = "sample run -n 11 --batch-size 2 --steps 3 --seed 4";
    for extension in [".npz", ".png", ".safetensors", ""] {
        let whole = format!("whole{extension}");
        place.ddpm(&words(&format!("{sample} -q -o {whole}"))).assert().success();
        let output = format!("merged{extension}");
        for shard in [3, 1, 2] {
            let shard = format!("{sample} -o {output} --shard {shard}/3 --threads {shard}");
            place.ddpm(&words(&shard)).assert().success().stderr(contains("when all shards are done"));
        }
        assert!(!place.path(&output).exists());
        let shards: Vec<String> = (1..=3).map(|shard| format!("{output}.shard-{shard}-of-3")).collect();
        let merge: Vec<&str> = ["merge"].into_iter().chain(shards.iter().map(String::as_str)).collect();
        place.ddpm(&merge).assert().success();
        let (whole, merged) = (place.path(whole), place.path(&output));
        if whole.is_dir() {
            let read = |folder: &std::path::Path| -> Vec<_> {
                files(folder).into_iter().map(|name| (name.clone(), fs::read(folder.join(&name)).unwrap())).collect()
            };
            assert_eq!(read(&whole), read(&merged));
        } else {
            assert!(fs::read(whole).unwrap() == fs::read(merged).unwrap(), "{extension}");
        }
    }
}

#[test]
fn merged_evaluations_are_those_of_one_run() {
    let place = model();
    let commands = [
        "evaluate run --metrics nll,ode -n 5 --ode-steps 2 --batch-size 3 --denoising mt.json --json",
        "evaluate run --steps 5 --batch-size 4 --draws 2 --json",
    ];
    for command in commands {
        let one = place.ddpm(&words(command)).output().unwrap();
        assert!(one.status.success(), "{}", String::from_utf8_lossy(&one.stderr));
        let written = fs::read(place.path("mt.json")).unwrap_or_default();
        let _ = fs::remove_file(place.path("mt.json"));
        for shard in 1..=4 {
            place.ddpm(&words(&format!("{command} --shard {shard}/4 --shard-file {shard}"))).assert().success();
        }
        let merged = place.ddpm(&words("merge 4 3 2 1 --json")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&merged.stdout), String::from_utf8_lossy(&one.stdout));
        assert_eq!(fs::read(place.path("mt.json")).unwrap_or_default(), written);
        let _ = fs::remove_file(place.path("mt.json"));
        (1..=4).for_each(|shard| fs::remove_file(place.path(shard.to_string())).unwrap());
    }
}

#[test]
fn statistics_of_features_are_merged() {
    let place = Place::new();
    let classifier = "classifier --steps 3 -q -o c.safetensors";
    place.ddpm(&words(classifier)).assert().success();
    fs::create_dir(place.path("photos")).unwrap();
    write_pngs(&place.path("photos"), 28, 28, image::ColorType::L8);
    let command = "evaluate photos --data photos --features c.safetensors --metrics fd --save-stats s.npz --json";
    let one = place.ddpm(&words(command)).output().unwrap();
    assert!(one.status.success(), "{}", String::from_utf8_lossy(&one.stderr));
    let statistics = fs::read(place.path("s.npz")).unwrap();
    fs::remove_file(place.path("s.npz")).unwrap();
    for shard in 1..=2 {
        place.ddpm(&words(&format!("{command} --shard {shard}/2"))).assert().success();
    }
    let merge = words("merge evaluation.shard-1-of-2 evaluation.shard-2-of-2 --json");
    let merged = place.ddpm(&merge).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&merged.stdout), String::from_utf8_lossy(&one.stdout));
    assert!(fs::read(place.path("s.npz")).unwrap() == statistics);
}

/// A shard that was killed continues: its finished items are not computed again.
#[test]
fn an_interrupted_shard_continues_to_the_same_file() {
    let place = model();
    let command = "sample run -n 8 --batch-size 2 --steps 3 -o a.npz --shard 1/2";
    place.ddpm(&words(command)).assert().success();
    let path = place.path("a.npz.shard-1-of-2");
    let whole = fs::read(&path).unwrap();
    for end in [whole.len() - 1, whole.len() * 3 / 4, 5, 0] {
        fs::write(&path, &whole[..end]).unwrap();
        place.ddpm(&words(command)).assert().success();
        assert!(fs::read(&path).unwrap() == whole, "cut at {end}");
    }
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let place = model();
    let shard = |text: &str| place.ddpm(&words(text)).assert().success();
    shard("sample run -n 4 --steps 3 --batch-size 1 -o a.npz --shard 1/2");
    let merge = |files: &str| place.ddpm(&words(&format!("merge {files}"))).assert().failure();
    let a = "a.npz.shard-1-of-2";
    merge(a).stderr(contains("shard 2 of 2 is missing"));
    merge(&format!("{a} {a}")).stderr(contains("second file of shard 1 of 2"));
    merge("run/config.toml").stderr(contains("is not the file of a shard"));
    merge("nothing").stderr(contains("nothing: "));
    // Another seed, and another model at the same place.
    shard("sample run -n 4 --steps 3 --batch-size 1 -o a.npz --seed 1 --shard 2/2 --shard-file seed");
    merge(&format!("{a} seed")).stderr(contains("another command"));
    place.resume("run", 6, &[]).assert().success();
    shard("sample run -n 4 --steps 3 --batch-size 1 -o a.npz --shard 2/2");
    merge(&format!("{a} a.npz.shard-2-of-2")).stderr(contains("another model"));
    let same = "sample run -n 4 --steps 3 --batch-size 1 -o a.npz --seed 7 --shard 1/2";
    place.ddpm(&words(same)).assert().failure().stderr(contains("is a shard of another command"));
    // What cannot be divided.
    let refused = |text: &str| place.ddpm(&words(text)).assert().failure();
    refused("sample run --shard 3/2").stderr(contains("expected I/N"));
    refused("evaluate run --schedule --shard 1/2").stderr(contains("--schedule"));
    refused("evaluate run --metrics nearest --samples 4 --shard 1/2").stderr(contains("ddpm sample"));
    refused("train --shard 1/2").stderr(contains("unexpected argument"));
    // A file that is no shard stays as it is.
    fs::write(place.path("notes"), "notes").unwrap();
    refused("sample run -n 4 --steps 3 --shard 1/2 --shard-file notes").stderr(contains("is not the file of a shard"));
    assert_eq!(fs::read(place.path("notes")).unwrap(), b"notes");
    refused("sample run -n 4 --steps 3 --shard 1/2 --shard-file run/config.toml").stderr(contains("not the file of"));
}

/// The command of a stranger's shards may not write anywhere.
#[test]
fn shards_write_near_themselves_only() {
    let place = model();
    let elsewhere = Place::new();
    let output = elsewhere.path("a.npz").display().to_string();
    let command = format!("sample run -n 2 --steps 3 --batch-size 1 -o {output} --shard 1/1 --shard-file a");
    place.ddpm(&words(&command)).assert().success();
    place
        .ddpm(&words("merge a"))
        .assert()
        .code(2)
        .stderr(contains("outside of this folder"))
        .stderr(contains("--trust"));
    assert!(!elsewhere.path("a.npz").exists());
    place.ddpm(&words("merge a --trust")).assert().success().stderr(contains("merging 1 shard of: ddpm sample run"));
    assert!(elsewhere.path("a.npz").exists());
}
