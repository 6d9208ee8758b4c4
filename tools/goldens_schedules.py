"""Writes goldens of diffusers' schedules, lists of timesteps and variances, for crates/diffusion."""

import json
import math

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from goldens_common import CRATES


def betas_float64(name, count, zero_snr):
    """Returns the schedule in float64, so that a test need not allow for diffusers' float32."""
    start, end = 1e-4, 0.02
    if name == "linear":
        betas = np.linspace(start, end, count)
    elif name == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, count) ** 2
    elif name == "sigmoid":
        betas = (end - start) / (1 + np.exp(-np.linspace(-6, 6, count))) + start
    else:
        if name == "squaredcos_cap_v2":
            bar = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        else:

            def bar(u):
                half = 0.5 - u
                snr = math.exp(-0.5 * math.copysign(1, half) * math.log(1 - 2 * abs(half) + 1e-6))
                return math.sqrt(snr / (1 + snr))

        betas = np.array([min(1 - bar((i + 1) / count) / bar(i / count), 0.999) for i in range(count)])
    if zero_snr:
        root = np.sqrt(np.cumprod(1 - betas))
        bars = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        betas = 1 - np.concatenate([bars[:1], bars[1:] / bars[:-1]])
    return betas


def schedules():
    tables, timesteps, variances = [], [], []
    for name in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"):
        for count in (10, 100, 1000):
            for zero_snr in (False, True):
                config = dict(beta_schedule=name, num_train_timesteps=count, rescale_betas_zero_snr=zero_snr)
                s = DDPMScheduler(**config)
                if name not in ("sigmoid", "laplace"):  # DDIM has the same tables, but no sigmoid or laplace
                    assert torch.equal(s.alphas_cumprod, DDIMScheduler(**config).alphas_cumprod)
                index = sorted({round(i * (count - 1) / 7) for i in range(8)} | {1, count - 2})
                betas = betas_float64(name, count, zero_snr)
                bars = np.cumprod(1 - betas)
                pick = lambda values: [float(values[i]) for i in index]
                tables.append(
                    config
                    | dict(index=index, betas=pick(s.betas), alphas_cumprod=pick(s.alphas_cumprod))
                    | dict(betas_f64=pick(betas), alphas_cumprod_f64=pick(bars))
                )

    for count in (10, 20, 50):
        for spacing in ("leading", "trailing", "linspace"):
            for offset in (0, 1) if spacing == "leading" else (0,):
                config = dict(timestep_spacing=spacing, steps_offset=offset)
                s = DDPMScheduler(**config)
                s.set_timesteps(count)
                d = DDIMScheduler(**config)
                d.set_timesteps(count)
                assert torch.equal(s.timesteps, d.timesteps)
                listed = s.timesteps.tolist()
                timesteps.append(config | dict(num_inference_steps=count, timesteps=listed))
                # Positions first, second, middle, second to last, last of the list.
                for k in (0, 1, count // 2, count - 2, count - 1):
                    t = listed[k]
                    ddim_prev = t - 1000 // count  # diffusers uses this regardless of the list
                    variances.append(
                        config
                        | dict(num_inference_steps=count, t=t, prev_t=int(s.previous_timestep(t)))
                        | {v: float(s._get_variance(t, variance_type=v)) for v in ("fixed_small", "fixed_large")}
                        | dict(ddim_prev_t=ddim_prev, ddim=float(d._get_variance(t, ddim_prev)))
                    )
    full = DDPMScheduler()
    for t in (0, 1, 2, 10, 500, 999):  # no respacing
        small, large = (float(full._get_variance(t, variance_type=v)) for v in ("fixed_small", "fixed_large"))
        variances.append(dict(num_inference_steps=1000, t=t, prev_t=t - 1, fixed_small=small, fixed_large=large))

    rows = {"tables": tables, "timesteps": timesteps, "variances": variances}
    body = ",\n".join(f'"{k}": [\n' + ",\n".join(json.dumps(r) for r in v) + "\n]" for k, v in rows.items())
    note = f"tools/goldens.py schedules, diffusers {diffusers.__version__}, torch {torch.__version__.split('+')[0]}"
    path = CRATES / "diffusion/tests/goldens/schedules.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{\n"made_by": {json.dumps(note)},\n{body}\n}}\n')
    json.loads(path.read_text())
    print(f"schedules: {len(tables)} tables, {len(timesteps)} lists of timesteps, {len(variances)} variances")
