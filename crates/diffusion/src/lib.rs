//! The mathematics of denoising diffusion probabilistic models, in `f64` and over plain slices.
//!
//! | module | contents | source |
//! |---|---|---|
//! | [`noise_level`] | (α, σ) of x_t = α·x_0 + σ·ε | Ho et al. 2020, Karras et al. 2022 |
//! | [`beta_schedule`] | named rules for β_0 … β_{T−1} | Ho et al. 2020, Nichol & Dhariwal 2021 |
//! | [`schedule`] | β_t, ᾱ_t, SNR, respacing | Ho et al. 2020 |
//! | [`posterior`] | the forward posterior q(x_s \| x_t, x_0) | Ho et al. 2020 |
//! | [`timesteps`] | subsets of the T timesteps for samplers | diffusers, improved-diffusion, DDIM |
//! | [`timestep_grid`] | points between noise and data, at fractional timesteps too | Karras et al. 2022 |
//! | [`preconditioning`] | the coefficients that make a network's output x̂0 | Karras et al. 2022 |
//! | [`prediction`] | the quantity that a network predicts, as preconditioning and as training target | Salimans & Ho 2022 |
//! | [`variance`] | log-variance of p(x_s \| x_t): fixed, learned, learned_range, optimal | Nichol & Dhariwal 2021 |
//! | [`loss`] | loss weights per timestep: L_simple, min-SNR-γ, a list | Ho et al., Hang et al. 2023 |
//! | [`timestep_sampler`] | timesteps for training: uniform, low-discrepancy, by importance | VDM, improved-diffusion |
//! | [`power_ema`] | averages of the parameters, of any length after training | Karras et al. 2024 |
//! | [`bound`] | the variational bound, term by term, in bits/dim | Ho et al. 2020 |
//! | [`mse_profile`] | optimal variances, optimal sub-chains and their bits/dim from the squared error per timestep | Watson et al., Bao et al. |
//! | [`binomial`] | the diffusion of bits: forward chain, posterior, reverse step, bound | Sohl-Dickstein et al. 2015 |
//! | [`product`] | products of a chain with a known factor | Sohl-Dickstein et al. 2015 |
//! | [`flow`] | the density of the probability flow | Song et al. 2021 |
//! | [`solver_table`] | a sampler as a table of coefficients | |
//! | [`solver`] | tables of one-step samplers: DDPM, DDIM | Ho et al., Song et al. |
//! | [`ode_solver`] | tables of higher order: DPM-Solver++, UniPC, iPNDM, PNDM, DEIS, Heun | Lu et al., Zhao et al., Zhang & Chen |
//! | [`churn`] | EDM's stochastic sampler | Karras et al. 2022 |
//! | [`scheduler`] | diffusers' `scheduler_config.json` | diffusers |
//! | [`oracle`] | data whose score, denoiser and flow are known in closed form | |
//!
//! # Conventions
//! Time is t = 0 … T−1 as in Ho et al.'s code (the paper's t minus one), and x_{−1} is the data, whose noise level is
//! [`NoiseLevel::DATA`]. At a timestep, α = √ᾱ_t and σ = √(1−ᾱ_t). A step goes from time t to an earlier time s. x̂0 is
//! called `sample`, as in diffusers. Lists of timesteps descend, the order in which a sampler visits them. The crate
//! draws no random numbers: noise and uniforms are arguments.
//!
//! # Example
//! ```
//! use ddpm_diffusion::{BetaSchedule, NoiseSchedule, TimestepSpacing, oracle::Gaussian, solver};
//!
//! let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
//! assert!((schedule.alpha_cumprod(999) - 4.03583e-5).abs() < 1e-10);
//!
//! // 50 steps of DDIM with the exact denoiser of N(0.5, 0.1) follow the exact probability flow.
//! let data = Gaussian { mean: 0.5, variance: 0.1 };
//! let timesteps = TimestepSpacing::Linspace.timesteps(1000, 50, 0)?;
//! let ddim = solver::ddim(&schedule, &timesteps, 0.0, None)?;
//! let image = ddim.run(&[1.3], |x, node| Ok(data.denoise(x, node.level)), |_row| vec![])?;
//! let exact = data.flow(1.3, schedule.alpha_cumprod(999), 1.0);
//! assert!((image[0] - exact).abs() < 0.05);
//! # Ok::<(), ddpm_diffusion::Error>(())
//! ```

#![deny(missing_docs)]

pub mod beta_schedule;
pub mod binomial;
pub mod bound;
pub mod churn;
mod clip;
mod error;
pub mod flow;
mod linear;
mod linspace;
pub mod loss;
pub mod mse_profile;
mod names;
pub mod noise_level;
pub mod ode_solver;
pub mod oracle;
pub mod posterior;
pub mod power_ema;
pub mod preconditioning;
pub mod prediction;
pub mod product;
pub mod schedule;
pub mod scheduler;
pub mod solver;
pub mod solver_table;
pub mod timestep_grid;
pub mod timestep_sampler;
pub mod timesteps;
pub mod variance;

pub use beta_schedule::BetaSchedule;
pub use binomial::{Bernoulli, BinomialChain};
pub use bound::{Cdf, ReverseStep, Values, VariationalBound};
pub use churn::Churn;
pub use clip::Clip;
pub use error::Error;
pub use flow::ProbabilityFlow;
pub use loss::LossWeight;
pub use mse_profile::{MseProfile, StepVariance};
pub use noise_level::NoiseLevel;
pub use ode_solver::OdeSolver;
pub use posterior::Posterior;
pub use preconditioning::{LinearMap, Preconditioning};
pub use prediction::{Prediction, TrainingTarget};
pub use product::FactorSchedule;
pub use schedule::NoiseSchedule;
pub use scheduler::{ProcessKind, SchedulerConfig};
pub use solver_table::{Estimate, SolverTable};
pub use timestep_grid::{Node, TimestepGrid};
pub use timesteps::TimestepSpacing;
pub use variance::{LogVariance, Variance};
