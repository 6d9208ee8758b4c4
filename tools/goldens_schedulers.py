"""Writes final images of every scheduler class of diffusers, run in float64, for crates/diffusion, and a few images of a
small network, for crates/cli. Also writes the table of keys and defaults in crates/diffusion/src/scheduler.

    prediction for x at t, as noise, as v or as x_0: tanh(1.3·x + 0.4·cos(t/300))
"""

import json
import math
import sys

import diffusers
import numpy as np
import torch
from goldens_common import CRATES, randn, readable, write_tensors

START = [-1.7, -0.4, 0.3, 2.2]
KEYS = """DDPM DDIM DDPMParallel DDIMParallel DDIMInverse DPMSolverMultistep DPMSolverMultistepInverse DPMSolverSDE
    DPMSolverSinglestep UniPCMultistep DEISMultistep PNDM EulerDiscrete EulerAncestralDiscrete HeunDiscrete LMSDiscrete
    KDPM2Discrete KDPM2AncestralDiscrete SASolver RePaint LCM TCD""".split()
# Keys of the class that needs torchsde.
SDE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="linear", trained_betas=None)
SDE |= dict(prediction_type="epsilon", use_karras_sigmas=False, use_exponential_sigmas=False, use_beta_sigmas=False)
SDE |= dict(noise_sampler_seed=None, timestep_spacing="linspace", steps_offset=0)

SPACINGS = [dict(timestep_spacing=spacing) for spacing in ("leading", "trailing")]
OFFSET = [dict(timestep_spacing="leading", steps_offset=1)]
SIGMAS = [{f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")]
BETAS = [dict(beta_schedule="scaled_linear"), dict(beta_schedule="squaredcos_cap_v2")]
V = [dict(prediction_type="v_prediction")]
SAMPLE = [dict(prediction_type="sample")]
THRESHOLD = [dict(thresholding=True, dynamic_thresholding_ratio=0.7, sample_max_value=2.0)]
ZERO_SNR = [dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")]
SIGMA_MIN = [dict(final_sigmas_type="sigma_min")]
ORDERS = [dict(solver_order=order) for order in (1, 3)]
COMMON = [{}] + SPACINGS + OFFSET + BETAS + V
EULER = COMMON + SIGMAS + [dict(use_karras_sigmas=True, timestep_spacing="leading")]
CASES = {
    "DPMSolverMultistep": COMMON + SIGMAS + SAMPLE + THRESHOLD + ZERO_SNR + SIGMA_MIN + ORDERS
    + [dict(solver_type="heun"), dict(euler_at_final=True, final_sigmas_type="sigma_min"), dict(use_lu_lambdas=True)]
    + [dict(lower_order_final=False, solver_order=3), dict(lambda_min_clipped=-4.0), dict(algorithm_type="deis", final_sigmas_type="sigma_min")]
    + [dict(lambda_min_clipped=-4.0, timestep_spacing=spacing) for spacing in ("leading", "trailing")]
    + [dict(use_karras_sigmas=True, beta_schedule="scaled_linear", final_sigmas_type="sigma_min")]
    + [
        dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min", solver_order=order, solver_type=solver)
        for order in (1, 2, 3)
        for solver in ("midpoint", "heun")
    ]
    + [dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min") | THRESHOLD[0]]
    + [
        dict(algorithm_type="sde-dpmsolver++", solver_order=order, solver_type=solver)
        for order, solver in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint"))
    ]
    + [
        dict(algorithm_type="sde-dpmsolver", final_sigmas_type="sigma_min", solver_order=order, solver_type=solver)
        for order, solver in ((1, "midpoint"), (2, "midpoint"), (2, "heun"))
    ],
    "DPMSolverSinglestep": [{}] + BETAS + V + SIGMAS + THRESHOLD + ORDERS
    + [dict(solver_type="heun"), dict(solver_type="heun", solver_order=3), dict(lambda_min_clipped=-4.0)]
    + [dict(lower_order_final=True, solver_order=order) for order in (2, 3)]
    + [
        dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min", solver_order=order, solver_type=solver)
        for order in (1, 2, 3)
        for solver in ("midpoint", "heun")
    ]
    + [dict(algorithm_type="sde-dpmsolver++", solver_order=1)],
    "UniPCMultistep": COMMON + SIGMAS + SAMPLE + THRESHOLD + ZERO_SNR + SIGMA_MIN + ORDERS
    + [dict(disable_corrector=[0, 3]), dict(solver_type="bh1", final_sigmas_type="sigma_min")]
    + [dict(solver_order=4), dict(use_karras_sigmas=True, final_sigmas_type="sigma_min")]
    + [dict(use_karras_sigmas=True, sigma_min=0.05, sigma_max=40.0)]
    + [dict(predict_x0=False, final_sigmas_type="sigma_min", solver_order=order) for order in (1, 2, 3)]
    + [dict(lower_order_final=False, solver_order=3, final_sigmas_type="sigma_min", solver_type="bh1")],
    "DEISMultistep": COMMON + SIGMAS + SAMPLE + THRESHOLD + ORDERS + [dict(lower_order_final=False, solver_order=3)],
    "PNDM": [
        dict(skip_prk_steps=skip) | more
        for skip in (False, True)
        for more in [{}] + SPACINGS + [dict(timestep_spacing="linspace"), dict(set_alpha_to_one=True)] + OFFSET + BETAS + V
    ],
    "EulerDiscrete": EULER + SAMPLE + ZERO_SNR + SIGMA_MIN
    + [dict(interpolation_type="log_linear"), dict(use_karras_sigmas=True, sigma_min=0.05, sigma_max=40.0)],
    "EulerAncestralDiscrete": COMMON + ZERO_SNR,
    "HeunDiscrete": EULER + SAMPLE + [dict(clip_sample=True), dict(clip_sample=True, clip_sample_range=0.6)],
    "LMSDiscrete": EULER + SAMPLE,
    "KDPM2Discrete": EULER,
    "KDPM2AncestralDiscrete": EULER,
    "DDPM": [{}, dict(variance_type="fixed_large", timestep_spacing="trailing")],
    "DDIM": [{}, dict(timestep_spacing="trailing", clip_sample=False), dict(set_alpha_to_one=False, steps_offset=1)],
}


class Double:
    """A module whose float32 is float64."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, "float64" if name == "float32" else name)


def noise(row):
    return torch.tensor([1.4 * math.sin(1.7 * row + 0.9 * d + 0.3) for d in range(len(START))], dtype=torch.float64)


def chain(scheduler, model, x, steps, step_noise):
    """Samples as diffusers' pipelines do; returns the timesteps and the final x."""
    module = sys.modules[type(scheduler).__module__]
    scheduler.set_timesteps(steps)
    timesteps = list(scheduler.timesteps)
    x = x * scheduler.init_noise_sigma
    for row, t in enumerate(timesteps):
        if hasattr(module, "randn_tensor"):
            module.randn_tensor = lambda shape, row=row, **_: step_noise(row).reshape(shape)
        output = model(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x).prev_sample
    return timesteps, x


def formula(x, t):
    return torch.tanh(1.3 * x + 0.4 * math.cos(float(t) / 300))


def runs():
    torch.set_default_dtype(torch.float64)
    found = []
    for name, cases in CASES.items():
        scheduler_class = getattr(diffusers, f"{name}Scheduler")
        module = sys.modules[scheduler_class.__module__]
        kept = {key: getattr(module, key) for key in ("torch", "np", "randn_tensor") if hasattr(module, key)}
        module.torch, module.np = Double(torch), Double(np)
        for options in cases:
            for steps in (10, 50):
                scheduler = scheduler_class(**options)
                x = torch.tensor(START).reshape(1, 1, 1, -1)
                timesteps, x = chain(scheduler, formula, x, steps, noise)
                assert x.dtype == torch.float64 and x.isfinite().all(), (name, options)
                case = dict(config={"_class_name": f"{name}Scheduler"} | options, steps=steps)
                case |= dict(timesteps=[float(t) for t in timesteps], x=x.flatten().tolist())
                found.append(case)
        for key, value in kept.items():
            setattr(module, key, value)
    torch.set_default_dtype(torch.float32)
    return found


def defaults():
    """Returns the keys of every class with their defaults, and the file that diffusers writes for each."""
    table, files = {}, {}
    for name in KEYS:
        scheduler_class = getattr(diffusers, f"{name}Scheduler")
        config = SDE if name == "DPMSolverSDE" else scheduler_class().config
        table[f"{name}Scheduler"] = dict(sorted((k, v) for k, v in config.items() if not k.startswith("_")))
        if name in CASES:
            files[f"{name}Scheduler"] = scheduler_class().to_json_string()
    return table, files


@torch.no_grad()
def network():
    """Writes one image of the golden pipeline for every class without noise, at 10 and 50 steps, from the same noise."""
    pipeline = diffusers.DDPMPipeline.from_pretrained(CRATES / "sample/tests/goldens/pipeline")
    net = pipeline.unet.eval()
    start = randn((1, 3, 16, 16), 77)
    tensors = dict(noise=start)
    for name in CASES:
        if name in ("DDPM", "EulerAncestralDiscrete", "KDPM2AncestralDiscrete"):
            continue
        for steps in (10, 50):
            scheduler = getattr(diffusers, f"{name}Scheduler")()
            _, x = chain(scheduler, lambda x, t: net(x, t).sample, start, steps, None)
            tensors[f"{name}Scheduler.{steps}"] = x
    write_tensors(CRATES / "cli/tests/goldens/schedulers.safetensors", tensors)
    readable(CRATES / "cli/tests/goldens")


def schedulers():
    table, files = defaults()
    lines = [f'  "{name}": {json.dumps(keys)}' for name, keys in table.items()]
    path = CRATES / "diffusion/src/scheduler/classes.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    golden = dict(diffusers=diffusers.__version__, torch=torch.__version__.split("+")[0], start=START, files=files)
    lines = ",\n".join(json.dumps(run) for run in runs())
    path = CRATES / "diffusion/tests/goldens/schedulers.json"
    path.write_text(json.dumps(golden)[:-1] + ',\n"runs": [\n' + lines + "\n]}\n")
    network()


if __name__ == "__main__":
    schedulers()
