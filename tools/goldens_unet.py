"""Writes goldens of UNet2DModel for crates/unet: outputs, losses and gradients."""

import math
import shutil

import numpy as np
import torch
from diffusers import UNet2DModel
from goldens_common import CRATES, randn, readable, relative, seeded, write_json, write_tensors

# The settings of all google/ddpm-* checkpoints (Ho et al.'s network in diffusers); widths and levels vary.
HO = dict(
    time_embedding_type="positional",
    flip_sin_to_cos=False,
    freq_shift=1,
    downsample_padding=0,
    attention_head_dim=None,
    norm_eps=1e-6,
    center_input_sample=False,
    mid_block_scale_factor=1,
    act_fn="silu",
)

CIFAR10_LEVELS = dict(
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=2,
)

# name: (UNet2DModel's arguments, batch, (height, width), timesteps, labels)
CONFIGS = {
    # Ho et al.'s CIFAR-10 network scaled down: four levels, attention at 16x16.
    "ho": (
        dict(HO, **CIFAR10_LEVELS, sample_size=32, block_out_channels=(8, 8, 12, 12), norm_num_groups=4),
        1,
        (32, 32),
        torch.tensor([407]),
        None,
    ),
    # diffusers' defaults (heads of 8 channels, symmetric padding, cos before sin), not square.
    "defaults": (
        dict(
            sample_size=(8, 12),
            block_out_channels=(8, 24),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
        ),
        2,
        (8, 12),
        torch.tensor([0, 999]),
        None,
    ),
    # Gray images, learned variance (out = 2 in), attention at two levels, 12 -> 6 -> 3.
    "learned_range": (
        dict(
            HO,
            sample_size=12,
            in_channels=1,
            out_channels=2,
            block_out_channels=(8, 8, 16),
            layers_per_block=1,
            down_block_types=("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
            norm_num_groups=4,
        ),
        2,
        (12, 12),
        torch.tensor([3, 650]),
        None,
    ),
    # ADM: residual blocks that resample, scale_shift, class labels; the mid attention has no norm.
    "adm": (
        dict(
            sample_size=8,
            in_channels=3,
            out_channels=6,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift",
            norm_num_groups=4,
            num_class_embeds=10,
        ),
        2,
        (8, 8),
        torch.tensor([17, 980]),
        torch.tensor([9, 0]),
    ),
    # Attention blocks that resample with residual blocks, a norm in the mid attention, class_embed_type timestep, RGBA.
    "attn_resample": (
        dict(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D"),
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift",
            attn_norm_num_groups=2,
            norm_num_groups=4,
            freq_shift=1,
            class_embed_type="timestep",
        ),
        2,
        (8, 8),
        torch.tensor([250, 751]),
        torch.tensor([30, 4]),
    ),
    # Gaussian Fourier features of log sigma (float t), output divided by sigma, centered input, no mid attention.
    "fourier": (
        dict(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            time_embedding_type="fourier",
            center_input_sample=True,
            add_attention=False,
            class_embed_type="identity",
            attention_head_dim=None,
            norm_num_groups=4,
        ),
        2,
        (8, 8),
        torch.tensor([0.35, 7.5]),
        randn((2, 32), 5),
    ),
    # Fractional t, odd widths (the embedding is padded with a zero), 12 channels in heads of 5 (inner width 10), scaled
    # mid block with its own groups. Plain blocks ignore downsample_type and upsample_type.
    "odd": (
        dict(
            sample_size=None,
            in_channels=1,
            out_channels=1,
            block_out_channels=(9, 12),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            flip_sin_to_cos=True,
            freq_shift=0,
            mid_block_scale_factor=1.4142135623730951,
            attn_norm_num_groups=4,
            norm_num_groups=3,
            norm_eps=1e-6,
            attention_head_dim=5,
            downsample_padding=1,
            downsample_type="resnet",
            upsample_type="resnet",
            act_fn="swish",
        ),
        3,
        (6, 10),
        torch.tensor([0.25, 123.75, 998.5]),
        None,
    ),
    # Other options: learned time embedding, its own width, no mid block, 20 channels in heads of 8 (inner width 16), one
    # level.
    "learned_time": (
        dict(
            sample_size=4,
            block_out_channels=(20,),
            layers_per_block=1,
            down_block_types=("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",),
            mid_block_type=None,
            time_embedding_type="learned",
            num_train_timesteps=10,
            time_embedding_dim=28,
            attention_head_dim=8,
            norm_num_groups=4,
        ),
        2,
        (4, 4),
        torch.tensor([9, 2]),
        None,
    ),
    # An eps as large as the variances, so that every normalization that ignores it is far off.
    "large_eps": (
        dict(
            sample_size=4,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8,),
            layers_per_block=1,
            down_block_types=("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",),
            norm_num_groups=2,
            norm_eps=0.25,
            attention_head_dim=4,
        ),
        2,
        (4, 4),
        torch.tensor([40, 700]),
        None,
    ),
}


def perturb(model, seed):
    """Moves every parameter off its initial value, so that no bias is 0 and no norm weight is 1."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name == "time_proj.weight" and not p.requires_grad:
                continue  # the Fourier frequencies
            scale = 0.2 if p.dim() == 1 else 0.2 * p.std()
            p += scale * torch.randn(p.shape, generator=generator)


def run(model, x, t, labels, target):
    """Returns output, loss, gradients and the named intermediate results, in the model's precision."""
    dtype = next(model.parameters()).dtype
    seen = {}

    def keep(name):
        def hook(_module, _inputs, output):
            first = output[0] if isinstance(output, tuple) else output
            seen.setdefault(name, first.detach())  # class_embed_type timestep calls time_proj twice
            # `Timesteps` always computes in float32, and class_embed_type timestep does not cast its result.
            return first.to(dtype) if name == "time_proj" else None

        return hook

    watched = ["time_proj", "time_embedding", "conv_in", "mid_block"]
    modules = dict(model.named_modules())
    watched += [n for n in modules if n.count(".") == 1 and n.startswith(("down_blocks.", "up_blocks."))]
    hooks = [modules[n].register_forward_hook(keep(n)) for n in watched if modules.get(n) is not None]
    # Fourier features and the division by t have the precision of t.
    cast = lambda v: v.to(dtype) if v is not None and v.is_floating_point() else v
    x = x.detach().clone().to(dtype).requires_grad_()
    model.zero_grad()
    output = model(x, cast(t), class_labels=cast(labels)).sample
    loss = ((output - target.to(dtype)) ** 2).mean()
    loss.backward()
    for hook in hooks:
        hook.remove()
    grads = {"x": x.grad} | {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return output.detach(), loss.detach(), {k: v.clone() for k, v in grads.items()}, seen


def errors(single, exact):
    """Returns the error of PyTorch's float32: of the output, and of the worst gradient tensor."""
    (out1, _, grads1, _), (out, _, grads, _) = single, exact
    # A key bias shifts all logits of a query alike, so its gradient is zero except for rounding.
    worst = max(relative(grads1[k], g) for k, g in grads.items() if not k.endswith("to_k.bias"))
    return relative(out1, out), worst


def unet():
    root = CRATES / "unet/tests/goldens"
    for seed, (name, (config, batch, (h, w), t, labels)) in enumerate(CONFIGS.items(), start=100):
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(seed)
        model = UNet2DModel(**config)
        perturb(model, seed)
        model.save_pretrained(folder)
        (folder / "diffusion_pytorch_model.safetensors").rename(folder / "weights.safetensors")
        x = randn((batch, model.config.in_channels, h, w), seed + 1000)
        target = randn((batch, model.config.out_channels, h, w), seed + 2000)
        single = run(model, x, t, labels, target)
        exact = run(model.double(), x, t, labels, target)
        output, loss, grads, seen = exact
        out_error, grad_error = errors(single, exact)
        tensors = dict(x=x, t=t, target=target, output=output, loss=loss)
        if labels is not None:
            tensors["labels"] = labels
        tensors |= {f"grad.{k}": v for k, v in grads.items()}
        tensors |= {f"hidden.{k}": v for k, v in seen.items()}
        tensors |= {"f32_error.output": torch.tensor(out_error), "f32_error.grad": torch.tensor(grad_error)}
        write_tensors(folder / "golden.safetensors", tensors)
        count = sum(p.numel() for p in model.parameters())
        readable(folder)
        print(f"unet {name:14} {count:7} parameters, float32 error: output {out_error:.1e}, gradients {grad_error:.1e}")


# Networks too wide to store: weights by formula, norms and dot products of gradients.
FORMULA = {
    "ho_wide": dict(HO, **CIFAR10_LEVELS, sample_size=32, block_out_channels=(32, 64, 64, 64), norm_num_groups=16),
    "ddpm_cifar10": dict(HO, **CIFAR10_LEVELS, sample_size=32, block_out_channels=(128, 256, 256, 256)),
}


def formula_uniform(name, count):
    """Returns `count` values in [-1, 1), exact in float32, of splitmix64 seeded with the FNV-1a hash of the name."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    z = np.uint64(h) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - np.float32(1))


def formula_weight(name, shape):
    """Returns weights, rounded once. Matrices: variance 1/fan_in. Biases: within 1/8 of 0. Norm weights: within 1/4 of 1."""
    u = formula_uniform(name, math.prod(shape)).reshape(shape)
    if len(shape) > 1:
        return torch.tensor(math.sqrt(3 / math.prod(shape[1:])), dtype=torch.float32) * u
    return u / 8 if name.endswith(".bias") else 1 + u / 4


def formula():
    for seed, (name, config) in enumerate(FORMULA.items(), start=300):
        folder = CRATES / "unet/tests/goldens/formula" / name
        shutil.rmtree(folder, ignore_errors=True)
        model = UNet2DModel(**config)
        model.save_config(folder)
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.copy_(formula_weight(n, p.shape))
        x, target = randn((1, 3, 32, 32), seed), randn((1, 3, 32, 32), seed + 1)
        t = torch.tensor([621])
        single = run(model, x, t, None, target)
        exact = run(model.double(), x, t, None, target)
        output, loss, grads, _ = exact
        out_error, grad_error = errors(single, exact)
        names = sorted(k for k in grads if k != "x")
        dots = [(grads[k].flatten() @ formula_uniform("dot." + k, grads[k].numel()).double()) for k in names]
        tensors = dict(x=x, t=t, target=target, output=output, loss=loss)
        tensors |= {"grad.x": grads["x"], "grad_norms": torch.stack([grads[k].norm() for k in names])}
        tensors |= {"grad_dots": torch.stack(dots)}
        tensors |= {"f32_error.output": torch.tensor(out_error), "f32_error.grad": torch.tensor(grad_error)}
        write_tensors(folder / "golden.safetensors", tensors)
        write_json(folder / "parameters.json", names)
        readable(folder)
        print(f"formula {name:14} float32 error: output {out_error:.1e}, gradients {grad_error:.1e}")
