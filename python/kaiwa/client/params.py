"""Query parameters of a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ChatParams:
    """How the server is asked to answer; what is None is left to the server.

    Attributes:
        seed: the same seed and the same audio give the same answer.
        max_steps: frames until the call ends.
        clock: "server": silence is put in when no audio has come for 200 ms.
        pace: "none": input is taken as fast as it can be answered (for files).
        extra: further parameters, as they are.
    """

    text_temperature: float | None = None
    audio_temperature: float | None = None
    text_topk: int | None = None
    audio_topk: int | None = None
    seed: int | None = None
    max_steps: int | None = None
    clock: Literal["server"] | None = None
    pace: Literal["none"] | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def query(self) -> dict[str, str]:
        """The parameters that are set."""
        names = (
            "text_temperature",
            "audio_temperature",
            "text_topk",
            "audio_topk",
            "seed",
            "max_steps",
            "clock",
            "pace",
        )
        given = {name: getattr(self, name) for name in names}
        return {name: str(v) for name, v in given.items() if v is not None} | dict(self.extra)
