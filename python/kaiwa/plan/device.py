"""Devices: memory, speed, and what was measured on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from kaiwa.plan.model import CODEC_BYTES, Model
from kaiwa.plan.steps import StepTimes

#: Share of its sheet's memory bandwidth and arithmetic that a device is expected to reach.
BANDWIDTH_SHARE = 0.6
ARITHMETIC_SHARE = 0.3
#: Seconds of a step on a GPU that do not depend on the model's size: some two thousand kernels are
#: started one after the other.
LAUNCH_SECONDS = 0.015


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: for people.
        memory: bytes.
        bandwidth: bytes a second that its memory gives.
        arithmetic: operations a second on bf16 matrices, dense.
        gpu: whether it is one.
        codec_seconds: of a step for each conversation, where the table below leaves the codec out.
        measured: by (model, weights): milliseconds of a step with the window full, for one and for
            eight conversations, without the codec.
    """

    name: str
    memory: float
    bandwidth: float
    arithmetic: float
    gpu: bool = True
    codec_seconds: float = 0.0
    measured: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    @property
    def kv(self) -> str:
        """How keys and values are best kept: int8 is for processors."""
        return "bfloat16" if self.gpu else "int8"

    def steps(self, model: Model, weights: str, kv: str, state_bytes: float) -> StepTimes:
        """Times of a step: measured if there are any, else estimated.

        A step reads all weights once, and the keys and values of each conversation.

        Args:
            model: the language model.
            weights: form of its weights.
            kv: form of keys and values.
            state_bytes: keys and values that a step reads for each conversation.
        """
        known = self.measured.get((model.name, weights)) if kv == self.kv else None
        if known is not None:
            one, eight = known
            times = StepTimes(((1, one / 1000), (8, eight / 1000)), True, "docs/benchmarks.md")
            return times.plus(self.codec_seconds)
        bandwidth = self.bandwidth * BANDWIDTH_SHARE
        shared = (model.weight_bytes(weights) + CODEC_BYTES) / bandwidth
        shared += LAUNCH_SECONDS if self.gpu else 0.0
        each = state_bytes / bandwidth
        each += 2.0 * model.parameters / (self.arithmetic * ARITHMETIC_SHARE)
        each += self.codec_seconds
        points = ((1, shared + each), (100, shared + 100 * each))
        return StepTimes(points, False, "estimated from the device's sheet")


def _gpu(name: str, gigabytes: float, bandwidth: float, arithmetic: float) -> Device:
    """A GPU by its maker's sheet: GB, GB/s, Tflop/s (bf16, dense)."""
    return Device(name, gigabytes * 1e9, bandwidth * 1e9, arithmetic * 1e12)


#: The processor of docs/benchmarks.md, and GPUs by their sheets.
DEVICES = {
    device.name: device
    for device in (
        Device(
            "cpu-2core",
            24e9,
            36e9,
            0.5e12,
            gpu=False,
            codec_seconds=0.0055,
            measured={
                ("300m", "int8"): (15.1, 49.6),
                ("300m", "int4"): (10.4, 50.4),
                ("300m", "bf16"): (24.7, 65.7),
                ("1b", "int8"): (46.7, 162),
                ("1b", "int4"): (34.3, 152),
                ("7b", "int8"): (248, 676),
                ("7b", "int4"): (198, 717),
            },
        ),
        _gpu("l4", 24, 300, 121),
        _gpu("a10", 24, 600, 125),
        _gpu("rtx4090", 24, 1008, 165),
        _gpu("rtx5090", 32, 1792, 209),
        _gpu("l40s", 48, 864, 362),
        _gpu("a100-40", 40, 1555, 312),
        _gpu("a100-80", 80, 2039, 312),
        _gpu("h100-pcie", 80, 2000, 756),
        _gpu("h100", 80, 3350, 989),
        _gpu("h200", 141, 4800, 989),
    )
}
