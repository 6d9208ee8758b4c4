//! A kill, a torn write, a full disk and an I/O error at the calls that change files: the next command continues to the
//! same bytes.
//!
//! `cargo test` tries some calls of each command; the ignored tests try all of them:
//! `cargo test --release -p ddpm-cli -p ddpm --test cli faults:: -- --ignored --nocapture`.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Output;

use crate::common::*;
use assert_cmd::Command;

const KINDS: [&str; 4] = ["kill", "tear", "full", "io"];

/// Commands with a library that fails one of their calls.
struct Faults {
    place: Place,
    library: PathBuf,
}

impl Faults {
    fn new() -> Self {
        let place = Place::new();
        let library = place.path("preload.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/preload.rs");
        let arguments = ["--edition", "2024", "--crate-type", "cdylib", "-C", "panic=abort", "-o"];
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = std::process::Command::new(compiler).args(arguments).arg(&library).arg(source).status().unwrap();
        assert!(status.success());
        Self { place, library }
    }

    /// Runs a command, whose call number `at` fails; 0 only counts the calls. Returns their number too.
    fn run(&self, mut command: Command, at: usize, kind: &str) -> (Output, usize) {
        let log = self.place.path("calls");
        let _ = fs::remove_file(&log);
        command.env("LD_PRELOAD", &self.library).env("FAULT_LOG", &log);
        command.env("FAULT_AT", at.to_string()).env("FAULT_KIND", kind);
        let output = command.output().unwrap();
        (output, fs::metadata(&log).map_or(0, |log| log.len() as usize))
    }

    /// Fails call after call of a command, in a folder of its own for each of them, and checks what is left.
    ///
    /// `command` makes the command for a name, and `check` looks at what it left there. Every `stride`-th call is tried.
    fn everywhere(&self, command: impl Fn(&str) -> Command, stride: usize, check: impl Fn(&str, &str)) {
        let (output, calls) = self.run(command("counted"), 0, "");
        assert!(output.status.success() && calls > 3, "{calls} calls: {}", String::from_utf8_lossy(&output.stderr));
        let mut tried = 0;
        for (number, kind) in KINDS.into_iter().enumerate() {
            for at in (1 + number * stride / KINDS.len()..=calls).step_by(stride) {
                let what = format!("{kind} at call {at} of {calls}");
                let name = format!("{kind}-{at}");
                let (output, _) = self.run(command(&name), at, kind);
                let message = String::from_utf8_lossy(&output.stderr);
                match kind {
                    "kill" | "tear" => assert_eq!(output.status.signal(), Some(9), "{what}: {message}"),
                    _ => assert!(matches!(output.status.code(), Some(0 | 1)), "{what}: {message}"),
                }
                assert!(!message.contains("panicked"), "{what}: {message}");
                check(&name, &what);
                let left = self.place.path(&name);
                let _ = if left.is_dir() { fs::remove_dir_all(&left) } else { fs::remove_file(&left) };
                tried += 1;
            }
        }
        println!("{tried} faults at {calls} calls");
    }

    fn training(&self, stride: usize) {
        let more = ["--set", "train.checkpoint_every=2", "--set", "train.keep_checkpoints=2"];
        self.place.trained("whole", 8, &more);
        let whole = self.result("whole");
        self.everywhere(
            |name| {
                let mut command = self.place.train(name, 8, &more);
                command.arg("--quiet");
                command
            },
            stride,
            |name, what| {
                // What is there can be used, or is said not to be there.
                let output = self.place.ddpm(&["sample", name, "-n", "1", "-q", "-o", "one.png"]).output().unwrap();
                let message = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() || message.contains("no model in"), "{what}: {message}");
                let mut next = self.place.train(name, 8, &more);
                if self.place.path(name).join("config.toml").exists() {
                    next.arg("--resume");
                }
                let output = next.output().unwrap();
                assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
                let mut result = self.result(name);
                // A fault while an old checkpoint is removed can leave it complete.
                let old: Vec<String> = result.keys().filter(|file| file.contains("/000000004/")).cloned().collect();
                assert!(matches!(old.len(), 0 | 8), "{what}: {old:?}");
                old.iter().for_each(|file| drop(result.remove(file)));
                assert_eq!(result.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>(), "{what}");
                for (file, bytes) in &result {
                    assert!(*bytes == whole[file], "{what}: {file} differs");
                }
            },
        );
    }

    /// All that a run leaves and that no clock determines, by name.
    fn result(&self, run: &str) -> BTreeMap<String, Vec<u8>> {
        let root = self.place.path(run);
        let kept = |name: &String| {
            let timed = ["events.out", "state.json", "checksums.json", "metrics.jsonl", "loss.png"];
            !timed.iter().any(|part| name.contains(part))
        };
        let files = files(&root).into_iter().filter(kept);
        let mut all: BTreeMap<_, _> = files.map(|name| (name.clone(), fs::read(root.join(name)).unwrap())).collect();
        let steps: Vec<u64> = metrics(&root).iter().map(|record| record["step"].as_u64().unwrap()).collect();
        all.insert("steps".into(), format!("{steps:?}").into_bytes());
        all
    }

    /// Samples into a folder or file, again after each fault.
    fn sampling(&self, extension: &str, stride: usize) {
        let sample = |name: &str| {
            let output = format!("{name}{extension}");
            let mut command = self.place.ddpm(&["sample", "run", "-n", "5", "--batch-size", "2", "--steps", "3", "-q"]);
            command.args(["-o", &output]);
            command
        };
        let result = |name: &str| -> BTreeMap<String, Vec<u8>> {
            let path = self.place.path(format!("{name}{extension}"));
            let paths = if path.is_dir() { files(&path) } else { vec![String::new()] };
            let read = |file: &String| fs::read(if file.is_empty() { path.clone() } else { path.join(file) }).unwrap();
            paths.iter().map(|file| (file.clone(), read(file))).collect()
        };
        sample("whole").assert().success();
        let whole = result("whole");
        self.everywhere(sample, stride, |name, what| {
            let output = sample(name).output().unwrap();
            assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(result(name) == whole, "{what}: other samples");
            let partial = names(&self.place.path("")).into_iter().find(|other| other.contains(".partial"));
            assert_eq!(partial, None, "{what}");
        });
    }
}

/// Commands that write one file or folder, in place of which OUT stands. Each writes it completely or not at all.
const ONE_OUTPUT: [&[&str]; 6] = [
    &["export", "run", "-o", "OUT"],
    &["interpolate", "run", "a.png", "b.png", "--at", "20", "-o", "OUT.png"],
    &["inpaint", "run", "a.png", "mask.png", "-o", "OUT.png"],
    &["invert", "run", "a.png", "-o", "OUT.safetensors"],
    &["evaluate", "run", "-n", "2", "--draws", "1", "--metrics", "nll", "--denoising", "OUT.json"],
    &["classifier", "--data", "train-images-idx3-ubyte", "--steps", "2", "-o", "OUT.safetensors"],
];

impl Faults {
    /// Writes the images that the commands edit.
    fn make_images(&self) {
        write_pngs(&self.place.path("images"), 8, 8, image::ColorType::L8);
        for (from, to) in [("0", "a"), ("1", "b")] {
            fs::copy(self.place.path(format!("images/{from}.png")), self.place.path(format!("{to}.png"))).unwrap();
        }
        let mask = image::GrayImage::from_fn(8, 8, |x, _| image::Luma([if x < 4 { 0 } else { 255 }]));
        mask.save(self.place.path("mask.png")).unwrap();
    }

    /// Repeats a command after each fault.
    fn one_output(&self, arguments: &[&str], stride: usize) {
        println!("{}", arguments.join(" "));
        let extension = arguments.iter().find_map(|argument| argument.strip_prefix("OUT")).unwrap();
        let command = |name: &str| {
            let arguments: Vec<String> = arguments.iter().map(|argument| argument.replace("OUT", name)).collect();
            let mut command = self.place.ddpm(&[]);
            command.args(arguments).arg("--quiet");
            command
        };
        let result = |name: &str| -> BTreeMap<String, Vec<u8>> {
            let path = self.place.path(format!("{name}{extension}"));
            let paths = if path.is_dir() { files(&path) } else { vec![String::new()] };
            let read = |file: &String| fs::read(if file.is_empty() { path.clone() } else { path.join(file) }).unwrap();
            paths.iter().filter(|_| path.exists()).map(|file| (file.clone(), read(file))).collect()
        };
        command("whole").assert().success();
        let whole = result("whole");
        assert!(!whole.is_empty());
        self.everywhere(command, stride, |name, what| {
            let left = result(name);
            assert!(left.is_empty() || left == whole, "{what}: a part is left");
            if left.is_empty() {
                let output = command(name).output().unwrap();
                assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
                assert!(result(name) == whole, "{what}: another output");
            }
            let _ = fs::remove_file(self.place.path(format!("{name}{extension}")));
        });
    }
}

#[test]
fn some_faults_of_a_training() {
    Faults::new().training(53);
}

#[test]
fn some_faults_of_sampling() {
    let faults = Faults::new();
    faults.place.trained("run", 2, &[]);
    faults.sampling("/", 13);
    faults.sampling(".npz", 13);
}

#[test]
fn some_faults_of_other_commands() {
    let faults = Faults::new();
    faults.place.trained("run", 2, &[]);
    faults.make_images();
    ONE_OUTPUT.iter().for_each(|arguments| faults.one_output(arguments, if arguments[0] == "export" { 9 } else { 3 }));
}

#[test]
#[ignore = "minutes: every call"]
fn every_fault_of_a_training() {
    Faults::new().training(1);
}

#[test]
#[ignore = "minutes: every call"]
fn every_fault_of_sampling() {
    let faults = Faults::new();
    faults.place.trained("run", 2, &[]);
    for extension in ["/", ".npz", ".png", ".safetensors", ".gif"] {
        faults.sampling(extension, 1);
    }
}

#[test]
#[ignore = "minutes: every call"]
fn every_fault_of_other_commands() {
    let faults = Faults::new();
    faults.place.trained("run", 2, &[]);
    faults.make_images();
    ONE_OUTPUT.iter().for_each(|arguments| faults.one_output(arguments, 1));
}
