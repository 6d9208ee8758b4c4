"""Writes goldens of denoising-diffusion-pytorch's Unet for crates/unet: outputs, losses and gradients."""

import importlib
import os
import shutil
import sys
from pathlib import Path

import torch
from goldens_common import CRATES, randn, readable, relative, seeded, write_json, write_tensors

# name: (Unet's arguments, batch, (height, width), timesteps)
CONFIGS = {
    # The defaults, scaled down.
    "lucidrains": (dict(dim=4, dim_mults=(1, 2, 3), attn_dim_head=8), 2, (8, 12), torch.tensor([0, 999])),
    # Every argument of the levels, self-conditioning and a learned variance.
    "lucidrains_options": (
        dict(
            dim=8,
            init_dim=6,
            dim_mults=(1, 2),
            channels=1,
            self_condition=True,
            learned_variance=True,
            sinusoidal_pos_emb_theta=300,
            dropout=0.2,
            attn_dim_head=(5, 3),
            attn_heads=(2, 3),
            full_attn=(True, False),
        ),
        2,
        (6, 4),
        torch.tensor([17, 640]),
    ),
    # Learned frequencies, an output of other channels, one level.
    "lucidrains_learned": (
        dict(dim=7, dim_mults=(2,), out_dim=5, learned_sinusoidal_cond=True, learned_sinusoidal_dim=6, attn_dim_head=4),
        3,
        (5, 3),
        torch.tensor([0.25, -0.75, 3.0]),
    ),
    # Random frequencies, which are not trained.
    "lucidrains_random": (
        dict(dim=4, dim_mults=(1, 1), random_fourier_features=True, attn_dim_head=4, attn_heads=1, full_attn=(True, True)),
        1,
        (4, 4),
        torch.tensor([0.5]),
    ),
}


def run(model, x, t, prediction, target):
    """Returns output, loss and gradients in the model's precision. `prediction` may be the arguments of a network with classes."""
    dtype = next(model.parameters()).dtype
    # The sinusoidal embedding of whole timesteps is always computed in float32.
    hook = model.time_mlp[0].register_forward_hook(lambda _module, _inputs, output: output.to(dtype))
    x = x.detach().clone().to(dtype).requires_grad_()
    model.zero_grad()
    t = t.to(dtype) if t.is_floating_point() else t
    if isinstance(prediction, dict):
        output = model(x, t, **{name: value for name, value in prediction.items() if name != "shown"})
    else:
        output = model(x, t, None if prediction is None else prediction.to(dtype))
    loss = ((output - target.to(dtype)) ** 2).mean()
    loss.backward()
    hook.remove()
    grads = {"x": x.grad} | {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return output.detach(), loss.detach(), {k: v.clone() for k, v in grads.items()}


def write_golden(folder, model, x, t, prediction, target, renamed=lambda name: name):
    """Writes what the model computes in float64, with its parameters' new names, and returns the errors of float32."""
    single = run(model, x, t, prediction, target)
    output, loss, grads = run(model.double(), x, t, prediction, target)
    errors = [relative(single[0], output), max(relative(single[2][k], g) for k, g in grads.items())]
    tensors = dict(x=x, t=t.float(), target=target, output=output, loss=loss)
    if isinstance(prediction, dict):
        tensors["classes"] = prediction["shown"].float()
    elif prediction is not None:
        tensors["prediction"] = prediction
    tensors |= {f"grad.{renamed(k)}": v for k, v in grads.items()}
    tensors |= {"f32_error.output": torch.tensor(errors[0]), "f32_error.grad": torch.tensor(errors[1])}
    write_tensors(folder / "golden.safetensors", tensors)
    readable(folder)
    return errors


def lucidrains():
    from denoising_diffusion_pytorch import Unet

    root = CRATES / "unet/tests/goldens"
    for seed, (name, (config, batch, (h, w), t)) in enumerate(CONFIGS.items(), start=700):
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(seed)
        model = Unet(**config).eval()
        with torch.no_grad():
            for p in model.parameters():
                p += (0.2 if p.numel() == p.shape[min(1, p.dim() - 1)] else 0.2 * p.std()) * torch.randn(
                    p.shape, generator=seeded(seed)
                )
        channels, out = model.channels, model.out_dim
        x = randn((batch, channels, h, w), seed + 1000)
        target = randn((batch, out, h, w), seed + 2000)
        prediction = randn((batch, channels, h, w), seed + 3000) if model.self_condition else None
        write_json(folder / "config.json", dict(config, _class_name="LucidrainsUnet", sample_size=[h, w]))
        write_tensors(folder / "weights.safetensors", model.state_dict())
        errors = write_golden(folder, model, x, t, prediction, target)
        count = sum(p.numel() for p in model.parameters())
        print(f"{name:20} {count:7} parameters, float32 error: output {errors[0]:.1e}, gradients {errors[1]:.1e}")


# name: (Unet's arguments, GaussianDiffusion's arguments). A quarter of the timesteps with DDIM.
PROCESSES = {
    "v": (dict(self_condition=True), dict(objective="pred_v", beta_schedule="sigmoid", min_snr_loss_weight=True)),
    "noise": (dict(channels=1), dict(objective="pred_noise", beta_schedule="linear")),
    "x0": (dict(channels=1, self_condition=True), dict(objective="pred_x0", beta_schedule="cosine")),
}
T, SIZE, BATCH = 40, 8, 2


def trajectory(diffusion, noise, step_noise):
    """Returns x after each step of `GaussianDiffusion.sample`, in [-1, 1], with given noise in place of torch's."""
    draws = iter([noise, *step_noise])
    original = torch.randn, torch.randn_like
    torch.randn = torch.randn_like = lambda *_, **__: next(draws).to(next(diffusion.parameters()).dtype)
    try:
        shape = (BATCH, diffusion.channels, SIZE, SIZE)
        method = diffusion.ddim_sample if diffusion.is_ddim_sampling else diffusion.p_sample_loop
        return method(shape, return_all_timesteps=True)[:, 1:] * 2 - 1
    finally:
        torch.randn, torch.randn_like = original


def lucidrains_sampling():
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from denoising_diffusion_pytorch.version import __version__
    from ema_pytorch import EMA

    root = CRATES / "sample/tests/goldens/lucidrains"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for seed, (name, (network, process)) in enumerate(PROCESSES.items(), start=750):
        torch.manual_seed(seed)
        unet = Unet(dim=4, dim_mults=(1, 2), attn_dim_head=4, attn_heads=2, **network)
        diffusion = GaussianDiffusion(unet, image_size=SIZE, timesteps=T, **process)
        optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-3, betas=(0.9, 0.99))
        ema = EMA(diffusion, beta=0.995, update_every=10)
        images = torch.rand((BATCH, diffusion.channels, SIZE, SIZE), generator=seeded(seed))
        for _ in range(3):
            diffusion(images).backward()
            optimizer.step()
            optimizer.zero_grad()
        # What `Trainer.save` writes.
        data = dict(step=3, model=diffusion.state_dict(), opt=optimizer.state_dict(), ema=ema.state_dict(), scaler=None)
        torch.save(data | dict(version=__version__), root / f"{name}.pt")
        averaged = ema.ema_model.eval()
        noise = randn(images.shape, seed + 1)
        step_noise = randn((T, *images.shape), seed + 2)
        tensors = dict(noise=noise, step_noise=step_noise)
        for key, steps in (("ancestral", T), ("ddim", T // 4)):
            averaged.sampling_timesteps, averaged.is_ddim_sampling = steps, steps < T
            single = trajectory(averaged.float(), noise, step_noise)
            hook = averaged.model.time_mlp[0].register_forward_hook(lambda _module, _inputs, output: output.double())
            exact = trajectory(averaged.double(), noise, step_noise)
            hook.remove()
            averaged.float()
            tensors[key] = exact.transpose(0, 1)
            print(f"{name:6} {key:9} float32 error {(single - exact).abs().max():.1e}, largest {exact.abs().max():.2f}")
        write_tensors(root / f"{name}.safetensors", tensors)
    readable(root)


def lucidrains_classes():
    """The `Unet` of classifier_free_guidance.py, which has classes."""
    import denoising_diffusion_pytorch.classifier_free_guidance as newest

    shutil.rmtree(CRATES / "sample/tests/goldens/lucidrains_classes", ignore_errors=True)
    old = unet_of("1.5.8", "classifier_free_guidance")
    configs = {
        "lucidrains_classes": (newest, dict(init_dim=6), "2"),
        "lucidrains_classes_0.32": (old, dict(dim=8, dim_mults=(1, 1), resnet_block_groups=4, channels=1), "0.32"),
    }
    for seed, (name, (module, options, key)) in enumerate(configs.items(), start=790):
        folder = CRATES / "unet/tests/goldens" / name
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(seed)
        config = dict(dim=4, dim_mults=(1, 2), num_classes=3) | options
        model = module.Unet(**config).eval()
        with torch.no_grad():
            for p in model.parameters():
                # As of the other versions; the weights of normalizations are near 1.
                scale = p.std() if p.numel() > p.shape[min(1, p.dim() - 1)] else 1
                p += 0.2 * scale * torch.randn(p.shape, generator=seeded(seed))
        batch, (h, w) = 3, (8, 12)
        x, t = randn((batch, model.channels, h, w), seed + 1000), torch.tensor([3, 500, 940])
        target = randn((batch, model.out_dim, h, w), seed + 2000)
        folder.mkdir(parents=True)
        if module is newest:
            arguments = dict(classes=torch.tensor([2, 0, 1]), cond_keep_mask=torch.tensor([True, False, True]))
            trajectories_with_classes(module, model, seed)
        else:
            arguments = dict(classes=torch.tensor([2, 0, 1]))
            module.prob_mask_like = lambda *_, **__: torch.tensor([True, False, True])
            # What a user saves, who has to know the version.
            torch.save({k: v.clone() for k, v in model.state_dict().items()}, folder / "network.pt")
            module.LayerNorm.forward = layer_norm
            standardize(model, module.WeightStandardizedConv2d, add=True)
        write_json(folder / "config.json", config | dict(version=key, _class_name="LucidrainsUnet", sample_size=[h, w]))
        renamed = lambda name: name.replace(".fn.fn.", ".").replace(".fn.norm.", ".norm.")
        write_tensors(folder / "weights.safetensors", {renamed(k): v for k, v in model.state_dict().items()})
        # The class 3 stands for none.
        shown = torch.tensor([2, 3, 1])
        errors = write_golden(folder, model, x, t, arguments | dict(shown=shown), target, renamed)
        print(f"{name:24} float32 error: output {errors[0]:.1e}, gradients {errors[1]:.1e}")


def trajectories_with_classes(module, unet, seed):
    """Writes the state of `GaussianDiffusion` and its samples with guidance alone, of which later versions remove a part."""
    from functools import partial

    root = CRATES / "sample/tests/goldens/lucidrains_classes"
    root.mkdir(parents=True)
    diffusion = module.GaussianDiffusion(unet, image_size=SIZE, timesteps=T, objective="pred_v", beta_schedule="linear").eval()
    torch.save(diffusion.state_dict(), root / "guided.pt")
    unet.forward_with_cond_scale = partial(unet.forward_with_cond_scale, remove_parallel_component=False)
    noise = randn((BATCH, 3, SIZE, SIZE), seed + 1)
    step_noise = randn((T, *noise.shape), seed + 2)
    classes = torch.tensor([2, 0])

    def run():
        draws = iter([noise, *step_noise])
        original = torch.randn, torch.randn_like
        torch.randn = torch.randn_like = lambda *_, **__: next(draws).to(next(diffusion.parameters()).dtype)
        try:
            return diffusion.p_sample_loop(classes, noise.shape, cond_scale=2.5, rescaled_phi=0.0) * 2 - 1
        finally:
            torch.randn, torch.randn_like = original

    with torch.no_grad():
        single = run()
        hook = unet.time_mlp[0].register_forward_hook(lambda _module, _inputs, output: output.double())
        diffusion.double()
        exact = run()
        hook.remove()
        diffusion.float()
    write_tensors(root / "guided.safetensors", dict(noise=noise, step_noise=step_noise, ancestral=exact))
    readable(root)
    print(f"guided: float32 error {(single - exact).abs().max():.1e}, largest {exact.abs().max():.2f}")
    del unet.forward_with_cond_scale


# version: (the oldest with the same network, Unet's arguments)
VERSIONS = {
    "0.28.0": ("0.28", dict(channels=1, self_condition=True)),
    "1.5.8": ("0.32", dict(learned_variance=True)),
    "1.7.1": ("1.7", dict()),
    "1.8.15": ("1.7.4", dict(full_attn=(False, True), attn_heads=(2, 3), attn_dim_head=(5, 3))),
    "1.11.1": ("1.9", dict(attn_dim_head=4, resnet_block_groups=2)),
}


def unet_of(version, file="denoising_diffusion_pytorch"):
    """Returns a module of an old version in the folder LUCIDRAINS, one folder for each version."""
    for name in [name for name in sys.modules if name.startswith("denoising_diffusion_pytorch")]:
        del sys.modules[name]
    path = Path(os.environ["LUCIDRAINS"]) / version
    sys.path.insert(0, str(path))
    try:
        return importlib.import_module(f"denoising_diffusion_pytorch.{file}")
    finally:
        sys.path.remove(str(path))


def layer_norm(self, x):
    """LayerNorm.forward with the epsilon that it has in float32."""
    var = torch.var(x, dim=1, unbiased=False, keepdim=True)
    return (x - x.mean(dim=1, keepdim=True)) * (var + 1e-5).rsqrt() * self.g


def standardize(module, kind, add):
    """Replaces the weights of standardized convolutions by standardized ones, as they are used in float32."""
    for conv in (m for m in module.modules() if isinstance(m, kind)):
        weight = conv.weight.data.double()
        var = weight.var(dim=(1, 2, 3), unbiased=False, keepdim=True)
        conv.weight.data = ((weight - weight.mean(dim=(1, 2, 3), keepdim=True)) * (var + 1e-5 if add else var.clamp(min=1e-5)).rsqrt()).float()
    kind.forward = torch.nn.Conv2d.forward


def lucidrains_versions():
    root = CRATES / "unet/tests/goldens"
    for seed, (version, (key, options)) in enumerate(VERSIONS.items(), start=780):
        folder = root / f"lucidrains_{key}"
        shutil.rmtree(folder, ignore_errors=True)
        module = unet_of(version)
        torch.manual_seed(seed)
        config = dict(dim=8, dim_mults=(1, 1)) | options
        config |= {} if "resnet_block_groups" in config else dict(resnet_block_groups=4)
        model = module.Unet(**config).eval()
        with torch.no_grad():
            for p in model.parameters():
                p += 0.2 * (p.std() if p.numel() > p.shape[min(1, p.dim() - 1)] else 1) * torch.randn(p.shape, generator=seeded(seed))
        # What `Trainer.save` writes, with the version from 1.0 on; without an average.
        state = {f"model.{name}": value.clone() for name, value in model.state_dict().items()}
        data = dict(step=1, model=state, opt={}) | (dict(version=version) if version[0] != "0" else {})
        folder.mkdir(parents=True)
        torch.save(data, folder / "trainer.pt")
        if hasattr(module, "LayerNorm"):
            module.LayerNorm.forward = layer_norm
        if hasattr(module, "WeightStandardizedConv2d"):
            before = model(randn((1, model.channels, 8, 12), 1), torch.tensor([7])).detach()
            standardize(model, module.WeightStandardizedConv2d, add=hasattr(module, "LayerNorm"))
            error = relative(model(randn((1, model.channels, 8, 12), 1), torch.tensor([7])).detach(), before.double())
            assert error < 1e-5, error
        batch, (h, w), t = 2, (8, 12), torch.tensor([3, 940])
        x = randn((batch, model.channels, h, w), seed + 1000)
        target = randn((batch, model.out_dim, h, w), seed + 2000)
        prediction = randn(x.shape, seed + 3000) if model.self_condition else None
        # Before 1.8, attention had no arguments and was linear in all levels.
        fixed = {} if key in ("1.7.4", "1.9") else dict(full_attn=(False, False))
        write_json(folder / "config.json", config | fixed | dict(version=key, _class_name="LucidrainsUnet", sample_size=[h, w]))
        renamed = lambda name: name.replace(".fn.fn.", ".").replace(".fn.norm.", ".norm.")
        write_tensors(folder / "weights.safetensors", {renamed(k): v for k, v in model.state_dict().items()})
        errors = write_golden(folder, model, x, t, prediction, target, renamed)
        print(f"{version:8} float32 error: output {errors[0]:.1e}, gradients {errors[1]:.1e}")
