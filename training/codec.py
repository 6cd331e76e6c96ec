"""Mimi's network in PyTorch, for training: same topology, names and file as the released one.

Tensor names of :class:`Codec` are those of the released file, so that :func:`export` only has to
turn the codebooks into sums and counts. Shapes: audio ``[B, 1, samples]``, latents ``[B, C, T]``.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

#: Name of the released codec's file, under which Kaiwa looks for it.
FILE = "tokenizer-e351c8d8-checkpoint125.safetensors"


@dataclass(frozen=True)
class CodecSize:
    """Widths of the demonstration codec."""

    filters: int = 16
    dimension: int = 128
    layers: int = 3
    heads: int = 4
    hidden: int = 384
    context: int = 32
    book_width: int = 32
    bins: int = 512
    books: int = 8
    ratios: tuple[int, ...] = (8, 6, 5, 4)

    def config(self) -> dict[str, Any]:
        """The ``mimi_config`` that describes the file."""
        return {
            "sample_rate": 24000,
            "channels": 1,
            "frame_rate": 12.5,
            "seanet": {
                "channels": 1,
                "dimension": self.dimension,
                "causal": True,
                "n_filters": self.filters,
                "n_residual_layers": 1,
                "activation": "ELU",
                "compress": 2,
                "dilation_base": 2,
                "disable_norm_outer_blocks": 0,
                "kernel_size": 7,
                "residual_kernel_size": 3,
                "last_kernel_size": 3,
                "norm": "none",
                "pad_mode": "constant",
                "ratios": list(self.ratios),
                "true_skip": True,
            },
            "quantizer": {
                "dimension": self.book_width,
                "n_q": self.books,
                "bins": self.bins,
                "input_dimension": self.dimension,
                "output_dimension": self.dimension,
            },
            "transformer": {
                "d_model": self.dimension,
                "num_heads": self.heads,
                "num_layers": self.layers,
                "causal": True,
                "layer_scale": 0.1,
                "context": self.context,
                "conv_layout": True,
                "max_period": 10000,
                "gating": "none",
                "norm": "layer_norm",
                "positional_embedding": "rope",
                "dim_feedforward": self.hidden,
                "input_dimension": self.dimension,
                "output_dimensions": [self.dimension],
            },
        }


class Conv(nn.Module):
    """A causal convolution; padding only on the left, zeros or the first column repeated."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, *, replicate: bool = False
    ) -> None:
        super().__init__()
        self.pad = kernel - stride
        self.mode = "replicate" if replicate else "constant"
        self.conv = nn.Module()
        self.conv.conv = nn.Conv1d(c_in, c_out, kernel, stride, bias=not replicate)

    def forward(self, x: Tensor) -> Tensor:
        conv: nn.Conv1d = self.conv.conv
        return conv(F.pad(x, (self.pad, 0), mode=self.mode) if self.pad else x)


class ConvUp(nn.Module):
    """A causal transposed convolution of twice its stride."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, depthwise: bool = False) -> None:
        super().__init__()
        self.stride = stride
        groups = c_in if depthwise else 1
        self.convtr = nn.Module()
        self.convtr.convtr = nn.ConvTranspose1d(
            c_in, c_out, 2 * stride, stride, groups=groups, bias=not depthwise
        )

    def forward(self, x: Tensor) -> Tensor:
        up: nn.ConvTranspose1d = self.convtr.convtr
        return up(x)[..., : x.shape[-1] * self.stride]


class Residual(nn.Module):
    """``x + conv1(elu(conv3(elu(x))))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            [nn.ELU(), Conv(width, width // 2, 3), nn.ELU(), Conv(width // 2, width, 1)]
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for part in self.block:
            y = part(y)
        return x + y


class SeaNet(nn.Module):
    """Either half of the convolutional codec."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.model = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.model:
            x = layer(x)
        return x


def seanet_encoder(size: CodecSize) -> SeaNet:
    """``[B, 1, 960 T]`` to ``[B, dimension, T]``."""
    width = size.filters
    layers: list[nn.Module] = [Conv(1, width, 7)]
    for ratio in reversed(size.ratios):
        layers += [Residual(width), nn.ELU(), Conv(width, 2 * width, 2 * ratio, ratio)]
        width *= 2
    return SeaNet([*layers, nn.ELU(), Conv(width, size.dimension, 3)])


def seanet_decoder(size: CodecSize) -> SeaNet:
    """``[B, dimension, T]`` to ``[B, 1, 960 T]``."""
    width = size.filters << len(size.ratios)
    layers: list[nn.Module] = [Conv(size.dimension, width, 7)]
    for ratio in size.ratios:
        layers += [nn.ELU(), ConvUp(width, width // 2, ratio), Residual(width // 2)]
        width //= 2
    return SeaNet([*layers, nn.ELU(), Conv(width, 1, 3)])


def rotary(steps: int, width: int, period: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[steps, width / 2]``."""
    rates = period ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = torch.arange(steps, dtype=torch.float32)[:, None] * rates
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates interleaved pairs of ``[..., steps, width]``."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Scale(nn.Module):
    """A learnt factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Layer(nn.Module):
    """A layer of the codec's transformers."""

    def __init__(self, size: CodecSize) -> None:
        super().__init__()
        width = size.dimension
        self.heads = size.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = nn.Module()
        self.self_attn.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        nn.init.xavier_uniform_(self.self_attn.in_proj_weight)
        self.self_attn.out_proj = nn.Linear(width, width, bias=False)
        self.linear1 = nn.Linear(width, size.hidden, bias=False)
        self.linear2 = nn.Linear(size.hidden, width, bias=False)
        self.layer_scale_1, self.layer_scale_2 = Scale(width), Scale(width)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, steps, width = x.shape
        qkv = F.linear(self.norm1(x), self.self_attn.in_proj_weight)
        q, k, v = qkv.view(batch, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y = self.self_attn.out_proj(y.transpose(1, 2).reshape(batch, steps, width))
        x = x + self.layer_scale_1(y)
        y = self.linear2(F.gelu(self.linear1(self.norm2(x))))
        out: Tensor = x + self.layer_scale_2(y)
        return out


class Transformer(nn.Module):
    """Windowed causal transformer over ``[B, C, T]``, with the window of the streaming codec."""

    def __init__(self, size: CodecSize) -> None:
        super().__init__()
        self.context = size.context
        self.width = size.dimension // size.heads
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList([Layer(size) for _ in range(size.layers)])

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[-1]
        at = torch.arange(steps)
        # A frame's two steps are written before either looks, so the first sees one key less.
        first = at // 2 * 2 + 2 - self.context
        mask = (at[None] <= at[:, None]) & (at[None] >= first[:, None])
        cos, sin = rotary(steps, self.width)
        y = x.transpose(1, 2)
        for layer in self.transformer.layers:
            y = layer(y, mask, cos, sin)
        return y.transpose(1, 2)


class Codebook(nn.Module):
    """A codebook that follows what it is shown (moving averages), re-using idle entries."""

    vectors: Tensor
    usage: Tensor
    total: Tensor

    def __init__(self, size: CodecSize) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.randn(size.bins, size.book_width))
        self.register_buffer("usage", torch.ones(size.bins))
        self.register_buffer("total", self.vectors.clone())

    def codes(self, x: Tensor) -> Tensor:
        """Nearest entries of ``[N, width]``."""
        return (0.5 * self.vectors.square().sum(1) - x @ self.vectors.T).argmin(1)

    @torch.no_grad()
    def follow(self, x: Tensor, codes: Tensor, decay: float = 0.99) -> None:
        """Moves entries towards the vectors that chose them."""
        counts = torch.zeros_like(self.usage).index_add_(0, codes, torch.ones(len(x)))
        sums = torch.zeros_like(self.vectors).index_add_(0, codes, x)
        self.usage.mul_(decay).add_(counts, alpha=1 - decay)
        self.total.mul_(decay).add_(sums, alpha=1 - decay)
        idle = self.usage < 0.05 * self.usage.mean()
        if idle.any():
            chosen = x[torch.randint(len(x), (int(idle.sum()),))]
            self.usage[idle] = self.usage.mean()
            self.total[idle] = chosen * self.usage.mean()
        self.vectors.copy_(self.total / self.usage[:, None].clamp(min=1e-5))

    @torch.no_grad()
    def fit(self, x: Tensor, rounds: int = 15) -> None:
        """Starts from ``[N, width]`` by k-means."""
        self.vectors.copy_(x[torch.randperm(len(x))[: len(self.vectors)]])
        for _ in range(rounds):
            codes = self.codes(x)
            counts = torch.zeros_like(self.usage).index_add_(0, codes, torch.ones(len(x)))
            sums = torch.zeros_like(self.vectors).index_add_(0, codes, x)
            empty = counts == 0
            sums[empty] = x[torch.randint(len(x), (int(empty.sum()),))]
            self.vectors.copy_(sums / counts.clamp(min=1)[:, None])
        self.usage.copy_(counts.clamp(min=1) * (len(self.vectors) / len(x)))
        self.total.copy_(self.vectors * self.usage[:, None])


class ResidualQuantizer(nn.Module):
    """One group of codebooks with its projections."""

    def __init__(self, size: CodecSize, books: int) -> None:
        super().__init__()
        self.input_proj = nn.Conv1d(size.dimension, size.book_width, 1, bias=False)
        self.output_proj = nn.Conv1d(size.book_width, size.dimension, 1, bias=False)
        self.books = nn.ModuleList([Codebook(size) for _ in range(books)])

    def forward(self, latent: Tensor, quantize: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """``[B, C, T]`` to (quantised ``[B, width, T]``, codes ``[B, books, T]``, commitment)."""
        x = self.input_proj(latent)
        if not quantize:
            return x, x.new_zeros(0), x.new_zeros(())
        batch, width, steps = x.shape
        rest = x.transpose(1, 2).reshape(-1, width)
        start, total, losses, codes = rest, torch.zeros_like(rest), [], []
        for book in self.books:
            chosen = book.codes(rest.detach())
            vectors = F.embedding(chosen, book.vectors)
            if self.training:
                book.follow(rest.detach(), chosen)
            losses.append(F.mse_loss(rest, vectors))
            rest, total = rest - vectors, total + vectors
            codes.append(chosen)
        through = start + (total - start).detach()
        through = through.view(batch, steps, width).transpose(1, 2)
        return through, torch.stack(codes, 1).view(batch, steps, -1).mT, torch.stack(losses).mean()

    def lookup(self, codes: Tensor) -> Tensor:
        """Sum of the entries of codes ``[B, books, T]``: ``[B, width, T]``."""
        parts = [F.embedding(codes[:, n], book.vectors) for n, book in enumerate(self.books)]
        return torch.stack(parts).sum(0).transpose(1, 2)

    @torch.no_grad()
    def fit(self, latent: Tensor) -> None:
        """Starts all codebooks from ``[1, C, N]``."""
        rest = self.input_proj(latent)[0].T
        for book in self.books:
            book.fit(rest)
            rest = rest - F.embedding(book.codes(rest), book.vectors)


class Codec(nn.Module):
    """The whole codec."""

    def __init__(self, size: CodecSize) -> None:
        super().__init__()
        self.size = size
        self.encoder, self.decoder = seanet_encoder(size), seanet_decoder(size)
        self.encoder_transformer, self.decoder_transformer = Transformer(size), Transformer(size)
        self.downsample = nn.Module()
        self.downsample.conv = Conv(size.dimension, size.dimension, 4, 2, replicate=True)
        self.upsample = nn.Module()
        self.upsample.convtr = ConvUp(size.dimension, size.dimension, 2, depthwise=True)
        self.quantizer = nn.Module()
        self.quantizer.rvq_first = ResidualQuantizer(size, 1)
        self.quantizer.rvq_rest = ResidualQuantizer(size, size.books - 1)

    def latent(self, audio: Tensor) -> Tensor:
        """``[B, 1, 1920 T]`` to ``[B, dimension, T]``."""
        out: Tensor = self.downsample.conv(self.encoder_transformer(self.encoder(audio)))
        return out

    def encode(self, audio: Tensor) -> Tensor:
        """Codes ``[B, books, T]``."""
        latent = self.latent(audio)
        first = self.quantizer.rvq_first(latent)[1]
        return torch.cat((first, self.quantizer.rvq_rest(latent)[1]), 1)

    def synthesise(self, first: Tensor, rest: Tensor) -> Tensor:
        """Audio ``[B, 1, 1920 T]`` of the quantised vectors of both groups."""
        latent = self.quantizer.rvq_first.output_proj(first)
        latent = latent + self.quantizer.rvq_rest.output_proj(rest)
        out: Tensor = self.decoder(self.decoder_transformer(self.upsample.convtr(latent)))
        return out

    def decode(self, codes: Tensor) -> Tensor:
        """Audio of codes ``[B, books, T]``."""
        quantizer = self.quantizer
        first, rest = (
            quantizer.rvq_first.lookup(codes[:, :1]),
            quantizer.rvq_rest.lookup(codes[:, 1:]),
        )
        return self.synthesise(first, rest)


def export(codec: Codec, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes the weights and their ``config.json`` as a folder that Kaiwa loads; gives the file.

    Codebooks stay f32 whatever ``dtype`` is.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in codec.state_dict().items():
        if ".books." not in name:
            tensors[name] = value.to(dtype).contiguous()
            continue
        group, rest = name.split(".books.")
        index, kind = rest.split(".")
        stem = f"{group}.vq.layers.{index}._codebook"
        if kind == "vectors":
            book = codec.get_submodule(f"{group}.books.{index}")
            usage = book.usage.clamp(min=1e-3)
            tensors[f"{stem}.embedding_sum"] = (value * usage[:, None]).contiguous()
            tensors[f"{stem}.cluster_usage"] = usage.clone()
            tensors[f"{stem}._initialized"] = torch.ones(1)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / FILE
    save_file(tensors, target)
    (folder / "config.json").write_text(json.dumps(codec.size.config(), indent=1) + "\n")
    return target


def restore(folder: Path, size: CodecSize | None = None) -> Codec:
    """The codec that :func:`export` wrote."""
    codec = Codec(size or CodecSize())
    found = load_file(folder / FILE)
    state: dict[str, Tensor] = {}
    for name in codec.state_dict():
        group, _, rest = name.partition(".books.")
        if not rest:
            state[name] = found[name].float()
            continue
        index, kind = rest.split(".")
        stem = f"{group}.vq.layers.{index}._codebook"
        total, usage = found[f"{stem}.embedding_sum"], found[f"{stem}.cluster_usage"]
        state[name] = {"usage": usage, "total": total, "vectors": total / usage[:, None]}[kind]
    codec.load_state_dict(state)
    return codec


def size_of(state: dict[str, Any]) -> CodecSize:
    """The size that a checkpoint was made with."""
    return CodecSize(**state["size"])


def as_state(size: CodecSize) -> dict[str, Any]:
    """A size as plain data, for a checkpoint."""
    return asdict(size)


def parameters(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in module.parameters())


def hann_mel(window: int, mels: int) -> Tensor:
    """Mel filters ``[mels, window / 2 + 1]`` at 24 kHz, triangles of equal height."""
    top = 2595 * math.log10(1 + 12000 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2) / 2595) - 1)
    bins = torch.linspace(0, 12000, window // 2 + 1)[None]
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (mid - low), (high - bins) / (high - mid)
    return torch.minimum(rising, falling).clamp(min=0)
