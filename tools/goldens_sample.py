"""Writes goldens of diffusers' samplers on small random networks, for crates/sample."""

import shutil
import sys

import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from goldens_common import CRATES, randn, readable, write_json, write_tensors
from goldens_unet import HO, perturb
from safetensors.torch import save_file

SHAPE = (2, 3, 16, 16)
# The numbers of steps, of 20, after which a state is stored.
STOPS = (1, 10, 20)
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def small_net(seed, out_channels=3, gain=1.0):
    """Returns a random network whose last convolution is scaled by `gain`.

    Unscaled, DDIM with a random denoiser amplifies rounding a thousandfold or more; with 0.1, about twentyfold.
    """
    torch.manual_seed(seed)
    model = UNet2DModel(
        **HO,
        sample_size=16,
        out_channels=out_channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    perturb(model, seed)
    with torch.no_grad():
        model.conv_out.weight *= gain
        model.conv_out.bias *= gain
    return model.eval()


def exact_tables(scheduler):
    """Replaces the scheduler's float32 tables (linear betas only) with float64 ones; the algorithm remains diffusers'."""
    c = scheduler.config
    assert c.beta_schedule == "linear" and not c.rescale_betas_zero_snr
    scheduler.betas = torch.linspace(c.beta_start, c.beta_end, c.num_train_timesteps, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    scheduler.final_alpha_cumprod = scheduler.one
    return scheduler


@torch.no_grad()
def chain(model, scheduler, steps, noise, step_noise=None, **kwargs):
    """Returns all states of a sampling run, starting with the noise. Row k of `step_noise` is the noise of the k-th step."""
    dtype = next(model.parameters()).dtype
    if dtype == torch.float64:
        exact_tables(scheduler)
    scheduler.set_timesteps(steps)
    states = [noise.to(dtype)]
    module = sys.modules[type(scheduler).__module__]
    original = module.randn_tensor
    try:
        for k, t in enumerate(scheduler.timesteps):
            module.randn_tensor = lambda shape, k=k, **_: step_noise[k].reshape(shape).to(dtype)
            prediction = model(states[-1], t).sample
            states.append(scheduler.step(prediction, t, states[-1], **kwargs).prev_sample)
    finally:
        module.randn_tensor = original
    return states


def both(model, make_scheduler, steps, noise, step_noise=None, **kwargs):
    """Returns the exact chain, and the final image of unchanged diffusers (float32 throughout)."""
    single = chain(model.float(), make_scheduler(), steps, noise, step_noise, **kwargs)[-1]
    exact = chain(model.double(), make_scheduler(), steps, noise, step_noise, **kwargs)
    model.float()
    return exact, single


def save_pipeline(model, folder, **scheduler):
    shutil.rmtree(folder, ignore_errors=True)
    DDPMPipeline(model, DDPMScheduler(**scheduler)).save_pretrained(folder)


def save_old(model, folder):
    """Writes the layout and names of google/ddpm-* on the Hub: flat, old attention names, configs of 2022."""
    folder.mkdir(parents=True)
    state = {}
    for name, value in model.state_dict().items():
        if ".attentions." in name:
            for new, old in OLD_NAMES.items():
                name = name.replace(f".{new}.", f".{old}.")
        state[name] = value.contiguous()
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    torch.save(state, folder / "diffusion_pytorch_model.bin")
    keys = """act_fn attention_head_dim block_out_channels center_input_sample down_block_types downsample_padding
        flip_sin_to_cos freq_shift in_channels layers_per_block mid_block_scale_factor norm_eps norm_num_groups
        out_channels sample_size time_embedding_type up_block_types"""
    old = {"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4"}
    write_json(folder / "config.json", old | {k: model.config[k] for k in keys.split()})
    keys = "beta_end beta_schedule beta_start clip_sample num_train_timesteps trained_betas variance_type"
    config = DDPMScheduler(variance_type="fixed_large").config
    old = {"_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1"}
    write_json(folder / "scheduler_config.json", old | {k: config[k] for k in keys.split()})
    parts = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    write_json(folder / "model_index.json", {"_class_name": "DDPMPipeline", "_diffusers_version": "0.0.4"} | parts)


def sample():
    root = CRATES / "sample/tests/goldens/pipeline"
    shutil.rmtree(root, ignore_errors=True)
    net = small_net(420, gain=0.1)
    learned = small_net(401, out_channels=6, gain=0.5)
    save_pipeline(net, root, variance_type="fixed_large")
    save_old(net, root / "old")
    save_pipeline(learned, root / "learned_range", variance_type="learned_range")

    def report(name, exact, single):
        e = exact[-1]
        inside, error = (e.abs() < 0.99).float().mean(), (single.double() - e).abs().max()
        print(f"sample {name:34} max |x| {e.abs().max():.2f}, |x| < .99: {inside:.0%}, float32 error {error:.1e}")

    # The network's prediction, which is the same for the old layout.
    x, t = randn(SHAPE, 402), torch.tensor([37, 912])
    with torch.no_grad():
        single = net(x, t).sample
        old = DDPMPipeline.from_pretrained(root / "old").unet
        assert torch.equal(old(x, t).sample, single)
        prediction = net.double()(x.double(), t).sample
        net.float()
    write_tensors(root / "predict.safetensors", dict(x=x, t=t, prediction=prediction))
    report("predict", [prediction], single)

    noise, step_noise = randn(SHAPE, 403), randn((20, *SHAPE), 404)
    write_tensors(root / "step_noise.safetensors", dict(step_noise=step_noise))
    config = DDPMScheduler.from_pretrained(root / "scheduler").config
    ddim = lambda **kw: DDIMScheduler.from_config(config, **kw)

    exact, single = both(net, ddim, 50, noise)
    report("ddim50", exact, single)
    tensors = dict(noise=noise, samples=exact[-1], samples_f32=single, after=torch.stack(exact[10:50:10]))
    write_tensors(root / "ddim50.safetensors", tensors)

    tensors = dict(noise=noise)
    for spacing in ("leading", "trailing"):
        exact, single = both(net, lambda: ddim(timestep_spacing=spacing), 20, noise, step_noise, eta=0.5)
        report(f"ddim20_eta {spacing}", exact, single)
        after = torch.stack([exact[k] for k in STOPS[:-1]])
        tensors |= {f"samples.{spacing}": exact[-1], f"samples_f32.{spacing}": single, f"after.{spacing}": after}
    write_tensors(root / "ddim20_eta.safetensors", tensors)

    # The same output is interpreted as epsilon, x0 or v; any function is a valid test.
    tensors = dict(noise=noise)
    cases = [("epsilon", v, net) for v in ("fixed_small", "fixed_large")] + [("epsilon", "learned_range", learned)]
    cases += [("v_prediction", "fixed_small", net), ("sample", "fixed_small", net)]
    for prediction, variance, model in cases:
        for spacing in ("leading", "trailing", "linspace"):
            make = lambda: DDPMScheduler(
                prediction_type=prediction, variance_type=variance, timestep_spacing=spacing
            )
            exact, single = both(model, make, 20, noise, step_noise)
            name = f"{prediction}.{variance}.{spacing}"
            report(name, exact, single)
            after = torch.stack([exact[k] for k in STOPS[:-1]])
            tensors |= {f"samples.{name}": exact[-1], f"samples_f32.{name}": single, f"after.{name}": after}
    write_tensors(root / "ddpm_steps.safetensors", tensors)
    readable(root)
