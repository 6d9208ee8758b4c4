//! The memory of a run: estimated before it begins, refused where it cannot fit, and an error where it fails all the same.
#![cfg(target_os = "linux")]

use crate::common::*;
use assert_cmd::Command;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

/// `ddpm train` on the built-in images without sample grids.
fn train(place: &Place, out: &str, sets: &[&str]) -> Command {
    let sets = [&["train.steps=2", "train.samples=0", "train.warmup_steps=0", "data.path="], sets].concat();
    let mut command = place.ddpm(&["train", "--preset", "fashion-ho", "-q", "--out", out]);
    command.args(sets.iter().flat_map(|set| ["--set", set]));
    command
}

/// Prints both, and compares them.
#[test]
fn the_estimate_is_near_the_measured_peak() {
    let place = Place::new();
    let cases: [(&str, &[&str]); 5] = [
        ("small", &["train.batch_size=16"]),
        ("batch", &["train.batch_size=64"]),
        ("recomputed", &["train.batch_size=64", "train.gradient_checkpointing=true"]),
        ("wide", &["model.block_out_channels=[64,128,128]", "train.batch_size=16", "model.dropout=0.1"]),
        ("grid", &["train.batch_size=2", "train.samples=256", "sample.batch_size=256", "sample.steps=1"]),
    ];
    for (name, sets) in cases {
        let result = json(train(&place, name, sets));
        let [estimated, peak] = ["estimated_bytes", "peak_bytes"].map(|key| result["memory"][key].as_f64().unwrap());
        println!("{name}: estimated {:.3} GB, measured {:.3} GB", estimated / 1e9, peak / 1e9);
        assert!((estimated / peak - 1.0).abs() < 0.25, "{name}: estimated {estimated}, measured {peak}");
    }
}

/// The program in a shell with a limit on its address space in KiB.
fn limited(place: &Place, kilobytes: usize, arguments: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command.current_dir(place.path("")).timeout(std::time::Duration::from_secs(120));
    let program = env!("CARGO_BIN_EXE_ddpm");
    command.args(["-c", &format!("ulimit -v {kilobytes}; exec \"$@\""), "-", program]).args(arguments);
    command
}

#[test]
fn what_cannot_fit_is_refused_before_the_first_step() {
    let place = Place::new();
    let huge = ["train", "--threads", "2", "--out", "run", "--set", "train.batch_size=4096"];
    let words = [
        "needs about",
        "for activations",
        "the limit of `ulimit -v`",
        "`train.batch_size`",
        "`train.gradient_accumulation`",
        "`train.gradient_checkpointing`",
    ];
    fails(limited(&place, 4_000_000, &huge), 1, &words);
    assert!(!place.path("run").exists(), "a folder is left behind");
    // A dry run says so too, after the configuration, and does not try.
    let output = limited(&place, 4_000_000, &[&huge[..], &["--dry-run"]].concat()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("batch_size = 4096"));
    assert!(error.contains("estimated from a step of one image") && error.contains("error: the run needs"), "{error}");
    // What fits is not refused.
    let small = ["train", "--threads", "2", "--out", "run", "--set", "train.batch_size=4", "--set", "train.steps=1"];
    limited(&place, 4_000_000, &[&small[..], &["--set", "train.samples=0"]].concat()).assert().success();
}

#[test]
fn a_dry_run_prints_parameters_memory_and_time() {
    let place = Place::new();
    let said = contains("network: 18,521 parameters")
        .and(contains("memory:  about 0.0"))
        .and(contains("for activations"))
        .and(contains("s a step, measured"))
        .and(contains("for 8 steps"));
    place.train("run", 8, &["--dry-run"]).assert().success().stderr(said);
    let plan = json(place.train("run", 8, &["--dry-run", "--quiet"]));
    assert_eq!(plan["train"]["steps"], 8, "the configuration is beside it");
    let plan = &plan["estimate"];
    assert_eq!((&plan["parameters"], &plan["measured"]), (&18_521.into(), &true.into()));
    assert!(plan["step_seconds"].as_f64().unwrap() > 0.0 && plan["memory"]["activations"].as_f64().unwrap() > 1e3);
    assert!(plan["memory_limit"].as_u64().unwrap() > 1 << 28);
    // Without its images, a preset is planned with others.
    place
        .ddpm(&["train", "--preset", "mnist", "--set", "train.batch_size=2", "--dry-run"])
        .assert()
        .success()
        .stderr(contains("data/mnist").and(contains("measured")));
    assert_eq!(names(&place.path("")), ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]);
}

/// An allocation that fails without an estimate before it is an error of one line and not an abort.
#[test]
fn a_failed_allocation_is_an_error() {
    let place = Place::new();
    let bench = ["bench", "--preset", "fashion-ho", "--batch-size", "2048", "--threads", "2"];
    fails(limited(&place, 1_000_000, &bench), 1, &["out of memory", "MiB", "batch size"]);
    let output = limited(&place, 1_000_000, &[&bench[..], &["--json"]].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(object["error"].as_str().unwrap().starts_with("out of memory"), "{object}");
    // Sampling compares the batch with the limit.
    place.trained("run", 2, &[]);
    let sample = ["sample", "run", "-n", "100000000", "--batch-size", "100000000", "--threads", "2"];
    fails(limited(&place, 1_000_000, &sample), 1, &["100000000 images of 8x8 ", "`ulimit -v`", "--batch-size"]);
}

/// The memory that is left is too little even for the message, wherever it runs out.
#[test]
fn however_little_memory_there_is_no_abort() {
    let place = Place::new();
    write_idx(&place.path("train-images-idx3-ubyte"), 40, 8);
    let mut seen = [0; 2];
    for kilobytes in (60_000..180_000).step_by(6_000) {
        // The system cannot even load the program into less.
        if !limited(&place, kilobytes, &["schedule", "--steps", "2"]).output().unwrap().status.success() {
            continue;
        }
        let out = format!("run-{kilobytes}");
        let sets = ["model.block_out_channels=[8,8]", "model.norm_num_groups=4", "model.attention_resolutions=[]"];
        let sets: Vec<&str> =
            sets.iter().chain(&["train.steps=3", "train.batch_size=4"]).flat_map(|set| ["--set", set]).collect();
        let train =
            ["train", "--data", "train-images-idx3-ubyte", "--preset", "fashion-ho", "--set", "data.resolution=8"];
        let output =
            limited(&place, kilobytes, &[&train[..], &["--threads", "2", "-q", "--out", &out], &sets].concat());
        let output = { output }.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => seen[0] += 1,
            Some(1) => {
                seen[1] += 1;
                let is_told = |line: &str| line.starts_with("warning: ") || line.starts_with("error: ");
                assert!(error.lines().all(is_told) && error.contains("error: "), "{kilobytes}: {error}");
            }
            other => panic!("{kilobytes}: {other:?}: {error}"),
        }
    }
    assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
}

/// A configuration whose parsed form would take a gigabyte.
#[test]
fn a_configuration_of_megabytes_is_refused() {
    let place = Place::new();
    std::fs::write(place.path("big.toml"), format!("[data]\nx = [{}0]\n", "0,".repeat(1 << 20))).unwrap();
    let words = ["big.toml", "2097167 bytes", "1048576 or fewer"];
    fails(limited(&place, 500_000, &["train", "--config", "big.toml", "--threads", "1"]), 1, &words);
}

/// `--memory` is a limit for all that a command does, and the message says so.
#[test]
fn a_limit_of_memory_can_be_set() {
    let place = Place::new();
    let huge = ["train", "--memory", "1G", "--threads", "2", "--out", "run", "--set", "train.batch_size=4096"];
    fails(place.ddpm(&huge), 1, &["needs about", "the limit of --memory is 1.07 GB", "train.batch_size"]);
    let bench = ["bench", "--preset", "fashion-ho", "--batch-size", "2048", "--threads", "2", "--memory", "500M"];
    fails(place.ddpm(&bench), 1, &["out of memory", "MiB", "the limit of --memory (0.52 GB)", "batch size"]);
    mistaken(place.ddpm(&["train", "--memory", "1M"]), &["--memory", "64M or more"]);
    // What fits is not affected.
    place.trained("small", 2, &["--memory", "600M"]);
}

#[test]
fn an_input_of_the_network_that_cannot_fit_is_refused() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    let zeros = vec![0.0; 4096 * 4096];
    let input = place.tensors("in.safetensors", [("x", &[1, 1, 4096, 4096][..], zeros), ("t", &[1], vec![1.0])]);
    let predict = ["predict", "run", "--input", &input, "-o", "out.safetensors", "--memory", "800M"];
    fails(place.ddpm(&predict), 1, &["in.safetensors", "1 image of 4096x4096", "the limit of --memory is 0.84 GB"]);
}
