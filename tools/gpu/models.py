"""The random models that are measured. Weights are random, not zeros: hardware and kernels can be
faster on zeros."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kaiwa
from kaiwa import loading

#: Formats by name, and the options of loading that give them.
FORMATS: dict[str, dict[str, Any]] = {
    "bf16": {"dtype": "bfloat16", "kv_dtype": "bfloat16"},
    "q8": {"quantize": "int8", "kv_dtype": "bfloat16"},
    "q4": {"quantize": "int4", "kv_dtype": "bfloat16"},
}


def load(size: str, codec: str, device: str, form: str) -> tuple[kaiwa.Moshi, kaiwa.Mimi]:
    """A language model of random weights and a codec that fits, both on the device."""
    parts = loading.load(f"synth:{size}", mimi=f"synth:{codec}", device=device, **FORMATS[form])
    return parts.moshi, parts.mimi


@cache
def codes(count: int, slots: int, books: int, card: int) -> NDArray[np.int32]:
    """Random codes of `count` frames, `[count, slots, books]`."""
    rng = np.random.default_rng(7)
    return rng.integers(0, card, (count, slots, books), dtype=np.int32)


class Caller:
    """Steps a stream with fresh random codes each time."""

    def __init__(self, moshi: kaiwa.Moshi, slots: int, *, fill: int = 0, seed: int = 1) -> None:
        self.moshi = moshi
        self.stream = moshi.stream(slots, seed=[seed + slot for slot in range(slots)])
        self._codes = codes(64, slots, moshi.num_codebooks_in, moshi.card)
        self._at = 0
        if fill:
            self.stream.prefill_silence(fill)

    def step(self) -> kaiwa.StepOutput:
        """One frame of every slot."""
        self._at += 1
        return self.stream.step(self._codes[self._at % len(self._codes)])
