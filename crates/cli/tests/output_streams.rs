//! Standard output and error that are closed, full, or read by nobody: a training goes on to its end, and no command
//! panics or loses a file.
#![cfg(unix)]

use crate::common::*;
use std::fs;
use std::process::{Command, Output};

/// A script in the place's folder, where `"$@"` is the command.
fn shell(place: &Place, script: &str, command: &assert_cmd::Command) -> Output {
    let mut bash = Command::new("bash");
    bash.current_dir(place.path("")).args(["-c", script, "-"]).arg(command.get_program()).args(command.get_args());
    bash.output().unwrap()
}

/// Asserts that a run of 8 steps is complete.
#[track_caller]
fn complete(place: &Place, run: &str) {
    assert!(place.path(run).join("checkpoints/000000008/checksums.json").exists(), "{run}");
    let steps: Vec<u64> = metrics(&place.path(run)).iter().map(|record| record["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [2, 4, 6, 8], "{run}");
    assert!(place.path(run).join("loss.png").exists(), "{run}");
}

#[test]
fn printing_does_not_end_a_training() {
    let place = Place::new();
    for (run, script, status) in [
        ("head", "\"$@\" 2>&1 | head -1; exit ${PIPESTATUS[0]}", 0),
        ("nobody", "\"$@\" 2>&1 | true; exit ${PIPESTATUS[0]}", 0),
        ("full", "\"$@\" > /dev/full 2> /dev/full", 0),
        ("closed", "\"$@\" >&- 2>&-", 0),
        ("json-nobody", "\"$@\" --json 2>&1 | true; exit ${PIPESTATUS[0]}", 0),
        ("json-full", "\"$@\" --json --quiet > /dev/full", 1),
    ] {
        let output = shell(&place, script, &place.train(run, 8, &[]));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{run}: {error}");
        assert!(!error.contains("panicked"), "{run}: {error}");
        complete(&place, run);
        if status == 1 {
            assert_eq!((error.lines().count(), error.contains("standard output: No space left")), (1, true), "{error}");
        }
    }
}

/// One command of each kind with a result on standard output: an error of one line, and the files are there.
#[test]
fn a_full_output_is_an_error_of_every_command() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    image::GrayImage::new(8, 8).save(place.path("a.png")).unwrap();
    image::GrayImage::from_fn(8, 8, |x, _| image::Luma([if x < 4 { 255 } else { 0 }]))
        .save(place.path("b.png"))
        .unwrap();
    let images = "train-images-idx3-ubyte";
    let commands: [(&[&str], &str); 14] = [
        (&["train", "--dry-run", "--config", "run/config.toml"], ""),
        (&["sample", "run", "-n", "2", "--steps", "2", "--json", "-o", "samples.png"], "samples.png"),
        (&["evaluate", "run", "--data", images, "-n", "2"], ""),
        (
            &["interpolate", "run", "a.png", "b.png", "--at", "10", "--steps", "5", "--json", "-o", "between.png"],
            "between.png",
        ),
        (&["inpaint", "run", "a.png", "b.png", "--steps", "2", "--json", "-o", "filled.png"], "filled.png"),
        (&["invert", "run", "a.png", "--steps", "2", "--json", "-o", "latents.safetensors"], "latents.safetensors"),
        (&["export", "run", "-o", "exported", "--json"], "exported/unet/config.json"),
        (&["inspect", images], ""),
        (&["schedule"], ""),
        (&["bench", "--batch-size", "1", "--runs", "1", "--set", "model.block_out_channels=[16,16,16]"], ""),
        (&["completions", "bash"], ""),
        (&["man"], ""),
        (&["--help"], ""),
        (&["train", "--help"], ""),
    ];
    for (arguments, file) in commands {
        let output = shell(&place, "\"$@\" --quiet > /dev/full", &place.ddpm(arguments));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: standard output: No space left"), "{arguments:?}: {error}");
        assert!(!error.contains("panicked"), "{arguments:?}: {error}");
        assert!(file.is_empty() || fs::metadata(place.path(file)).unwrap().len() > 0, "{file}");
        // A reader that has enough is no error.
        let output = shell(&place, "\"$@\" --quiet | true; exit ${PIPESTATUS[0]}", &place.ddpm(arguments));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!error.contains("panicked") && !error.contains("Broken pipe"), "{arguments:?}: {error}");
    }
}
