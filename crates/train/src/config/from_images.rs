//! Keys of a configuration that does not state them, by the images.

use data::{ReadOptions, ReadReport, Split};

use super::*;
use crate::Error;

/// The largest side that the default network is meant for.
const LARGEST: usize = 64;
/// Sides are multiples of this, if the network does not need larger ones.
const MULTIPLE: usize = 8;

impl TrainingConfig {
    /// Sets `data.resolution`, `data.channels`, `data.fit` and `data.labels` by the images, but none of the keys in
    /// `given`; and `model.attention_resolutions`, if no level of the network has the configured height. Returns the keys
    /// as assignments.
    ///
    /// - Images of one size of up to 64 pixels keep it, padded to multiples of 8 (28x28 to 32x32). Others are scaled and
    ///   cropped to squares of up to 64x64.
    /// - There are three channels if any image is in color, else one.
    /// - `data.labels` is false, with what depends on it ([`without_labels`](Self::without_labels)): the subfolders of
    ///   somebody's images need not be classes.
    ///
    /// # Errors
    /// If the images cannot be read.
    pub fn fit_to_images(&mut self, given: &[String]) -> Result<Vec<String>, Error> {
        if self.model.is_of_points() {
            return self.fit_to_points(given);
        }
        let is_given = |key: &str| given.iter().any(|given| given == key);
        if ["data.resolution", "data.channels", "data.fit", "model.attention_resolutions"].into_iter().all(is_given) {
            return Ok(self.unlabelled(given).into_iter().collect());
        }
        let report = self.probe()?;
        let mut chosen = Vec::new();
        if !is_given("data.resolution") {
            self.data.resolution = self.resolution_for(&report);
            chosen.push(format!("data.resolution={}", shown(self.data.resolution)));
        }
        if !is_given("data.channels") {
            self.data.channels = if report.channels.keys().any(|&channels| channels > 2) { 3 } else { 1 };
            chosen.push(format!("data.channels={}", self.data.channels));
        }
        let SampleSize { height, width } = self.data.resolution;
        if !is_given("data.fit") {
            // A border is better than enlarged images, unless it would be most of the picture.
            let in_border =
                |&(h, w): &(usize, usize)| (height / 2..=height).contains(&h) && (width / 2..=width).contains(&w);
            let needs_none = report.sizes.keys().all(|&size| size == (height, width));
            let is_padded = report.sizes.keys().all(in_border) && !(needs_none && self.data.channels > 1);
            self.data.fit = if is_padded { Fit::Pad } else { Fit::Crop };
            chosen.push(format!("data.fit={}", if self.data.fit == Fit::Pad { "pad" } else { "crop" }));
        }
        let heights: Vec<usize> = (0..self.model.levels()).map(|level| height >> level).collect();
        if let Model::Unet2d(UnetKeys { attention_resolutions: attention, .. }) = &mut self.model
            && let Some(&last) = heights.last().filter(|_| !is_given("model.attention_resolutions"))
            && attention.iter().any(|height| !heights.contains(height))
            && height <= LARGEST
        {
            *attention = vec![last];
            chosen.push(format!("model.attention_resolutions=[{last}]"));
        }
        chosen.extend(self.unlabelled(given));
        Ok(chosen)
    }

    /// Sets `data.channels` by the points, `data.standardize` to true and `data.labels` to false, but none of the keys in `given`.
    fn fit_to_points(&mut self, given: &[String]) -> Result<Vec<String>, Error> {
        let mut chosen = Vec::new();
        if !given.iter().any(|key| key == "data.channels") {
            self.data.channels = self.dataset().open(&self.read_options(Split::Train))?.channels();
            chosen.push(format!("data.channels={}", self.data.channels));
        }
        if !given.iter().any(|key| key == "data.standardize") {
            self.data.standardize = true;
            chosen.push("data.standardize=true".to_owned());
        }
        chosen.extend(self.unlabelled(given));
        Ok(chosen)
    }

    /// Sets what neither the user, who states the keys in `given`, nor a preset decides: what depends on `data.labels=false`
    /// ([`without_labels`](Self::without_labels)) and, without a preset, what depends on the images
    /// ([`fit_to_images`](Self::fit_to_images)). Returns the keys that the images decide as assignments.
    ///
    /// # Errors
    /// If the images cannot be read.
    pub fn decide_rest(&mut self, given: &[String], is_preset: bool) -> Result<Vec<String>, Error> {
        if !self.data.labels {
            self.without_labels(given);
        }
        // The preset of a distribution of points knows nothing about those of a file.
        if self.model.is_of_points() && self.data.path.is_some() {
            return self.fit_to_points(given);
        }
        if is_preset || self.data.path.is_none() { Ok(Vec::new()) } else { self.fit_to_images(given) }
    }

    /// Sets `data.labels` to false, unless it is in `given`.
    fn unlabelled(&mut self, given: &[String]) -> Option<String> {
        let chosen = self.data.labels && !given.iter().any(|key| key == "data.labels");
        chosen.then(|| {
            self.without_labels(given);
            "data.labels=false".to_owned()
        })
    }

    /// Makes the network unconditional: no labels, and no dropped labels and no guidance either, unless these keys are in
    /// `given`; [`validate`](Self::validate) then says that they need labels.
    pub fn without_labels(&mut self, given: &[String]) {
        let is_given = |key: &str| given.iter().any(|given| given == key);
        self.data.labels = false;
        if !is_given("train.label_dropout") {
            self.train.label_dropout = 0.0;
        }
        if !is_given("sample.guidance") {
            self.sample.guidance = 1.0;
        }
    }

    /// Reads the headers of the images. The sizes are those after the crop.
    fn probe(&self) -> Result<ReadReport, Error> {
        // Sizes may differ, and no pixel is needed.
        let any = ReadOptions { resolution: Some((1, 1)), channels: None, ..self.read_options(Split::Train) };
        let set = match self.dataset().open(&ReadOptions { memory_limit_bytes: 0, ..any.clone() }) {
            // A compressed archive is unpacked in memory.
            Err(data::Error::TooLarge { .. }) => self.dataset().open(&any)?,
            set => set?,
        };
        let mut report = set.report().clone();
        if let Some(crop) = self.data.crop {
            report.sizes = [((crop.height, crop.width), set.len())].into();
        }
        Ok(report)
    }

    fn resolution_for(&self, report: &ReadReport) -> SampleSize {
        let levels = self.model.levels() as u32;
        let multiple = MULTIPLE.max(1usize.checked_shl(levels.saturating_sub(1)).unwrap_or(MULTIPLE));
        let sizes = &report.sizes;
        if let (1, Some(&(height, width))) = (sizes.len(), sizes.keys().next())
            && height.max(width) <= LARGEST
        {
            let [height, width] = [height, width].map(|side| side.next_multiple_of(multiple));
            return SampleSize { height, width };
        }
        let side = (median_side(report).min(LARGEST) / multiple).max(1) * multiple;
        SampleSize { height: side, width: side }
    }
}

/// Returns the median of the images' shorter sides.
fn median_side(report: &ReadReport) -> usize {
    let mut sides: Vec<(usize, usize)> = report.sizes.iter().map(|(&(h, w), &count)| (h.min(w), count)).collect();
    sides.sort_unstable();
    let half = sides.iter().map(|(_, count)| count).sum::<usize>() / 2;
    let mut before = 0;
    let median = sides.iter().find(|(_, count)| {
        before += count;
        before > half
    });
    median.map_or(LARGEST, |&(side, _)| side)
}

fn shown(SampleSize { height, width }: SampleSize) -> String {
    if height == width { height.to_string() } else { format!("[{height}, {width}]") }
}

/// Returns the keys that a configuration file states, as `section.name`, and whether it names a preset for the others.
///
/// # Errors
/// As [`TrainingConfig::from_file`].
pub fn stated_keys(path: &Path) -> Result<(Vec<String>, bool), ConfigError> {
    let text = files::read_text_up_to(path, files::MAX_TOML)
        .map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
    let table = table_of(&text)?;
    let names = |(section, values): (&String, &Value)| -> Vec<String> {
        values.as_table().into_iter().flatten().map(|(name, _)| format!("{section}.{name}")).collect()
    };
    Ok((table.iter().flat_map(names).collect(), table.contains_key("preset")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the resolution for images of these sizes.
    fn resolution(sizes: &[[usize; 2]]) -> String {
        let sizes = sizes.iter().map(|&[h, w]| ((h, w), 2)).collect();
        let report = ReadReport { sizes, ..ReadReport::default() };
        let config = TrainingConfig::preset(DEFAULT_PRESET).unwrap();
        let SampleSize { height, width } = config.resolution_for(&report);
        format!("{height}x{width}")
    }

    #[test]
    fn small_images_keep_their_size_and_large_ones_are_cropped() {
        assert_eq!(resolution(&[[28, 28]]), "32x32");
        assert_eq!(resolution(&[[32, 32]]), "32x32");
        assert_eq!(resolution(&[[48, 64]]), "48x64");
        assert_eq!(resolution(&[[30, 20]]), "32x24");
        assert_eq!(resolution(&[[500, 400]]), "64x64");
        assert_eq!(resolution(&[[500, 400], [40, 50], [41, 50]]), "40x40");
        assert_eq!(resolution(&[[3, 3], [4, 4]]), "8x8");
    }

    #[test]
    fn keys_that_are_given_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("color.npz");
        let write = |shape: [usize; 4]| {
            let bytes = vec![9; shape.iter().product()];
            data::write_npz_images(fs::File::create(&path).unwrap(), &bytes, shape, None).unwrap();
        };
        let fitted = |given: &[&str], assignments: &[&str]| {
            let mut config = TrainingConfig::preset(DEFAULT_PRESET).unwrap();
            config.data.path = Some(path.clone());
            assignments.iter().for_each(|assignment| config.set(assignment).unwrap());
            let given: Vec<String> = given.iter().map(|&key| key.into()).collect();
            let chosen = config.fit_to_images(&given).unwrap().join(" ");
            config.validate().unwrap();
            chosen
        };
        write([2, 48, 64, 3]);
        let keys =
            "data.resolution=[48, 64] data.channels=3 data.fit=crop model.attention_resolutions=[12] data.labels=false";
        assert_eq!(fitted(&[], &[]), keys);
        assert_eq!(fitted(&["data.resolution", "data.channels", "data.labels"], &[]), "data.fit=crop");
        write([2, 28, 28, 1]);
        assert_eq!(fitted(&[], &[]), "data.resolution=32 data.channels=1 data.fit=pad data.labels=false");
    }

    #[test]
    fn a_file_states_its_keys_or_names_a_preset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        fs::write(&path, "[data]\nresolution = 16\n[train]\nsteps = 3\n").unwrap();
        assert_eq!(stated_keys(&path).unwrap(), (vec!["data.resolution".into(), "train.steps".into()], false));
        fs::write(&path, "preset = \"mnist\"\n").unwrap();
        assert_eq!(stated_keys(&path).unwrap(), (vec![], true));
    }
}
