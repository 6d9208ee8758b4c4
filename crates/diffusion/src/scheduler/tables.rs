//! The rows of the classes of higher order.
//!
//! Classes that integrate y = x/α (Euler, Heun, LMS, KDPM2) are written for x here: what they give the network,
//! y/√(σ² + 1), is x.

use super::keys::{AlgorithmType, SolverType};
use super::nodes::Sigmas;
use super::{SchedulerClass, SchedulerConfig, error};
use crate::ode_solver::{OdeStep, UniPc, adams_bashforth, lagrange, pndm, unipc};
use crate::solver_table::Row;
use crate::{Error, Node, NoiseLevel, NoiseSchedule, Prediction};

/// Returns the rows of a class over its nodes, the last of which is the end.
pub(super) fn rows(config: &SchedulerConfig, nodes: &[Node]) -> Result<Vec<Row>, Error> {
    let keys = config.keys();
    let steps = nodes.len() - 1;
    let step = |i: usize| OdeStep { nodes, i };
    let mut rows: Vec<Row> = match config.class {
        SchedulerClass::DpmSolverMultistep => (0..steps).map(|i| multistep_dpm(config, nodes, i)).collect(),
        SchedulerClass::DpmSolverSinglestep => singlestep_dpm(config, nodes),
        SchedulerClass::UniPcMultistep => {
            let left = |i: usize| if keys.lower_order_final { steps - i } else { usize::MAX };
            let orders: Vec<usize> = (0..steps).map(|i| keys.solver_order.min(i + 1).min(left(i))).collect();
            let variant = UniPc {
                bh1: keys.solver_type == SolverType::Bh1,
                in_epsilon: !keys.predict_x0,
                uncorrected: &keys.disable_corrector,
            };
            unipc(nodes, &orders, variant)
        }
        SchedulerClass::DeisMultistep => (0..steps).map(|i| step(i).deis(order(config, steps, i, false))).collect(),
        SchedulerClass::Pndm => pndm(nodes),
        SchedulerClass::HeunDiscrete => (0..steps).flat_map(|i| step(i).heun()).collect(),
        SchedulerClass::LmsDiscrete => (0..steps).map(|i| lms(nodes, i)).collect(),
        SchedulerClass::EulerAncestralDiscrete => (0..steps).map(|i| euler_ancestral(nodes, i)).collect(),
        SchedulerClass::Kdpm2Discrete => kdpm2(&Sigmas::of(config)?, nodes, false),
        SchedulerClass::Kdpm2AncestralDiscrete => kdpm2(&Sigmas::of(config)?, nodes, true),
        _ => (0..steps).map(|i| step(i).noise_step(&[1.0])).collect(),
    };
    if let (true, Some(Row { x, epsilon, .. })) = (config.class.is_in_sigma(), rows.last_mut()) {
        // The image is y, which is not x unless sampling ends at the data.
        let scale = 1.0 / nodes[steps].level.alpha;
        std::iter::once(x).chain(epsilon).for_each(|coefficient| *coefficient *= scale);
    }
    Ok(rows)
}

/// Returns the order of step i, which rises with the number of earlier predictions.
fn order(config: &SchedulerConfig, steps: usize, i: usize, first_order_end: bool) -> usize {
    let keys = config.keys();
    let lowers = keys.lower_order_final && steps < 15;
    let limit = match steps - i {
        1 if lowers || first_order_end => 1,
        2 if lowers => 2,
        _ => usize::MAX,
    };
    keys.solver_order.min(i + 1).min(limit)
}

/// The coefficients of DPM-Solver's step from s to t (Lu et al. 2022): of x, of D₀, and of D₁ in its two variants and D₂.
struct Dpm {
    x: f64,
    d0: f64,
    midpoint: f64,
    exact: f64,
    d2: f64,
    noise: f64,
}

impl Dpm {
    fn new(algorithm: AlgorithmType, s: NoiseLevel, t: NoiseLevel) -> Self {
        let h = t.lambda() - s.lambda();
        match algorithm {
            AlgorithmType::Dpm => {
                let phi = h.exp_m1();
                Self {
                    x: t.alpha / s.alpha,
                    d0: -t.sigma * phi,
                    midpoint: -0.5 * t.sigma * phi,
                    exact: -t.sigma * (phi / h - 1.0),
                    d2: -t.sigma * ((phi - h) / (h * h) - 0.5),
                    noise: 0.0,
                }
            }
            AlgorithmType::SdeDpm => {
                let phi = h.exp_m1();
                Self {
                    x: t.alpha / s.alpha,
                    d0: -2.0 * t.sigma * phi,
                    midpoint: -t.sigma * phi,
                    exact: -2.0 * t.sigma * (phi / h - 1.0),
                    d2: f64::NAN,
                    noise: t.sigma * (2.0 * h).exp_m1().sqrt(),
                }
            }
            AlgorithmType::SdeDpmpp => {
                let lost = -(-2.0 * h).exp_m1();
                Self {
                    x: t.sigma / s.sigma * (-h).exp(),
                    d0: t.alpha * lost,
                    midpoint: 0.5 * t.alpha * lost,
                    exact: t.alpha * (lost / (-2.0 * h) + 1.0),
                    d2: t.alpha * ((lost - 2.0 * h) / (4.0 * h * h) - 0.5),
                    noise: t.sigma * lost.sqrt(),
                }
            }
            // The others are read as DPM-Solver++.
            _ => {
                let phi = (-h).exp_m1();
                Self {
                    x: t.sigma / s.sigma,
                    d0: -t.alpha * phi,
                    midpoint: -0.5 * t.alpha * phi,
                    exact: t.alpha * (phi / h + 1.0),
                    d2: -t.alpha * ((phi + h) / (h * h) - 0.5),
                    noise: 0.0,
                }
            }
        }
    }

    /// Returns the coefficient of D₁ in a step of second order.
    fn d1(&self, solver: SolverType) -> f64 {
        if solver == SolverType::Heun { self.exact } else { self.midpoint }
    }
}

/// Returns whether the algorithm integrates ε̂ and not x̂0.
pub(super) fn is_in_epsilon(algorithm: AlgorithmType) -> bool {
    matches!(algorithm, AlgorithmType::Dpm | AlgorithmType::SdeDpm)
}

/// Returns a row with coefficients of ε̂ or of x̂0, the latest first.
fn dpm_row(algorithm: AlgorithmType, node: Node, x: f64, coefficients: Vec<f64>) -> Row {
    let row = Row { x, ..Row::at(node) };
    if is_in_epsilon(algorithm) { Row { epsilon: coefficients, ..row } } else { Row { sample: coefficients, ..row } }
}

/// DPM-Solver from node i with differences of earlier predictions.
fn multistep_dpm(config: &SchedulerConfig, nodes: &[Node], i: usize) -> Row {
    let keys = config.keys();
    let steps = nodes.len() - 1;
    let to_data = nodes[steps].level.sigma == 0.0;
    let order = order(config, steps, i, keys.euler_at_final || to_data);
    let dpm = Dpm::new(keys.algorithm_type, nodes[i].level, nodes[i + 1].level);
    let lambda = |i: usize| nodes[i].level.lambda();
    let h = lambda(i + 1) - lambda(i);
    let mut m = vec![0.0; order];
    m[0] = dpm.d0;
    // Adds the weighted difference (m_a − m_{a+1})/r.
    let mut difference = |weight: f64, a: usize, r: f64| {
        m[a] += weight / r;
        m[a + 1] -= weight / r;
    };
    if order == 2 {
        difference(dpm.d1(keys.solver_type), 0, (lambda(i) - lambda(i - 1)) / h);
    }
    if order == 3 {
        let (r0, r1) = ((lambda(i) - lambda(i - 1)) / h, (lambda(i - 1) - lambda(i - 2)) / h);
        let share = r0 / (r0 + r1);
        let d2 = dpm.d2 / (r0 + r1);
        difference(dpm.exact * (1.0 + share) + d2, 0, r0);
        difference(-dpm.exact * share - d2, 1, r1);
    }
    Row { noise: dpm.noise, ..dpm_row(keys.algorithm_type, nodes[i], dpm.x, m) }
}

/// x as a combination of x at the start of a block of rows and the predictions of rows since.
struct Block {
    x: f64,
    terms: Vec<(usize, f64)>,
}

impl Block {
    /// Returns the start of a block.
    fn start() -> Self {
        Self { x: 1.0, terms: Vec::new() }
    }

    /// Returns the coefficients that turn x into `target`: of x, and of the predictions of rows 0 … i.
    fn to(&self, target: &Block, i: usize) -> (f64, Vec<f64>) {
        let x = target.x / self.x;
        let mut coefficients = vec![0.0; i + 1];
        target.terms.iter().for_each(|&(row, c)| coefficients[row] += c);
        self.terms.iter().for_each(|&(row, c)| coefficients[row] -= x * c);
        (x, coefficients)
    }
}

/// Returns the coefficients of rows 0 … i as those of this row, the row before, …, up to the last that is not 0.
fn latest_first(mut coefficients: Vec<f64>) -> Vec<f64> {
    coefficients.reverse();
    let used = coefficients.iter().rposition(|c| *c != 0.0).map_or(0, |last| last + 1);
    coefficients.truncate(used);
    coefficients
}

/// DPM-Solver in blocks of steps of order 1, 2 and 3 from the same start.
fn singlestep_dpm(config: &SchedulerConfig, nodes: &[Node]) -> Vec<Row> {
    let keys = config.keys();
    let steps = nodes.len() - 1;
    let mut block = Block::start();
    let mut rows = Vec::with_capacity(steps);
    for (i, order) in singlestep_orders(config, steps, nodes[steps].level.sigma == 0.0).into_iter().enumerate() {
        if order == 1 {
            block = Block::start();
        }
        let start = i + 1 - order;
        let dpm = Dpm::new(keys.algorithm_type, nodes[start].level, nodes[i + 1].level);
        let lambda = |i: usize| nodes[i].level.lambda();
        let r = |k: usize| (lambda(k) - lambda(start)) / (lambda(i + 1) - lambda(start));
        // D₀ is the prediction at the start, and a difference is (m_k − m_start)/r_k.
        let mut terms = vec![(start, dpm.d0)];
        let mut difference = |weight: f64, k: usize| terms.extend([(k, weight / r(k)), (start, -weight / r(k))]);
        match (order, keys.solver_type) {
            (2, solver) => difference(dpm.d1(solver), i),
            (3, SolverType::Heun) => {
                // D₁ = (r₀D₁₀ − r₁D₁₁)/(r₀ − r₁) and D₂ = 2(D₁₁ − D₁₀)/(r₀ − r₁).
                let (r0, r1) = (r(i), r(i - 1));
                difference((dpm.exact * r0 - 2.0 * dpm.d2) / (r0 - r1), i - 1);
                difference((2.0 * dpm.d2 - dpm.exact * r1) / (r0 - r1), i);
            }
            (3, _) => difference(dpm.exact, i),
            _ => {}
        }
        let target = Block { x: dpm.x, terms };
        let (x, coefficients) = block.to(&target, i);
        let row = dpm_row(keys.algorithm_type, nodes[i], x, latest_first(coefficients));
        rows.push(Row { noise: dpm.noise, ..row });
        block = target;
    }
    rows
}

/// Returns the orders of a singlestep solver's steps (`get_order_list`).
fn singlestep_orders(config: &SchedulerConfig, steps: usize, to_data: bool) -> Vec<usize> {
    let keys = config.keys();
    let order = keys.solver_order;
    let mut orders: Vec<usize> = (0..steps).map(|i| i % order + 1).collect();
    let left = steps % order;
    if keys.lower_order_final || left != 0 || to_data {
        let tail: &[usize] = match (order, left) {
            (3, 0) => &[1, 2, 1],
            (3, 2) => &[1, 2],
            (2, 0) => &[1, 1],
            _ => &[1],
        };
        let at = steps - tail.len().min(steps);
        orders.truncate(at);
        orders.extend(&tail[..steps - at]);
    }
    if let (true, Some(last)) = (to_data, orders.last_mut()) {
        *last = 1;
    }
    orders
}

/// The linear multistep method: the integral over σ of the polynomial through the last four slopes.
fn lms(nodes: &[Node], i: usize) -> Row {
    let (s, t) = (nodes[i], nodes[i + 1]);
    // Relative to σ_s, as powers of a large σ cancel.
    let relative = |node: Node| node.level.noise_ratio() - s.level.noise_ratio();
    let points: Vec<f64> = (0..4.min(i + 1)).map(|back| relative(nodes[i - back])).collect();
    let end = relative(t);
    let weight = |k: usize| -> f64 {
        let powers = lagrange(&points, k).into_iter().enumerate();
        powers.map(|(n, c)| c * end.powi(n as i32 + 1) / (n + 1) as f64).sum()
    };
    let epsilon = (0..points.len()).map(|k| t.level.alpha * weight(k)).collect();
    Row { x: t.level.alpha / s.level.alpha, epsilon, ..Row::at(s) }
}

/// Returns (σ_down, σ_up) of an ancestral step: σ_up is the noise that is added after the step to σ_down.
fn ancestral(from: f64, to: f64) -> (f64, f64) {
    let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
    ((to * to - up * up).max(0.0).sqrt(), up)
}

/// Euler's step to σ_down, and noise.
fn euler_ancestral(nodes: &[Node], i: usize) -> Row {
    let (s, t) = (nodes[i], nodes[i + 1]);
    let (down, up) = ancestral(s.level.noise_ratio(), t.level.noise_ratio());
    Row {
        x: t.level.alpha / s.level.alpha,
        epsilon: vec![t.level.alpha * (down - s.level.noise_ratio())],
        noise: t.level.alpha * up,
        ..Row::at(s)
    }
}

/// The midpoint method: Euler's step to the middle in ln σ, and a whole step with the slope found there.
fn kdpm2(sigmas: &Sigmas, nodes: &[Node], is_ancestral: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, pair) in nodes.windows(2).enumerate() {
        let (s, t) = (pair[0], pair[1]);
        let (from, to) = (s.level.noise_ratio(), t.level.noise_ratio());
        if to == 0.0 {
            rows.push(OdeStep { nodes, i }.noise_step(&[1.0]));
            continue;
        }
        let (down, up) = if is_ancestral { ancestral(from, to) } else { (to, 0.0) };
        let middle = sigmas.node((from * down).sqrt());
        let half = OdeStep { nodes: &[s, middle], i: 0 }.noise_step(&[1.0]);
        let first = t.level.alpha * (middle.level.noise_ratio() - from);
        rows.push(half);
        rows.push(Row {
            x: t.level.alpha / middle.level.alpha,
            epsilon: vec![t.level.alpha * (down - from), -first],
            noise: t.level.alpha * up,
            ..Row::at(middle)
        });
    }
    rows
}

/// PNDM over diffusers' timesteps: from t it steps to t − ⌊T/steps⌋ whatever the next timestep is. Unless
/// `skip_prk_steps`, the first three steps are of Runge–Kutta, four evaluations each.
pub(super) fn pndm_of_diffusers(config: &SchedulerConfig, steps: usize) -> Result<Vec<Row>, Error> {
    let schedule = config.noise_schedule()?;
    if !matches!(config.prediction_type, Prediction::Epsilon | Prediction::VPrediction) {
        let prediction = config.prediction_type;
        return Err(error(format!(
            "`prediction_type` is {prediction}, which PNDMScheduler does not have; expected epsilon or v_prediction"
        )));
    }
    let timesteps = config.timesteps(steps)?;
    let stride = config.num_train_timesteps / steps;
    let mut pndm = Pndm { config, schedule, rows: Vec::new(), levels: Vec::new(), block: Block::start() };
    // The rows of predictions that later steps use, the latest first.
    let mut history = Vec::new();
    let mut rest = &timesteps[..];
    if !config.keys().skip_prk_steps {
        if steps < 4 {
            return Err(error(format!(
                "{steps} steps of PNDMScheduler are too few for its Runge–Kutta steps (`skip_prk_steps` is false); use \
                 at least 4"
            )));
        }
        let half = stride / 2;
        let ends: Vec<usize> = timesteps[..4].to_vec();
        for pair in ends.windows(2).take(3) {
            let (from, to) = (pair[0], pair[1]);
            let first = pndm.rows.len();
            history.insert(0, first);
            pndm.block = Block::start();
            // diffusers asks at t, twice half a stride after the next timestep, and there.
            let middle = to + half;
            let third = [first, first + 1, first + 2, first + 3];
            let weights = [1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0];
            pndm.row(from, [from as i64, from as i64 - half as i64], &[(first, 1.0)])?;
            pndm.row(middle, [from as i64, middle as i64], &[(first + 1, 1.0)])?;
            pndm.row(middle, [from as i64, middle as i64 - half as i64], &[(first + 2, 1.0)])?;
            let mean: Vec<(usize, f64)> = third.into_iter().zip(weights).collect();
            pndm.row(to, [from as i64, to as i64], &mean)?;
        }
        rest = &timesteps[3..];
    }
    for (i, &t) in rest.iter().enumerate() {
        pndm.block = Block::start();
        let row = pndm.rows.len();
        history.insert(0, row);
        let weights = adams_bashforth(history.len().min(4) - 1);
        let terms: Vec<(usize, f64)> = history.iter().copied().zip(weights.iter().copied()).collect();
        pndm.row(t, [t as i64, t as i64 - stride as i64], &terms)?;
        if let (0, true, Some(&next)) = (i, config.keys().skip_prk_steps, rest.get(1)) {
            // The first step is repeated with the mean of both slopes; the extra evaluation is not part of the history.
            pndm.row(next, [(next + stride) as i64, next as i64], &[(row, 0.5), (row + 1, 0.5)])?;
        }
    }
    Ok(pndm.rows)
}

/// PNDM's rows under construction.
struct Pndm<'a> {
    config: &'a SchedulerConfig,
    schedule: NoiseSchedule,
    rows: Vec<Row>,
    /// The noise level of every row.
    levels: Vec<NoiseLevel>,
    block: Block,
}

impl Pndm<'_> {
    fn level(&self, t: i64) -> Result<NoiseLevel, Error> {
        match usize::try_from(t) {
            Ok(t) if t < self.schedule.len() => Ok(self.schedule.level(t)),
            Ok(t) => Err(error(format!("PNDMScheduler steps from timestep {t}, which is outside the chain"))),
            Err(_) if self.config.set_alpha_to_one => Ok(NoiseLevel::DATA),
            Err(_) => Ok(self.schedule.level(0)),
        }
    }

    /// Adds a row that evaluates the network at t. It goes between two timesteps from the start of the block, with a
    /// combination of the network's outputs.
    fn row(&mut self, t: usize, [from, to]: [i64; 2], terms: &[(usize, f64)]) -> Result<(), Error> {
        let (s, e) = (self.level(from)?, self.level(to)?);
        let node = Node { timestep: t as f64, level: self.level(t as i64)? };
        self.levels.push(node.level);
        let is_v = self.config.prediction_type == Prediction::VPrediction;
        let scale = e.alpha * (e.noise_ratio() - s.noise_ratio());
        // v becomes ε̂ = α_s v + σ_s x at the start of the step, the combination of outputs as a whole.
        let (x, of_output) =
            if is_v { (e.alpha / s.alpha + scale * s.sigma, scale * s.alpha) } else { (e.alpha / s.alpha, scale) };
        let target = Block { x, terms: terms.iter().map(|&(row, c)| (row, c * of_output)).collect() };
        let i = self.rows.len();
        let (x, outputs) = self.block.to(&target, i);
        // An output v is α ε̂ − σ x̂0 at its own noise level.
        let part = |of: fn(NoiseLevel) -> f64| {
            latest_first(outputs.iter().zip(&self.levels).map(|(c, level)| c * of(*level)).collect())
        };
        let (sample, epsilon) =
            if is_v { (part(|level| -level.sigma), part(|level| level.alpha)) } else { (Vec::new(), part(|_| 1.0)) };
        self.rows.push(Row { x, sample, epsilon, ..Row::at(node) });
        self.block = target;
        Ok(())
    }
}
