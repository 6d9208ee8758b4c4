//! Shared parts of the program's tests: a place for files, tiny runs, images and inputs, and what an error must look like.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use assert_cmd::Command;
use ddpm::weights::{self, Metadata, Tensor, Tensors};
use tempfile::TempDir;

/// The keys of a tiny run, in the recipe of the preset `fashion-ho`.
pub const TINY: [&str; 22] = [
    "data.labels=false",
    "train.label_dropout=0",
    "diffusion.prediction=epsilon",
    "diffusion.loss=l_simple",
    "diffusion.timestep_sampler=uniform",
    "train.learning_rate=1e-3",
    "train.lr_schedule=constant",
    "train.ema_decay=0.999",
    "sample.sampler=ddim",
    "sample.guidance=1",
    "data.resolution=8",
    "model.block_out_channels=[8,8]",
    "model.norm_num_groups=4",
    "model.attention_resolutions=[4]",
    "diffusion.timesteps=50",
    "sample.steps=3",
    "train.batch_size=4",
    "train.warmup_steps=0",
    "train.log_every=2",
    "train.checkpoint_every=4",
    "train.sample_every=4",
    "train.samples=2",
];

/// A process that does not outlive its test.
pub struct Started(pub Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder of its own for one test.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// The program, in this folder.
    pub fn ddpm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm"));
        command.current_dir(self.0.path()).args(arguments).timeout(std::time::Duration::from_secs(120));
        command
    }

    /// `ddpm train` with a network of a few thousand parameters on 8x8 images; `more` are further arguments.
    pub fn train(&self, out: &str, steps: usize, more: &[&str]) -> Command {
        let mut command = self.ddpm(&["train", "--out", out]);
        if !more.contains(&"--data") {
            let data = self.path("train-images-idx3-ubyte");
            if !data.exists() {
                write_idx(&data, 40, 8);
            }
            command.args(["--data", "train-images-idx3-ubyte"]);
        }
        command.args(TINY.iter().flat_map(|set| ["--set", set]));
        command.args(["--set", &format!("train.steps={steps}")]).args(more);
        command
    }

    /// `ddpm train --resume`.
    pub fn resume(&self, out: &str, steps: usize, more: &[&str]) -> Command {
        let mut command = self.ddpm(&["train", "--resume", "--out", out]);
        command.args(["--set", &format!("train.steps={steps}")]).args(more);
        command
    }

    /// A run of so many steps that has ended well.
    pub fn trained(&self, out: &str, steps: usize, more: &[&str]) {
        self.train(out, steps, more).arg("--quiet").assert().success().stdout("").stderr("");
    }

    /// Starts a command, its standard error in the file `log`.
    pub fn start(&self, command: &Command, log: &str) -> Started {
        let mut started = std::process::Command::new(command.get_program());
        started.args(command.get_args()).current_dir(self.0.path()).stdin(Stdio::null()).stdout(Stdio::null());
        Started(started.stderr(fs::File::create(self.path(log)).unwrap()).spawn().unwrap())
    }

    /// Every tensor file of a run's checkpoint, by its path in there.
    pub fn weights(&self, out: &str, step: u64) -> BTreeMap<String, Vec<u8>> {
        let root = self.path(out).join(format!("checkpoints/{step:09}"));
        let tensors = files(&root).into_iter().filter(|file| file.ends_with(".safetensors"));
        let files: BTreeMap<_, _> = tensors.map(|file| (file.clone(), fs::read(root.join(file)).unwrap())).collect();
        assert!(matches!(files.len(), 3 | 4), "weights, averages and optimizer, and averages of `train.ema_lengths`");
        files
    }

    /// Names in `checkpoints/`, hidden ones included.
    pub fn checkpoints(&self, out: &str) -> Vec<String> {
        names(&self.path(out).join("checkpoints"))
    }

    /// Writes tensors of f32.
    pub fn tensors<const N: usize>(&self, name: &str, tensors: [(&str, &[usize], Vec<f32>); N]) -> String {
        let tensors: Tensors = tensors
            .map(|(name, shape, data)| (name.to_owned(), Tensor { shape: shape.to_vec(), data }))
            .into_iter()
            .collect();
        let path = self.path(name);
        weights::write_safetensors(&path, weights::views(&tensors), &Metadata::new()).unwrap();
        path.display().to_string()
    }
}

/// All files under a folder, by their paths in there, sorted.
pub fn files(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for name in names(root) {
        let path = root.join(&name);
        if path.is_dir() {
            all.extend(files(&path).into_iter().map(|inner| format!("{name}/{inner}")));
        } else {
            all.push(name);
        }
    }
    all
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A tensor of a safetensors file.
pub fn tensor(path: &Path, name: &str) -> Tensor {
    weights::read_safetensors(path).unwrap().0.remove(name).unwrap_or_else(|| panic!("{path:?} has no {name}"))
}

/// Numbers that look random, in [0, 1).
pub fn noise(count: usize) -> impl Iterator<Item = f32> {
    let mut state = 0x2545_f491_u32;
    (0..count).map(move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    })
}

/// Writes an IDX file of `count` square images, and its labels, of three classes, beside it.
pub fn write_idx(path: &Path, count: u32, side: u32) {
    let mut bytes: Vec<u8> = [0x803, count, side, side].iter().flat_map(|n: &u32| n.to_be_bytes()).collect();
    // Bright squares on black, at places that differ: something that can be learnt.
    for i in 0..count {
        for y in 0..side {
            for x in 0..side {
                let inside = (x + i) % side < side / 2 && (y + i / 3) % side < side / 2;
                bytes.push(if inside { 230 } else { 10 });
            }
        }
    }
    fs::write(path, bytes).unwrap();
    let mut labels: Vec<u8> = [0x801, count].iter().flat_map(|n: &u32| n.to_be_bytes()).collect();
    labels.extend((0..count).map(|i| (i % 3) as u8));
    let name = path.file_name().unwrap().to_str().unwrap().replace("images-idx3", "labels-idx1");
    fs::write(path.with_file_name(name), labels).unwrap();
}

/// Writes a folder of six PNGs.
pub fn write_pngs(folder: &Path, height: u32, width: u32, colour: image::ColorType) {
    fs::create_dir_all(folder).unwrap();
    let size = height as usize * width as usize * usize::from(colour.channel_count());
    for i in 0..6u8 {
        let pixels: Vec<u8> = noise(size).map(|v| (v * 255.0) as u8 ^ i).collect();
        image::save_buffer(folder.join(format!("{i}.png")), &pixels, width, height, colour).unwrap();
    }
}

/// Asserts that a command ends with this exit status, prints nothing on standard output, and on standard error one line
/// `error: …` (after warnings, if any) with all of `words` in it; gives that line. Nothing may look like a crash.
#[track_caller]
pub fn fails(mut command: Command, status: i32, words: &[&str]) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{error}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{error}");
    for word in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
        assert!(!error.contains(word), "{error}");
    }
    let lines: Vec<&str> = error.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(lines.len(), 1, "{error}");
    assert_eq!(error.lines().last(), Some(lines[0]), "the error is the last line: {error}");
    for word in words {
        assert!(lines[0].contains(word), "`{word}` is not in: {error}");
    }
    lines[0].to_owned()
}

/// Asserts that clap finds a mistake in the arguments: exit status 2, nothing on standard output, and on standard error a
/// message that begins with `error:` and has all of `words` in it.
#[track_caller]
pub fn mistaken(mut command: Command, words: &[&str]) {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(2), &b""[..]), "{error}");
    assert!(error.starts_with("error: ") && !error.contains("panicked"), "{error}");
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

/// Standard output of a command that succeeds, which must be one JSON object and nothing else.
#[track_caller]
pub fn json(mut command: Command) -> serde_json::Value {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(value.is_object(), "{value}");
    value
}

/// The records of a run's `metrics.jsonl`.
pub fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
