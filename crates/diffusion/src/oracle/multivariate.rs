//! Gaussian data in a few dimensions with any covariance.

use std::f64::consts::TAU;

use crate::Error;
use crate::linear::{cholesky, solve};

/// Gaussian data N(mean, covariance) with dependent coordinates. The law of some coordinates given the others is the
/// exact solution of inpainting. For small D only: every call solves a linear system.
#[derive(Debug, Clone, PartialEq)]
pub struct MultivariateGaussian {
    mean: Vec<f64>,
    covariance: Vec<Vec<f64>>,
}

impl MultivariateGaussian {
    /// Creates a Gaussian.
    ///
    /// # Errors
    /// If the covariance is not D×D, symmetric and positive definite.
    pub fn new(mean: Vec<f64>, covariance: Vec<Vec<f64>>) -> Result<Self, Error> {
        let dims = mean.len();
        if let Some(found) =
            std::iter::once(covariance.len()).chain(covariance.iter().map(Vec::len)).find(|&n| n != dims)
        {
            return Err(Error::Length { name: "covariance", found, expected: dims });
        }
        let symmetric = (0..dims).all(|i| (0..i).all(|j| covariance[i][j] == covariance[j][i]));
        if !symmetric || cholesky(&covariance).is_none() {
            return Err(Error::Unsupported("the covariance is not symmetric and positive definite".to_owned()));
        }
        Ok(Self { mean, covariance })
    }

    /// Returns the mean.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Returns the covariance.
    pub fn covariance(&self) -> &[Vec<f64>] {
        &self.covariance
    }

    /// Returns q(x_t) = N(√ᾱ m, ᾱ S + (1−ᾱ) I).
    pub fn marginal(&self, alpha_cumprod: f64) -> Self {
        let mut covariance = self.covariance.clone();
        for (i, row) in covariance.iter_mut().enumerate() {
            row.iter_mut().for_each(|cell| *cell *= alpha_cumprod);
            row[i] += 1.0 - alpha_cumprod;
        }
        Self { mean: self.mean.iter().map(|mean| alpha_cumprod.sqrt() * mean).collect(), covariance }
    }

    /// Returns the exact denoiser x̂0 = m + √ᾱ S C⁻¹ (x_t − √ᾱ m), C the covariance of x_t.
    pub fn sample(&self, x_t: &[f64], alpha_cumprod: f64) -> Vec<f64> {
        let away = self.marginal(alpha_cumprod).whitened(x_t);
        let shift = self.covariance.iter().map(|row| alpha_cumprod.sqrt() * dot(row, &away));
        self.mean.iter().zip(shift).map(|(mean, shift)| mean + shift).collect()
    }

    /// Returns the exact noise prediction ε̂ = √(1−ᾱ) C⁻¹ (x_t − √ᾱ m).
    pub fn epsilon(&self, x_t: &[f64], alpha_cumprod: f64) -> Vec<f64> {
        self.marginal(alpha_cumprod).whitened(x_t).iter().map(|away| (1.0 - alpha_cumprod).sqrt() * away).collect()
    }

    /// Returns Cov[x_0 | x_t] = S − ᾱ S C⁻¹ S, the same for every x_t.
    pub fn posterior_covariance(&self, alpha_cumprod: f64) -> Vec<Vec<f64>> {
        let noised = self.marginal(alpha_cumprod).covariance;
        let columns: Vec<Vec<f64>> = self.covariance.iter().map(|column| solve_for(&noised, column)).collect();
        let entry = |i: usize, j: usize| self.covariance[i][j] - alpha_cumprod * dot(&self.covariance[i], &columns[j]);
        (0..columns.len()).map(|i| (0..columns.len()).map(|j| entry(i, j)).collect()).collect()
    }

    /// Returns ln q(x_t) in nats.
    pub fn log_density(&self, x_t: &[f64], alpha_cumprod: f64) -> f64 {
        let at = self.marginal(alpha_cumprod);
        let away: Vec<f64> = x_t.iter().zip(&at.mean).map(|(x, mean)| x - mean).collect();
        let log_determinant: f64 = cholesky(&at.covariance)
            .map_or(f64::NAN, |lower| lower.iter().enumerate().map(|(i, row)| 2.0 * row[i].ln()).sum());
        -0.5 * (dot(&away, &at.whitened(x_t)) + log_determinant + away.len() as f64 * TAU.ln())
    }

    /// Returns the law of the unknown coordinates, in order, given the known ones:
    /// N(m_b + S_ba S_aa⁻¹ (x_a − m_a), S_bb − S_ba S_aa⁻¹ S_ab).
    ///
    /// # Errors
    /// If `known` does not have D entries, or all are known.
    pub fn conditional(&self, known: &[Option<f64>]) -> Result<Self, Error> {
        if known.len() != self.mean.len() {
            return Err(Error::Length { name: "known coordinates", found: known.len(), expected: self.mean.len() });
        }
        let (a, b): (Vec<usize>, Vec<usize>) = (0..known.len()).partition(|&i| known[i].is_some());
        if b.is_empty() {
            return Err(Error::Length { name: "unknown coordinates", found: 0, expected: 1 });
        }
        let block = |rows: &[usize], columns: &[usize]| -> Vec<Vec<f64>> {
            rows.iter().map(|&i| columns.iter().map(|&j| self.covariance[i][j]).collect()).collect()
        };
        let away: Vec<f64> = a.iter().map(|&i| known[i].unwrap_or(0.0) - self.mean[i]).collect();
        let (s_aa, s_ba) = (block(&a, &a), block(&b, &a));
        // Rows of S_ba S_aa⁻¹.
        let gains: Vec<Vec<f64>> = s_ba.iter().map(|row| solve_for(&s_aa, row)).collect();
        let mean = b.iter().zip(&gains).map(|(&i, gain)| self.mean[i] + dot(gain, &away)).collect();
        let mut covariance = block(&b, &b);
        for (row, gain) in covariance.iter_mut().zip(&gains) {
            row.iter_mut().zip(&s_ba).for_each(|(cell, s_ab)| *cell -= dot(gain, s_ab));
        }
        Ok(Self { mean, covariance })
    }

    /// Returns S⁻¹ (x − m).
    fn whitened(&self, x: &[f64]) -> Vec<f64> {
        let away: Vec<f64> = x.iter().zip(&self.mean).map(|(x, mean)| x - mean).collect();
        solve_for(&self.covariance, &away)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Returns A⁻¹ b.
fn solve_for(matrix: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    solve(matrix.iter().zip(b).map(|(row, &b)| row.iter().copied().chain([b]).collect()).collect())
}
