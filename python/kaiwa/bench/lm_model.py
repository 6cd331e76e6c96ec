"""What the benches of the language model ask of a model, and how they load one.

Spelled as protocols, so that the measuring can be tried on something small and predictable.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kaiwa import _native
from kaiwa.errors import InputError

Floats = NDArray[np.float32]
Ints = NDArray[Any]

#: Weight kinds and the arguments of `Moshi.from_pretrained` that give them.
FORMATS: dict[str, dict[str, str | None]] = {
    "int8": {"dtype": None, "quantize": "int8"},
    "int4": {"dtype": None, "quantize": "int4"},
    "bf16": {"dtype": "bfloat16", "quantize": None},
    "float32": {"dtype": "float32", "quantize": None},
}

#: Bytes of memory per weight, scales included; to see beforehand what fits.
BYTES_PER_WEIGHT = {"int8": 1.13, "int4": 0.63, "bf16": 2.0, "float32": 4.0}


class Step(Protocol):
    """What a step gives."""

    @property
    def step_text_tokens(self) -> Ints:
        """`[slots]`, chosen at this step."""

    @property
    def step_audio_tokens(self) -> Ints:
        """`[slots, dep_q]`, chosen at this step."""


class Stream(Protocol):
    """Conversations over shared weights."""

    @property
    def text_logits(self) -> Floats:
        """`[slots, text_card]` of the last step."""

    @property
    def audio_logits(self) -> Floats:
        """`[slots, dep_q, card]` of the last step."""

    @property
    def state_bytes(self) -> int:
        """Running state of all slots."""

    @property
    def stage_seconds(self) -> Mapping[str, float]:
        """Seconds per stage since they were cleared."""

    def clear_stage_seconds(self) -> None:
        """Starts the stages' clocks anew."""

    def step(
        self,
        user_codes: Ints,
        *,
        force_text: Ints | None = None,
        force_audio: Ints | None = None,
    ) -> Step:
        """One frame of every slot."""

    def prefill_silence(self, steps: int) -> None:
        """Advances every slot cheaply."""


class Model(Protocol):
    """A language model."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Sizes."""

    @property
    def num_codebooks_in(self) -> int:
        """Codebooks that the user supplies."""

    @property
    def card(self) -> int:
        """Audio vocabulary."""

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""

    @property
    def step_bytes(self) -> Sequence[tuple[str, int]]:
        """Bytes of weights that a step reads, by stage."""

    def stream(self, slots: int = 1, *, temp: float = 0.0, temp_text: float = 0.0) -> Stream:
        """Fresh conversations."""


def load(
    source: str | os.PathLike[str],
    kind: str,
    kv_dtype: str | None = None,
    device: str = "cpu",
) -> Model:
    """The model with its weights held as `kind` (see `FORMATS`)."""
    moshi = importlib.import_module("kaiwa").Moshi
    model: Model = moshi.from_pretrained(source, device=device, kv_dtype=kv_dtype, **FORMATS[kind])
    return model


def synthesise(folder: Path, size: str) -> Path:
    """A random model of a named size, as 8-bit GGUF; gives the folder."""
    importlib.import_module("kaiwa.synth").write_moshi(folder, size=size, format="gguf-q8", seed=0)
    return folder


def user_codes(model: Model, slots: int, step: int) -> NDArray[np.int64]:
    """What the users "say" at a step: a fixed rule, the same for slot 0 as in the peer program."""
    slot = np.arange(slots)[:, None]
    codebook = np.arange(model.num_codebooks_in)[None, :]
    codes: NDArray[np.int64] = (step * 31 + codebook * 17 + 7 + slot * 101) % model.card
    return codes


def kinds(text: str) -> list[str]:
    """Weight kinds from a list with commas, in the order given and each once."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for kind in found:
        if kind not in FORMATS:
            raise InputError(f"unknown weight kind {kind!r}; known are {', '.join(FORMATS)}")
    return found


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    return _native.available_memory()


def weights_in(source: Path) -> float | None:
    """About how many weights the model of a folder or file has, from its size on disk."""
    files = [source] if source.is_file() else sorted(source.iterdir())
    for ending, bytes_per_weight in ((".gguf", 34 / 32), (".safetensors", 2.0)):
        sizes = [f.stat().st_size for f in files if f.suffix == ending]
        if sizes:
            return sum(sizes) / bytes_per_weight
    return None


def room_for(kind: str, weights: float | None, spare: float = 0.0) -> str | None:
    """None if the weights should fit in memory as `kind` beside `spare` bytes; else the reason."""
    free = available_memory()
    if free is None or weights is None:
        return None
    need = weights * BYTES_PER_WEIGHT[kind] + spare
    if need < 0.92 * free:
        return None
    return f"needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
