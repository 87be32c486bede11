"""An independent reference implementation of NCSN++, for tests only.

It shares no code with psld.networks and uses the official options and parameter names, so that
equal outputs are evidence. It inserts zeros explicitly and is slow.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Parameters = dict[str, Tensor]


class Layers:
    """The layers of `all_modules` in order; each must be used exactly once."""

    def __init__(self, weights: Mapping[str, Tensor]):
        self.remaining = dict(weights)
        self.index = 0

    def take(self) -> Parameters:
        prefix = f"all_modules.{self.index}."
        self.index += 1
        names = [name for name in self.remaining if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.remaining.pop(name) for name in names}


def plain_ncsnpp(
    spec: Mapping[str, Any], weights: Mapping[str, Tensor], x: Tensor, t: Tensor
) -> Tensor:
    layers = Layers(weights)
    y = _run(spec, layers, x, t)
    assert not layers.remaining, f"unused: {sorted(layers.remaining)}"
    return y


def _run(spec: Mapping[str, Any], layers: Layers, x: Tensor, t: Tensor) -> Tensor:
    levels = len(spec["ch_mult"])
    temb = _time_embedding(spec, layers, t)
    pyramid = x
    skips = [_conv(layers.take(), x)]
    for level in range(levels):
        for _ in range(spec["num_res_blocks"]):
            h = _block(spec, layers.take(), skips[-1], temb)
            skips.append(_attention_here(spec, layers, h))
        if level == levels - 1:
            break
        if spec["resblock_type"] == "biggan":
            h = _block(spec, layers.take(), skips[-1], temb, lambda v: _halve(spec, v))
        else:
            h = _halve_layer(spec, layers.take(), skips[-1], spec["resamp_with_conv"])
        if spec["progressive_input"] == "input_skip":
            pyramid = _halve(spec, pyramid)
            joined = _conv(_sub(layers.take(), "Conv_0"), pyramid)
            concatenate = spec["progressive_combine"] == "cat"
            h = torch.cat([joined, h], 1) if concatenate else joined + h
        elif spec["progressive_input"] == "residual":
            h = pyramid = _sum(spec, _halve_layer(spec, layers.take(), pyramid, True), h)
        skips.append(h)

    h = _block(spec, layers.take(), skips[-1], temb)
    h = _attention(spec, layers.take(), h)
    h = _block(spec, layers.take(), h, temb)

    pyramid = None
    for level in reversed(range(levels)):
        for _ in range(spec["num_res_blocks"] + 1):
            h = _block(spec, layers.take(), torch.cat([h, skips.pop()], 1), temb)
        h = _attention_here(spec, layers, h)
        if spec["progressive"] == "output_skip":
            image = _head(layers, h)
            pyramid = image if pyramid is None else _double(spec, pyramid) + image
        elif spec["progressive"] == "residual" and pyramid is None:
            pyramid = _head(layers, h)
        elif spec["progressive"] == "residual":
            h = pyramid = _sum(spec, _double_layer(spec, layers.take(), pyramid, True), h)
        if level and spec["resblock_type"] == "biggan":
            h = _block(spec, layers.take(), h, temb, lambda v: _double(spec, v))
        elif level:
            h = _double_layer(spec, layers.take(), h, spec["resamp_with_conv"])
    return pyramid if spec["progressive"] == "output_skip" else _head(layers, h)


def _time_embedding(spec: Mapping[str, Any], layers: Layers, t: Tensor) -> Tensor:
    if spec["embedding_type"] == "fourier":
        angles = 2 * math.pi * torch.outer(t.log(), layers.take()["W"])
    else:
        half = spec["nf"] // 2
        angles = torch.outer(t, 10000 ** (-torch.arange(half) / (half - 1)))
    features = torch.cat([angles.sin(), angles.cos()], 1)
    h = _dense(layers.take(), features)
    return _dense(layers.take(), _swish(h))


def _block(spec, p: Parameters, x: Tensor, temb: Tensor, resample=lambda v: v) -> Tensor:
    h = resample(_swish(_norm(_sub(p, "GroupNorm_0"), x)))
    x = resample(x)
    h = _conv(_sub(p, "Conv_0"), h)
    h = h + _dense(_sub(p, "Dense_0"), _swish(temb))[:, :, None, None]
    h = _conv(_sub(p, "Conv_1"), _swish(_norm(_sub(p, "GroupNorm_1"), h)))
    if "Conv_2.weight" in p:
        x = _conv(_sub(p, "Conv_2"), x)
    if "NIN_0.W" in p:
        x = _nin(_sub(p, "NIN_0"), x)
    return _sum(spec, x, h)


def _attention_here(spec, layers: Layers, h: Tensor) -> Tensor:
    return _attention(spec, layers.take(), h) if h.shape[-1] in spec["attn_resolutions"] else h


def _attention(spec, p: Parameters, x: Tensor) -> Tensor:
    h = _norm(_sub(p, "GroupNorm_0"), x)
    q, k, v = (_nin(_sub(p, f"NIN_{i}"), h).flatten(2) for i in range(3))
    weights = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(x.shape[1]), -1)
    mixed = torch.einsum("bnm,bcm->bcn", weights, v).reshape(x.shape)
    return _sum(spec, x, _nin(_sub(p, "NIN_3"), mixed))


def _head(layers: Layers, h: Tensor) -> Tensor:
    h = _swish(_norm(layers.take(), h))
    return _conv(layers.take(), h)


def _halve(spec, x: Tensor) -> Tensor:
    if spec["fir"]:
        extra = len(spec["fir_kernel"]) - 2
        return _upfirdn(x, spec["fir_kernel"], 1, 1, 2, (extra + 1) // 2, extra // 2)
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def _double(spec, x: Tensor) -> Tensor:
    if spec["fir"]:
        extra = len(spec["fir_kernel"]) - 2
        return _upfirdn(x, spec["fir_kernel"], 4, 2, 1, (extra + 1) // 2 + 1, extra // 2)
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def _halve_layer(spec, p: Parameters, x: Tensor, with_conv: bool) -> Tensor:
    if not with_conv:
        return _halve(spec, x)
    if spec["fir"]:
        extra = len(spec["fir_kernel"])
        x = _upfirdn(x, spec["fir_kernel"], 1, 1, 1, (extra + 1) // 2, extra // 2)
        return functional.conv2d(x, p["Conv2d_0.weight"], p["Conv2d_0.bias"], stride=2)
    x = functional.pad(x, (0, 1, 0, 1))
    return functional.conv2d(x, p["Conv_0.weight"], p["Conv_0.bias"], stride=2)


def _double_layer(spec, p: Parameters, x: Tensor, with_conv: bool) -> Tensor:
    if not with_conv:
        return _double(spec, x)
    if spec["fir"]:
        # Insert zeros between the values but not after the last value; then a 'full' correlation.
        x = functional.pad(_zeros_between(x)[..., :-1, :-1], (2, 2, 2, 2))
        x = functional.conv2d(x, p["Conv2d_0.weight"])
        extra = len(spec["fir_kernel"]) - 4
        pads = (extra + 1) // 2 + 1, extra // 2 + 1
        return _upfirdn(x, spec["fir_kernel"], 4, 1, 1, *pads) + p["Conv2d_0.bias"][:, None, None]
    return _conv(_sub(p, "Conv_0"), _double(spec, x))


def _upfirdn(
    x: Tensor, taps: Sequence[float], gain: float, up: int, down: int, before: int, after: int
) -> Tensor:
    """Insert zeros, pad, convolve with taps ⊗ taps, and keep every `down`-th value."""
    x = _zeros_between(x) if up == 2 else x
    x = functional.pad(x, (before, after, before, after))
    taps = torch.tensor(taps, dtype=x.dtype) / sum(taps)
    height, width = x.shape[2] - len(taps) + 1, x.shape[3] - len(taps) + 1
    y = torch.zeros(*x.shape[:2], height, width, dtype=x.dtype)
    for i, row in enumerate(taps.flip(0)):
        for j, column in enumerate(taps.flip(0)):
            y += gain * row * column * x[..., i : i + height, j : j + width]
    return y[..., ::down, ::down]


def _zeros_between(x: Tensor) -> Tensor:
    y = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
    y[..., ::2, ::2] = x
    return y


def _sub(p: Parameters, name: str) -> Parameters:
    return {key.removeprefix(f"{name}."): w for key, w in p.items() if key.startswith(f"{name}.")}


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _dense(p: Parameters, x: Tensor) -> Tensor:
    return x @ p["weight"].T + p["bias"]


def _conv(p: Parameters, x: Tensor) -> Tensor:
    return functional.conv2d(x, p["weight"], p["bias"], padding=p["weight"].shape[-1] // 2)


def _nin(p: Parameters, x: Tensor) -> Tensor:
    return torch.einsum("bchw,cd->bdhw", x, p["W"]) + p["b"][:, None, None]


def _norm(p: Parameters, x: Tensor) -> Tensor:
    groups = min(x.shape[1] // 4, 32)
    grouped = x.reshape(x.shape[0], groups, -1)
    mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, unbiased=False, keepdim=True)
    y = ((grouped - mean) / torch.sqrt(variance + 1e-6)).reshape(x.shape)
    return y * p["weight"][:, None, None] + p["bias"][:, None, None]


def _sum(spec, x: Tensor, h: Tensor) -> Tensor:
    return (x + h) / math.sqrt(2) if spec["skip_rescale"] else x + h
