"""Making a synthetic Mimi checkpoint and putting it on disk."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kaiwa import _safetensors
from kaiwa._atomic import replacing
from kaiwa.errors import InputError
from kaiwa.synth import codebooks, forward, layouts, weights
from kaiwa.synth.shapes import FULL, SMALL, MimiSize
from kaiwa.synth.voice import voice

Array = NDArray[np.float32]

SIZES = {"full": FULL, "small": SMALL}
LAYOUTS = ("kyutai", "kyutai-current", "hf")
DTYPES = {"f32": "F32", "bf16": "BF16", "f16": "F16"}

#: File names that go with each layout inside a folder.
FILE_NAMES = {
    "kyutai": "tokenizer-e351c8d8-checkpoint125.safetensors",
    "kyutai-current": "tokenizer-e351c8d8-checkpoint125.safetensors",
    "hf": "model.safetensors",
}

#: Seconds of synthetic voice the codebooks are fitted to.
FIT_SECONDS = 9.6


@dataclass(frozen=True)
class SynthReport:
    """What was written: files, elements, and bits of code entropy per codebook on the fit."""

    weights: Path
    config: Path | None
    parameters: int
    entropy_bits: tuple[float, ...]


def make_mimi(seed: int, size: MimiSize) -> tuple[dict[str, Array], tuple[float, ...]]:
    """All tensors under the released names, and the entropy of each codebook's codes (bits).

    Deterministic for a seed up to the rounding of numpy's matrix products, which enters the
    codebooks.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    tensors = weights.draw(size, rng)
    pcm = voice(FIT_SECONDS, seed=seed)
    pcm = pcm[: len(pcm) // size.frame_size * size.frame_size]
    latent = forward.encode_latent(tensors, size, pcm)
    entropy = []
    for group, count in (("first", 1), ("rest", size.n_q - 1)):
        seen = forward.project(tensors, group, latent)
        for index, book in enumerate(codebooks.fit_group(seen, count, size, rng)):
            name = f"quantizer.rvq_{group}.vq.layers.{index}._codebook"
            total, usage = codebooks.stored(book, rng)
            tensors[f"{name}._initialized"] = np.ones(1, np.float32)
            tensors[f"{name}.cluster_usage"] = usage
            tensors[f"{name}.embedding_sum"] = total
            entropy.append(_entropy(book.codes))
    return tensors, tuple(entropy)


def _entropy(codes: NDArray[np.int64]) -> float:
    """Empirical entropy in bits."""
    share = np.bincount(codes) / len(codes)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def write_mimi(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    size: str = "full",
    layout: str = "kyutai",
    dtype: str = "f32",
    num_codebooks: int | None = None,
) -> SynthReport:
    """Writes a random checkpoint of Mimi that loads like a released one.

    Args:
        out: a `.safetensors` file, or a folder (made if it is missing) for weights and
            `config.json`. The small size always comes with a `config.json` beside it.
        seed: 0 or more; the same seed is the same model in every layout.
        size: "full" (the released sizes, 385 MB in f32) or "small" (for tests).
        layout: "kyutai" (released names), "kyutai-current" or "hf" (`transformers`).
        dtype: "f32", "bf16" or "f16", of every tensor.
        num_codebooks: codebooks in the file, 2 or more; 32 (full) or 12 (small) if None.

    Raises:
        InputError: an argument is out of range, or `out` cannot be written to.
    """
    shape = _checked(seed, size, layout, dtype, num_codebooks)
    target = Path(out)
    folder = target if target.is_dir() or target.suffix != ".safetensors" else None
    with_config = folder is not None or size == "small"
    config_text = json.dumps(
        shape.hf_config() if layout == "hf" else shape.kyutai_config(), indent=1
    )
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; end the name in .safetensors, or name a folder")
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / FILE_NAMES[layout]
    config = target.parent / "config.json" if with_config else None
    if config is not None and folder is None and _differs(config, config_text):
        raise InputError(f"{config} belongs to another model; give an empty folder as the output")
    tensors, entropy = make_mimi(seed, shape)
    with replacing(target) as temporary:
        _write_weights(temporary, tensors, layout, DTYPES[dtype], shape)
        if config is not None:
            with replacing(config) as temporary_config:
                temporary_config.write_text(config_text, encoding="utf-8")
    parameters = sum(t.size for t in tensors.values())
    return SynthReport(target, config, parameters, entropy)


def _differs(path: Path, text: str) -> bool:
    """Whether a file exists and holds something else."""
    return path.exists() and path.read_text(encoding="utf-8", errors="replace") != text


def _checked(seed: int, size: str, layout: str, dtype: str, num_codebooks: int | None) -> MimiSize:
    """The sizes asked for, or InputError."""
    for name, value, allowed in (
        ("size", size, tuple(SIZES)),
        ("layout", layout, LAYOUTS),
        ("dtype", dtype, tuple(DTYPES)),
    ):
        if value not in allowed:
            raise InputError(f"{name} is {value!r}; use one of {', '.join(allowed)}")
    if seed < 0:
        raise InputError(f"seed is {seed}; use 0 or more")
    shape = SIZES[size]
    count = shape.n_q if num_codebooks is None else num_codebooks
    if not 2 <= count <= 256:
        raise InputError(f"num_codebooks is {count}; use 2 to 256")
    return replace(shape, n_q=count)


def _write_weights(
    path: Path, tensors: dict[str, Array], layout: str, dtype: str, size: MimiSize
) -> None:
    """Stores `tensors` in a layout and type."""
    named = [
        pair
        for name, tensor in tensors.items()
        for pair in layouts.renamed(name, tensor, layout, size.num_heads)
    ]
    _safetensors.write(
        path,
        {name: (dtype, tensor.shape) for name, tensor in named},
        (_safetensors.to_bytes_of(tensor, dtype) for _, tensor in named),
        {"format": "pt"},
    )
