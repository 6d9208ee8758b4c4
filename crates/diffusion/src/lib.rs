//! The mathematics of denoising diffusion probabilistic models, in `f64` and over plain slices.
//!
//! | module | what | source |
//! |---|---|---|
//! | [`schedule`] | β_t, ᾱ_t, SNR, the posterior q(x_s \| x_t, x_0), respacing | Ho et al. 2020 |
//! | [`timesteps`] | which subset of the T steps a sampler visits | diffusers, improved-diffusion, DDIM |
//! | [`prediction`] | what the network predicts, as linear maps to x̂0 and ε and as training targets | Salimans & Ho 2022 |
//! | [`variance`] | log-variance of p(x_s \| x_t): fixed, learned, learned_range, optimal | Nichol & Dhariwal 2021 |
//! | [`loss`] | loss weights per timestep: L_simple, min-SNR-γ, a list | Ho et al., Hang et al. 2023 |
//! | [`bound`] | the variational bound term by term in bits/dim, and its derivatives | Ho et al. 2020 |
//! | [`denoising`] | from the squared error at every t: best variances, best sub-chain, bits/dim of any | Watson et al., Bao et al. |
//! | [`flow`] | the density of the probability flow | Song et al. 2021 |
//! | [`sampler_t`] | how training draws t: uniform, low-discrepancy, by importance | VDM, improved-diffusion |
//! | [`solver`] | a sampler as a table of coefficients: DDPM, DDIM | Ho et al., Song et al. |
//! | [`multistep`] | tables of higher order: DPM-Solver++, UniPC, iPNDM, PNDM, DEIS, Heun | Lu et al., Zhao et al., Zhang & Chen |
//! | [`churn`] | EDM's stochastic sampler | Karras et al. 2022 |
//! | [`grid`] | where they evaluate the network, between timesteps too | Karras et al. 2022 |
//! | [`scheduler`] | diffusers' `scheduler_config.json` | diffusers |
//! | [`oracle`] | data whose score, denoiser and flow are known exactly, to test all of it | |
//!
//! # Conventions
//! Time is t = 0 … T−1 as in Ho et al.'s code (the paper's t minus one), and x_{-1} is the data: `alpha_cumprod_prev(0)`
//! is 1. So x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε. A step goes from time t to an earlier time s, and x̂0 is called `sample`, as in
//! diffusers. Lists of timesteps descend, the order in which a sampler visits them. Nothing here draws a random number:
//! noise and uniforms are arguments.
//!
//! # Example
//! ```
//! use ddpm_diffusion::{BetaSchedule, Clip, NoiseSchedule, Prediction, TimestepSpacing, solver};
//!
//! let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000)?;
//! assert!((schedule.alpha_cumprod(999) - 4.03583e-5).abs() < 1e-10);
//!
//! let timesteps = TimestepSpacing::Leading.timesteps(1000, 50, 0)?;
//! let ddim = solver::ddim(&schedule, &timesteps, 0.0, Some(Clip::Range(1.0)))?;
//! // A network that always answers "no noise" reconstructs a grey image scaled up and clipped.
//! let image = ddim.run(&[0.5, -0.5], |x, _t| vec![0.0; x.len()], Prediction::Epsilon, |_row| vec![0.0; 2])?;
//! assert!((image[0] - 1.0).abs() < 1e-12 && (image[1] + 1.0).abs() < 1e-12);
//! # Ok::<(), ddpm_diffusion::Error>(())
//! ```

#![deny(missing_docs)]

pub mod bound;
pub mod churn;
mod clip;
pub mod denoising;
mod error;
pub mod flow;
pub mod grid;
mod linear;
pub mod loss;
pub mod multistep;
mod names;
pub mod oracle;
pub mod prediction;
pub mod sampler_t;
pub mod schedule;
pub mod scheduler;
pub mod solver;
pub mod timesteps;
pub mod variance;

pub use bound::{Cdf, VariationalBound};
pub use churn::Churn;
pub use clip::Clip;
pub use denoising::{Denoising, StepVariance};
pub use error::Error;
pub use grid::{Grid, Node};
pub use loss::LossWeight;
pub use multistep::Multistep;
pub use prediction::Prediction;
pub use schedule::{BetaSchedule, NoiseSchedule, Posterior};
pub use scheduler::SchedulerConfig;
pub use solver::SolverTable;
pub use timesteps::TimestepSpacing;
pub use variance::{LogVariance, Variance};
