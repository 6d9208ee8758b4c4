"""Writes goldens of NVlabs/edm's networks, preconditioner, pickles and samplers. Needs its repository: `EDM=FOLDER`."""

import os
import shutil
import sys

import torch
from goldens_common import CRATES, randn, readable, relative, seeded, write_json, write_tensors
from safetensors.torch import save_file

# name: (class, arguments, batch, c_noise of each image, classes)
SONG, DHARIWAL = "SongUNet", "DhariwalUNet"
CONFIGS = {
    # DDPM++, scaled down: labels, attention on one level, a layer for augmentation.
    "edm_ddpmpp": (
        SONG,
        dict(img_resolution=8, in_channels=3, out_channels=3, label_dim=3, augment_dim=2, model_channels=8,
             channel_mult=[1, 2], channel_mult_emb=2, num_blocks=2, attn_resolutions=[4], dropout=0.1),
        3,
        [-1.55, 0.1, 1.09],
        [0, 2, 3],
    ),
    # NCSN++: random frequencies, a residual encoder, the filter 1-3-3-1, three levels.
    "edm_ncsnpp": (
        SONG,
        dict(img_resolution=8, in_channels=1, out_channels=1, model_channels=8, channel_mult=[1, 1, 2], num_blocks=1,
             attn_resolutions=[8, 2], embedding_type="fourier", channel_mult_noise=2, encoder_type="residual",
             resample_filter=[1, 3, 3, 1]),
        2,
        [-0.2, 0.3],
        None,
    ),
    # Skips of the images and of the output, a filter that is not symmetric, an output of other channels.
    "edm_skip": (
        SONG,
        dict(img_resolution=8, in_channels=2, out_channels=4, model_channels=12, channel_mult=[2, 1, 1], channel_mult_emb=1,
             num_blocks=1, attn_resolutions=[], encoder_type="skip", decoder_type="skip", resample_filter=[1, 2, 4, 1]),
        2,
        [0.0, 0.5],
        None,
    ),
    # The residual encoder with the filter 1-1, whose convolution has no wider margin.
    "edm_residual": (
        SONG,
        dict(img_resolution=4, in_channels=3, out_channels=3, label_dim=2, model_channels=4, channel_mult=[1, 2], num_blocks=1,
             attn_resolutions=[4], encoder_type="residual", decoder_type="skip"),
        2,
        [-1.0, 0.25],
        [1, 0],
    ),
    # ADM: scales and shifts, a head of 64 channels (none on the first level, which is narrower), labels.
    "edm_adm": (
        DHARIWAL,
        dict(img_resolution=4, in_channels=3, out_channels=6, label_dim=4, augment_dim=3, model_channels=16, channel_mult=[1, 4],
             channel_mult_emb=1, num_blocks=1, attn_resolutions=[4, 2], dropout=0.2),
        2,
        [-1.2, 0.6],
        [4, 1],
    ),
}


def repository():
    """Makes the modules of NVlabs/edm importable."""
    if "EDM" not in os.environ:
        sys.exit("EDM=FOLDER is missing: a checkout of https://github.com/NVlabs/edm")
    sys.path.insert(0, os.environ["EDM"])
    from torch_utils import persistence

    # Pickles carry the source of their modules, which is not ours to copy; readers ignore it.
    persistence._module_to_src = lambda module: "# left out"
    from training import networks

    return networks


def perturbed(model, seed):
    """Replaces the initial parameters, of which many are zero."""
    with torch.no_grad():
        for p in model.parameters():
            deviation = 0.2 if p.dim() < 2 else 0.7 / p[0].numel() ** 0.5
            p += deviation * torch.randn(p.shape, generator=seeded(seed))
    return model


def one_hot(classes, width):
    """Returns the label vectors that `forward` takes; a class of `width` has zeros."""
    if classes is None:
        return None
    rows = torch.zeros(len(classes), width)
    for row, label in zip(rows, classes):
        if label < width:
            row[label] = 1
    return rows


def in_double(network):
    """Lets the embedding of fixed frequencies, which the original computes in float32 alone, be computed in float64."""
    network = network.double()
    embedding = network.map_noise
    if hasattr(embedding, "max_positions"):

        def forward(x):
            half = embedding.num_channels // 2
            freqs = torch.arange(half, dtype=torch.float64) / (half - (1 if embedding.endpoint else 0))
            arguments = x.double().ger((1 / embedding.max_positions) ** freqs)
            return torch.cat([arguments.cos(), arguments.sin()], dim=1)

        embedding.forward = forward
    return network


def run(model, x, c_noise, labels, target, augment):
    """Returns output, loss and gradients in the model's precision."""
    dtype = next(model.parameters()).dtype
    x = x.detach().clone().to(dtype).requires_grad_()
    model.zero_grad()
    given = lambda labels: None if labels is None else labels.to(dtype)
    output = model(x, c_noise.to(dtype), given(labels), given(augment))
    loss = ((output - target.to(dtype)) ** 2).mean()
    loss.backward()
    grads = {"x": x.grad} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return output.detach(), loss.detach(), {k: v.clone() for k, v in grads.items()}


def save_weights(path, model, dtype):
    """Writes the parameters, and the random frequencies, which are a buffer."""
    tensors = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items() if not k.endswith("resample_filter")}
    save_file(tensors, path)


def edm():
    networks = repository()
    # The original's own backward pass of attention is in float32; autograd's is in the model's precision.
    networks.AttentionOp.apply = staticmethod(
        lambda q, k: torch.einsum("ncq,nck->nqk", q, k / k.shape[1] ** 0.5).softmax(dim=2)
    )
    root = CRATES / "unet/tests/goldens"
    for seed, (name, (cls, config, batch, c_noise, classes)) in enumerate(CONFIGS.items(), start=800):
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(seed)
        model = perturbed(getattr(networks, cls)(**config), seed).eval()
        if cls == DHARIWAL:
            # Half the size of the file.
            model = model.half().float()
        size, c_noise = config["img_resolution"], torch.tensor(c_noise)
        x = randn((batch, config["in_channels"], size, size), seed + 1000)
        target = randn((batch, config["out_channels"], size, size), seed + 2000)
        labels = one_hot(classes, config.get("label_dim", 0))
        write_json(folder / "config.json", dict(config, _class_name=cls))
        save_weights(folder / "weights.safetensors", model, torch.float16 if cls == DHARIWAL else torch.float32)
        width = config.get("augment_dim", 0)
        augment = randn((batch, width), seed + 3000) if width else None
        single = run(model, x, c_noise, labels, target, augment)
        output, loss, grads = run(in_double(model), x, c_noise, labels, target, augment)
        errors = [relative(single[0], output), max(relative(single[2][k], g) for k, g in grads.items())]
        tensors = dict(x=x, c_noise=c_noise, target=target, output=output, loss=loss)
        if classes is not None:
            tensors["classes"] = torch.tensor(classes, dtype=torch.float32)
        if augment is not None:
            tensors["augment_labels"] = augment
        tensors |= {f"grad.{k}": v for k, v in grads.items()}
        tensors |= {"f32_error.output": torch.tensor(errors[0]), "f32_error.grad": torch.tensor(errors[1])}
        write_tensors(folder / "golden.safetensors", tensors)
        readable(folder)
        count = sum(p.numel() for p in model.parameters())
        print(f"{name:20} {count:7} parameters, float32 error: output {errors[0]:.1e}, gradients {errors[1]:.1e}")


# name: (class, arguments, extension)
PRECONDITIONED = {
    "cond": (SONG, dict(label_dim=3, model_channels=8, channel_mult=[1, 2], channel_mult_emb=2, num_blocks=1,
                        attn_resolutions=[4], augment_dim=9), "pkl"),
    "adm": (DHARIWAL, dict(model_channels=8, channel_mult=[1, 2], channel_mult_emb=2, num_blocks=1, attn_resolutions=[8]), "pt"),
}  # fmt: skip
SIZE, BATCH = 8, 2
# Algorithm 2 with noise, at 6 steps.
CHURN = dict(num_steps=6, S_churn=3, S_min=0.05, S_max=20, S_noise=1.01)


class Exact:
    """`EDMPrecond` in float64, which itself computes in float32."""

    sigma_min, sigma_max = 0, float("inf")

    def __init__(self, net):
        self.model, self.sigma_data, self.inputs = in_double(net.model), net.sigma_data, []

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def __call__(self, x, sigma, labels):
        self.inputs.append(x)
        sigma, data = sigma.double().reshape(-1, 1, 1, 1), self.sigma_data
        total = sigma**2 + data**2
        c_noise = (sigma.log() / 4).flatten().expand(len(x))
        output = self.model(x / total.sqrt(), c_noise, None if labels is None else labels.double())
        return data**2 / total * x + sigma * data / total.sqrt() * output


def edm_sampling():
    import pickle

    networks = repository()
    from generate import edm_sampler
    from training.augment import AugmentPipe
    from training.loss import EDMLoss

    root = CRATES / "sample/tests/goldens/edm"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for seed, (name, (cls, config, extension)) in enumerate(PRECONDITIONED.items(), start=850):
        torch.manual_seed(seed)
        net = networks.EDMPrecond(img_resolution=SIZE, img_channels=1, model_type=cls, **config).eval()
        perturbed(net, seed).requires_grad_(False)
        path = root / f"{name}.{extension}"
        if extension == "pkl":
            # What the training loop writes as `network-snapshot-*.pkl`.
            kwargs = dict(class_name="training.dataset.ImageFolderDataset", path="data.zip", use_labels=True)
            augment = AugmentPipe(p=0.12, xflip=1e8, yflip=1, scale=1)
            with open(path, "wb") as file:
                pickle.dump(dict(ema=net, loss_fn=EDMLoss(), augment_pipe=augment, dataset_kwargs=kwargs), file)
        else:
            # What it writes as `training-state-*.pt`.
            torch.save(dict(net=net, optimizer_state=torch.optim.Adam(net.parameters()).state_dict()), path)
        noise = randn((BATCH, 1, SIZE, SIZE), seed + 1)
        churn_noise = randn((CHURN["num_steps"], *noise.shape), seed + 2)
        labels = one_hot([0, 2], 3) if net.label_dim else None
        single = edm_sampler(net, noise, labels)
        exact = Exact(net)
        tensors = dict(noise=noise, churn_noise=churn_noise, heun=edm_sampler(exact, noise, labels))
        tensors["heun_inputs"], exact.inputs = torch.stack(exact.inputs), []
        draws = iter(churn_noise)
        tensors["churn"] = edm_sampler(exact, noise, labels, randn_like=lambda x: next(draws).double(), **CHURN)
        tensors["churn_inputs"] = torch.stack(exact.inputs)
        write_tensors(root / f"{name}.safetensors", tensors)
        print(f"edm {name}: {path.stat().st_size} bytes, float32 error {relative(single, tensors['heun']):.1e}")
    readable(root)


# name: (preconditioner, class, arguments, discretization of `ablation_sampler`)
OTHERS = {
    "vp": ("VPPrecond", SONG, dict(label_dim=3, model_channels=8, channel_mult=[1, 2], channel_mult_emb=1, num_blocks=1,
                                   attn_resolutions=[4]), "vp"),
    "ve": ("VEPrecond", SONG, dict(model_channels=8, channel_mult=[1, 2], channel_mult_emb=1, num_blocks=1, attn_resolutions=[],
                                   embedding_type="fourier", channel_mult_noise=2, encoder_type="residual",
                                   resample_filter=[1, 3, 3, 1]), "ve"),
    "iddpm": ("iDDPMPrecond", DHARIWAL, dict(model_channels=8, channel_mult=[1, 2], channel_mult_emb=1, num_blocks=1,
                                             attn_resolutions=[]), "iddpm"),
}  # fmt: skip
SIGMAS = [0.0065, 0.02, 0.3, 1.7, 12.0, 80.0]


class Double:
    """torch whose float32 is float64, so that the original's own code computes in float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def edm_preconditioners():
    """Other preconditioners than EDM's: their output and trajectories of both samplers."""
    import pickle

    networks = repository()
    from generate import ablation_sampler, edm_sampler

    root = CRATES / "sample/tests/goldens/edm_preconditioners"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for seed, (name, (precond, cls, config, discretization)) in enumerate(OTHERS.items(), start=870):
        torch.manual_seed(seed)
        kwargs = dict(img_resolution=SIZE, img_channels=1, model_type=cls, **config)
        net = getattr(networks, precond)(**kwargs).eval()
        perturbed(net, seed).requires_grad_(False)
        path = root / f"{name}.pkl"
        with open(path, "wb") as file:
            pickle.dump(dict(ema=net), file)
        torch.set_default_dtype(torch.float64)
        exact = getattr(networks, precond)(**kwargs).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
        exact.model.load_state_dict(net.model.state_dict())
        in_double(exact.model)
        noise = randn((BATCH, 1, SIZE, SIZE), seed + 1)
        churn_noise = randn((CHURN["num_steps"], *noise.shape), seed + 2)
        labels = one_hot([0, 2], 3) if net.label_dim else None

        def outputs(net, dtype):
            sigmas = net.round_sigma(torch.tensor(SIGMAS, dtype=dtype))
            given = None if labels is None else labels.to(dtype)
            draws = iter(churn_noise)
            euler = dict(num_steps=10, solver="euler", discretization=discretization, epsilon_s=1e-5)
            return dict(
                sigmas=sigmas,
                denoised=torch.stack([net(s * noise.to(dtype), s, given) for s in sigmas]),
                heun=edm_sampler(net, noise, given),
                churn=edm_sampler(net, noise, given, randn_like=lambda x: next(draws).double(), **CHURN),
                euler=ablation_sampler(net, noise, given, **euler),
            )

        single = outputs(net, torch.float32)
        networks.torch = Double()
        tensors = outputs(exact, torch.float64)
        networks.torch = torch
        errors = {k: relative(single[k], v) for k, v in tensors.items()}
        write_tensors(root / f"{name}.safetensors", dict(noise=noise, churn_noise=churn_noise, **tensors))
        shown = ", ".join(f"{k} {error:.1e}" for k, error in errors.items())
        print(f"edm {name}: {path.stat().st_size} bytes, float32 error: {shown}")
    readable(root)


# The draws of `AugmentPipe` in the order of its calls: a value, then whether it is used. Angles are in (-1, 1).
AUGMENTATIONS = [
    dict(mirrored=1, upside_down=1),
    dict(scale=-1.3),
    dict(scale=2.5),
    dict(rotation=0.4),
    dict(anisotropy=1.7, axis=0.3),
    dict(anisotropy=-0.6),
    dict(shift=[0.8, -2.1]),
    dict(mirrored=1, scale=-3.0, rotation=-0.85, anisotropy=1.1, axis=-0.6, shift=[0.5, 1.4]),
]
AUGMENTED = (3, 10, 14)


def edm_augment():
    """`AugmentPipe` with given draws, in float64."""
    repository()
    import training.augment as module

    torch.set_default_dtype(torch.float64)
    image = randn((1, *AUGMENTED), 890).double()
    tensors = dict(image=image[0])
    for number, given in enumerate(AUGMENTATIONS):
        value = lambda name: given.get(name, 0.0)
        coin = lambda name: 0.0 if name in given else 0.999
        of_angle = lambda angle: (angle + 1) / 2
        # The coins of mirroring left to right are below any probability.
        draws = dict(
            randint=[value("mirrored"), value("upside_down")],
            randn=[value("scale"), value("anisotropy"), given.get("shift", [0.0, 0.0])],
            rand=[0.0, coin("upside_down"), coin("scale"), of_angle(value("rotation")), coin("rotation"),
                  of_angle(value("axis")), coin("anisotropy"), coin("axis"), coin("shift")],
        )  # fmt: skip

        class Drawn:
            """torch with these draws."""

            def __getattr__(self, name):
                return getattr(torch, name)

        drawn = Drawn()
        for name, values in draws.items():

            def draw(*arguments, values=iter(values), device=None):
                return torch.tensor(next(values), dtype=torch.float64).reshape(arguments[-1])

            setattr(drawn, name, draw)
        module.torch = drawn
        pipe = module.AugmentPipe(p=0.5, xflip=1e8, yflip=1, scale=1, rotate_frac=1, aniso=1, translate_frac=1)
        output, labels = pipe(image)
        module.torch = torch
        drawn = [value("mirrored"), value("upside_down"), value("scale"), value("rotation"), value("anisotropy"), value("axis")]
        tensors |= {f"{number}.draws": torch.tensor(drawn + given.get("shift", [0.0, 0.0])), f"{number}.labels": labels[0]}
        tensors[f"{number}.output"] = output[0]
    torch.set_default_dtype(torch.float32)
    path = CRATES / "train/tests/goldens/augment.safetensors"
    path.parent.mkdir(exist_ok=True)
    write_tensors(path, tensors)
    readable(path.parent)
    print(f"edm augment: {path.stat().st_size} bytes")
