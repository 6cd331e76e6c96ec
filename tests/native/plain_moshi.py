"""A second reading of docs/spec/moshi.md, in plain numpy and float64.

One conversation at a time, every key of the whole history kept and the window cut out of it, every
weight under its name in the PyTorch layout: slow and short, and it shares nothing with the
library. Tests compare the library with it where no recorded outputs of the reference exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Config = Mapping[str, Any]


def inner_width(gating: str, feed_forward: int, dim: int) -> int:
    """Width inside a feed-forward part (3.7)."""
    if gating == "none":
        return feed_forward
    return 21 * dim // 8 if feed_forward == 4 * dim else 2 * feed_forward // 3


def depth(c: Config, key: str, default: Any = None) -> Any:
    """An entry of the depth transformer, which inherits the unprefixed one (8)."""
    return c.get(f"depformer_{key}", c.get(key, default))


def schedule(c: Config) -> list[int]:
    """Weight set of every sub-step."""
    return list(c.get("depformer_weights_per_step_schedule") or range(c["dep_q"]))


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a configuration (docs/spec/checkpoints.md 1)."""
    found: dict[str, tuple[int, ...]] = {}
    dim, sets = c["dim"], max([*schedule(c), -1]) + 1

    def norm(name: str, kind: str, width: int) -> None:
        if kind.startswith("rms"):
            found[f"{name}.alpha"] = (1, 1, width)
        else:
            found[f"{name}.weight"] = found[f"{name}.bias"] = (width,)

    def layer(name: str, width: int, kv_repeat: int, scaled: bool, stacked: int) -> None:
        rows = width + 2 * width // kv_repeat
        found[f"{name}.self_attn.in_proj_weight"] = (stacked * rows, width)
        found[f"{name}.self_attn.out_proj.weight"] = (stacked * width, width)
        for one in ("norm1", "norm2"):
            norm(f"{name}.{one}", c["norm"], width)
        if scaled:
            found[f"{name}.layer_scale_1.scale"] = (width,)
            found[f"{name}.layer_scale_2.scale"] = (width,)

    def feed(name: str, gating: str, width: int, hidden: int, index: str) -> None:
        if gating == "none":
            found[f"{name}.linear1.weight"] = (hidden, width)
            found[f"{name}.linear2.weight"] = (width, hidden)
        else:
            found[f"{name}.gating{index}.linear_in.weight"] = (2 * hidden, width)
            found[f"{name}.gating{index}.linear_out.weight"] = (width, hidden)

    found["text_emb.weight"] = (c["text_card"] + 1, dim)
    for i in range(c["n_q"]):
        found[f"emb.{i}.weight"] = (c["card"] + 1, dim)
    hidden = inner_width(c["gating"], int(c["hidden_scale"] * dim), dim)
    for number in range(c["num_layers"]):
        name = f"transformer.layers.{number}"
        layer(name, dim, c.get("kv_repeat", 1), c.get("layer_scale") is not None, 1)
        feed(name, c["gating"], dim, hidden, "")
    norm("out_norm", c["norm"], dim)
    found["text_linear.weight"] = (c.get("text_card_out") or c["text_card"], dim)
    if c["dep_q"]:
        small = c["depformer_dim"]
        rank = c.get("depformer_low_rank_embeddings")
        for w in range(sets):
            found[f"depformer_in.{w}.weight"] = (small, dim)
        tables = [("depformer_text_emb", c["text_card"] + 1)]
        tables += [(f"depformer_emb.{j}", c["card"] + 1) for j in range(c["dep_q"] - 1)]
        for name, rows in tables:
            found[f"{name}.weight"] = (rows, rank or small)
            if rank:
                found[f"{name}.low_rank.weight"] = (small, rank)
        widths = feed_forwards(c)
        for number in range(depth(c, "num_layers")):
            name = f"depformer.layers.{number}"
            layer(name, small, depth(c, "kv_repeat", 1), depth(c, "layer_scale") is not None, sets)
            for w in range(sets):
                inner = inner_width(depth(c, "gating"), widths[w], small)
                feed(name, depth(c, "gating"), small, inner, f".{w}")
        for k in range(c["dep_q"]):
            if c.get("depformer_norm"):
                norm(f"depformer_norms.{k}", c["depformer_norm"], small)
            found[f"linears.{k}.weight"] = (c["card"], small)
    for name, one in (c.get("conditioners") or {}).items():
        prefix, lut = f"condition_provider.conditioners.{name}", one["lut"]
        found[f"{prefix}.embed.weight"] = (lut["n_bins"] + 1, lut["dim"])
        found[f"{prefix}.output_proj.weight"] = (dim, lut["dim"])
        found[f"{prefix}.learnt_padding"] = (1, 1, dim)
    return found


def feed_forwards(c: Config) -> list[int]:
    """Feed-forward size of every weight set of the depth transformer."""
    given = c.get("depformer_dim_feedforward")
    if given is None:
        given = int(c["hidden_scale"] * c["depformer_dim"])
    sets = max(schedule(c)) + 1
    return list(given) if isinstance(given, Sequence) else [given] * sets


def random_weights(c: Config, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights drawn so large that an error anywhere shows in the logits."""
    rng = np.random.default_rng(seed)
    made: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes(c).items():
        drawn = rng.standard_normal(shape)
        if "norm" in name and not name.endswith("bias"):
            drawn = 1 + 0.3 * drawn
        elif name.endswith(".scale"):
            drawn = 0.7 + 0.2 * drawn
        elif "linears." in name or "text_linear" in name:
            drawn *= 4 / shape[-1] ** 0.5
        elif not name.endswith("emb.weight") and "emb." not in name:
            drawn *= 1.3 / shape[-1] ** 0.5
        made[name] = drawn.astype(np.float32)
    return made


def normed(x: Array, w: Mapping[str, Array], name: str, kind: str) -> Array:
    eps = 1e-8 if kind.endswith("_f32") else 1e-5
    made: Array
    if kind.startswith("rms"):
        made = x / np.sqrt(np.mean(x * x) + eps) * w[f"{name}.alpha"].ravel()
    else:
        unit = (x - x.mean()) / np.sqrt(x.var() + eps)
        made = unit * w[f"{name}.weight"] + w[f"{name}.bias"]
    return made


def rotated(x: Array, position: int, max_period: float, halves: bool) -> Array:
    """Rotary embedding of heads `[heads, head_dim]` (3.5)."""
    half = x.shape[1] // 2
    angle = position * max_period ** (-2 * np.arange(half) / x.shape[1])
    a, b = (x[:, :half], x[:, half:]) if halves else (x[:, ::2], x[:, 1::2])
    real, imaginary = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
    if halves:
        return np.concatenate([real, imaginary], axis=1)
    return np.stack([real, imaginary], axis=2).reshape(x.shape)


class Attention:
    """Attention of one layer over all its history, or the end of it."""

    def __init__(self, heads: int, kv_repeat: int, context: int | None) -> None:
        self.heads, self.repeat, self.context = heads, kv_repeat, context
        self.keys: list[Array] = []
        self.values: list[Array] = []

    def __call__(self, x: Array, in_proj: Array, out_proj: Array, rope: Any = None) -> Array:
        dim = len(x)
        head_dim, kv = dim // self.heads, self.heads // self.repeat
        q, k, v = np.split(in_proj @ x, [dim, dim + kv * head_dim])
        q, k, v = q.reshape(-1, head_dim), k.reshape(-1, head_dim), v.reshape(-1, head_dim)
        if rope is not None:
            q, k = rope(q), rope(k)
        self.keys.append(np.repeat(k, self.repeat, axis=0))
        self.values.append(np.repeat(v, self.repeat, axis=0))
        window = slice(-self.context if self.context else None, None)
        scores = np.einsum("hd,thd->ht", q, np.stack(self.keys[window])) / head_dim**0.5
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        mixed = np.einsum("ht,thd->hd", weights, np.stack(self.values[window]))
        out: Array = out_proj @ mixed.ravel()
        return out


class PlainMoshi:
    """One greedy conversation."""

    def __init__(
        self,
        config: Config,
        weights: Mapping[str, NDArray[Any]],
        conditions: Mapping[str, str | None] | None = None,
    ) -> None:
        self.c = config
        self.w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        if config.get("model_type") == "hibiki":
            self.w["text_emb.weight"][2] = self.w["text_emb.weight"][3]
        c = config
        self.layers = [
            Attention(c["num_heads"], c.get("kv_repeat", 1), c["context"])
            for _ in range(c["num_layers"])
        ]
        # The user supplies the codebooks that the second half of sixteen sub-steps predicts (9.5).
        self.own = 8 if (c["dep_q"], c["n_q"]) == (16, 16) else c["dep_q"]
        self.history: list[list[int]] = []  # what row i was given or chose at step s
        self.users: list[Sequence[int]] = []
        self.sum = np.zeros(c["dim"])
        for name, value in (conditions or {}).items():
            prefix = f"condition_provider.conditioners.{name}"
            lut = c["conditioners"][name]["lut"]
            if value is None:
                self.sum += self.w[f"{prefix}.learnt_padding"].ravel()
            else:
                row = self.w[f"{prefix}.embed.weight"][lut["possible_values"].index(value)]
                self.sum += self.w[f"{prefix}.output_proj.weight"] @ row

    def inputs(self, user: Sequence[int]) -> list[int]:
        """The column that the model sees at this step (2.4)."""
        step, c = len(self.history), self.c
        self.users.append(user)
        column = []
        for row, delay in enumerate(c["delays"]):
            if step <= delay:
                column.append(c["text_card"] if row == 0 else c["card"])
            elif row <= self.own:
                column.append(self.history[step - 1][row])
            else:
                column.append(self.users[step - delay][row - 1 - self.own])
        return column

    def block(
        self, name: str, x: Array, attention: Attention, rope: Any, set_: int | None
    ) -> Array:
        """One layer (3.2), with a weight set in the depth transformer."""
        c, w = self.c, self.w
        gating = c["gating"] if set_ is None else depth(c, "gating")
        in_proj = w[f"{name}.self_attn.in_proj_weight"]
        out_proj = w[f"{name}.self_attn.out_proj.weight"]
        index = ""
        if set_ is not None:
            count = max(schedule(c)) + 1
            in_proj, out_proj = np.split(in_proj, count)[set_], np.split(out_proj, count)[set_]
            index = f".{set_}"
        scale = [w.get(f"{name}.layer_scale_{i}.scale", np.float64(1)) for i in (1, 2)]
        y = normed(x, w, f"{name}.norm1", c["norm"])
        x = x + scale[0] * attention(y, in_proj, out_proj, rope)
        y = normed(x, w, f"{name}.norm2", c["norm"])
        if gating == "none":
            inner = w[f"{name}.linear1.weight"] @ y
            inner = inner * 0.5 * (1 + np.array([erf(v / 2**0.5) for v in inner]))
            added = w[f"{name}.linear2.weight"] @ inner
        else:
            gate, value = np.split(w[f"{name}.gating{index}.linear_in.weight"] @ y, 2)
            inner = gate / (1 + np.exp(-gate)) * value
            added = w[f"{name}.gating{index}.linear_out.weight"] @ inner
        out: Array = x + scale[1] * added
        return out

    def step(
        self, user: Sequence[int], text: int | None = None, audio: Sequence[int | None] = ()
    ) -> tuple[list[int], Array, Array, list[int] | None]:
        """Tokens chosen, text logits, audio logits `[own, card]`, and the frame that is complete.
        `text` and `audio` are said instead of the likeliest."""
        c, w = self.c, self.w
        position = len(self.history)
        column = self.inputs(user)
        tables = [*(f"emb.{i}" for i in range(c["n_q"])), "text_emb"]
        ids = [*column[1:], column[0]]
        x = self.sum + sum(
            w[f"{table}.weight"][i] for table, i in zip(tables, ids, strict=True) if i >= 0
        )
        halves = c["positional_embedding"] == "rope_concat"
        for number, attention in enumerate(self.layers):
            x = self.block(
                f"transformer.layers.{number}",
                x,
                attention,
                lambda h: rotated(h, position, c.get("max_period", 10_000), halves),
                None,
            )
        z = normed(x, w, "out_norm", c["norm"])
        text_logits = w["text_linear.weight"] @ z
        chosen = [int(text_logits.argmax()) if text is None else text]
        audio_logits = np.zeros((self.own, c["card"]))
        if c["dep_q"]:
            inner = [
                Attention(c["depformer_num_heads"], depth(c, "kv_repeat", 1), None)
                for _ in range(depth(c, "num_layers"))
            ]
        for k in range(self.own):
            w_k = schedule(c)[k]
            table = "depformer_text_emb" if k == 0 else f"depformer_emb.{k - 1}"
            h = w[f"depformer_in.{w_k}.weight"] @ z
            if chosen[-1] >= 0:
                e = w[f"{table}.weight"][chosen[-1]]
                if f"{table}.low_rank.weight" in w:
                    e = w[f"{table}.low_rank.weight"] @ e
                h = h + e
            for number, attention in enumerate(inner):
                h = self.block(f"depformer.layers.{number}", h, attention, None, w_k)
            if c.get("depformer_norm"):
                h = normed(h, w, f"depformer_norms.{k}", c["depformer_norm"])
            audio_logits[k] = w[f"linears.{k}.weight"] @ h
            forced = audio[k] if k < len(audio) else None
            chosen.append(int(audio_logits[k].argmax()) if forced is None else forced)
        self.history.append(chosen)
        longest = max(c["delays"])
        frame = None
        if position >= longest:
            # The frame's value of row i was chosen `delays[i]` steps after the frame's own step.
            steps = [position - longest + d for d in c["delays"][: self.own + 1]]
            frame = [self.history[s][row] for row, s in enumerate(steps)]
        return chosen, text_logits, audio_logits, frame
