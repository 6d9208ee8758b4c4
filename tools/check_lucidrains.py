#!/usr/bin/env python3
"""Loads a file of `ddpm export RUN -o model-1.pt --trainer` as the `Trainer` of denoising-diffusion-pytorch does, and does a step.

    python tools/check_lucidrains.py model-1.pt [RUN/checkpoints/STEP]

With a checkpoint, parameters, averages and moments are compared with those in its files.
"""

import json
import sys
from pathlib import Path

import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from ema_pytorch import EMA
from safetensors.torch import load_file

path = sys.argv[1]
data = torch.load(path, map_location="cpu", weights_only=True)
model = data["model"]
if len(sys.argv) < 3:
    sys.exit("the checkpoint is missing, which has the arguments of Unet in unet/config.json")
checkpoint = Path(sys.argv[2])
config = json.loads((checkpoint / "unet/config.json").read_text())
size = config.pop("sample_size")
config = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if not k.startswith("_")}
steps = len(model["betas"])
prediction = json.loads((checkpoint / "scheduler/scheduler_config.json").read_text())["prediction_type"]
objective = {"epsilon": "pred_noise", "v_prediction": "pred_v", "sample": "pred_x0"}[prediction]
diffusion = GaussianDiffusion(Unet(**config), image_size=size, timesteps=steps, objective=objective, beta_schedule="linear")
own = {name: value.clone() for name, value in diffusion.state_dict().items()}
print(diffusion.load_state_dict(model))
for name, value in own.items():
    # A linear schedule has the buffers of the original; the weights of the loss are those of the run.
    if not name.startswith("model.") and name != "loss_weight":
        error = ((model[name] - value).abs() / value.abs().clamp(min=1e-3)).max().item()
        print(f"  {name}: {error:.1e} from those of a linear schedule")
optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-3, betas=(0.9, 0.99))
optimizer.load_state_dict(data["opt"])
ema = EMA(diffusion, beta=0.995, update_every=10)
print(ema.load_state_dict(data["ema"]))
weights, averages, moments = (
    load_file(checkpoint / name)
    for name in (
        "training/weights.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "training/optimizer.safetensors",
    )
)
count = 0
for (name, parameter), (_, averaged) in zip(diffusion.model.named_parameters(), ema.ema_model.model.named_parameters()):
    assert torch.equal(parameter.detach(), weights[name]), name
    assert torch.equal(averaged.detach(), averages[name]), name
    state = optimizer.state[parameter]
    if state:
        assert torch.equal(state["exp_avg"], moments[f"moment1.{name}"]), name
        assert torch.equal(state["exp_avg_sq"], moments[f"moment2.{name}"]), name
        count += 1
print(f"step {data['step']}: all parameters and averages, and the moments of {count} parameters, are those of the checkpoint")
height, width = size if isinstance(size, list) else (size, size)
images = torch.rand((2, diffusion.channels, height, width))
loss = diffusion(images)
loss.backward()
optimizer.step()
ema.update()
print(f"a step of the original: loss {loss.item():.4f}, Adam's step {next(iter(optimizer.state.values()))['step'].item():.0f}")
