//! What a job can be asked for, and the command line that does the same.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::api::Failure;

/// The most images of a job.
const MOST_IMAGES: usize = 64;
/// The most steps of a sampler.
const MOST_STEPS: usize = 4000;

/// A request for a job.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobRequest {
    /// Draw images.
    Generate(Generate),
    /// Fill in a part of an image.
    Inpaint(Inpaint),
    /// Mix two images.
    Interpolate(Interpolate),
    /// Find the noise of an image, and reconstruct it from that.
    Invert(Invert),
    /// Measure the variational bound.
    Bound(Bound),
    /// Train.
    Train(Train),
}

/// An image of a request.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum ImageRef {
    /// A file that was uploaded.
    Upload {
        /// Its number.
        upload: u64,
    },
    /// An image of an earlier job.
    Job {
        /// The job's number.
        job: u64,
        /// The image's number within the job.
        image: usize,
    },
    /// An image of the held-out set of the model's training data, or of the built-in images.
    Data {
        /// Its number.
        data: usize,
    },
}

/// Images from noise, or from an image.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Generate {
    /// The model's name.
    pub model: String,
    /// The number of images.
    pub n: usize,
    /// The seed.
    pub seed: u64,
    /// The number of the first image.
    pub first: u64,
    /// The sampler; the model's own if there is none.
    pub sampler: Option<String>,
    /// Its steps.
    pub steps: Option<usize>,
    /// Its grid of timesteps.
    pub grid: Option<String>,
    /// The scale of classifier-free guidance.
    pub guidance: Option<f64>,
    /// The first and last timestep of guidance.
    pub guidance_interval: Option<(f64, f64)>,
    /// The classes in turn.
    pub classes: Option<Vec<u32>>,
    /// An image to start from, noised to the timestep `at`.
    pub from: Option<ImageRef>,
    /// See `from`.
    pub at: Option<usize>,
    /// All images share their noise until x at this timestep: variations of one image.
    pub share_until: Option<f64>,
}

/// A part of an image from noise.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Inpaint {
    /// The model's name.
    pub model: String,
    /// The image.
    pub image: ImageRef,
    /// A character for each pixel, row by row: `1` for those that are made, `0` for those that are kept.
    pub mask: String,
    /// The number of variants.
    #[serde(default = "one")]
    pub n: usize,
    /// The seed.
    #[serde(default)]
    pub seed: u64,
    /// The steps of `ddpm`; all timesteps if there are none.
    pub steps: Option<usize>,
    /// How often each step is taken (RePaint).
    #[serde(default = "one")]
    pub resample: usize,
    /// The class.
    pub class: Option<u32>,
}

/// Mixtures of two images.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Interpolate {
    /// The model's name.
    pub model: String,
    /// The images at the ends.
    pub ends: [ImageRef; 2],
    /// The timestep to which they are noised.
    pub at: usize,
    /// The number of mixtures, both ends included.
    #[serde(default = "frames")]
    pub frames: usize,
    /// The steps of `ddim`.
    #[serde(default = "edit_steps")]
    pub steps: usize,
    /// The seed.
    #[serde(default)]
    pub seed: u64,
    /// The class.
    pub class: Option<u32>,
}

/// The DDIM latent of an image.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Invert {
    /// The model's name.
    pub model: String,
    /// The image.
    pub image: ImageRef,
    /// The steps each way.
    #[serde(default = "edit_steps")]
    pub steps: usize,
    /// The class.
    pub class: Option<u32>,
}

/// The variational bound of held-out images.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The model's name.
    pub model: String,
    /// The number of held-out images.
    #[serde(default = "bound_images")]
    pub n: usize,
    /// The steps of the chain, evenly spaced.
    #[serde(default = "bound_steps")]
    pub steps: usize,
    /// The seed.
    #[serde(default)]
    pub seed: u64,
    /// The image that is shown at each term; the first of the held-out ones if there is none.
    pub image: Option<ImageRef>,
}

/// A training run.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The run's folder, below that of the studio.
    pub run: String,
    /// The preset of a new run; the default one, fitted to the images of `data`, if there is none.
    pub preset: Option<String>,
    /// The images, below the studio's folder; those of the preset if there are none.
    pub data: Option<String>,
    /// Whether the run that is there continues, with its own configuration.
    #[serde(default)]
    pub resume: bool,
    /// Keys to set: `train.steps=500`.
    #[serde(default)]
    pub set: Vec<String>,
}

fn one() -> usize {
    1
}

fn frames() -> usize {
    9
}

fn edit_steps() -> usize {
    50
}

fn bound_images() -> usize {
    16
}

fn bound_steps() -> usize {
    100
}

impl Train {
    /// Returns the preset of a new run.
    pub fn preset(&self) -> &str {
        self.preset.as_deref().unwrap_or(ddpm::train::config::DEFAULT_PRESET)
    }

    /// Returns the keys that it sets.
    pub fn keys(&self) -> Vec<String> {
        self.set.iter().filter_map(|set| set.split_once('=')).map(|(key, _)| key.trim().to_owned()).collect()
    }
}

impl JobRequest {
    /// Checks what does not depend on the model.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), Failure> {
        let between = |name: &str, value: usize, most: usize| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err(Failure::new(StatusCode::BAD_REQUEST, format!("`{name}` is {value}; expected 1 to {most}"))),
        };
        match self {
            Self::Generate(request) => {
                between("n", request.n, MOST_IMAGES)?;
                request.steps.map_or(Ok(()), |steps| between("steps", steps, MOST_STEPS))?;
                if let Some((from, to)) = request.guidance_interval.filter(|(from, to)| from > to) {
                    let message = format!("guidance is from t = {from} to t = {to}; expected the lower one first");
                    return Err(Failure::new(StatusCode::BAD_REQUEST, message));
                }
                match (&request.from, request.at) {
                    (Some(_), None) => Err(Failure::new(StatusCode::BAD_REQUEST, "`from` needs the timestep `at`")),
                    (None, Some(_)) => Err(Failure::new(StatusCode::BAD_REQUEST, "`at` is for `from`")),
                    _ => Ok(()),
                }
            }
            Self::Inpaint(request) => {
                between("n", request.n, MOST_IMAGES)?;
                between("resample", request.resample, 100)?;
                request.steps.map_or(Ok(()), |steps| between("steps", steps, MOST_STEPS))
            }
            Self::Interpolate(request) => {
                between("frames", request.frames, MOST_IMAGES)?;
                between("steps", request.steps, MOST_STEPS)
            }
            Self::Invert(request) => between("steps", request.steps, MOST_STEPS),
            Self::Bound(request) => {
                between("n", request.n, MOST_IMAGES)?;
                between("steps", request.steps, MOST_STEPS)
            }
            Self::Train(request) if request.resume && request.preset.is_some() => {
                let message = "a run continues with its own configuration: leave out `preset`, or `resume`";
                Err(Failure::new(StatusCode::BAD_REQUEST, message))
            }
            Self::Train(_) => Ok(()),
        }
    }

    /// Returns the command line that does the same. Images that are not files yet have a name to save them under.
    pub fn command(&self) -> String {
        let mut words = vec!["ddpm".to_owned()];
        let mut add = |more: &[&str]| words.extend(more.iter().map(|word| quoted(word)));
        let option = |name: &'static str, value: Option<String>| value.map(|value| [name.to_owned(), value]);
        let options: Vec<Option<[String; 2]>> = match self {
            Self::Generate(r) => {
                add(&["sample", &r.model, "-n", &r.n.to_string(), "--seed", &r.seed.to_string()]);
                let classes =
                    r.classes.as_ref().map(|all| all.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
                vec![
                    option("--first", (r.first > 0).then(|| r.first.to_string())),
                    option("--sampler", r.sampler.clone()),
                    option("--steps", r.steps.map(|steps| steps.to_string())),
                    option("--grid", r.grid.clone()),
                    option("--guidance", r.guidance.map(|scale| scale.to_string())),
                    option("--guidance-interval", r.guidance_interval.map(|(from, to)| format!("{from},{to}"))),
                    option("--labels", classes),
                    option("--from", r.from.as_ref().map(|_| "image.png".to_owned())),
                    option("--at", r.at.map(|t| t.to_string())),
                    option("--share-until", r.share_until.map(|t| t.to_string())),
                    option("-o", Some("grid.png".to_owned())),
                ]
            }
            Self::Inpaint(r) => {
                add(&["inpaint", &r.model, "image.png", "mask.png", "-n", &r.n.to_string()]);
                vec![
                    option("--seed", Some(r.seed.to_string())),
                    option("--steps", r.steps.map(|steps| steps.to_string())),
                    option("--resample", (r.resample > 1).then(|| r.resample.to_string())),
                    option("--label", r.class.map(|class| class.to_string())),
                    option("-o", Some("filled.png".to_owned())),
                ]
            }
            Self::Interpolate(r) => {
                add(&["interpolate", &r.model, "a.png", "b.png", "--at", &r.at.to_string()]);
                vec![
                    option("--between", Some(r.frames.to_string())),
                    option("--steps", Some(r.steps.to_string())),
                    option("--seed", Some(r.seed.to_string())),
                    option("--label", r.class.map(|class| class.to_string())),
                    option("-o", Some("mixtures.png".to_owned())),
                ]
            }
            Self::Invert(r) => {
                add(&["invert", &r.model, "image.png"]);
                vec![
                    option("--steps", Some(r.steps.to_string())),
                    option("--label", r.class.map(|class| class.to_string())),
                    option("-o", Some("latents.safetensors".to_owned())),
                ]
            }
            Self::Bound(r) => {
                add(&[
                    "evaluate",
                    &r.model,
                    "--metrics",
                    "nll",
                    "-n",
                    &r.n.to_string(),
                    "--steps",
                    &r.steps.to_string(),
                ]);
                vec![
                    option("--seed", Some(r.seed.to_string())),
                    option("--plot", Some("rate-distortion.png".to_owned())),
                ]
            }
            Self::Train(r) => {
                add(&["train"]);
                if let Some(preset) = &r.preset {
                    add(&["--preset", preset]);
                }
                if let Some(data) = &r.data {
                    add(&["--data", data]);
                }
                add(&["-o", &r.run]);
                if r.resume {
                    add(&["--resume"]);
                }
                r.set.iter().map(|set| option("--set", Some(set.clone()))).collect()
            }
        };
        for [name, value] in options.into_iter().flatten() {
            add(&[&name, &value]);
        }
        words.join(" ")
    }
}

/// Quotes a word for the shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./=+:,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<JobRequest, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn requests_are_checked_and_have_a_command() {
        let request = parsed(
            r#"{"kind": "generate", "model": "my runs/a", "n": 4, "seed": 7, "sampler": "dpmpp-2m", "steps": 20, "classes": [1, 3]}"#,
        )
        .unwrap();
        request.check().unwrap();
        let command = "ddpm sample 'my runs/a' -n 4 --seed 7 --sampler dpmpp-2m --steps 20 --labels 1,3 -o grid.png";
        assert_eq!(request.command(), command);
        let request = parsed(r#"{"kind": "bound", "model": "m", "n": 2}"#).unwrap();
        let command = "ddpm evaluate m --metrics nll -n 2 --steps 100 --seed 0 --plot rate-distortion.png";
        assert_eq!(request.command(), command);
        let request = parsed(r#"{"kind": "train", "run": "runs/x", "set": ["train.steps=5"]}"#).unwrap();
        assert_eq!(request.command(), "ddpm train -o runs/x --set train.steps=5");
        let request =
            parsed(r#"{"kind": "train", "run": "runs/x", "preset": "emoji32", "data": "my images"}"#).unwrap();
        assert_eq!(request.command(), "ddpm train --preset emoji32 --data 'my images' -o runs/x");
        let request =
            parsed(r#"{"kind": "train", "run": "runs/x", "resume": true, "set": ["train.steps=9"]}"#).unwrap();
        assert_eq!(request.command(), "ddpm train -o runs/x --resume --set train.steps=9");
        for (text, expected) in [
            (r#"{"kind": "generate", "model": "m", "n": 4, "sed": 7}"#, "unknown field `sed`"),
            (r#"{"kind": "draw"}"#, "unknown variant `draw`"),
            (r#"{"kind": "inpaint", "model": "m", "image": {"file": "/etc/passwd"}, "mask": ""}"#, "did not match"),
            (r#"{"kind": "generate", "model": "m", "n": -1}"#, "-1"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        for text in [
            r#"{"kind": "generate", "model": "m", "n": 0}"#,
            r#"{"kind": "generate", "model": "m", "n": 65}"#,
            r#"{"kind": "generate", "model": "m", "n": 1, "steps": 1000000}"#,
            r#"{"kind": "generate", "model": "m", "n": 1, "at": 5}"#,
            r#"{"kind": "invert", "model": "m", "image": {"upload": 1}, "steps": 0}"#,
            r#"{"kind": "generate", "model": "m", "n": 1, "guidance_interval": [900, 100]}"#,
            r#"{"kind": "train", "run": "x", "preset": "fashion", "resume": true}"#,
        ] {
            assert_eq!(parsed(text).unwrap().check().unwrap_err().status, StatusCode::BAD_REQUEST, "{text}");
        }
    }
}
