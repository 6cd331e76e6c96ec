"""When frames went out and answers came in, and what follows from it. No clock of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from kaiwa.client.messages import FRAME, FRAME_SECONDS

#: Seconds of audio that a listener's player holds before it starts.
PLAYBACK_BUFFER = 0.1

#: Seconds below which two times are the same.
_ROUNDING = 1e-6


@dataclass
class Timeline:
    """Times in seconds, of one clock.

    Attributes:
        sent: when the last byte of each input frame was handed to the socket.
        answered: when each answer frame was complete.
    """

    sent: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    _samples: int = 0

    def receive(self, samples: int, at: float) -> int:
        """Counts samples of the answer; gives the frames that are complete with them."""
        self._samples += samples
        complete = self._samples // FRAME - len(self.answered)
        self.answered.extend([at] * complete)
        return complete

    @property
    def samples(self) -> int:
        """Samples of the answer so far."""
        return self._samples

    def latencies(self) -> list[float]:
        """Of each answer frame: seconds since the input frame of the same number was sent."""
        return [a - s for s, a in zip(self.sent, self.answered, strict=False)]

    def missing(self, held_back: int = 0) -> int:
        """Frames that were sent but not answered, without those that the model holds back."""
        return max(0, len(self.sent) - held_back - len(self.answered))


def quantile(values: Sequence[float], q: float) -> float | None:
    """The smallest value that at least the share `q` of the values do not exceed."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


@dataclass(frozen=True)
class Playback:
    """How a player fared: times it ran empty, and seconds it was silent for that."""

    underruns: int
    stalled: float


def playback(answered: Sequence[float], buffer: float = PLAYBACK_BUFFER) -> Playback:
    """A player that starts `buffer` seconds after the first frame, plays a frame each 80 ms, and
    goes on as soon as a frame is there again after it ran empty."""
    underruns, stalled = 0, 0.0
    due = answered[0] + buffer if answered else 0.0
    for at in answered:
        if at - due > _ROUNDING:
            underruns += 1
            stalled += at - due
            due = at
        due += FRAME_SECONDS
    return Playback(underruns, stalled)
