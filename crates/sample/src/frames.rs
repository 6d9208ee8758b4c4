//! Previews of intermediate images: frames of an animation, columns of a sheet.

use model::Images;

use crate::solve::SamplerStep;

/// Maximum number of frames in an animation.
pub(crate) const ANIMATION: usize = 40;
/// Maximum number of columns in a sheet.
pub(crate) const SHEET: usize = 12;
/// Maximum number of images in a sheet.
const SHEET_IMAGES: usize = 8;

/// Returns at most `most` rows of a table, evenly spaced, including the first and the last.
pub(crate) fn rows(rows: usize, most: usize) -> Vec<usize> {
    let frames = rows.min(most);
    let mut wanted: Vec<usize> = (0..frames).map(|i| i * (rows - 1) / (frames - 1).max(1)).collect();
    wanted.dedup();
    wanted
}

/// Returns x_t and x̂0 of the first images, alternating: a column of a sheet that shows the sampling process.
pub(crate) fn sheet_column(step: &SamplerStep) -> Images {
    let (x, sample) = (step.x(), step.sample());
    let count = x.n.min(SHEET_IMAGES);
    let pixels = x.each().zip(sample.each()).take(count).flat_map(|(x, sample)| [x, sample].concat()).collect();
    Images { n: 2 * count, pixels, labels: None, ..x }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_include_the_first_and_the_last_row() {
        assert_eq!(rows(1000, 5), [0, 249, 499, 749, 999]);
        assert_eq!(rows(3, 40), [0, 1, 2]);
        assert_eq!(rows(1, 40), [0]);
    }
}
