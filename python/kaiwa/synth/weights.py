"""Random network weights that keep a signal's variance from layer to layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa.synth.shapes import RESIDUAL_POWER, ConvPlace, MimiSize, decoder_convs, encoder_convs

Array = NDArray[np.float32]
Tensors = dict[str, Array]

#: Mean square of ELU(x) for x normal with mean 0 and variance 1.
ELU_POWER = 0.645

#: Root mean square the decoder's output is aimed at.
OUTPUT_RMS = 0.08


def draw(size: MimiSize, rng: np.random.Generator) -> Tensors:
    """Every tensor outside the quantiser's codebooks, float32, under the released names."""
    out: Tensors = {}
    for place in encoder_convs(size):
        _conv(out, place, rng)
    _transformer(out, "encoder_transformer", size, rng)
    width, stride = size.dimension, _latent_stride(size)
    taps = 2 * stride
    out["downsample.conv.conv.conv.weight"] = _normal(
        rng, (width, width, taps), (1 / (width * taps)) ** 0.5
    )
    for group in ("first", "rest"):
        inner = size.quantizer_dimension
        name = f"quantizer.rvq_{group}"
        out[f"{name}.input_proj.weight"] = _normal(rng, (inner, width, 1), width**-0.5)
        # Both groups' outputs are summed, so each carries half the power.
        out[f"{name}.output_proj.weight"] = _normal(rng, (width, inner, 1), (0.5 / inner) ** 0.5)
    out["upsample.convtr.convtr.convtr.weight"] = _normal(rng, (width, 1, taps), 0.4, mean=0.6)
    _transformer(out, "decoder_transformer", size, rng)
    for place in decoder_convs(size):
        _conv(out, place, rng)
    out["decoder.model.14.conv.conv.weight"] *= np.float32(OUTPUT_RMS)
    out["decoder.model.14.conv.conv.bias"] *= np.float32(OUTPUT_RMS)
    return out


def _latent_stride(size: MimiSize) -> int:
    """Latent steps in a frame."""
    return size.frame_size // int(np.prod(size.ratios))


def _normal(
    rng: np.random.Generator, shape: tuple[int, ...], scale: float, mean: float = 0.0
) -> Array:
    """Normal float32 values."""
    values = rng.standard_normal(shape, dtype=np.float32)
    values *= np.float32(scale)
    if mean:
        values += np.float32(mean)
    return values


def _conv(out: Tensors, place: ConvPlace, rng: np.random.Generator) -> None:
    """Weight and bias of one convolution whose output has mean square near 1."""
    taps = 2 if place.transposed else place.kernel
    power = place.input_power * (ELU_POWER if place.after_elu else 1.0)
    gain = 1.0
    if ".block.3." in place.name:
        gain = (RESIDUAL_POWER - 1) ** 0.5
    scale = gain / (place.c_in * taps * power) ** 0.5
    out[f"{place.name}.weight"] = _normal(rng, place.shape, scale)
    out[f"{place.name}.bias"] = _normal(rng, (place.c_out,), 0.05 * gain)


def _transformer(out: Tensors, prefix: str, size: MimiSize, rng: np.random.Generator) -> None:
    """The layers of one transformer; layer scales 0.1 to 0.5, norms around 1."""
    width, hidden = size.dimension, size.dim_feedforward
    for layer in range(size.num_layers):
        name = f"{prefix}.transformer.layers.{layer}"
        out[f"{name}.self_attn.in_proj_weight"] = _normal(rng, (3 * width, width), width**-0.5)
        out[f"{name}.self_attn.out_proj.weight"] = _normal(rng, (width, width), width**-0.5)
        for norm in ("norm1", "norm2"):
            out[f"{name}.{norm}.weight"] = _uniform(rng, width, 0.7, 1.3)
            out[f"{name}.{norm}.bias"] = _normal(rng, (width,), 0.1)
        out[f"{name}.linear1.weight"] = _normal(rng, (hidden, width), width**-0.5)
        # The mean square of GELU of a unit normal value is 0.425.
        out[f"{name}.linear2.weight"] = _normal(rng, (width, hidden), (0.425 * hidden) ** -0.5)
        for scale in ("layer_scale_1", "layer_scale_2"):
            out[f"{name}.{scale}.scale"] = _uniform(rng, width, 0.1, 0.5)


def _uniform(rng: np.random.Generator, count: int, low: float, high: float) -> Array:
    """Uniform float32 values."""
    values: NDArray[Any] = rng.uniform(low, high, count)
    return values.astype(np.float32)
