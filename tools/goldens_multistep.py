"""Goldens of diffusers' schedulers of higher order, for crates/diffusion: a closed-form network, the images they make.

    noise predicted for x at t: tanh(1.3·x + 0.4·cos(t/300))
"""

import json
import math

import diffusers
import numpy as np
import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from goldens_common import CRATES

# Our name of each, and diffusers'.
SCHEDULERS = {
    "dpmpp-1": (DPMSolverMultistepScheduler, dict(solver_order=1)),
    "dpmpp-2m": (DPMSolverMultistepScheduler, dict(solver_order=2)),
    "dpmpp-3m-diffusers": (DPMSolverMultistepScheduler, dict(solver_order=3)),
    "unipc-1": (UniPCMultistepScheduler, dict(solver_order=1)),
    "unipc-2": (UniPCMultistepScheduler, dict(solver_order=2)),
    "unipc-3": (UniPCMultistepScheduler, dict(solver_order=3)),
    "deis-3": (DEISMultistepScheduler, dict(solver_order=3)),
    "pndm": (PNDMScheduler, dict(skip_prk_steps=True)),
}
START = [-1.7, -0.4, 0.0, 0.3, 1.1, 2.2]


def in_float64(scheduler):
    """The scheduler's tables again in float64, so that a test need not allow for diffusers' float32."""
    bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    scheduler.alphas_cumprod = torch.from_numpy(bars)
    if isinstance(scheduler, PNDMScheduler):
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
        return
    ratios = np.sqrt((1 - bars) / bars)
    sigmas = ratios[scheduler.timesteps.numpy().astype(int)]
    end = 0.0 if scheduler.sigmas[-1] == 0 else ratios[0]
    assert np.allclose(scheduler.sigmas.numpy(), [*sigmas, end], rtol=1e-4)
    scheduler.sigmas = torch.from_numpy(np.array([*sigmas, end]))


def multistep():
    runs = []
    for name, (scheduler_class, options) in SCHEDULERS.items():
        for steps in (10, 20, 50):
            for spacing in ("leading", "linspace", "trailing") if name != "pndm" else ("leading",):
                scheduler = scheduler_class(
                    num_train_timesteps=1000, beta_schedule="linear", timestep_spacing=spacing, **options
                )
                scheduler.set_timesteps(steps)
                in_float64(scheduler)
                x = torch.tensor(START, dtype=torch.float64).reshape(1, 1, 1, -1)
                for t in scheduler.timesteps:
                    epsilon = torch.tanh(1.3 * x + 0.4 * math.cos(float(t) / 300))
                    x = scheduler.step(epsilon, t, x).prev_sample.double()
                timesteps = [float(t) for t in scheduler.timesteps]
                runs.append(dict(sampler=name, steps=steps, spacing=spacing, timesteps=timesteps, x=x.flatten().tolist()))
    path = CRATES / "diffusion/tests/goldens/multistep.json"
    golden = dict(diffusers=diffusers.__version__, torch=torch.__version__, start=START, runs=runs)
    path.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    multistep()
