"""Moshi's network in PyTorch, for training: the released architecture and file, smaller.

A column holds one frame of all streams, row 0 the text, then the model's own codebooks, then the
caller's, each row moved right by its delay. What a step reads is the column before; it predicts
text and own codes of its column. Shapes: columns ``[B, 1 + n_q, S]``, vectors ``[B, S, dim]``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training import words
from training.codec import rotary, rotate

FILE = "model.safetensors"


@dataclass(frozen=True)
class LmSize:
    """Widths of the demonstration language model."""

    dim: int = 256
    layers: int = 5
    heads: int = 4
    hidden_scale: float = 2.25
    #: Steps that attention looks back, the present one included: 10 s.
    context: int = 125
    books: int = 8
    card: int = 512
    text_card: int = words.PIECES
    depth_dim: int = 64
    depth_layers: int = 2
    depth_heads: int = 4
    depth_forward: int = 144

    @property
    def hidden(self) -> int:
        """Width inside the gated layers."""
        return 2 * int(self.hidden_scale * self.dim) // 3

    @property
    def depth_hidden(self) -> int:
        """Width inside the gated layers of the depth transformer."""
        return 2 * self.depth_forward // 3

    @property
    def delays(self) -> list[int]:
        """Of each row: acoustic codes come one frame after semantic ones."""
        side = [0] + [1] * (self.books - 1)
        return [0, *side, *side]

    def config(self) -> dict[str, Any]:
        """The ``config.json`` that describes the file."""
        return {
            "model_type": "moshi",
            # The model's file has a usual name, so that one text describes every format.
            "mimi_name": "mimi/tokenizer-e351c8d8-checkpoint125.safetensors",
            "mimi_config_name": "mimi/config.json",
            "tokenizer_name": words.FILE,
            "dim": self.dim,
            "text_card": self.text_card,
            "existing_text_padding_id": words.PAD,
            "existing_text_end_padding_id": words.BEGIN,
            "n_q": 2 * self.books,
            "dep_q": self.books,
            "card": self.card,
            "num_heads": self.heads,
            "num_layers": self.layers,
            "hidden_scale": self.hidden_scale,
            "causal": True,
            "layer_scale": None,
            "context": self.context,
            "max_period": 10000,
            "gating": "silu",
            "norm": "rms_norm_f32",
            "positional_embedding": "rope",
            "depformer_dim": self.depth_dim,
            "depformer_dim_feedforward": self.depth_forward,
            "depformer_num_heads": self.depth_heads,
            "depformer_num_layers": self.depth_layers,
            "depformer_layer_scale": None,
            "depformer_multi_linear": True,
            "depformer_context": self.books,
            "depformer_max_period": 10000,
            "depformer_gating": "silu",
            "depformer_pos_emb": "none",
            "depformer_weights_per_step": True,
            "delays": self.delays,
            # What was heard is a matter of fact: the likeliest word, not one of a few.
            "lm_gen_config": {"temp": 0.4, "temp_text": 0.0, "top_k": 50, "top_k_text": 5},
        }


class RmsNorm(nn.Module):
    """Divides by the root of the mean square."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.alpha * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-8))


def matrix(*shape: int, gain: float = 1.0) -> nn.Parameter:
    """A matrix ``[..., out, in]`` that keeps the size of what goes through it."""
    return nn.Parameter(torch.randn(shape) * (gain * shape[-1] ** -0.5))


def table(rows: int, width: int) -> nn.Embedding:
    """An embedding table; the last row stands for "not yet"."""
    made = nn.Embedding(rows, width)
    nn.init.normal_(made.weight, std=0.2)
    return made


class Layer(nn.Module):
    """A layer of the temporal transformer."""

    def __init__(self, size: LmSize) -> None:
        super().__init__()
        gain = (2 * size.layers) ** -0.5
        self.heads = size.heads
        #: Share of what a branch adds that is left out in training.
        self.dropout = 0.0
        self.norm1, self.norm2 = RmsNorm(size.dim), RmsNorm(size.dim)
        self.in_proj = matrix(3 * size.dim, size.dim)
        self.out_proj = matrix(size.dim, size.dim, gain=gain)
        self.linear_in = matrix(2 * size.hidden, size.dim)
        self.linear_out = matrix(size.dim, size.hidden, gain=gain)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, steps, width = x.shape
        qkv = F.linear(self.norm1(x), self.in_proj).view(batch, steps, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.drop(F.linear(y.transpose(1, 2).reshape(batch, steps, width), self.out_proj))
        gate, value = F.linear(self.norm2(x), self.linear_in).chunk(2, -1)
        return x + self.drop(F.linear(F.silu(gate) * value, self.linear_out))

    def drop(self, y: Tensor) -> Tensor:
        """With random parts left out, in training."""
        return F.dropout(y, self.dropout, self.training)


class DepthLayer(nn.Module):
    """A layer of the depth transformer: matrices of its own for each codebook, shared norms."""

    def __init__(self, size: LmSize) -> None:
        super().__init__()
        books, width, hidden = size.books, size.depth_dim, size.depth_hidden
        gain = (2 * size.depth_layers) ** -0.5
        self.heads = size.depth_heads
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)
        self.in_proj = matrix(books, 3 * width, width)
        self.out_proj = matrix(books, width, width, gain=gain)
        self.linear_in = matrix(books, 2 * hidden, width)
        self.linear_out = matrix(books, width, hidden, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        count, books, width = x.shape
        qkv = each(self.norm1(x), self.in_proj).view(count, books, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + each(y.transpose(1, 2).reshape(count, books, width), self.out_proj)
        gate, value = each(self.norm2(x), self.linear_in).chunk(2, -1)
        return x + each(F.silu(gate) * value, self.linear_out)


def each(x: Tensor, weights: Tensor) -> Tensor:
    """Codebook ``k`` of ``[N, K, in]`` through matrix ``k`` of ``[K, out, in]``."""
    return torch.bmm(x.transpose(0, 1), weights.transpose(1, 2)).transpose(0, 1)


class Language(nn.Module):
    """The whole language model."""

    def __init__(self, size: LmSize) -> None:
        super().__init__()
        self.size = size
        self.text_emb = table(size.text_card + 1, size.dim)
        self.emb = nn.ModuleList([table(size.card + 1, size.dim) for _ in range(2 * size.books)])
        self.layers = nn.ModuleList([Layer(size) for _ in range(size.layers)])
        self.out_norm = RmsNorm(size.dim)
        self.text_linear = matrix(size.text_card, size.dim)
        self.depth_in = matrix(size.books, size.depth_dim, size.dim)
        self.depth_text_emb = table(size.text_card + 1, size.depth_dim)
        self.depth_emb = nn.ModuleList(
            [table(size.card + 1, size.depth_dim) for _ in range(size.books - 1)]
        )
        self.depth_layers = nn.ModuleList([DepthLayer(size) for _ in range(size.depth_layers)])
        self.linears = matrix(size.books, size.card, size.depth_dim)

    def initial(self, batch: int) -> Tensor:
        """The column before the first, ``[B, 1 + n_q, 1]``."""
        first = torch.full((batch, 1 + 2 * self.size.books, 1), self.size.card)
        first[:, 0] = self.size.text_card
        return first

    def columns(self, frames: Tensor) -> Tensor:
        """Frames ``[B, 1 + n_q, S]`` as columns: each row moved right by its delay."""
        out = self.initial(len(frames)).repeat(1, 1, frames.shape[-1])
        for row, delay in enumerate(self.size.delays):
            out[:, row, delay:] = frames[:, row, : frames.shape[-1] - delay]
        return out

    def hear(self, columns: Tensor, middle: int = 0) -> tuple[Tensor, Tensor]:
        """What each step knows, from the columns before it: ``[B, S, dim]``.

        The second result is the same after ``middle`` layers, for a hint in training.
        """
        before = torch.cat((self.initial(len(columns)), columns[..., :-1]), -1)
        x = self.text_emb(before[:, 0])
        for row, emb in enumerate(self.emb):
            x = x + emb(before[:, 1 + row])
        steps = x.shape[1]
        at = torch.arange(steps)
        back = at[:, None] - at[None]
        mask = (back >= 0) & (back < self.size.context)
        cos, sin = rotary(steps, self.size.dim // self.size.heads)
        halfway = x
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, mask, cos, sin)
            halfway = x if number == middle else halfway
        return self.out_norm(x), halfway

    def text(self, z: Tensor) -> Tensor:
        """Logits of the text, ``[..., text_card]``."""
        return F.linear(z, self.text_linear)

    def audio(self, z: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the own codes, ``[N, books, card]``, of steps that know ``z`` ``[N, dim]``.

        ``tokens`` are rows 0 (text) to ``books - 1`` of those steps' columns, ``[N, books]``.
        """
        x = torch.einsum("ni,koi->nko", z, self.depth_in)
        rows = [self.depth_text_emb(tokens[:, 0])]
        rows += [emb(tokens[:, 1 + k]) for k, emb in enumerate(self.depth_emb)]
        x = x + torch.stack(rows, 1)
        for layer in self.depth_layers:
            x = layer(x)
        return each(x, self.linears)


def named(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state under the names of the released file."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part in ("layers", "depth_layers"):
            at, kind = rest.split(".", 1)
            stem = ("transformer" if part == "layers" else "depformer") + f".layers.{at}"
            if kind.startswith("norm"):
                out[f"{stem}.{kind}"] = value
            elif kind == "in_proj":
                out[f"{stem}.self_attn.in_proj_weight"] = value.flatten(0, -2)
            elif kind == "out_proj":
                out[f"{stem}.self_attn.out_proj.weight"] = value.flatten(0, -2)
            elif part == "layers":
                out[f"{stem}.gating.{kind}.weight"] = value
            else:
                for k, one in enumerate(value):
                    out[f"{stem}.gating.{k}.{kind}.weight"] = one
        elif part in ("depth_in", "linears"):
            for k, one in enumerate(value):
                out[f"{part.replace('depth_', 'depformer_')}.{k}.weight"] = one
        elif part == "text_linear":
            out["text_linear.weight"] = value
        else:
            out[name.replace("depth_", "depformer_")] = value
    return out


def tensors(model: Language) -> dict[str, Tensor]:
    """The weights under the names of the released file."""
    # Copies, since a file does not share storage between tensors.
    return {n: v.detach().clone().contiguous() for n, v in named(model.state_dict()).items()}


def restore(folder: Path, size: LmSize | None = None) -> Language:
    """The model that :func:`export` wrote."""
    model = Language(size or LmSize())
    state = model.state_dict()
    # Where each value of the file belongs is found by naming the places themselves.
    ends = torch.tensor([v.numel() for v in state.values()]).cumsum(0)
    places = {
        name: torch.arange(int(end) - value.numel(), int(end)).view_as(value)
        for (name, value), end in zip(state.items(), ends, strict=True)
    }
    found = load_file(folder / FILE)
    flat = torch.empty(int(ends[-1]))
    for name, where in named(places).items():
        flat[where.flatten()] = found[name].float().flatten()
    model.load_state_dict({name: flat[where] for name, where in places.items()})
    return model


def export(model: Language, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes weights, ``config.json`` and tokenizer as a folder that Kaiwa loads; gives the file.

    The codec belongs into the folder's ``mimi``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.to(dtype) for n, t in tensors(model).items()}, folder / FILE)
    (folder / "config.json").write_text(json.dumps(model.size.config(), indent=1) + "\n")
    words.write(folder)
    return folder / FILE


def size_of(state: dict[str, Any]) -> LmSize:
    """The size that a checkpoint was made with."""
    return LmSize(**state["size"])


def as_state(size: LmSize) -> dict[str, Any]:
    """A size as plain data, for a checkpoint."""
    return asdict(size)
