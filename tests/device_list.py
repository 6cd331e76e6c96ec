"""The devices that tests of models run on, and how closely each follows the reference.

`KAIWA_TEST_DEVICES=cuda pytest tests/native/test_devices.py` runs them on a GPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

#: By default every path that a processor has.
DEVICES = [
    name.strip()
    for name in os.environ.get("KAIWA_TEST_DEVICES", "cpu,candle-cpu").split(",")
    if name.strip()
]


@dataclass(frozen=True)
class Tolerance:
    """Largest differences from the reference, all of it in f32.

    Attributes:
        logits: of the language model, which reach 20.
        signal: of the codec's latents and samples.
    """

    logits: float
    signal: float


#: A GPU adds up in an order of its own, and its exponential is another.
_OF = {
    "cpu": Tolerance(2e-4, 1e-6),
    "candle-cpu": Tolerance(2e-4, 1e-6),
    "cuda": Tolerance(1e-3, 1e-5),
    "metal": Tolerance(1e-3, 1e-5),
}


def tolerance(device: str) -> Tolerance:
    """The tolerance of a device, whatever its number."""
    return _OF[device.partition(":")[0]]
