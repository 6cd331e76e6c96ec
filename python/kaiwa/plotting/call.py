"""Everything that is drawn of a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kaiwa.errors import InputError
from kaiwa.plotting.coding import Codes
from kaiwa.plotting.sound import Sound
from kaiwa.plotting.speech import Interval, intervals
from kaiwa.plotting.steps import Steps
from kaiwa.plotting.text import Piece

#: Seconds that text and times may lie behind the end: frames that the delays held back.
BEHIND = 3.0


@dataclass(frozen=True)
class Side:
    """One side of a call: its sound, its codes, or both.

    Attributes:
        who: "caller", "model", or what else it is to be called.
        sound: the signal; None if there are only codes.
        codes: what the codec makes of it; None if they are not to be drawn.
        note: where it comes from, for people.
    """

    who: str
    sound: Sound | None = None
    codes: Codes | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.sound is None and self.codes is None:
            raise InputError(f"there is nothing to draw of the {self.who}; give sound or codes")

    @property
    def end(self) -> float:
        """Second of the call at which it ends."""
        return max(part.end for part in (self.sound, self.codes) if part is not None)

    def turns(self) -> list[Interval]:
        """When it speaks, in seconds of the call."""
        if self.sound is None:
            return []
        begin = self.sound.begin
        found = intervals(self.sound.outline, self.sound.seconds)
        return [(begin + a, begin + b) for a, b in found]


@dataclass(frozen=True)
class Call:
    """A call, or a part of one.

    Attributes:
        title: the headline.
        sides: one or two, the caller first.
        pieces: what the model says.
        steps: how long its frames took.
        begin: the first second that is drawn.
        whole: whether the call is drawn to its end.
    """

    title: str
    sides: Sequence[Side]
    pieces: Sequence[Piece] = ()
    steps: Steps | None = None
    begin: float = 0.0
    whole: bool = field(default=True)

    def __post_init__(self) -> None:
        if not 1 <= len(self.sides) <= 2:
            raise InputError(f"a call has one or two sides, {len(self.sides)} were given")
        last = max((piece.t for piece in self.pieces), default=0.0)
        if self.steps is not None:
            last = max(last, float(self.steps.t[-1]))
        if self.whole and last > self.end + BEHIND:
            raise InputError(
                f"the call ends at {self.end:.1f} s, but its text or times go on to {last:.1f} s; "
                "give those of the same call"
            )

    @property
    def end(self) -> float:
        """The second at which the longer side ends."""
        return max(side.end for side in self.sides)
