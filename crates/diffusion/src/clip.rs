//! Clipping of x̂0 to the range of images.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A way to clip x̂0. In JSON a number, or `{"ratio": …, "max": …}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Clip {
    /// Clamps to ± this number (Ho et al. 2020); diffusers' `clip_sample_range`.
    Range(f64),
    /// Dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, section 2.3): clamps to ± s and divides by s, where
    /// s is a quantile of |x̂0| over the image, clamped to 1 … `max`. Saturated pixels move inwards.
    Dynamic {
        /// The quantile, 0 to 1; diffusers' `dynamic_thresholding_ratio`.
        ratio: f64,
        /// The greatest s; diffusers' `sample_max_value`. At 1 this is a clamp to ±1.
        max: f64,
    },
}

impl Clip {
    /// Returns whether the bound is finite and above 0, and the ratio within 0 and 1.
    pub fn is_valid(self) -> bool {
        let (bound, ratio) = match self {
            Self::Range(bound) => (bound, 0.0),
            Self::Dynamic { ratio, max } => (max, ratio),
        };
        bound > 0.0 && bound.is_finite() && (0.0..=1.0).contains(&ratio)
    }

    /// Clips the x̂0 of one whole image. The quantile is taken over all pixels and channels.
    pub fn apply(self, sample: &mut [f64]) {
        let (bound, scale) = match self {
            Self::Range(bound) => (bound, 1.0),
            Self::Dynamic { ratio, max } => {
                let s = quantile(sample.iter().map(|x| x.abs()).collect(), ratio).max(1.0).min(max);
                (s, s)
            }
        };
        sample.iter_mut().for_each(|x| *x = x.clamp(-bound, bound) / scale);
    }
}

impl fmt::Display for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(bound) => write!(f, "{bound}"),
            Self::Dynamic { ratio, max } => write!(f, "quantile {ratio}, at most {max}"),
        }
    }
}

/// Returns `torch.quantile`, which interpolates linearly at rank ratio·(n−1); 0 if there are no values.
fn quantile(mut values: Vec<f64>, ratio: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let rank = ratio * last as f64;
    let below = (rank as usize).min(last);
    let (_, &mut low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    low + rank.fract() * (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.quantile(torch.tensor([3., 1., 4., 1.5, 9., 2.6, 5.3], dtype=torch.float64), q)`
    #[test]
    fn quantiles_equal_those_of_torch() {
        let values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.3];
        for (ratio, expected) in [(0.0, 1.0), (0.1, 1.3), (0.5, 3.0), (0.9, 6.78), (0.995, 8.889), (1.0, 9.0)] {
            assert!((quantile(values.to_vec(), ratio) - expected).abs() < 1e-12, "{ratio}");
        }
        assert_eq!((quantile(vec![], 0.5), quantile(vec![2.0], 0.3)), (0.0, 2.0));
    }

    #[test]
    fn dynamic_thresholding_rescales_saturated_images() {
        let clipped = |clip: Clip, mut image: Vec<f64>| {
            clip.apply(&mut image);
            image
        };
        let image = vec![-4.0, 0.5, 1.0, 2.0, -0.25];
        let dynamic = |max| Clip::Dynamic { ratio: 0.75, max };
        // The quantile is 2.
        assert_eq!(clipped(dynamic(10.0), image.clone()), [-1.0, 0.25, 0.5, 1.0, -0.125]);
        assert_eq!(clipped(dynamic(1.6), image.clone()), [-1.0, 0.5 / 1.6, 1.0 / 1.6, 1.0, -0.25 / 1.6]);
        // s is never below 1, so values within the range do not change.
        assert_eq!(clipped(dynamic(1.0), image.clone()), clipped(Clip::Range(1.0), image));
        assert_eq!(clipped(dynamic(10.0), vec![0.3, -0.6]), [0.3, -0.6]);
    }

    #[test]
    fn json_is_a_number_or_an_object() {
        for (clip, json) in
            [(Clip::Range(1.5), "1.5"), (Clip::Dynamic { ratio: 0.9, max: 2.0 }, r#"{"ratio":0.9,"max":2.0}"#)]
        {
            assert_eq!(serde_json::to_string(&clip).unwrap(), json);
            assert_eq!(serde_json::from_str::<Clip>(json).unwrap(), clip);
            assert!(clip.is_valid());
        }
        for clip in [
            Clip::Range(0.0),
            Clip::Range(f64::NAN),
            Clip::Dynamic { ratio: 1.1, max: 1.0 },
            Clip::Dynamic { ratio: 0.5, max: -1.0 },
        ] {
            assert!(!clip.is_valid(), "{clip}");
        }
    }
}
