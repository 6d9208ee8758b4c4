use crate::crop_box::CropBox;
use crate::options::{Fit, ReadOptions, Split};
use crate::set::ImageSet;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// A description of how a set was read: its name, part, number of images, and how they were fitted.
///
/// ```
/// use ddpm_data::{Fit, Reading, ReadOptions, Split};
/// let options = ReadOptions { resolution: Some((32, 32)), fit: Fit::Pad, split: Split::Test, ..Default::default() };
/// let reading = Reading::new(&ddpm_data::builtin(&options)?, &options).first(128);
/// let text = "fashion-mnist (held-out part), 128 of 1,000 images, 28x28 grey padded to 32x32";
/// assert_eq!(reading.to_string(), text);
/// # Ok::<(), ddpm_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reading {
    /// The name of the set.
    pub set: String,
    /// The part of the set.
    pub part: Part,
    /// The number of images that are used: the first ones.
    pub images: usize,
    /// The number of images of the part.
    pub of: usize,
    /// The number of classes, 0 without labels.
    pub classes: usize,
    /// Height and width of the images before the crop and fitting, if all have the same.
    pub source_size: Option<[usize; 2]>,
    /// Channels of the images before conversion: 1 (grey), 2 (grey and alpha), 3 (RGB) and 4 (RGBA).
    pub source_channels: Vec<usize>,
    /// The part of each image that is read, if it is not the whole image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<CropBox>,
    /// The height after fitting.
    pub height: usize,
    /// The width after fitting.
    pub width: usize,
    /// The number of channels after conversion.
    pub channels: usize,
    /// The method of fitting.
    pub fit: Fit,
    /// Whether points are taken as they are or standardized, if the set has points, of `channels` dimensions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub points: Option<PointUnits>,
    /// The number of images by (height, width), after the crop and before fitting.
    #[serde(skip)]
    sizes: BTreeMap<(usize, usize), usize>,
    /// The number of images by channels, before conversion.
    #[serde(skip)]
    kinds: BTreeMap<usize, usize>,
}

/// The units in which a network takes points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointUnits {
    /// Those of the data.
    AsIs,
    /// Deviations from the mean of each dimension.
    Standardized,
}

/// A part of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The training part, or all of a set without parts.
    Training,
    /// The held-out part.
    HeldOut,
    /// All images, because the set has no held-out part.
    Whole,
    /// All images of a set in which parts have no meaning, such as samples.
    All,
}

/// A conversion that changes more than the frame of images. [`Reading::conversions`] lists those of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// Color images become grey.
    ToGrey,
    /// Grey images get three equal channels.
    ToColor,
    /// Transparent images are composited over the background.
    ToOpaque,
    /// Images are shrunk to less than half of their height and width.
    Shrunk,
    /// Images are enlarged.
    Enlarged,
}

impl Reading {
    /// Describes a set that was opened with these options.
    pub fn new(set: &ImageSet, options: &ReadOptions) -> Self {
        let report = set.report();
        let mut sizes = report.sizes.keys();
        let of_crop = |crop: CropBox| BTreeMap::from([((crop.height, crop.width), set.len())]);
        Self {
            set: set.name().to_owned(),
            part: match options.split {
                Split::Train => Part::Training,
                Split::Test => Part::HeldOut,
            },
            images: set.len(),
            of: set.len(),
            classes: set.class_names().len(),
            source_size: sizes.next().filter(|_| report.sizes.len() == 1).map(|&(height, width)| [height, width]),
            source_channels: report.channels.keys().copied().collect(),
            crop: options.crop,
            height: set.height(),
            width: set.width(),
            channels: set.channels(),
            fit: options.fit,
            points: set.points().map(|scaling| match scaling.is_identity() {
                true => PointUnits::AsIs,
                false => PointUnits::Standardized,
            }),
            sizes: options.crop.map_or_else(|| report.sizes.clone(), of_crop),
            kinds: report.channels.clone(),
        }
    }

    /// Returns the description if only the first `n` images are used.
    pub fn first(self, n: usize) -> Self {
        Self { images: self.images.min(n), ..self }
    }

    /// Returns the description for another part.
    pub fn part(self, part: Part) -> Self {
        Self { part, ..self }
    }

    /// Returns the conversions that lose or invent information, each with the number of images that it changes.
    pub fn conversions(&self) -> Vec<(Conversion, usize)> {
        let kinds = |wanted: &dyn Fn(usize) -> bool| -> usize {
            self.kinds.iter().filter(|&(&kind, _)| wanted(kind)).map(|(_, count)| count).sum()
        };
        let scaled = |wanted: &dyn Fn(f64) -> bool| -> usize {
            self.sizes.iter().filter(|&(&size, _)| wanted(self.scale(size))).map(|(_, count)| count).sum()
        };
        let found = [
            (Conversion::ToGrey, kinds(&|kind| self.channels == 1 && kind > 2)),
            (Conversion::ToColor, kinds(&|kind| self.channels > 2 && kind <= 2)),
            (Conversion::ToOpaque, kinds(&|kind| self.channels != 4 && kind.is_multiple_of(2))),
            (Conversion::Shrunk, scaled(&|scale| scale < 0.5)),
            (Conversion::Enlarged, scaled(&|scale| scale > 1.0)),
        ];
        found.into_iter().filter(|&(_, count)| count > 0).collect()
    }

    /// Returns whether the height or width of an image was changed, after any crop.
    pub fn is_resized(&self) -> bool {
        self.sizes.keys().any(|&size| size != (self.height, self.width))
    }

    /// Returns the factor by which an image is scaled.
    fn scale(&self, (height, width): (usize, usize)) -> f64 {
        let (y, x) = (self.height as f64 / height as f64, self.width as f64 / width as f64);
        match self.fit {
            Fit::Pad => y.min(x).min(1.0),
            _ => y.max(x),
        }
    }

    /// Returns how sizes are changed: `padded to`.
    fn verb(&self) -> Option<&'static str> {
        let (height, width) = (self.height, self.width);
        let mut sizes = self.sizes.keys();
        if !self.is_resized() {
            return None;
        }
        Some(match self.fit {
            Fit::Pad if sizes.all(|&(h, w)| h <= height && w <= width) => "padded to",
            Fit::Pad => "shrunk and padded to",
            _ if sizes.all(|&(h, w)| h * width == w * height) => "scaled to",
            _ => "scaled and cropped to",
        })
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Training => " (training part)",
            Part::HeldOut => " (held-out part)",
            Part::Whole => " (all images, as it has no held-out part)",
            Part::All => "",
        };
        write!(f, "{}{part}, ", self.set)?;
        if self.images < self.of {
            write!(f, "{} of ", grouped(self.images))?;
        }
        if let Some(units) = self.points {
            let units = if units == PointUnits::AsIs { "as they are" } else { "standardized" };
            let s = |n: usize| if n == 1 { "" } else { "s" };
            let (of, dims) = (self.of, self.channels);
            return write!(f, "{} point{} of {dims} dimension{}, {units}", grouped(of), s(of), s(dims));
        }
        write!(f, "{} image{}, ", grouped(self.of), if self.of == 1 { "" } else { "s" })?;
        match self.source_size {
            Some([height, width]) => write!(f, "{height}x{width}")?,
            None => f.write_str("of several sizes,")?,
        }
        let kinds: Vec<&str> = self.kinds.keys().map(|&kind| name(kind)).collect();
        write!(f, " {}", kinds.join(" and "))?;
        if let Some(CropBox { left, top, width, height }) = self.crop {
            let comma = if self.is_resized() { "," } else { "" };
            write!(f, " cropped to {height}x{width} at column {left}, row {top}{comma}")?;
        }
        if let Some(verb) = self.verb() {
            write!(f, " {verb} {}x{}", self.height, self.width)?;
        }
        if self.kinds.keys().any(|&kind| kind != self.channels) {
            let opaque = self.channels != 4 && self.kinds.keys().any(|kind| kind.is_multiple_of(2));
            write!(f, ", made {}{}", name(self.channels), if opaque { " over the background" } else { "" })?;
        }
        Ok(())
    }
}

fn name(channels: usize) -> &'static str {
    match channels {
        1 => "grey",
        2 => "grey with alpha",
        3 => "RGB",
        _ => "RGBA",
    }
}

/// Returns 35746307 as `35,746,307`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(sizes: &[(usize, usize)], kinds: &[usize], to: [usize; 3], fit: Fit) -> Reading {
        Reading {
            set: "photos".into(),
            part: Part::Training,
            images: 1234,
            of: 1234,
            classes: 0,
            source_size: (sizes.len() == 1).then(|| [sizes[0].0, sizes[0].1]),
            source_channels: kinds.to_vec(),
            crop: None,
            height: to[0],
            width: to[1],
            channels: to[2],
            fit,
            points: None,
            sizes: sizes.iter().map(|&size| (size, 3)).collect(),
            kinds: kinds.iter().map(|&kind| (kind, 3)).collect(),
        }
    }

    #[test]
    fn fitting_is_described() {
        let text = |sizes: &[_], kinds: &[usize], to, fit| {
            let text = reading(sizes, kinds, to, fit).to_string();
            text.strip_prefix("photos (training part), 1,234 images, ").unwrap().to_owned()
        };
        assert_eq!(text(&[(32, 32)], &[3], [32, 32, 3], Fit::Crop), "32x32 RGB");
        assert_eq!(text(&[(64, 64)], &[3], [32, 32, 3], Fit::Crop), "64x64 RGB scaled to 32x32");
        assert_eq!(text(&[(40, 64)], &[3], [32, 32, 1], Fit::Crop), "40x64 RGB scaled and cropped to 32x32, made grey");
        assert_eq!(text(&[(28, 28)], &[1], [32, 32, 1], Fit::Pad), "28x28 grey padded to 32x32");
        assert_eq!(text(&[(64, 28)], &[1], [32, 32, 1], Fit::Pad), "64x28 grey shrunk and padded to 32x32");
        let several = text(&[(64, 28), (9, 9)], &[3, 4], [32, 32, 3], Fit::Crop);
        assert_eq!(several, "of several sizes, RGB and RGBA scaled and cropped to 32x32, made RGB over the background");
        let crop = Some([25, 50, 128, 128].into());
        let cropped = |to| Reading { crop, ..reading(&[(128, 128)], &[3], to, Fit::Crop) }.to_string();
        let text = "photos (training part), 1,234 images, 128x128 RGB cropped to 128x128 at column 25, row 50";
        assert_eq!(cropped([128, 128, 3]), text);
        assert_eq!(cropped([64, 64, 3]), format!("{text}, scaled to 64x64"));
        let few = reading(&[(1, 1)], &[1], [1, 1, 1], Fit::Crop).first(2).part(Part::Whole);
        assert!(few.to_string().starts_with("photos (all images, as it has no held-out part), 2 of 1,234 images, "));
    }

    #[test]
    fn losses_are_counted() {
        let lost = |sizes: &[_], kinds: &[usize], to, fit| reading(sizes, kinds, to, fit).conversions();
        use Conversion::*;
        assert_eq!(lost(&[(28, 28)], &[1], [32, 32, 1], Fit::Pad), []);
        assert_eq!(lost(&[(28, 28)], &[1], [32, 32, 1], Fit::Crop), [(Enlarged, 3)]);
        assert_eq!(lost(&[(64, 64)], &[3], [32, 32, 3], Fit::Crop), []);
        assert_eq!(lost(&[(66, 66)], &[3], [32, 32, 1], Fit::Crop), [(ToGrey, 3), (Shrunk, 3)]);
        assert_eq!(lost(&[(32, 32), (16, 16)], &[1, 3], [32, 32, 3], Fit::Crop), [(ToColor, 3), (Enlarged, 3)]);
        assert_eq!(lost(&[(32, 32)], &[4], [32, 32, 3], Fit::Crop), [(ToOpaque, 3)]);
        assert_eq!(lost(&[(32, 32)], &[4], [32, 32, 4], Fit::Crop), []);
    }
}
