//! The image preprocessing of a model. It is stored with the weights, so that evaluation uses the same pixels as
//! training.

use std::collections::BTreeMap;
use std::path::Path;

use data::{Background, CropBox, Fit, LabelFrom, PointOptions, PointScaling};
use serde::{Deserialize, Serialize};

use crate::{Error, LabelKind, Signature};

/// The name of the file in a pipeline's folder. diffusers ignores it.
pub const FILE: &str = "preprocessing.json";

/// Number of class names in an error message.
const SHOWN_CLASSES: usize = 20;

/// The preprocessing of images for a model, and the label that means "no class".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Height and width of the images.
    pub resolution: Option<[usize; 2]>,
    /// Number of channels.
    pub channels: Option<usize>,
    /// The part of each stored image that is read, if it is not the whole image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<CropBox>,
    /// The resizing of images with another size.
    pub fit: Fit,
    /// The label that means "no class", if the network was trained with label dropout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_label: Option<u32>,
    /// The class names by label, if the network was trained on labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub id2label: BTreeMap<u32, String>,
    /// The source of the labels.
    #[serde(default, skip_serializing_if = "is_default")]
    pub label_from: LabelFrom,
    /// The background of transparent images.
    #[serde(default, skip_serializing_if = "Background::is_white")]
    pub background: Background,
    /// The values of an array that become 0 and 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// The units in which a network of points takes its data. All of the above but the classes is about images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<PointScaling>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Preprocessing {
    /// Reads the preprocessing of a pipeline's folder.
    ///
    /// It is read from `preprocessing.json`, or, for older runs, from the nearest `config.toml` in a parent folder.
    /// Without either, images are cropped to the network's size.
    ///
    /// # Errors
    /// If the file exists but cannot be read.
    pub fn read(folder: &Path, network: &Signature) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let fail = |message: String| Error::Pipeline { path: path.clone(), message };
        let found = match files::read_text(&path) {
            Ok(text) => {
                let found: Self = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
                match &found.points {
                    Some(points) => points.check().map_err(fail)?,
                    None => found.read_options().check().map_err(|error| fail(error.to_string()))?,
                }
                found
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Self::of_run(folder, network).unwrap_or_default()
            }
            Err(error) => return Err(fail(format!("cannot be read: {error}"))),
        };
        Ok(Self {
            resolution: found.resolution.or(network.size),
            channels: found.channels.or(Some(network.in_channels)),
            ..found
        })
    }

    /// Derives it from the configuration of the run, for a checkpoint folder `RUN/checkpoints/STEP`.
    fn of_run(folder: &Path, network: &Signature) -> Option<Self> {
        /// The relevant keys of `config.toml`.
        #[derive(Deserialize)]
        struct Run {
            data: Data,
            train: Train,
        }
        #[derive(Deserialize)]
        struct Data {
            crop: Option<CropBox>,
            fit: Fit,
        }
        #[derive(Deserialize)]
        struct Train {
            label_dropout: f64,
        }
        let folder = std::fs::canonicalize(folder).ok()?;
        let run: Run = folder.ancestors().take(4).find_map(|folder| {
            let text = files::read_text_up_to(folder.join("config.toml"), files::MAX_TOML).ok()?;
            toml::from_str(&text).ok()
        })?;
        let null_label = match network.labels {
            LabelKind::Classes(rows) => Some(rows as u32 - 1),
            LabelKind::OptionalClass(classes) => Some(classes as u32),
            LabelKind::None | LabelKind::AnyClass | LabelKind::Vectors(_) => None,
        };
        let null_label = null_label.filter(|_| run.train.label_dropout > 0.0);
        let Data { crop, fit } = run.data;
        Some(Self { crop, fit: fit.deterministic(), null_label, ..Self::default() })
    }

    /// Returns the options for reading a set's images.
    pub fn read_options(&self) -> data::ReadOptions {
        data::ReadOptions {
            resolution: self.resolution.map(Into::into),
            channels: self.channels,
            crop: self.crop,
            fit: self.fit,
            background: self.background.0,
            label_from: self.label_from.clone(),
            range: self.range,
            points: self.points.clone().map(PointOptions::Scaled),
            ..data::ReadOptions::default()
        }
    }

    /// Returns the class names by label, or an empty list if some are not known.
    pub fn class_names(&self) -> Vec<String> {
        let is_complete = self.id2label.keys().copied().eq(0..self.id2label.len() as u32);
        if is_complete { self.id2label.values().cloned().collect() } else { Vec::new() }
    }

    /// Returns the label of a class, given as its name or its label. `label:N` and `name:NAME` are one of the two only.
    ///
    /// # Errors
    /// If there is no class of this name; the error lists all, the nearest first. If a number is the label of one class and
    /// the name of another.
    pub fn label(&self, class: &str) -> Result<u32, Error> {
        let named = |name: &str| self.id2label.iter().find(|(_, known)| *known == name).map(|(&label, _)| label);
        let unknown = || Error::Input(self.unknown_class(class));
        if let Some(name) = class.strip_prefix("name:") {
            return named(name).ok_or_else(unknown);
        }
        if let Some(label) = class.strip_prefix("label:") {
            return label.parse().map_err(|_| unknown());
        }
        match (class.parse(), named(class)) {
            (Ok(label), Some(other)) if label != other && self.is_label(label) => Err(Error::Input(format!(
                "the class {class} can be the one with this name, whose label is {other}, or the one with this label; write \
                 name:{class} or label:{class}"
            ))),
            (_, Some(label)) => Ok(label),
            // Where all classes have names, others are none.
            (Ok(label), None) if self.class_names().is_empty() || self.is_label(label) => Ok(label),
            _ => Err(unknown()),
        }
    }

    fn is_label(&self, label: u32) -> bool {
        self.id2label.contains_key(&label) || self.null_label == Some(label)
    }

    fn unknown_class(&self, class: &str) -> String {
        if self.id2label.is_empty() {
            return format!(
                "unknown class {class:?}: the model has no class names; expected the label of a class, a number"
            );
        }
        let lower = class.to_lowercase();
        let mut known: Vec<&String> = self.id2label.values().collect();
        known.sort_by_key(|name| strsim::damerau_levenshtein(&lower, &name.to_lowercase()));
        let more = known.len().saturating_sub(SHOWN_CLASSES);
        let known: Vec<String> =
            known.into_iter().take(SHOWN_CLASSES).map(|name| name.escape_debug().to_string()).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("unknown class {class:?}; the classes are {}{more} (nearest first), or their labels", known.join(", "))
    }

    /// Returns the text of `preprocessing.json`.
    pub(crate) fn to_json(&self) -> String {
        format!("{:#}\n", serde_json::json!(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_found_by_name_or_label() {
        let names = ["jay", "10", "0", "owl"].map(str::to_owned);
        let known = Preprocessing { id2label: (0..).zip(names).collect(), null_label: Some(4), ..Default::default() };
        let label = |class: &str| known.label(class).map_err(|error| error.to_string());
        // There is no label 10, so this is the name.
        for (class, expected) in [("owl", 3), ("3", 3), ("10", 1), ("4", 4), ("name:0", 2), ("label:0", 0)] {
            assert_eq!(label(class), Ok(expected), "{class}");
        }
        let ambiguous = label("0").unwrap_err();
        assert!(ambiguous.contains("name:0") && ambiguous.contains("label:0"), "{ambiguous}");
        for wrong in ["7", "Jai", "name:jai", "label:jay", "-1", ""] {
            assert!(label(wrong).unwrap_err().contains("unknown class"), "{wrong}");
        }
        assert!(label("Jai").unwrap_err().contains("the classes are jay, "));
        let unnamed = Preprocessing::default();
        assert_eq!(unnamed.label("3").unwrap(), 3);
        assert!(unnamed.label("owl").unwrap_err().to_string().contains("no class names"));
        assert_eq!(known.class_names(), ["jay", "10", "0", "owl"]);
    }

    /// A file without the newer keys is read, and they are not written where they say nothing.
    #[test]
    fn older_files_are_read_and_written_as_they_were() {
        let old = r#"{"resolution":[8,8],"channels":1,"fit":"crop","null_label":3}"#;
        let read: Preprocessing = serde_json::from_str(old).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
        let background = Background([1, 2, 3]);
        let (crop, label_from) = (Some([25, 50, 128, 128].into()), LabelFrom::FileName);
        let new = Preprocessing { background, range: Some([-1.0, 1.0]), crop, label_from, ..read };
        assert_eq!(serde_json::from_str::<Preprocessing>(&new.to_json()).unwrap(), new);
        assert!(serde_json::to_string(&new).unwrap().contains(r#""crop":[25,50,128,128]"#));
        assert_eq!(new.read_options().crop, crop);
    }
}
