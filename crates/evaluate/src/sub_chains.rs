//! Shorter chains of the same network: their bits/dim as the squared error predicts it, and as measured.

use diffusion::{MseProfile, NoiseSchedule, StepVariance, Variance, timesteps};
use model::{Denoiser, Images};
use serde::Serialize;

use crate::Error;
use crate::bound::{Chain, likelihood};

/// The shorter chains that are compared.
#[derive(Clone, Debug)]
pub struct SubChainStudy<'a> {
    /// The full chain. Its timesteps and log-variances are not used.
    pub chain: Chain<'a>,
    /// The squared error at every timestep ([`Likelihood::mse_profile`](crate::Likelihood::mse_profile)).
    pub profile: &'a MseProfile,
    /// The numbers of steps.
    pub lengths: &'a [usize],
}

/// A shorter chain with its bits/dim.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SubChain {
    /// The number of steps.
    pub steps: usize,
    /// The choice of timesteps and variances.
    pub kind: &'static str,
    /// Bits/dim by [`MseProfile::bits`].
    pub predicted: f64,
    /// Bits/dim as measured, with noise that is independent of the profile's.
    pub measured: f64,
    /// The timesteps.
    pub timesteps: Vec<usize>,
}

/// The choices that are compared: the name, whether timesteps are optimal or even, and the variances.
const KINDS: [(&str, bool, StepVariance); 5] = [
    ("even, fixed_large", false, StepVariance::Fixed(Variance::FixedLarge)),
    ("even, fixed_small", false, StepVariance::Fixed(Variance::FixedSmall)),
    ("even, optimal", false, StepVariance::Optimal),
    ("best, optimal", true, StepVariance::Optimal),
    ("best, by channel", true, StepVariance::PerChannel),
];

/// The least number of noisy images for each image, so that the noise of a short chain's bits/dim is not larger.
const EVALUATIONS: usize = 100;

/// Predicts and measures the bits/dim of shorter chains. `progress(done, total)` is called after each batch of noisy
/// images of any of the chains; return `false` to cancel.
///
/// # Errors
/// If a length is not from 2 to T, the profile does not fit the schedule, and as [`likelihood`].
pub fn sub_chains(
    denoiser: &dyn Denoiser,
    images: &Images,
    study: &SubChainStudy,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Vec<SubChain>, Error> {
    let SubChainStudy { chain, profile, lengths } = study;
    // A shortest path through noisy values selects those that are too low by chance.
    let profile = profile.smoothed(chain.schedule)?;
    let mut plans = Vec::new();
    for &steps in *lengths {
        plans.extend(plan(&profile, chain.schedule, steps)?);
    }
    let draws = |steps: usize| chain.draws * (EVALUATIONS / steps).max(1);
    let evaluations = |plan: &Plan| images.n * plan.timesteps.len() * draws(plan.steps);
    let total: usize = plans.iter().map(evaluations).sum();
    let mut before = 0;
    let mut rows = Vec::with_capacity(plans.len());
    for plan in plans {
        let chain = Chain {
            timesteps: &plan.timesteps,
            variance: if let StepVariance::Fixed(kind) = plan.variance { kind } else { chain.variance },
            log_variances: plan.log_variances.as_deref(),
            seed: chain.seed + 1,
            draws: draws(plan.steps),
            ..chain.clone()
        };
        let measured = likelihood(denoiser, images, &chain, |done, _| progress(before + done, total))?.bits_per_dim;
        before += evaluations(&plan);
        let Plan { steps, kind, predicted, timesteps, .. } = plan;
        rows.push(SubChain { steps, kind, predicted, measured, timesteps });
    }
    Ok(rows)
}

/// A chain that is still to be measured.
struct Plan {
    steps: usize,
    kind: &'static str,
    variance: StepVariance,
    timesteps: Vec<usize>,
    log_variances: Option<Vec<Vec<f64>>>,
    predicted: f64,
}

/// Plans the chains of one length.
fn plan(profile: &MseProfile, schedule: &NoiseSchedule, steps: usize) -> Result<Vec<Plan>, Error> {
    let best = profile.best_timesteps(schedule, steps)?;
    let even = timesteps::space_timesteps(schedule.len(), &steps.to_string())?;
    let has_channels = !profile.channels.is_empty();
    let kinds = KINDS.into_iter().filter(|&(_, _, variance)| has_channels || variance != StepVariance::PerChannel);
    let plan = |(kind, is_best, variance): (&'static str, bool, StepVariance)| {
        let timesteps = if is_best { best.clone() } else { even.clone() };
        let log_variances = match variance {
            StepVariance::Fixed(_) => None,
            StepVariance::Optimal => {
                Some(profile.log_variances(schedule, &timesteps)?.into_iter().map(|one| vec![one]).collect())
            }
            StepVariance::PerChannel => Some(profile.log_variances_by_channel(schedule, &timesteps)?),
        };
        let predicted = profile.bits(schedule, &timesteps, variance)?;
        Ok(Plan { steps, kind, variance, timesteps, log_variances, predicted })
    };
    kinds.map(plan).collect()
}
