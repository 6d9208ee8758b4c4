"""Writes final images of diffusers' schedulers of higher order for a closed-form network, for crates/diffusion.

    prediction for x at t, as noise or as v: tanh(1.3·x + 0.4·cos(t/300))
"""

import json
import math

import diffusers
import numpy as np
import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from goldens_common import CRATES

# Name of the sampler: diffusers' class and options.
SCHEDULERS = {
    "dpmpp-1": (DPMSolverMultistepScheduler, dict(solver_order=1)),
    "dpmpp-2m": (DPMSolverMultistepScheduler, dict(solver_order=2)),
    "dpmpp-3m-diffusers": (DPMSolverMultistepScheduler, dict(solver_order=3)),
    "unipc-1": (UniPCMultistepScheduler, dict(solver_order=1)),
    "unipc-2": (UniPCMultistepScheduler, dict(solver_order=2)),
    "unipc-3": (UniPCMultistepScheduler, dict(solver_order=3)),
    "deis-3": (DEISMultistepScheduler, dict(solver_order=3)),
    "heun": (HeunDiscreteScheduler, dict(beta_start=1e-4, beta_end=0.02)),
    "pndm": (PNDMScheduler, dict(skip_prk_steps=True)),
}
# Further runs: name, spacing, diffusers' options, the same options for the Rust test.
VARIANTS = [
    (name, "trailing", options, ours)
    for options, ours, names in [
        (dict(clip_sample=True), dict(clip=1.0), ["heun"]),
        (
            dict(thresholding=True, dynamic_thresholding_ratio=0.7, sample_max_value=2.0),
            dict(clip=dict(ratio=0.7, max=2.0)),
            ["unipc-2", "unipc-3", "deis-3"],
        ),
        (
            dict(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
            dict(zero_snr=True),
            ["dpmpp-2m", "unipc-2", "unipc-3"],
        ),
    ]
    for name in names
]
START = [-1.7, -0.4, 0.0, 0.3, 1.1, 2.2]


def in_float64(scheduler):
    """Recomputes the scheduler's tables in float64, so that a test need not allow for diffusers' float32."""
    bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    if scheduler.config.get("rescale_betas_zero_snr"):
        roots = np.sqrt(bars)
        bars = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
        bars[-1] = 2**-24
    scheduler.alphas_cumprod = torch.from_numpy(bars)
    if isinstance(scheduler, PNDMScheduler):
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
        return
    ratios = np.sqrt((1 - bars) / bars)
    # Heun's scheduler evaluates each t twice, except the first.
    sigmas = ratios[scheduler.timesteps.numpy().astype(int)]
    end = 0.0 if scheduler.sigmas[-1] == 0 else ratios[0]
    assert np.allclose(scheduler.sigmas.numpy(), [*sigmas, end], rtol=1e-3)
    scheduler.sigmas = torch.from_numpy(np.array([*sigmas, end]))


def run(name, steps, spacing, options):
    """Returns the timesteps, and the final image from START."""
    scheduler_class, own = SCHEDULERS[name]
    scheduler = scheduler_class(
        num_train_timesteps=1000, beta_schedule="linear", timestep_spacing=spacing, **own, **options
    )
    scheduler.set_timesteps(steps)
    in_float64(scheduler)
    x = torch.tensor(START, dtype=torch.float64).reshape(1, 1, 1, -1)
    heun = isinstance(scheduler, HeunDiscreteScheduler)
    if heun:
        # The state of Heun's scheduler is x/√ᾱ.
        x = x * (scheduler.sigmas[0] ** 2 + 1).sqrt()
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if heun else x
        output = torch.tanh(1.3 * seen + 0.4 * math.cos(float(t) / 300))
        x = scheduler.step(output, t, x).prev_sample.double()
    return dict(
        sampler=name,
        steps=steps,
        spacing=spacing,
        timesteps=[float(t) for t in scheduler.timesteps],
        x=x.flatten().tolist(),
    )


def multistep():
    runs = []
    for name in SCHEDULERS:
        # Between timesteps, Heun's scheduler interpolates σ and `heun` ln ᾱ: use whole timesteps only.
        spacings = dict(pndm=["leading"], heun=["leading", "trailing"]).get(name, ["leading", "linspace", "trailing"])
        runs += [run(name, steps, spacing, {}) for steps in (10, 20, 50) for spacing in spacings]
    for name, spacing, options, ours in VARIANTS:
        runs += [dict(run(name, steps, spacing, options), **ours) for steps in (10, 20, 50)]
    path = CRATES / "diffusion/tests/goldens/multistep.json"
    golden = dict(diffusers=diffusers.__version__, torch=torch.__version__, start=START, runs=runs)
    path.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    multistep()
