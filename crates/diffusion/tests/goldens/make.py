"""Writes diffusers.json and improved_diffusion.json: what the reference implementations answer.

    PYTHONPATH=path/to/improved-diffusion python make.py

needs torch, diffusers (0.42.1 was used) and openai/improved-diffusion (1bc7bbb). Never needed to build or test.

The network is `network` below and the noise `noise`; tests/goldens.rs computes the same two formulas.
"""

import json
import pathlib
import sys
import types

import numpy as np
import torch
import diffusers
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm

sys.modules.setdefault("mpi4py", types.ModuleType("mpi4py"))
from improved_diffusion import gaussian_diffusion as gd
from improved_diffusion.respace import SpacedDiffusion, space_timesteps

HERE = pathlib.Path(__file__).parent
DIMS = 4
X_INIT = torch.tensor([1.2, -0.4, 0.1, -1.9], dtype=torch.float64)


def network(x, t):
    return 0.7 * x + 0.2 * torch.sin(3.0 * x + 0.01 * t)


def variance_channels(x, t):
    return torch.cos(x + 0.02 * t)


def noise(call):
    return torch.tensor([1.4 * np.sin(1.7 * call + 0.9 * d + 0.3) for d in range(DIMS)], dtype=torch.float64)


def run(cls, steps, eta=0.0, **config):
    scheduler = cls(**config)
    scheduler.set_timesteps(steps)
    learned = config.get("variance_type", "").startswith("learned")
    calls = iter(range(10**6))
    scheduling_ddpm.randn_tensor = lambda shape, **_: noise(next(calls)).reshape(shape)
    x = X_INIT.reshape(1, 1, 1, DIMS)
    for t in scheduler.timesteps:
        out = network(x, float(t))
        if learned:
            out = torch.cat([out, variance_channels(x, float(t))], dim=1)
        extra = {}
        if cls is DDIMScheduler and eta > 0:
            extra = dict(eta=eta, variance_noise=noise(next(calls)).reshape(x.shape))
        x = scheduler.step(out, t, x, **extra).prev_sample
    return dict(steps=steps, eta=eta, result=x.flatten().tolist(), json=scheduler.to_json_string())


def from_diffusers():
    runs = []
    for steps in (10, 50, 1000):
        for variance_type in ("fixed_small", "fixed_large", "learned_range", "fixed_small_log"):
            runs.append(run(DDPMScheduler, steps, variance_type=variance_type))
        runs.append(run(DDIMScheduler, steps))
        runs.append(run(DDIMScheduler, steps, eta=0.6))
    for spacing in ("leading", "trailing", "linspace"):
        for steps in (7, 30, 48):
            for prediction in ("epsilon", "sample", "v_prediction"):
                for cls in (DDPMScheduler, DDIMScheduler):
                    runs.append(run(cls, steps, eta=0.3, timestep_spacing=spacing, prediction_type=prediction))
        runs.append(run(DDPMScheduler, 20, timestep_spacing=spacing, variance_type="fixed_large"))
        runs.append(run(DDPMScheduler, 20, timestep_spacing=spacing, variance_type="learned_range"))
    for schedule in ("scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"):
        runs.append(run(DDPMScheduler, 25, beta_schedule=schedule, clip_sample=False, prediction_type="sample"))
    runs.append(run(DDPMScheduler, 25, num_train_timesteps=300, beta_start=0.001, beta_end=0.03))
    runs.append(run(DDPMScheduler, 5, num_train_timesteps=8, trained_betas=[0.1, 0.2, 0.3, 0.2, 0.25, 0.3, 0.4, 0.5]))
    for cls in (DDPMScheduler, DDIMScheduler):
        runs.append(run(cls, 20, rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"))
        runs.append(run(cls, 20, clip_sample_range=0.3, steps_offset=1))
    runs.append(run(DDIMScheduler, 20, eta=1.0, set_alpha_to_one=False, steps_offset=1, clip_sample=False))
    runs.append(run(DDIMScheduler, 20, eta=1.0, set_alpha_to_one=False))
    tables = {
        schedule: DDPMScheduler(beta_schedule=schedule, num_train_timesteps=50).alphas_cumprod.tolist()
        for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
    }
    spacings = []
    for spacing in ("leading", "trailing", "linspace"):
        scheduler = DDPMScheduler(timestep_spacing=spacing)
        for steps in (1, 2, 3, 7, 16, 30, 48, 50, 96, 128, 333, 400, 480, 999):
            scheduler.set_timesteps(steps)
            spacings.append(dict(spacing=spacing, steps=steps, timesteps=scheduler.timesteps.tolist()))
    for steps in (5, 10, 20, 50, 100):
        # ermongroup/ddim, --skip_type quad
        quad = [int(s) for s in np.linspace(0, np.sqrt(1000 * 0.8), steps) ** 2]
        spacings.append(dict(spacing="quadratic", steps=steps, timesteps=sorted(set(quad), reverse=True)))
    return dict(version=diffusers.__version__, runs=runs, alphas_cumprod=tables, spacings=spacings)


def from_improved_diffusion():
    respacings = [
        dict(timesteps=T, respacing=r, result=sorted(space_timesteps(T, r), reverse=True))
        for T, r in [
            (1000, "50"), (1000, "10"), (1000, "1"), (1000, "ddim50"), (1000, "ddim100"), (300, "10,15,20"),
            (4000, "250"), (4000, "ddim250"), (1001, "7,0,9"), (1000, "1000"), (10, "4,3,3"), (1000, "37"),
            (1000, "10,10,10,10,10,20,30"), (1000, "101"),
        ]
    ]
    x_start = torch.tensor([-1.0, -127.0 / 127.5, 0.2, 1.0], dtype=torch.float64)
    x_start = torch.round((x_start + 1) * 127.5) / 127.5 - 1
    means, variances, terms = gd.ModelMeanType, gd.ModelVarType, []
    for name, betas in (("linear", gd.get_named_beta_schedule("linear", 1000)), ("cosine", gd.get_named_beta_schedule("cosine", 100))):
        for respacing in (str(len(betas)), "20"):
            use = space_timesteps(len(betas), respacing)
            for variance_name, variance in (("fixed_small", variances.FIXED_SMALL), ("fixed_large", variances.FIXED_LARGE), ("learned", variances.LEARNED), ("learned_range", variances.LEARNED_RANGE)):
                for mean_name, mean in (("epsilon", means.EPSILON), ("sample", means.START_X), ("previous_mean", means.PREVIOUS_X)):
                    diffusion = SpacedDiffusion(use, betas=betas, model_mean_type=mean, model_var_type=variance, loss_type=gd.LossType.RESCALED_MSE)
                    for t in (0, 1, diffusion.num_timesteps // 2, diffusion.num_timesteps - 1):
                        z = noise(t)
                        ts = torch.tensor([t])
                        x_t = diffusion.q_sample(x_start.reshape(1, 1, 1, -1), ts, z.reshape(1, 1, 1, -1))
                        learned = variance_name.startswith("learned")

                        def model(x, t):
                            out = network(x, t.item())
                            return torch.cat([out, variance_channels(x, t.item())], dim=1) if learned else out

                        x0 = x_start.reshape(1, 1, 1, -1)
                        bound = diffusion._vb_terms_bpd(diffusion._wrap_model(model), x0, x_t, ts, clip_denoised=True)
                        terms.append(dict(
                            schedule=name, num_train_timesteps=len(betas), respacing=respacing, variance=variance_name,
                            prediction=mean_name, t=t, x_t=x_t.flatten().tolist(), term=bound["output"].item(),
                            prior=diffusion._prior_bpd(x0).item(),
                        ))
    clip_respaced = space_timesteps(1000, "ddim25")
    diffusion = SpacedDiffusion(clip_respaced, betas=gd.get_named_beta_schedule("linear", 1000), model_mean_type=means.EPSILON, model_var_type=variances.FIXED_SMALL, loss_type=gd.LossType.MSE)
    calls = iter(range(10**6))
    gd.th.randn_like = lambda x: noise(next(calls)).reshape(x.shape)
    shape = (1, 1, 1, DIMS)
    ddim = [
        dict(eta=eta, result=diffusion.ddim_sample_loop(lambda x, t: network(x, t.item()), shape, noise=X_INIT.reshape(shape), device="cpu", eta=eta).flatten().tolist())
        for eta in (0.0,)
    ]
    return dict(respacings=respacings, x_start=x_start.tolist(), terms=terms, ddim=ddim)


(HERE / "diffusers.json").write_text(json.dumps(from_diffusers()) + "\n")
(HERE / "improved_diffusion.json").write_text(json.dumps(from_improved_diffusion()) + "\n")
