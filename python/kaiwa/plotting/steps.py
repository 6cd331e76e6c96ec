"""How long each frame of a call took: files of `--timing`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kaiwa.errors import InputError
from kaiwa.plotting import json_lines

#: Milliseconds of audio in a frame: what a step may take in a call in real time.
FRAME_MS = 80.0

#: Names of the milliseconds in a line, with what they are.
KINDS: Mapping[str, str] = MappingProxyType({"step_ms": "step time", "latency_ms": "latency"})


@dataclass(frozen=True)
class Steps:
    """Times of frames.

    Attributes:
        t: float64 `[frames]`, when in the call each frame is, in seconds.
        ms: float64 `[frames]`, milliseconds that each took.
        what: what was measured: "step time" or "latency".
    """

    t: NDArray[np.float64]
    ms: NDArray[np.float64]
    what: str = "step time"

    def __post_init__(self) -> None:
        if self.t.shape != self.ms.shape or self.t.ndim != 1:
            raise InputError(
                f"times have shape {list(self.t.shape)} and milliseconds {list(self.ms.shape)}; "
                "give one of each for every frame"
            )
        if not len(self.t):
            raise InputError("there is no frame's time to draw; give at least one")


def read(path: str | os.PathLike[str]) -> Steps:
    """The times in a file that `kaiwa run --timing` or `kaiwa client --timing` wrote.

    Raises:
        InputError: there is no such file, it is empty, or a line of it is something else.
    """
    kind: str | None = None
    t, ms = [], []
    for where, line in json_lines.read(path):
        found = next((name for name in KINDS if name in line), None)
        if found is None or kind not in (None, found):
            wanted = kind or '" or "'.join(KINDS)
            raise InputError(
                f'{where} has no "{wanted}"; give a file that `kaiwa run --timing` or `kaiwa '
                "client --timing` wrote"
            )
        kind = found
        t.append(json_lines.number(where, line, "t"))
        ms.append(json_lines.number(where, line, kind))
    if kind is None:
        raise InputError(f"{path} holds no times; give a file with at least one line")
    order = np.argsort(t, kind="stable")
    return Steps(np.array(t)[order], np.array(ms)[order], KINDS[kind])
