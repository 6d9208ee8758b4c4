//! The Inception score (Salimans et al. 2016).

use serde::Serialize;

use super::Features;
use crate::Error;

/// The Inception score exp E KL(p(y|x) ‖ p(y)), averaged over parts of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct InceptionScore {
    /// The mean over the parts.
    pub value: f64,
    /// The population standard deviation over the parts, as published.
    pub deviation: f64,
    /// The number of samples.
    pub samples: usize,
    /// The number of parts.
    pub splits: usize,
}

/// Computes the score from logits `[N,classes]`, in `splits` parts of consecutive samples. Published scores omit the bias
/// of the logits.
///
/// The score depends on the number of samples in a part, and is lower if samples are sorted by class.
///
/// # Errors
/// If there are fewer samples than parts.
pub fn inception_score(logits: &Features, splits: usize) -> Result<InceptionScore, Error> {
    let (samples, classes) = (logits.count(), logits.width());
    if splits == 0 || samples < splits {
        return Err(Error::Request(format!(
            "an Inception score of {splits} parts needs as many samples, but there are {samples}"
        )));
    }
    let rows: Vec<&[f32]> = logits.rows().collect();
    let scores: Vec<f64> = (0..splits)
        .map(|i| {
            let part = &rows[i * samples / splits..(i + 1) * samples / splits];
            let mut marginal = vec![0.0; classes];
            let mut negative_entropy = 0.0;
            for row in part {
                let greatest = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
                let shifted = || row.iter().map(|&x| f64::from(x) - f64::from(greatest));
                let log_sum = shifted().map(f64::exp).sum::<f64>().ln();
                for (total, log_p) in marginal.iter_mut().zip(shifted().map(|x| x - log_sum)) {
                    *total += log_p.exp();
                    negative_entropy += log_p.exp() * log_p;
                }
            }
            let count = part.len() as f64;
            // E KL(p(y|x) ‖ p(y)) = H(y) − H(y|x).
            let entropy: f64 = marginal.iter().map(|p| p / count).filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum();
            (entropy + negative_entropy / count).exp()
        })
        .collect();
    let mean = scores.iter().sum::<f64>() / splits as f64;
    let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / splits as f64;
    Ok(InceptionScore { value: mean, deviation: variance.sqrt(), samples, splits })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of classes if every sample certainly has one class and all classes are equally frequent; 1 if all classes
    /// are equally probable for each sample.
    #[test]
    fn the_range_is_one_to_the_number_of_classes() {
        let sure = (0..40).flat_map(|i| (0..4).map(move |c| if i % 4 == c { 200.0 } else { 0.0 })).collect();
        let score = inception_score(&Features::new(sure, 4).unwrap(), 10).unwrap();
        assert!((score.value - 4.0).abs() < 1e-12 && score.deviation < 1e-12, "{score:?}");
        let score = inception_score(&Features::new(vec![7.0; 40], 4).unwrap(), 3).unwrap();
        assert!((score.value - 1.0).abs() < 1e-12, "{score:?}");
        assert!(inception_score(&Features::new(vec![7.0; 8], 4).unwrap(), 3).is_err());
    }
}
