//! diffusers' scheduler classes, their keys and their defaults.

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::json;
use crate::Error;
use crate::names::name_of;

/// The scheduler class of a configuration (`_class_name`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SchedulerClass {
    /// Ancestral sampling.
    #[default]
    Ddpm,
    /// Denoising diffusion implicit models (Song et al. 2021).
    Ddim,
    /// The steps of [`SchedulerClass::Ddpm`].
    DdpmParallel,
    /// The steps of [`SchedulerClass::Ddim`].
    DdimParallel,
    /// DPM-Solver and DPM-Solver++ (Lu et al. 2022), multistep.
    DpmSolverMultistep,
    /// DPM-Solver and DPM-Solver++, singlestep.
    DpmSolverSinglestep,
    /// UniPC (Zhao et al. 2023).
    UniPcMultistep,
    /// DEIS (Zhang & Chen 2023).
    DeisMultistep,
    /// Pseudo numerical methods (Liu et al. 2022).
    Pndm,
    /// Euler's method in σ/α (Karras et al. 2022).
    EulerDiscrete,
    /// Euler's method with ancestral noise.
    EulerAncestralDiscrete,
    /// Heun's method in σ/α (Karras et al. 2022).
    HeunDiscrete,
    /// Linear multistep of order 4 in σ/α.
    LmsDiscrete,
    /// The midpoint method in ln(σ/α), inspired by DPM-Solver-2.
    Kdpm2Discrete,
    /// The same with ancestral noise.
    Kdpm2AncestralDiscrete,
    /// A class without a sampler here: DDIM from images to noise.
    DdimInverse,
    /// A class without a sampler here: DPM-Solver from images to noise.
    DpmSolverMultistepInverse,
    /// A class without a sampler here: DPM-Solver++ with Brownian noise.
    DpmSolverSde,
    /// A class without a sampler here: stochastic Adams (Xue et al. 2023).
    SaSolver,
    /// A class without a sampler here: RePaint (Lugmayr et al. 2022).
    RePaint,
    /// A class without a sampler here: latent consistency models.
    Lcm,
    /// A class without a sampler here: trajectory consistency distillation.
    Tcd,
}

use SchedulerClass::*;

/// The keys and defaults of every class, as diffusers 0.42.1 writes them.
static DEFAULTS: LazyLock<Map<String, Value>> =
    LazyLock::new(|| json::read(include_str!("classes.json")).expect("a valid table"));

impl SchedulerClass {
    /// Every class with its name in diffusers.
    pub const NAMES: [(&'static str, Self); 22] = [
        ("DDPMScheduler", Ddpm),
        ("DDIMScheduler", Ddim),
        ("DDPMParallelScheduler", DdpmParallel),
        ("DDIMParallelScheduler", DdimParallel),
        ("DPMSolverMultistepScheduler", DpmSolverMultistep),
        ("DPMSolverSinglestepScheduler", DpmSolverSinglestep),
        ("UniPCMultistepScheduler", UniPcMultistep),
        ("DEISMultistepScheduler", DeisMultistep),
        ("PNDMScheduler", Pndm),
        ("EulerDiscreteScheduler", EulerDiscrete),
        ("EulerAncestralDiscreteScheduler", EulerAncestralDiscrete),
        ("HeunDiscreteScheduler", HeunDiscrete),
        ("LMSDiscreteScheduler", LmsDiscrete),
        ("KDPM2DiscreteScheduler", Kdpm2Discrete),
        ("KDPM2AncestralDiscreteScheduler", Kdpm2AncestralDiscrete),
        ("DDIMInverseScheduler", DdimInverse),
        ("DPMSolverMultistepInverseScheduler", DpmSolverMultistepInverse),
        ("DPMSolverSDEScheduler", DpmSolverSde),
        ("SASolverScheduler", SaSolver),
        ("RePaintScheduler", RePaint),
        ("LCMScheduler", Lcm),
        ("TCDScheduler", Tcd),
    ];

    /// Returns the name of the class in diffusers.
    pub fn name(self) -> &'static str {
        name_of(&self, &Self::NAMES)
    }

    /// Returns whether [`SchedulerConfig::solver_table`](super::SchedulerConfig::solver_table) can sample as the class.
    pub fn has_sampler(self) -> bool {
        !matches!(self, DdimInverse | DpmSolverMultistepInverse | DpmSolverSde | SaSolver | RePaint | Lcm | Tcd)
    }

    /// Returns whether the class is DDPM or DDIM, which have each other's keys.
    pub(super) fn is_ddpm_or_ddim(self) -> bool {
        matches!(self, Ddpm | Ddim | DdpmParallel | DdimParallel)
    }

    /// Returns whether the class integrates y = x/α over σ/α.
    pub(super) fn is_in_sigma(self) -> bool {
        matches!(
            self,
            EulerDiscrete
                | EulerAncestralDiscrete
                | HeunDiscrete
                | LmsDiscrete
                | Kdpm2Discrete
                | Kdpm2AncestralDiscrete
        )
    }

    /// Returns the keys of the class with their defaults.
    pub(super) fn defaults(self) -> &'static Map<String, Value> {
        match DEFAULTS.get(self.name()) {
            Some(Value::Object(keys)) => keys,
            _ => unreachable!("the table has every class, which a test checks"),
        }
    }

    /// Returns whether any class has the key.
    pub(super) fn is_key(key: &str) -> bool {
        Self::NAMES.iter().any(|(_, class)| class.defaults().contains_key(key))
    }

    /// Reads `_class_name`.
    pub(super) fn read(name: &str) -> Result<Self, Error> {
        if let Some(&(_, class)) = Self::NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(class);
        }
        let reason = match name {
            _ if name.starts_with("EDM") => "networks with EDM's preconditioning are read with EDMEulerScheduler",
            _ if name.starts_with("FlowMatch") || name.contains("Flow") => {
                "its network predicts the velocity of a flow"
            }
            "ScoreSdeVeScheduler" | "KarrasVeScheduler" | "CMStochasticIterativeScheduler" => {
                "its chain is not variance-preserving"
            }
            "IPNDMScheduler" => "its network has a continuous time from 0 to 1",
            _ => "it is not a class of a variance-preserving chain known here",
        };
        let name = super::json::short(name);
        Err(super::error(format!(
            "`_class_name` is {name}, which is not supported: {reason}; expected DDPMScheduler, DDIMScheduler or another \
             class of docs/samplers.md"
        )))
    }
}

impl fmt::Display for SchedulerClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for SchedulerClass {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for SchedulerClass {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
