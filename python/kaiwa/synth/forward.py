"""The encoder up to the latent in plain numpy, whole signal at once.

Used to fit codebooks to what the random network produces, and by tests as an independent
second opinion. Not written for speed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kaiwa.synth.shapes import MimiSize

Array = NDArray[np.float32]


def encode_latent(tensors: Mapping[str, Array], size: MimiSize, pcm: Array) -> Array:
    """Latents `[dimension, frames]` of `pcm` `[frames * frame_size]` (24 kHz).

    The attention window is that of whole-signal calls: the last `context` latent steps.
    """

    def conv(x: Array, name: str, stride: int = 1) -> Array:
        return _causal_conv(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], stride)

    x = conv(pcm[None, :], "encoder.model.0.conv.conv")
    index = 0
    for ratio in reversed(size.ratios):
        block = f"encoder.model.{index + 1}.block"
        inner = conv(_elu(x), f"{block}.1.conv.conv")
        x += conv(_elu(inner), f"{block}.3.conv.conv")
        x = conv(_elu(x), f"encoder.model.{index + 3}.conv.conv", ratio)
        index += 3
    x = conv(_elu(x), f"encoder.model.{index + 2}.conv.conv")
    x = _transformer(tensors, "encoder_transformer", size, x.T.copy()).T
    weight = tensors["downsample.conv.conv.conv.weight"]
    return _causal_conv(x, weight, None, weight.shape[2] // 2, replicate=True)


def project(tensors: Mapping[str, Array], group: str, latent: Array) -> Array:
    """What the codebooks of a group (`first` or `rest`) see: `[frames, quantizer dimension]`."""
    weight = tensors[f"quantizer.rvq_{group}.input_proj.weight"][:, :, 0]
    seen: Array = (weight @ latent).T.copy()
    return seen


def _elu(x: Array) -> Array:
    """ELU with alpha 1."""
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _causal_conv(
    x: Array, weight: Array, bias: Array | None, stride: int, *, replicate: bool = False
) -> Array:
    """`[c_in, n]` to `[c_out, n / stride]`, padded on the left only."""
    taps = weight.shape[2]
    left, steps = taps - stride, x.shape[1] // stride
    padding = np.repeat(x[:, :1], left, 1) if replicate else np.zeros((len(x), left), x.dtype)
    padded = np.concatenate([padding, x], axis=1)
    out = np.zeros((weight.shape[0], steps), np.float32)
    for tap in range(taps):
        seen = np.ascontiguousarray(padded[:, tap : tap + (steps - 1) * stride + 1 : stride])
        out += np.ascontiguousarray(weight[:, :, tap]) @ seen
    if bias is not None:
        out += bias[:, None]
    return out


def _transformer(tensors: Mapping[str, Array], prefix: str, size: MimiSize, x: Array) -> Array:
    """`[steps, dimension]` through every layer."""
    for layer in range(size.num_layers):
        name = f"{prefix}.transformer.layers.{layer}"
        get = {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")}
        seen = _layer_norm(x, get["norm1.weight"], get["norm1.bias"])
        mixed = _attention(seen @ get["self_attn.in_proj_weight"].T, size)
        x = x + get["layer_scale_1.scale"] * (mixed @ get["self_attn.out_proj.weight"].T)
        seen = _layer_norm(x, get["norm2.weight"], get["norm2.bias"])
        hidden = _gelu(seen @ get["linear1.weight"].T)
        x = x + get["layer_scale_2.scale"] * (hidden @ get["linear2.weight"].T)
    return x


def _layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    """Over the last axis, biased variance, epsilon 1e-5."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    normal: Array = centred / np.sqrt(variance + np.float32(1e-5)) * weight + bias
    return normal


def _attention(qkv: Array, size: MimiSize) -> Array:
    """Windowed causal attention with rotary positions: `[steps, 3 * width]` to `[steps, width]`."""
    steps, heads = len(qkv), size.num_heads
    q, k, v = np.moveaxis(qkv.reshape(steps, 3, heads, -1), 1, 0)
    q, k = _rotate(q), _rotate(k)
    scores = np.einsum("qhd,khd->hqk", q, k, optimize=True) / np.float32(math.sqrt(q.shape[2]))
    distance = np.arange(steps)[:, None] - np.arange(steps)[None, :]
    scores[:, (distance < 0) | (distance >= size.context)] = -np.inf
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed: Array = np.einsum("hqk,khd->qhd", scores, v, optimize=True).reshape(steps, -1)
    return mixed


def _rotate(x: Array) -> Array:
    """Rotary positions on interleaved pairs of `[steps, heads, width]`, base 10000."""
    steps, _, width = x.shape
    rates = 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    angle = np.arange(steps)[:, None, None] * rates
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def _gelu(x: Array) -> Array:
    """GELU in its erf form, by the approximation 7.1.26 of Abramowitz and Stegun (1.5e-7)."""
    z = np.abs(x) * np.float32(math.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    erf = np.copysign(1 - series * np.exp(-z * z), x)
    smooth: Array = (0.5 * x * (1 + erf)).astype(np.float32)
    return smooth
