"""Sizes of synthetic codecs, and every network tensor with its shape.

Names are those of the released file (docs/spec/mimi.md 6.1); the quantiser's are in `codebooks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MimiSize:
    """Widths of a Mimi codec; fields as in Kyutai's `mimi_config`."""

    n_filters: int
    dimension: int
    num_layers: int
    num_heads: int
    context: int
    dim_feedforward: int
    quantizer_dimension: int
    bins: int
    n_q: int
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    kernel: int = 7
    residual_kernel: int = 3
    last_kernel: int = 3
    sample_rate: int = 24_000
    frame_rate: float = 12.5

    @property
    def frame_size(self) -> int:
        """Samples in a frame."""
        return int(self.sample_rate / self.frame_rate)

    def kyutai_config(self) -> dict[str, Any]:
        """The configuration in Kyutai's `mimi_config` schema."""
        return {
            "sample_rate": self.sample_rate,
            "channels": 1,
            "frame_rate": self.frame_rate,
            "seanet": {
                "channels": 1,
                "dimension": self.dimension,
                "causal": True,
                "n_filters": self.n_filters,
                "n_residual_layers": 1,
                "activation": "ELU",
                "compress": 2,
                "dilation_base": 2,
                "disable_norm_outer_blocks": 0,
                "kernel_size": self.kernel,
                "residual_kernel_size": self.residual_kernel,
                "last_kernel_size": self.last_kernel,
                "norm": "none",
                "pad_mode": "constant",
                "ratios": list(self.ratios),
                "true_skip": True,
            },
            "quantizer": {
                "dimension": self.quantizer_dimension,
                "n_q": self.n_q,
                "bins": self.bins,
                "input_dimension": self.dimension,
                "output_dimension": self.dimension,
            },
            "transformer": {
                "d_model": self.dimension,
                "num_heads": self.num_heads,
                "num_layers": self.num_layers,
                "causal": True,
                "layer_scale": 0.01,
                "context": self.context,
                "conv_layout": True,
                "max_period": 10000,
                "gating": "none",
                "norm": "layer_norm",
                "positional_embedding": "rope",
                "dim_feedforward": self.dim_feedforward,
                "input_dimension": self.dimension,
                "output_dimensions": [self.dimension],
            },
        }

    def hf_config(self) -> dict[str, Any]:
        """The configuration in the schema of Hugging Face `transformers`."""
        return {
            "architectures": ["MimiModel"],
            "model_type": "mimi",
            "sampling_rate": self.sample_rate,
            "frame_rate": self.frame_rate,
            "audio_channels": 1,
            "hidden_size": self.dimension,
            "num_filters": self.n_filters,
            "num_residual_layers": 1,
            "upsampling_ratios": list(self.ratios),
            "kernel_size": self.kernel,
            "last_kernel_size": self.last_kernel,
            "residual_kernel_size": self.residual_kernel,
            "dilation_growth_rate": 2,
            "compress": 2,
            "use_causal_conv": True,
            "use_conv_shortcut": False,
            "pad_mode": "constant",
            "trim_right_ratio": 1.0,
            "codebook_size": self.bins,
            "codebook_dim": self.quantizer_dimension,
            "vector_quantization_hidden_dimension": self.quantizer_dimension,
            "num_quantizers": self.n_q,
            "num_semantic_quantizers": 1,
            "upsample_groups": self.dimension,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_heads,
            "head_dim": self.dimension // self.num_heads,
            "intermediate_size": self.dim_feedforward,
            "hidden_act": "gelu",
            "norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": self.context,
            "layer_scale_initial_scale": 0.01,
        }


#: The released sizes.
FULL = MimiSize(
    n_filters=64,
    dimension=512,
    num_layers=8,
    num_heads=8,
    context=250,
    dim_feedforward=2048,
    quantizer_dimension=256,
    bins=2048,
    n_q=32,
)

#: Sizes for tests: loads at once, runs many times faster than real time anywhere.
SMALL = MimiSize(
    n_filters=4,
    dimension=32,
    num_layers=2,
    num_heads=4,
    context=16,
    dim_feedforward=128,
    quantizer_dimension=16,
    bins=64,
    n_q=12,
)


@dataclass(frozen=True)
class ConvPlace:
    """One convolution: tensor name without `.weight`, geometry, and what it reads.

    `after_elu` and `input_power` (mean square of the input before the activation) let the
    initialisation keep the variance. A transposed convolution sees two input steps at a time.
    """

    name: str
    c_in: int
    c_out: int
    kernel: int
    stride: int = 1
    transposed: bool = False
    after_elu: bool = True
    input_power: float = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Weight shape: `[c_out, c_in, kernel]`, or `[c_in, c_out, kernel]` if transposed."""
        if self.transposed:
            return (self.c_in, self.c_out, self.kernel)
        return (self.c_out, self.c_in, self.kernel)


#: Mean square behind a residual block with unit-variance input: 1 plus that of the branch.
RESIDUAL_POWER = 1.25

#: Root mean square of speech at the encoder's input.
SPEECH_RMS = 0.1


def encoder_convs(size: MimiSize) -> list[ConvPlace]:
    """The encoder's convolutions in order, residual blocks as two entries each."""
    width, index = size.n_filters, 0
    first = {"after_elu": False, "input_power": SPEECH_RMS**2}
    convs = [ConvPlace("encoder.model.0.conv.conv", 1, width, size.kernel, **first)]  # type: ignore[arg-type]
    for ratio in reversed(size.ratios):
        convs += _block(f"encoder.model.{index + 1}", width, size)
        name = f"encoder.model.{index + 3}.conv.conv"
        kernel, power = 2 * ratio, RESIDUAL_POWER
        convs.append(ConvPlace(name, width, 2 * width, kernel, ratio, input_power=power))
        width, index = 2 * width, index + 3
    name = f"encoder.model.{index + 2}.conv.conv"
    convs.append(ConvPlace(name, width, size.dimension, size.last_kernel))
    return convs


def decoder_convs(size: MimiSize) -> list[ConvPlace]:
    """The decoder's convolutions in order."""
    width, index = size.n_filters << len(size.ratios), 0
    convs = [
        ConvPlace("decoder.model.0.conv.conv", size.dimension, width, size.kernel, after_elu=False)
    ]
    power = 1.0
    for ratio in size.ratios:
        name = f"decoder.model.{index + 2}.convtr.convtr"
        place = ConvPlace(name, width, width // 2, 2 * ratio, ratio, True, input_power=power)
        convs.append(place)
        width, index, power = width // 2, index + 3, RESIDUAL_POWER
        convs += _block(f"decoder.model.{index}", width, size)
    name = f"decoder.model.{index + 2}.conv.conv"
    convs.append(ConvPlace(name, width, 1, size.last_kernel, input_power=RESIDUAL_POWER))
    return convs


def _block(name: str, width: int, size: MimiSize) -> list[ConvPlace]:
    """The two convolutions of a residual block."""
    kernel = size.residual_kernel
    return [
        ConvPlace(f"{name}.block.1.conv.conv", width, width // 2, kernel),
        ConvPlace(f"{name}.block.3.conv.conv", width // 2, width, 1),
    ]
