//! Solvers of the probability flow ODE, of first and higher order: they need few evaluations of the network, because
//! later steps reuse earlier predictions.
//!
//! A solver goes from node to node of a timestep grid; λ = ln(α/σ), and h is the step in λ. Data-prediction solvers
//! integrate x̂0 over λ, noise-prediction solvers integrate ε̂ over σ/α. Each is a [`SolverTable`]: the past enters a
//! step as coefficients of earlier predictions.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::linear::solve;
use crate::solver_table::Row;
use crate::timestep_grid::{NO_SIGNAL, Node};
use crate::{Clip, Error, NoiseLevel, SolverTable};

/// A solver of the probability flow ODE, or in one case of the reverse SDE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OdeSolver {
    /// DPM-Solver++ of order 1 (Lu et al. 2022, arXiv 2211.01095): DDIM.
    Dpmpp1,
    /// DPM-Solver++(2M).
    Dpmpp2m,
    /// DPM-Solver++(3M), with the factor 2 in its second difference that third order requires.
    Dpmpp3m,
    /// DPM-Solver++(3M) as published and as in diffusers, k-diffusion and the authors' code: without that factor, and
    /// so of second order.
    Dpmpp3mDiffusers,
    /// SDE-DPM-Solver++(2M): 2M on the reverse diffusion, with its noise.
    DpmppSde2m,
    /// UniPC (Zhao et al. 2023, arXiv 2302.04867) with B₂(h), predictor and corrector of order 1.
    Unipc1,
    /// UniPC of order 2.
    Unipc2,
    /// UniPC of order 3.
    Unipc3,
    /// iPNDM (Zhang & Chen 2023, arXiv 2204.13902) of order 1: DDIM.
    Ipndm1,
    /// iPNDM of order 2: Adams–Bashforth in σ/α, with the weights for equal steps even if steps differ.
    Ipndm2,
    /// iPNDM of order 3.
    Ipndm3,
    /// iPNDM of order 4.
    Ipndm4,
    /// Pseudo numerical methods (Liu et al. 2022, arXiv 2202.09778) as diffusers' `PNDMScheduler` with
    /// `skip_prk_steps`.
    Pndm,
    /// DEIS (Zhang & Chen 2023) of order 3: ε̂ as a polynomial in ln(σ/α), integrated exactly.
    Deis3,
    /// Heun's method in σ/α (Karras et al. 2022, algorithm 1): two evaluations per step.
    Heun,
}

use OdeSolver::*;

impl OdeSolver {
    /// Every solver with its name.
    pub const NAMES: [(&'static str, OdeSolver); 15] = [
        ("dpmpp-1", Dpmpp1),
        ("dpmpp-2m", Dpmpp2m),
        ("dpmpp-3m", Dpmpp3m),
        ("dpmpp-3m-diffusers", Dpmpp3mDiffusers),
        ("dpmpp-sde-2m", DpmppSde2m),
        ("unipc-1", Unipc1),
        ("unipc-2", Unipc2),
        ("unipc-3", Unipc3),
        ("ipndm-1", Ipndm1),
        ("ipndm-2", Ipndm2),
        ("ipndm-3", Ipndm3),
        ("ipndm-4", Ipndm4),
        ("pndm", Pndm),
        ("deis-3", Deis3),
        ("heun", Heun),
    ];

    /// Returns the solver's name on the command line.
    pub fn name(self) -> &'static str {
        crate::names::name_of(&self, &Self::NAMES)
    }

    /// Returns the number of network evaluations per step. A step to the data takes one.
    pub fn evaluations(self) -> usize {
        if self == Heun { 2 } else { 1 }
    }

    fn order(self) -> usize {
        match self {
            Dpmpp1 | Unipc1 | Ipndm1 => 1,
            Dpmpp2m | DpmppSde2m | Unipc2 | Ipndm2 | Heun => 2,
            Dpmpp3m | Dpmpp3mDiffusers | Unipc3 | Ipndm3 | Deis3 => 3,
            Ipndm4 | Pndm => 4,
        }
    }

    /// Builds the table that passes through `nodes` and ends at the last one, usually [`Node::DATA`].
    ///
    /// The order rises with the number of earlier predictions. As in diffusers, the step to the data is of first order,
    /// and the step before it of at most second order in UniPC, and in other solvers if there are fewer than 15 steps.
    ///
    /// # Errors
    /// If there are fewer than two nodes, or their noise does not decrease; and for an invalid `clip_sample`.
    pub fn table(self, nodes: &[Node], clip_sample: Option<Clip>) -> Result<SolverTable, Error> {
        let nodes = &validate_nodes(self.name(), nodes)?[..];
        let steps = nodes.len() - 1;
        let at_data = nodes[steps].level.sigma == 0.0;
        let order = |i: usize| {
            let left = steps - i;
            let unipc = matches!(self, Unipc1 | Unipc2 | Unipc3);
            let limit = if unipc && at_data {
                left
            } else if left == 1 && (at_data || steps < 15) {
                1
            } else if left == 2 && steps < 15 {
                2
            } else {
                usize::MAX
            };
            self.order().min(i + 1).min(limit)
        };
        let step = |i: usize| OdeStep { nodes, i };
        let rows = match self {
            Dpmpp1 | Dpmpp2m | Dpmpp3m | Dpmpp3mDiffusers => {
                let factor = if self == Dpmpp3mDiffusers { 1.0 } else { 2.0 };
                (0..steps).map(|i| step(i).dpmpp(order(i), factor)).collect()
            }
            DpmppSde2m => (0..steps).map(|i| step(i).dpmpp_sde(order(i))).collect(),
            Unipc1 | Unipc2 | Unipc3 => unipc(nodes, &(0..steps).map(order).collect::<Vec<_>>(), UniPc::default()),
            Ipndm1 | Ipndm2 | Ipndm3 | Ipndm4 => {
                (0..steps).map(|i| step(i).noise_step(adams_bashforth(i.min(self.order() - 1)))).collect()
            }
            Deis3 => (0..steps).map(|i| step(i).deis(order(i))).collect(),
            Pndm => pndm(nodes),
            Heun => (0..steps).flat_map(|i| step(i).heun()).collect(),
        };
        // Noise-prediction solvers see the clip only through ε̂. diffusers' PNDM does not clip.
        let epsilon_from_clipped = self != Pndm;
        SolverTable { name: self.name().to_owned(), rows, clip_sample, epsilon_from_clipped, initial_scale: 1.0 }
            .checked()
    }
}

impl std::str::FromStr for OdeSolver {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        crate::names::named("sampler", name, [&Self::NAMES, &[]])
    }
}

/// Checks the nodes of a sampler and makes λ and σ/α finite.
///
/// If the first node has no signal (zero terminal SNR), its ᾱ is set to 2⁻²⁴, as in diffusers' multistep schedulers, or
/// to a quarter of the next node's ᾱ if that is not greater than 2⁻²⁴.
///
/// # Errors
/// If there are fewer than two nodes, or their noise does not decrease.
pub(crate) fn validate_nodes(name: &str, nodes: &[Node]) -> Result<Vec<Node>, Error> {
    if nodes.len() < 2 {
        return Err(Error::Length { name: "sampler nodes", found: nodes.len(), expected: 2 });
    }
    let mut nodes = nodes.to_vec();
    if nodes[0].level.alpha == 0.0 {
        let next = nodes[1].level.alpha_cumprod();
        nodes[0].level = NoiseLevel::variance_preserving(if next > NO_SIGNAL { NO_SIGNAL } else { next / 4.0 });
    }
    let ratios: Vec<f64> = nodes.iter().map(|node| node.level.noise_ratio()).collect();
    if let Some(i) = ratios.windows(2).position(|pair| pair[0].partial_cmp(&pair[1]) != Some(Ordering::Greater)) {
        let problem = "its noise level is not below that of the node before".to_owned();
        return Err(Error::Row { table: name.to_owned(), row: i + 1, problem });
    }
    Ok(nodes)
}

/// The step from node i to node i + 1.
pub(crate) struct OdeStep<'a> {
    pub nodes: &'a [Node],
    pub i: usize,
}

impl OdeStep<'_> {
    pub(crate) fn from(&self) -> Node {
        self.nodes[self.i]
    }

    pub(crate) fn to(&self) -> Node {
        self.nodes[self.i + 1]
    }

    /// h, the step in λ.
    fn h(&self) -> f64 {
        self.to().level.lambda() - self.from().level.lambda()
    }

    /// Position of an earlier prediction in units of h, which is negative: (λ of the node `back` nodes before − λ)/h.
    fn r(&self, back: usize) -> f64 {
        (self.nodes[self.i - back].level.lambda() - self.from().level.lambda()) / self.h()
    }

    /// x_t = σ_t/σ_s x_s − α_t φ₁ m₀ + α_t φ₂ D₁ − α_t φ₃ D₂, φ₁ = e^{−h} − 1, φ_{k+1} = φ_k/h + …; D₁ and D₂ are the
    /// first and second derivative of x̂0 by λ, times h and h², from differences. `second` is 2 for third
    /// order, since a second divided difference is half of the second derivative.
    fn dpmpp(&self, order: usize, second: f64) -> Row {
        let (s, t) = (self.from(), self.to());
        let phi1 = (-self.h()).exp_m1();
        let mut sample = vec![0.0; order];
        sample[0] = -t.level.alpha * phi1;
        // Adds `weight` times a first difference (m_a − m_b)/r.
        let difference = |sample: &mut [f64], weight: f64, a: usize, b: usize, r: f64| {
            sample[a] += weight / r;
            sample[b] -= weight / r;
        };
        if order == 2 {
            difference(&mut sample, -0.5 * t.level.alpha * phi1, 0, 1, -self.r(1));
        }
        if order == 3 {
            let h = self.h();
            let phi2 = phi1 / h + 1.0;
            let phi3 = phi2 / h - 0.5;
            let (r0, r1) = (-self.r(1), self.r(1) - self.r(2));
            // D₁ = A + r0/(r0+r1)(A − B) and D₂ = second·(A − B)/(r0+r1), with A the latest difference and B the one
            // before.
            let (d1, d2) = (t.level.alpha * phi2, -t.level.alpha * phi3 * second / (r0 + r1));
            let share = r0 / (r0 + r1);
            difference(&mut sample, d1 * (1.0 + share) + d2, 0, 1, r0);
            difference(&mut sample, -d1 * share - d2, 1, 2, r1);
        }
        Row { x: t.level.sigma / s.level.sigma, sample, ..Row::at(s) }
    }

    /// x_t = σ_t/σ_s e^{−h} x_s + α_t(1 − e^{−2h})(m₀ + ½ D₁) + σ_t √(1 − e^{−2h}) z.
    fn dpmpp_sde(&self, order: usize) -> Row {
        let (s, t, h) = (self.from(), self.to(), self.h());
        let lost = -(-2.0 * h).exp_m1();
        let weight = t.level.alpha * lost;
        let mut sample = vec![weight];
        if order == 2 {
            let half = 0.5 * weight / -self.r(1);
            sample = vec![weight + half, -half];
        }
        Row { x: t.level.sigma / s.level.sigma * (-h).exp(), sample, noise: t.level.sigma * lost.sqrt(), ..Row::at(s) }
    }

    /// With y = x/α and ρ = σ/α the flow is dy/dρ = ε̂: x_t = α_t/α_s x_s + α_t Σ_k weight_k ε̂_k (ρ_t − ρ_s).
    pub(crate) fn noise_step(&self, weights: &[f64]) -> Row {
        let (s, t) = (self.from(), self.to());
        let step = t.level.alpha * (t.level.noise_ratio() - s.level.noise_ratio());
        Row {
            x: t.level.alpha / s.level.alpha,
            epsilon: weights.iter().map(|weight| weight * step).collect(),
            ..Row::at(s)
        }
    }

    /// Weights ∫ ℓ_k(ln ρ) dρ of the Lagrange polynomials ℓ_k through the last `order` nodes.
    pub(crate) fn deis(&self, order: usize) -> Row {
        let (s, t) = (self.from(), self.to());
        let logs: Vec<f64> = (0..order).map(|back| -self.nodes[self.i - back].level.lambda()).collect();
        let weights = (0..order).map(|k| {
            let polynomial = lagrange(&logs, k);
            // ∫ (ln ρ)^n dρ = ρ (ln ρ)^n − n ∫ (ln ρ)^{n−1} dρ, and 0 at ρ = 0.
            let integral = |node: Node| {
                let rho = node.level.noise_ratio();
                if rho == 0.0 {
                    return 0.0;
                }
                let (mut power, mut sum) = (rho, 0.0);
                let mut antiderivative = rho;
                for (n, c) in polynomial.iter().enumerate() {
                    if n > 0 {
                        power *= rho.ln();
                        antiderivative = power - n as f64 * antiderivative;
                    }
                    sum += c * antiderivative;
                }
                sum
            };
            t.level.alpha * (integral(t) - integral(s))
        });
        Row { x: t.level.alpha / s.level.alpha, epsilon: weights.collect(), ..Row::at(s) }
    }

    /// Euler's step and, unless it ends at the data, a second row that replaces it by a step with the mean of both
    /// slopes.
    pub(crate) fn heun(&self) -> Vec<Row> {
        let euler = self.noise_step(&[1.0]);
        let t = self.to();
        if t.level.sigma == 0.0 {
            return vec![euler];
        }
        let half = 0.5 * euler.epsilon[0];
        vec![euler, Row { x: 1.0, epsilon: vec![half, -half], ..Row::at(t) }]
    }
}

/// Returns the coefficients, lowest power first, of the polynomial that is 1 at point k and 0 at the others.
pub(crate) fn lagrange(points: &[f64], k: usize) -> Vec<f64> {
    let mut polynomial = vec![1.0];
    for (_, &point) in points.iter().enumerate().filter(|&(j, _)| j != k) {
        let scale = 1.0 / (points[k] - point);
        let mut next = vec![0.0; polynomial.len() + 1];
        for (power, c) in polynomial.iter().enumerate() {
            next[power + 1] += c * scale;
            next[power] -= c * scale * point;
        }
        polynomial = next;
    }
    polynomial
}

/// Returns the Adams–Bashforth weights for `past` earlier predictions.
pub(crate) fn adams_bashforth(past: usize) -> &'static [f64] {
    const WEIGHTS: [&[f64]; 4] = [
        &[1.0],
        &[1.5, -0.5],
        &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
        &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    ];
    WEIGHTS[past]
}

/// Adams–Bashforth over DDIM steps, with one extra evaluation at the start: the second row replaces the first Euler
/// step by a step with the mean of both slopes.
pub(crate) fn pndm(nodes: &[Node]) -> Vec<Row> {
    let steps = nodes.len() - 1;
    let step = |i: usize| OdeStep { nodes, i };
    let mut rows = vec![step(0).noise_step(&[1.0])];
    if steps == 1 {
        return rows;
    }
    let half = 0.5 * rows[0].epsilon[0];
    rows.push(Row { x: 1.0, epsilon: vec![half, -half], ..Row::at(nodes[1]) });
    rows.extend((1..steps).map(|i| {
        let mut row = step(i).noise_step(adams_bashforth(i.min(3)));
        if i <= 3 {
            // The extra evaluation is not part of the history.
            row.epsilon.insert(i, 0.0);
        }
        row
    }));
    rows
}

/// The variants of UniPC.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct UniPc<'a> {
    /// B(h) = h in place of e^h − 1.
    pub bh1: bool,
    /// Integrates ε̂ in place of x̂0.
    pub in_epsilon: bool,
    /// The steps that are not corrected.
    pub uncorrected: &'a [usize],
}

/// Returns the weights ρ of UniPC, which solve Σ_j ρ_j r_j^{i−1} = b_i for i = 1 … n. `h` is negative for x̂0, and `b_h`
/// is B(h).
fn unipc_weights(h: f64, b_h: f64, r: &[f64]) -> Vec<f64> {
    let n = r.len();
    let mut phi = h.exp_m1() / h - 1.0;
    let mut factorial = 1.0;
    let mut matrix = vec![vec![0.0; n + 1]; n];
    for (i, row) in matrix.iter_mut().enumerate() {
        for (cell, r) in row.iter_mut().zip(r) {
            *cell = r.powi(i as i32);
        }
        factorial *= (i + 1) as f64;
        row[n] = phi * factorial / b_h;
        phi = phi / h - 1.0 / (factorial * (i + 2) as f64);
    }
    solve(matrix)
}

/// UniPC: a predictor from the latest evaluations, and a corrector that repeats the step with the next evaluation,
/// which is computed anyway. Both are linear in the evaluations, so row i corrects step i − 1 and predicts step i.
pub(crate) fn unipc(nodes: &[Node], orders: &[usize], UniPc { bh1, in_epsilon, uncorrected }: UniPc) -> Vec<Row> {
    // The coefficients of the evaluations in a step: at its end first (0 for a predictor), then at its start, one
    // before, …
    let terms = |i: usize, order: usize, corrector: bool| {
        let step = OdeStep { nodes, i };
        let (t, h) = (step.to(), if in_epsilon { step.h() } else { -step.h() });
        let scale = if in_epsilon { t.level.sigma } else { t.level.alpha };
        let phi1 = h.exp_m1();
        let b_h = if bh1 { h } else { phi1 };
        let mut terms = vec![0.0; order + 1];
        terms[1] = -scale * phi1;
        let mut r: Vec<f64> = (1..order).map(|back| step.r(back)).collect();
        if corrector {
            r.push(1.0);
        }
        let weights = match (corrector, order) {
            (false, 1) => vec![],
            // As in the authors' code.
            (false, 2) | (true, 1) => vec![0.5],
            _ => unipc_weights(h, b_h, &r),
        };
        for (j, (weight, r)) in weights.iter().zip(&r).enumerate() {
            let weight = -scale * b_h * weight / r;
            // The corrector's last weight belongs to the evaluation at the step's end.
            let of = if j + 1 < order { j + 2 } else { 0 };
            terms[of] += weight;
            terms[1] -= weight;
        }
        terms
    };
    (0..orders.len())
        .map(|i| {
            let (s, t) = (nodes[i], nodes[i + 1]);
            let scale = if in_epsilon { t.level.alpha / s.level.alpha } else { t.level.sigma / s.level.sigma };
            let predicted = terms(i, orders[i], false);
            let mut coefficients = predicted[1..].to_vec();
            if i > 0 && !uncorrected.contains(&(i - 1)) {
                let order = orders[i - 1];
                let change = terms(i - 1, order, true).into_iter().zip(terms(i - 1, order, false)).map(|(c, p)| c - p);
                for (k, change) in change.enumerate() {
                    if k == coefficients.len() {
                        coefficients.push(0.0);
                    }
                    coefficients[k] += scale * change;
                }
            }
            let row = Row { x: scale, ..Row::at(s) };
            if in_epsilon { Row { epsilon: coefficients, ..row } } else { Row { sample: coefficients, ..row } }
        })
        .collect()
}
