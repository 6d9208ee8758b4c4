"""Writes goldens of hmdolatabadi/denoising_diffusion: its network, and a checkpoint with its sampler's images. Needs its repository:
`HMDOLATABADI=FOLDER`."""

import os
import shutil
import sys

import torch
from goldens_common import CRATES, randn, readable, relative, seeded, write_json, write_tensors
from safetensors.torch import save_file

# name: (UNet's arguments, batch, (height, width), timesteps)
CONFIGS = {
    # As published: attention in the middle only.
    "hmdolatabadi": (
        dict(in_channel=3, channel=32, channel_multiplier=[2, 2], n_res_blocks=1, attn_strides=[16], dropout=0.1),
        2,
        (8, 6),
        [0, 999],
    ),
    # Attention on the only level, folded images of two channels.
    "hmdolatabadi_fold": (
        dict(in_channel=2, channel=32, channel_multiplier=[2], n_res_blocks=1, attn_strides=[1], fold=2),
        2,
        (8, 4),
        [17, 640],
    ),
}


def repository():
    """Makes the modules of the repository importable."""
    if "HMDOLATABADI" not in os.environ:
        sys.exit("HMDOLATABADI=FOLDER is missing: a checkout of https://github.com/hmdolatabadi/denoising_diffusion")
    sys.path.insert(0, os.environ["HMDOLATABADI"])
    from lib import diffusion, model

    return model, diffusion


def perturbed(model, seed):
    """Replaces the initial parameters, of which many are zero."""
    with torch.no_grad():
        for p in model.parameters():
            deviation = 0.2 if p.dim() < 2 else 0.7 / p[0].numel() ** 0.5
            p += deviation * torch.randn(p.shape, generator=seeded(seed))
    return model


def in_double(model):
    """The embedding of timesteps is computed in float32, whatever the precision of the network."""
    model = model.double()
    model.time[0].register_forward_hook(lambda _module, _inputs, output: output.double())
    return model


def run(model, x, t, target):
    """Returns output, loss and gradients in the model's precision."""
    dtype = next(model.parameters()).dtype
    x = x.detach().clone().to(dtype).requires_grad_()
    model.zero_grad()
    output = model(x, t)
    loss = ((output - target.to(dtype)) ** 2).mean()
    loss.backward()
    grads = {"x": x.grad} | {n: p.grad for n, p in model.named_parameters()}
    return output.detach(), loss.detach(), {k: v.clone() for k, v in grads.items()}


def hmdolatabadi():
    model, _ = repository()
    root = CRATES / "unet/tests/goldens"
    for seed, (name, (config, batch, (h, w), t)) in enumerate(CONFIGS.items(), start=900):
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(seed)
        # Half the size of the file.
        network = perturbed(model.UNet(**config), seed).half().float().eval()
        x, t = randn((batch, config["in_channel"], h, w), seed + 1000), torch.tensor(t)
        target = randn((batch, 3, h, w), seed + 2000)
        write_json(folder / "config.json", dict(config, _class_name="HmdolatabadiUNet", sample_size=[h, w]))
        save_file({k: v.half().contiguous() for k, v in network.state_dict().items()}, folder / "weights.safetensors")
        single = run(network, x, t, target)
        output, loss, grads = run(in_double(network), x, t, target)
        errors = [relative(single[0], output), max(relative(single[2][k], g) for k, g in grads.items())]
        tensors = dict(x=x, t=t.float(), target=target, output=output, loss=loss)
        # Every seventh value of the large ones.
        tensors |= {f"grad.{k}": v for k, v in grads.items() if v.numel() < 2000}
        tensors |= {f"grad7.{k}": v.flatten()[::7] for k, v in grads.items() if v.numel() >= 2000}
        tensors |= {"f32_error.output": torch.tensor(errors[0]), "f32_error.grad": torch.tensor(errors[1])}
        write_tensors(folder / "golden.safetensors", tensors)
        readable(folder)
        count = sum(p.numel() for p in network.parameters())
        print(f"{name:20} {count:7} parameters, float32 error: output {errors[0]:.1e}, gradients {errors[1]:.1e}")


class obj:
    """The class of the original's `diffusion_lightning.py` for its configuration, of which checkpoints have instances."""

    __module__ = "__main__"

    def __init__(self, values):
        self.__dict__.update({k: obj(v) if isinstance(v, dict) else v for k, v in values.items()})


T, SIZE, BATCH = 40, 8, 2
MODEL = dict(in_channel=3, channel=32, channel_multiplier=[1], n_res_blocks=1, attn_strides=[16], dropout=0.1, fold=1)


def trajectory(process, network, noise, step_noise):
    """Returns x after each step of the original's sampling loop, with given noise in place of torch's."""
    x, states = noise.to(next(network.parameters()).dtype), []
    for t in reversed(range(T)):
        draw = lambda shape, dtype: step_noise[T - 1 - t].to(dtype)
        with torch.no_grad():
            x = process.p_sample(network, x, torch.full((len(x),), t), draw)
        states.append(x)
    return torch.stack(states)


def hmdolatabadi_sampling():
    model, diffusion = repository()
    root = CRATES / "sample/tests/goldens/hmdolatabadi"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    sys.modules["__main__"].obj = obj
    torch.manual_seed(950)
    betas = diffusion.make_beta_schedule("quad", 1e-4, 2e-2, T)
    process = diffusion.GaussianDiffusion(betas, "eps", "fixedlarge", "mse")
    networks = {name: perturbed(model.UNet(**MODEL), seed).half() for name, seed in (("model", 951), ("ema", 952))}
    state = {f"{name}.{k}": v for name, network in networks.items() for k, v in network.state_dict().items()}
    state |= {f"diffusion.{k}": v for k, v in process.state_dict().items()}
    schedule = dict(type="quad", beta_start=1e-4, beta_end=2e-2, n_timestep=T)
    conf = dict(
        dataset=dict(name="cifar10", path="/data/", resolution=SIZE),
        model=MODEL | dict(mean_type="eps", var_type="fixedlarge", loss_type="mse", schedule=schedule, device="cuda", precision=16),
    )
    # What Lightning's callback writes with `save_weights_only`.
    header = {"epoch": 3, "global_step": 400, "pytorch-lightning_version": "0.8.5", "checkpoint_callback_best_model_score": 0.1}
    torch.save(header | dict(state_dict=state, hyper_parameters=dict(conf=obj(conf))), root / "last.ckpt")
    network = networks["ema"].float().eval()
    noise, step_noise = randn((BATCH, 3, SIZE, SIZE), 953), randn((T, BATCH, 3, SIZE, SIZE), 954)
    single = trajectory(process, network, noise, step_noise)
    exact = trajectory(process.double(), in_double(network), noise, step_noise)
    write_tensors(root / "last.safetensors", dict(noise=noise, step_noise=step_noise, ancestral=exact))
    readable(root)
    size = (root / "last.ckpt").stat().st_size
    print(f"hmdolatabadi: {size} bytes, float32 error {relative(single[-1], exact[-1]):.1e}")
