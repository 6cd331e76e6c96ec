"""What a model weighs, and what each conversation adds to it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kaiwa.errors import InputError

#: Frames a second.
FRAME_RATE = 12.5
#: Bytes of the codec's weights (f32), and of a conversation's codec state; both measured.
CODEC_BYTES = 385e6
CODEC_STATE_BYTES = 16.9e6
#: Steps in a block of keys and values on a processor (docs/architecture.md).
_BLOCK = 64

#: Bytes a weight takes; blocks of 32 share a scale of two bytes.
WEIGHT_BYTES = {"bf16": 2.0, "int8": 34 / 32, "int4": 18 / 32}
#: Bytes a number of keys and values takes; 64 of int8 share two scales' worth of two bytes.
KV_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 33 / 32}


@dataclass(frozen=True)
class Model:
    """The sizes that matter.

    Attributes:
        name: for people.
        parameters: of the language model.
        dim: width of the temporal transformer.
        layers: of the temporal transformer.
        context: steps of its window.
    """

    name: str
    parameters: int
    dim: int
    layers: int
    context: int

    def weight_bytes(self, weights: str) -> float:
        """Bytes of the language model's weights in a form of `WEIGHT_BYTES`."""
        return self.parameters * _known(weights, WEIGHT_BYTES, "weights")

    def state_bytes(self, kv: str, seconds: float | None) -> float:
        """Bytes of keys and values that a conversation comes to.

        Args:
            kv: a form of `KV_BYTES`.
            seconds: longest conversation; None is no limit.
        """
        steps = self.context
        if seconds is not None:
            steps = min(steps, int(seconds * FRAME_RATE) + 1)
        steps = -(-steps // _BLOCK) * _BLOCK
        return 2.0 * self.layers * self.dim * steps * _known(kv, KV_BYTES, "kv_dtype")


#: The released size, and those of `kaiwa synth moshi`.
MODELS = {
    "7b": Model("7b", 7_687_729_152, 4096, 32, 3000),
    "1b": Model("1b", 1_427_950_592, 2048, 16, 3000),
    "300m": Model("300m", 443_731_968, 1024, 12, 3000),
}

_RELEASED = re.compile(r"(kyutai/)?moshik[ao](-(pytorch|candle|mlx)-(?P<form>bf16|q8|q4))?")
_FORMS = {"bf16": "bf16", "q8": "int8", "q4": "int4"}


def released(name: str) -> tuple[Model, str | None] | None:
    """Sizes of a model that is published under a name such as `kyutai/moshika-candle-q8`, and the
    form of its weights if the name tells; None if no model of known sizes has that name."""
    found = _RELEASED.fullmatch(name)
    if found is None:
        return None
    return MODELS["7b"], _FORMS.get(found["form"])


def _known(name: str, table: dict[str, float], what: str) -> float:
    if name not in table:
        raise InputError(f"{what} is {name!r}; use one of {', '.join(table)}")
    return table[name]
