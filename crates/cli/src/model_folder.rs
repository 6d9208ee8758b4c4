//! The kind of a folder of models: a run, a folder of runs, or what diffusers' training script left.

use std::path::{Path, PathBuf};

use anyhow::Context;
use ddpm::train::TrainingConfig;
use ddpm::weights::pipeline;
use serde_json::{Map, Value};

/// Lines that describe a folder: a label and a text.
pub type Lines = Vec<(&'static str, String)>;

/// Describes a folder of models; `None` for others.
///
/// # Errors
/// If a file in it cannot be read.
pub fn describe(path: &Path) -> anyhow::Result<Option<Lines>> {
    if is_run(path) {
        return run(path).map(Some);
    }
    let inside = entries(path);
    let runs: Vec<&PathBuf> = inside.iter().filter(|path| is_run(path)).collect();
    if !runs.is_empty() && runs.len() == inside.len() {
        let described = runs.iter().map(|run| Ok(format!("{} ({})", run.display(), progress(run)?)));
        return Ok(Some(vec![("runs", described.collect::<anyhow::Result<Vec<_>>>()?.join(", "))]));
    }
    Ok(diffusers_training(path, &inside))
}

/// Returns the lines as a JSON object.
pub fn to_json(lines: &Lines) -> Value {
    lines.iter().map(|(label, text)| ((*label).to_owned(), Value::from(&**text))).collect::<Map<_, _>>().into()
}

/// Prints the lines.
pub fn print(lines: &Lines) {
    for (label, text) in lines {
        println!("{:11} {text}", format!("{label}:"));
    }
}

fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file() && (path.join("checkpoints").is_dir() || path.join("metrics.jsonl").is_file())
}

fn run(path: &Path) -> anyhow::Result<Lines> {
    let config = TrainingConfig::from_file(&path.join("config.toml"))?;
    let (height, width) = config.data.resolution.height_width();
    let data = config.data.path.map_or("the built-in images".to_owned(), |path| path.display().to_string());
    let mut lines = vec![
        ("run", path.display().to_string()),
        ("data", format!("{data}, as {height}x{width}x{}", config.data.channels)),
        ("progress", progress(path)?),
    ];
    let folder = path.join("checkpoints");
    let names: Vec<String> = steps(&folder)?.iter().map(|step| format!("{step:09}")).collect();
    if !names.is_empty() {
        let best =
            std::fs::symlink_metadata(folder.join("best")).is_ok().then(|| ddpm::files::read_text(folder.join("best")));
        let best = best.transpose().with_context(|| format!("cannot read {}", folder.join("best").display()))?;
        let best = best.map_or(String::new(), |name| format!("; best {}", name.trim()));
        lines.push(("checkpoints", format!("{}{best}", names.join(", "))));
    }
    Ok(lines)
}

/// Returns how far a run is.
fn progress(run: &Path) -> anyhow::Result<String> {
    let planned = TrainingConfig::from_file(&run.join("config.toml"))?.train.steps;
    Ok(match steps(&run.join("checkpoints"))?.last() {
        Some(step) => format!("step {step} of {planned}"),
        None => format!("no checkpoint yet, {planned} steps planned"),
    })
}

/// Returns the steps of a run's checkpoints.
fn steps(checkpoints: &Path) -> anyhow::Result<Vec<u64>> {
    if !checkpoints.is_dir() {
        return Ok(Vec::new());
    }
    Ok(pipeline::checkpoints(checkpoints)?.into_iter().map(|(step, _)| step).collect())
}

/// Describes a training checkpoint of diffusers, or a folder of them.
fn diffusers_training(path: &Path, inside: &[PathBuf]) -> Option<Lines> {
    /// The parts of a training checkpoint, and what they are.
    const PARTS: [(&str, &str); 6] = [
        ("unet", "weights of the last step"),
        ("unet_ema", "averaged weights"),
        ("optimizer.bin", "state of the optimizer"),
        ("scheduler.bin", "state of the learning rate"),
        ("scaler.pt", "state of the loss scale"),
        ("random_states_0.pkl", "random numbers"),
    ];
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut lines = Vec::new();
    let marks = ["unet_ema", "optimizer.bin", "random_states_0.pkl"];
    if marks.iter().any(|mark| path.join(mark).exists()) {
        let step = name(path).strip_prefix("checkpoint-").map_or(String::new(), |step| format!(", step {step}"));
        lines.push(("folder", format!("a training checkpoint of diffusers{step}")));
        let parts = PARTS.iter().filter(|(part, _)| path.join(part).exists());
        let parts: Vec<String> =
            parts.map(|(part, what)| format!("{part} ({what}{})", averages(&path.join(part)))).collect();
        lines.push(("contents", parts.join(", ")));
    }
    let mut steps: Vec<u64> =
        inside.iter().filter_map(|path| name(path).strip_prefix("checkpoint-")?.parse().ok()).collect();
    steps.sort_unstable();
    if !steps.is_empty() {
        let steps: Vec<String> = steps.iter().map(|step| format!("checkpoint-{step}")).collect();
        lines.push(("folder", "the output of a training script of diffusers".to_owned()));
        lines.push(("checkpoints", steps.join(", ")));
    }
    (!lines.is_empty()).then_some(lines)
}

/// Returns what the configuration of averaged weights says about the averages.
fn averages(folder: &Path) -> String {
    let text = ddpm::files::read_json_text(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    match (config["decay"].as_f64(), config["optimization_step"].as_u64()) {
        (Some(decay), Some(step)) => format!(": decay up to {decay}, {step} steps"),
        _ => String::new(),
    }
}

/// Returns the paths in a folder, sorted; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
