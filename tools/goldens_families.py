"""Writes small networks of other code bases, as those programs save them, and the outputs of their forward passes.

The modules reimplement those networks (a comment names the source of each) with the same parameters under the same names.
Weights are -4 to 3 times a power of two, so that files are small, and no parameter keeps its initial value. All families
have 32 groups in their norms, hence 32 channels.
"""

import io
import math
import shutil
import zipfile

import numpy
import torch
from goldens_common import CRATES, randn, readable, seeded, write_tensors
from goldens_tensorflow import bundle
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, pad, silu, softmax

FOLDER = CRATES / "unet/tests/goldens/families"


def sinusoids(t, width, shift, order):
    """Returns the time embedding. `order` is "sin" or "cos" (which is first), or "turn" (interleaved)."""
    half = width // 2
    angles = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half).float() / (half - shift))
    sin, cos = angles.sin(), angles.cos()
    if order == "turn":
        return torch.stack([sin, cos], dim=-1).flatten(1)
    return torch.cat([sin, cos] if order == "sin" else [cos, sin], dim=1)


def attend(q, k, v, heads):
    """Returns the attention of q, k, v [N, C, T], where C is heads x channels."""
    n, c, tokens = q.shape
    split = lambda x: x.reshape(n * heads, c // heads, tokens)
    q, k, v = split(q), split(k), split(v)
    weights = softmax(q.transpose(1, 2) @ k / math.sqrt(c // heads), dim=-1)
    return (v @ weights.transpose(1, 2)).reshape(n, c, tokens)


def norm(channels, eps):
    return nn.GroupNorm(32, channels, eps=eps)


def conv(i, o, kernel=3, stride=1, padding=1):
    return nn.Conv2d(i, o, kernel, stride, padding if kernel == 3 else 0)


# Ho et al. 2020 as in pesser/pytorch_diffusion and ermongroup/ddim.


class HoBlock(nn.Module):
    def __init__(self, i, o, temb):
        super().__init__()
        self.norm1, self.conv1, self.temb_proj = norm(i, 1e-6), conv(i, o), nn.Linear(temb, o)
        self.norm2, self.conv2 = norm(o, 1e-6), conv(o, o)
        if i != o:
            self.nin_shortcut = conv(i, o, 1)

    def forward(self, x, temb):
        h = self.conv1(silu(self.norm1(x))) + self.temb_proj(silu(temb))[:, :, None, None]
        h = self.conv2(silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class HoAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm, self.q, self.k, self.v, self.proj_out = norm(c, 1e-6), *(conv(c, c, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        a = attend(self.q(h).flatten(2), self.k(h).flatten(2), self.v(h).flatten(2), 1)
        return x + self.proj_out(a.reshape(x.shape))


def module(**parts):
    m = nn.Module()
    for name, part in parts.items():
        setattr(m, name, part)
    return m


class Ho(nn.Module):
    def __init__(self, ch, mult, blocks, attention, resolution, channels=3):
        super().__init__()
        temb, widths = 4 * ch, [ch * m for m in mult]
        self.ch = ch
        self.temb = module(dense=nn.ModuleList([nn.Linear(ch, temb), nn.Linear(temb, temb)]))
        self.conv_in, self.down, self.up = conv(channels, ch), nn.ModuleList(), nn.ModuleList()
        skips, c = [ch], ch
        for i, width in enumerate(widths):
            level = module(block=nn.ModuleList(), attn=nn.ModuleList())
            for _ in range(blocks):
                level.block.append(HoBlock(c, width, temb))
                c = width
                skips.append(c)
                if resolution >> i in attention:
                    level.attn.append(HoAttention(c))
            if i + 1 < len(widths):
                level.downsample = module(conv=conv(c, c, stride=2, padding=0))
                skips.append(c)
            self.down.append(level)
        self.mid = module(block_1=HoBlock(c, c, temb), attn_1=HoAttention(c), block_2=HoBlock(c, c, temb))
        for i in reversed(range(len(widths))):
            level = module(block=nn.ModuleList(), attn=nn.ModuleList())
            for _ in range(blocks + 1):
                level.block.append(HoBlock(c + skips.pop(), widths[i], temb))
                c = widths[i]
                if resolution >> i in attention:
                    level.attn.append(HoAttention(c))
            if i:
                level.upsample = module(conv=conv(c, c))
            self.up.insert(0, level)
        self.norm_out, self.conv_out = norm(c, 1e-6), conv(c, channels)

    def forward(self, x, t):
        embedded = sinusoids(t, self.ch, 1, "sin").to(x.dtype)
        temb = self.temb.dense[1](silu(self.temb.dense[0](embedded)))
        h = self.conv_in(x)
        skips = [h]

        def blocks(level, h, skip):
            for j, block in enumerate(level.block):
                h = block(torch.cat([h, skip.pop()], 1) if skip is not None else h, temb)
                h = level.attn[j](h) if len(level.attn) else h
                if skip is None:
                    skips.append(h)
            return h

        for level in self.down:
            h = blocks(level, h, None)
            if hasattr(level, "downsample"):
                h = level.downsample.conv(pad(h, (0, 1, 0, 1)))
                skips.append(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h, temb)), temb)
        for level in reversed(self.up):
            h = blocks(level, h, skips)
            if hasattr(level, "upsample"):
                h = level.upsample.conv(interpolate(h, scale_factor=2))
        return self.conv_out(silu(self.norm_out(h)))


# Dhariwal & Nichol 2021: openai/improved-diffusion and guided-diffusion.


class OpenAiBlock(nn.Module):
    def __init__(self, i, o, temb, scale_shift, resample=None):
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(norm(i, 1e-5), nn.SiLU(), conv(i, o))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(temb, 2 * o if scale_shift else o))
        self.out_layers = nn.Sequential(norm(o, 1e-5), nn.SiLU(), nn.Dropout(0), conv(o, o))
        self.skip_connection = nn.Identity() if i == o else conv(i, o, 1)

    def forward(self, x, temb):
        h = silu(self.in_layers[0](x))
        if self.resample == "down":
            h, x = avg_pool2d(h, 2), avg_pool2d(x, 2)
        if self.resample == "up":
            h, x = interpolate(h, scale_factor=2), interpolate(x, scale_factor=2)
        h, emb = self.in_layers[2](h), self.emb_layers(temb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = self.out_layers[3](silu(h))
        else:
            h = self.out_layers(h + emb)
        return self.skip_connection(x) + h


class OpenAiAttention(nn.Module):
    def __init__(self, c, heads, new_order):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm, self.qkv, self.proj_out = norm(c, 1e-5), nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)

    def forward(self, x, _temb=None):
        n, c = x.shape[:2]
        qkv = self.qkv(self.norm(x).flatten(2))
        if self.new_order:
            q, k, v = qkv.chunk(3, dim=1)
        else:
            by_head = qkv.reshape(n, self.heads, 3, c // self.heads, -1)
            q, k, v = (by_head[:, :, i].reshape(n, c, -1) for i in range(3))
        return x + self.proj_out(attend(q, k, v, self.heads)).reshape(x.shape)


class Resample(nn.Module):
    def __init__(self, c, up):
        super().__init__()
        self.up = up
        setattr(self, "conv" if up else "op", conv(c, c, stride=1 if up else 2))

    def forward(self, x, _temb):
        return self.conv(interpolate(x, scale_factor=2)) if self.up else self.op(x)


class OpenAi(nn.Module):
    def __init__(self, ch, mult, blocks, attention, heads, out=3, scale_shift=True, updown=False, new_order=False, classes=None):
        super().__init__()
        temb, self.ch = 4 * ch, ch
        self.time_embed = nn.Sequential(nn.Linear(ch, temb), nn.SiLU(), nn.Linear(temb, temb))
        if classes:
            self.label_emb = nn.Embedding(classes, temb)
        block = lambda i, o, resample=None: OpenAiBlock(i, o, temb, scale_shift, resample)
        attend_ = lambda c: OpenAiAttention(c, heads, new_order)
        self.input_blocks = nn.ModuleList([nn.ModuleList([conv(3, ch)])])
        skips, c = [ch], ch
        for i, m in enumerate(mult):
            for _ in range(blocks):
                self.input_blocks.append(nn.ModuleList([block(c, ch * m)]))
                c = ch * m
                if 2**i in attention:
                    self.input_blocks[-1].append(attend_(c))
                skips.append(c)
            if i + 1 < len(mult):
                self.input_blocks.append(nn.ModuleList([block(c, c, "down") if updown else Resample(c, False)]))
                skips.append(c)
        self.middle_block = nn.ModuleList([block(c, c), attend_(c), block(c, c)])
        self.output_blocks = nn.ModuleList()
        for i, m in reversed(list(enumerate(mult))):
            for j in range(blocks + 1):
                layers = nn.ModuleList([block(c + skips.pop(), ch * m)])
                c = ch * m
                if 2**i in attention:
                    layers.append(attend_(c))
                if i and j == blocks:
                    layers.append(block(c, c, "up") if updown else Resample(c, True))
                self.output_blocks.append(layers)
        self.out = nn.Sequential(norm(c, 1e-5), nn.SiLU(), conv(c, out))

    def forward(self, x, t, y=None):
        temb = self.time_embed(sinusoids(t, self.ch, 0, "cos").to(x.dtype))
        if y is not None:
            temb = temb + self.label_emb(y)
        h, skips = self.input_blocks[0][0](x), []
        skips.append(h)

        def run(layers, h):
            for layer in layers:
                h = layer(h, temb)
            return h

        for layers in self.input_blocks[1:]:
            h = run(layers, h)
            skips.append(h)
        h = run(self.middle_block, h)
        for layers in self.output_blocks:
            h = run(layers, torch.cat([h, skips.pop()], dim=1))
        return self.out(h)


# w86763777/pytorch-ddpm.

TIMES = 660  # rows of its table of time embeddings; 1000 in its scripts


class W86Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.group_norm = norm(c, 1e-5)
        self.proj_q, self.proj_k, self.proj_v, self.proj = (conv(c, c, 1) for _ in range(4))

    def forward(self, x):
        h = self.group_norm(x)
        a = attend(self.proj_q(h).flatten(2), self.proj_k(h).flatten(2), self.proj_v(h).flatten(2), 1)
        return x + self.proj(a.reshape(x.shape))


class W86Block(nn.Module):
    def __init__(self, i, o, temb, attention):
        super().__init__()
        self.block1 = nn.Sequential(norm(i, 1e-5), nn.SiLU(), conv(i, o))
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(temb, o))
        self.block2 = nn.Sequential(norm(o, 1e-5), nn.SiLU(), nn.Dropout(0), conv(o, o))
        self.shortcut = conv(i, o, 1) if i != o else nn.Identity()
        self.attn = W86Attention(o) if attention else nn.Identity()

    def forward(self, x, temb):
        h = self.block2(self.block1(x) + self.temb_proj(temb)[:, :, None, None])
        return self.attn(h + self.shortcut(x))


class W86Resample(nn.Module):
    def __init__(self, c, up):
        super().__init__()
        self.up, self.main = up, conv(c, c, stride=1 if up else 2)

    def forward(self, x, _temb):
        return self.main(interpolate(x, scale_factor=2) if self.up else x)


class W86(nn.Module):
    def __init__(self, ch, mult, blocks, attention):
        super().__init__()
        temb = 4 * ch
        table = nn.Embedding.from_pretrained(sinusoids(torch.arange(TIMES), ch, 0, "turn"))
        embedding = nn.Sequential(table, nn.Linear(ch, temb), nn.SiLU(), nn.Linear(temb, temb))
        self.time_embedding = module(timembedding=embedding)
        self.head, self.downblocks, self.upblocks = conv(3, ch), nn.ModuleList(), nn.ModuleList()
        skips, c = [ch], ch
        for i, m in enumerate(mult):
            for _ in range(blocks):
                self.downblocks.append(W86Block(c, ch * m, temb, i in attention))
                c = ch * m
                skips.append(c)
            if i + 1 < len(mult):
                self.downblocks.append(W86Resample(c, False))
                skips.append(c)
        self.middleblocks = nn.ModuleList([W86Block(c, c, temb, True), W86Block(c, c, temb, False)])
        for i, m in reversed(list(enumerate(mult))):
            for _ in range(blocks + 1):
                self.upblocks.append(W86Block(c + skips.pop(), ch * m, temb, i in attention))
                c = ch * m
            if i:
                self.upblocks.append(W86Resample(c, True))
        self.tail = nn.Sequential(norm(c, 1e-5), nn.SiLU(), conv(c, 3))

    def forward(self, x, t):
        temb = self.time_embedding.timembedding(t)
        h = self.head(x)
        skips = [h]
        for block in self.downblocks:
            h = block(h, temb)
            skips.append(h)
        for block in self.middleblocks:
            h = block(h, temb)
        for block in self.upblocks:
            h = block(torch.cat([h, skips.pop()], 1) if isinstance(block, W86Block) else h, temb)
        return self.tail(h)


def coarse(model, seed):
    """Sets weights of three bits, about as large as PyTorch's initial ones."""
    generator = seeded(seed)
    with torch.no_grad():
        for p in model.parameters():
            if not p.requires_grad:
                continue  # the table of w86763777's time embedding
            steps = torch.randint(-4, 4, p.shape, generator=generator).float()
            fan = p[0].numel() if p.dim() > 1 else 64
            scale = 2.0 ** math.floor(math.log2(1 / math.sqrt(fan) / 2))
            p.copy_(steps * scale + (1 if p.dim() == 1 and p.mean() > 0.9 else 0))
    return model


def deflated(value, path):
    """Writes what torch.save writes, but compressed; torch reads that too."""
    out = io.BytesIO()
    torch.save(value, out)
    with zipfile.ZipFile(out) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename), old.read(info), zipfile.ZIP_DEFLATED, 9)
    torch.load(path, weights_only=False)


def noise_states(model, seed):
    """Returns a state that the import must ignore in favor of the average. It is constant, so that its file is small."""
    return {name: torch.full((1,), 0.01 * seed).expand(p.shape) for name, p in model.state_dict().items()}


def tensorflow_names(model):
    """Returns the moving averages of the official code's variables, with one moment of the optimizer."""
    variables = {}
    for name, p in model.state_dict().items():
        parts = name.split(".")
        kind, parts = parts[-1], parts[:-1]
        path = "/".join(parts).replace("temb/dense/", "temb/dense")
        for word in ("down", "up", "block", "attn"):
            for i in range(9):
                path = path.replace(f"{word}/{i}", f"{word}_{i}")
        is_norm = "norm" in parts[-1]
        value = p.numpy()
        if kind == "weight" and not is_norm:
            value = value.transpose(*range(2, value.ndim), 1, 0) if value.ndim == 4 else value.T
            value = value[0, 0] if value.shape[:2] == (1, 1) else value
        end = {"weight": "gamma", "bias": "beta"}[kind] if is_norm else {"weight": "W", "bias": "b"}[kind]
        key = f"model/{path}/{end}"
        variables[f"{key}/ExponentialMovingAverage"] = numpy.ascontiguousarray(value)
        # No test reads the optimizer's moment, so it is not stored in full; the raw variable is left out.
        variables[f"{key}/Adam"] = numpy.zeros(1, numpy.float32)
    variables["global_step"] = numpy.array(790000, dtype=numpy.int64)
    return variables


ROOT = dict(mult=(1, 1), blocks=1)


def families():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    t = torch.tensor([3, 650])
    y = torch.tensor([6, 0])
    networks = {
        # name: (network, function that saves it, (height, width), labels)
        "pesser": (Ho(32, **ROOT, attention=[4], resolution=8), lambda m: m.state_dict(), (8, 8), None),
        "ddim": (
            Ho(32, (1,), 1, [], 8),
            lambda m: [
                {f"module.{k}": v for k, v in noise_states(m, 1).items()},
                {"state": {}, "param_groups": [{"lr": 2e-4}]},
                10,
                100,
                m.state_dict(),
            ],
            (6, 8),
            None,
        ),
        "improved": (
            OpenAi(32, (1, 1), 1, [2], 4, out=6, classes=7),
            lambda m: m.state_dict(),
            (8, 8),
            y,
        ),
        "improved_plain": (OpenAi(32, (1,), 2, [1], 2, scale_shift=False), lambda m: m.state_dict(), (4, 6), None),
        "guided": (OpenAi(32, (1, 1), 1, [1, 2], 2, out=6, updown=True), lambda m: m.state_dict(), (8, 8), None),
        "guided_new_order": (
            OpenAi(32, (1, 1), 1, [2], 2, updown=True, new_order=True),
            lambda m: m.state_dict(),
            (8, 8),
            None,
        ),
        "w86763777": (
            W86(32, (1, 1), 1, [1]),
            lambda m: {
                "net_model": noise_states(m, 1),
                "ema_model": m.state_dict(),
                "sched": {"last_epoch": 5, "_last_lr": [2e-4]},
                "optim": {"state": {}, "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999)}]},
                "step": 5,
                "x_T": torch.zeros(1).expand(4, 3, 8, 8),
            },
            (8, 8),
            None,
        ),
    }
    for seed, (name, (model, save, (h, w), labels)) in enumerate(networks.items(), start=700):
        coarse(model, seed)
        deflated(save(model), FOLDER / f"{name}.pt")
        x = randn((2, 3, h, w), seed)
        inputs = (x.double(), t, labels) if labels is not None else (x.double(), t)
        with torch.no_grad():
            single = model(x, *inputs[1:])
            model.double()
            if name == "w86763777":
                # Its table is float32, as are the embeddings of all other networks.
                table = model.time_embedding.timembedding[0]
                table.weight.copy_(sinusoids(torch.arange(TIMES), 32, 0, "turn"))
            output = model(*inputs)
        tensors = dict(x=x, t=t, output=output)
        tensors |= {"labels": labels} if labels is not None else {}
        write_tensors(FOLDER / f"{name}.safetensors", tensors)
        off = ((single - output).abs().max() / output.abs().max()).item()
        size = (FOLDER / f"{name}.pt").stat().st_size
        count = sum(p.numel() for p in model.parameters())
        print(f"families {name:17} {count:7} parameters, {size:7} bytes, float32 error {off:.1e}, largest {output.abs().max():.2f}")
    # The official release's format is float32 and not compressed, so this network has one level.
    model = coarse(Ho(32, (1,), 1, [8], 8, channels=1), 790)
    bundle(FOLDER / "ho/model.ckpt-790000", tensorflow_names(model), 1)
    x = randn((2, 1, 8, 8), 790)
    write_tensors(FOLDER / "ho.safetensors", dict(x=x, t=t, output=model.double()(x.double(), t).detach()))
    readable(FOLDER)


if __name__ == "__main__":
    families()
