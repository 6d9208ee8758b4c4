#!/usr/bin/env python3
"""Writes goldens of sample quality: metrics over features, and the outputs of the feature networks, for crates/evaluate.

    python tools/goldens_quality.py
"""

import tempfile
from pathlib import Path

import numpy as np
import pytorch_fid.fid_score
import pytorch_fid.inception
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from goldens_common import CRATES, randn, readable, seeded, write_json, write_tensors
from goldens_unet import formula_uniform
from prdc import compute_prdc
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kernel_mmd
from torch_fidelity.metric_prc import prc_features_to_metric

FOLDER = CRATES / "evaluate/tests/goldens"


def kernel_distance(a, b):
    kinds = dict(kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1.0)
    return kernel_mmd(a, b, **kinds)


def metrics():
    """Writes features `samples` and `real`, correlated and skewed like ReLU features, and the packages' metrics of them."""
    mix = randn((24, 24), 1) / 24**0.5 + torch.eye(24)
    real = F.relu(randn((150, 24), 2) @ mix + 0.5)
    samples = F.relu(1.1 * randn((120, 24), 3) @ mix + 0.4)
    logits = 3 * randn((103, 11), 4)
    a, b = samples.double().numpy(), real.double().numpy()
    gaussian = lambda x: (x.mean(axis=0), np.cov(x, rowvar=False))
    prc = prc_features_to_metric(samples.double(), real.double(), prc_neighborhood=3, prc_batch_size=1000, verbose=False)
    isc = isc_features_to_metric(logits, splits=10, shuffle=False)
    naeem = compute_prdc(real_features=b, fake_features=a, nearest_k=5)
    write_tensors(FOLDER / "features.safetensors", dict(samples=samples, real=real, logits=logits))
    write_json(
        FOLDER / "metrics.json",
        dict(
            frechet=float(pytorch_fid.fid_score.calculate_frechet_distance(*gaussian(a), *gaussian(b))),
            kernel=float(kernel_distance(a, b[:120])),
            inception_score=isc["inception_score_mean"],
            inception_score_deviation=isc["inception_score_std"],
            precision=prc["precision"],
            recall=prc["recall"],
            density=float(naeem["density"]),
            coverage=float(naeem["coverage"]),
        ),
    )


def formula_weights(model):
    """Returns weights generated from names, as in goldens_unet, with twice the variance because rectifiers halve it."""
    state = {}
    for name, value in model.state_dict().items():
        if value.ndim == 0:
            continue
        u = formula_uniform(name, value.numel()).reshape(value.shape)
        if value.ndim > 1:
            state[name] = torch.tensor((6 / value[0].numel()) ** 0.5, dtype=torch.float32) * u
        else:
            state[name] = u / 8 if name.endswith((".bias", ".running_mean")) else 1 + u / 4
    return state


def inception_weights():
    """Returns weights for torchvision's network, which has the names and shapes of pytorch-fid's and torch-fidelity's."""
    return formula_weights(pytorch_fid.inception._inception_v3(num_classes=1008, aux_logits=False, weights=None))


def inception(state, path):
    """Returns pytorch-fid's network and torch-fidelity's in float64, with these weights."""
    pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: state
    first = pytorch_fid.inception.InceptionV3([3]).eval()
    torch.save(state, path)
    second = FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"], str(path), "float64")
    return first, second


def images(count, height, width, seed):
    """Returns images of coarse color and a little noise."""
    x = torch.rand((count, 3, 4, 5), generator=seeded(seed))
    x = F.interpolate(x, (height, width), mode="bicubic")
    x += 0.1 * torch.rand((count, 3, height, width), generator=seeded(seed + 1))
    return (x.clamp(0, 1) * 255).to(torch.uint8)


def networks():
    nhwc = lambda x: x.permute(0, 2, 3, 1)
    x = images(3, 30, 40, 10)
    tensors = dict(images=nhwc(x).float())
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        first, second = inception(inception_weights(), Path(folder) / "weights.pth")
        spatial = []
        # Block 2 of pytorch-fid is Mixed_5b to Mixed_6e.
        first.blocks[2][6].branch1x1.register_forward_hook(lambda module, inputs, output: spatial.append(output))
        tensors["pytorch_fid.pooled"] = first.double()(x.double() / 255)[0].flatten(1)
        tensors["pytorch_fid.spatial"] = nhwc(spatial[0][:, :7]).flatten(1)
        pooled, logits = second(x)
        tensors |= {"torch_fidelity.pooled": pooled, "torch_fidelity.logits": logits}
        net = EfficientNet.from_name("efficientnet-lite0").eval()
        net.load_state_dict(formula_weights(net), strict=False)
        scaled = (F.interpolate(x.double(), (224, 224), mode="bilinear", align_corners=False) - 127) / 128
        tensors["efficientnet"] = net.double().extract_features(scaled).mean((2, 3))
    for name, network in {"inception": second, "efficientnet": net}.items():
        lines = [f'"{key}": {list(value.shape)}' for key, value in formula_weights(network).items()]
        (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    write_tensors(FOLDER / "networks.safetensors", tensors)
    for key, value in tensors.items():
        print(f"quality {key:24} {tuple(value.shape)} mean {value.double().mean():.4g}")


if __name__ == "__main__":
    metrics()
    networks()
    readable(FOLDER)
