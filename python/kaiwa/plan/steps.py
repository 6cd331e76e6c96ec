"""What a step of n conversations takes: measured at some n, or estimated from a device's sheet."""

from __future__ import annotations

from dataclasses import dataclass

from kaiwa.errors import InputError


@dataclass(frozen=True)
class StepTimes:
    """Median times of a step.

    Attributes:
        points: (conversations, seconds), in rising order of conversations; at least one.
        measured: whether the points were.
        source: where they come from, for people.
    """

    points: tuple[tuple[int, float], ...]
    measured: bool
    source: str

    def seconds(self, conversations: int) -> float:
        """A step's time: on the lines between the points, beyond them along the last, never less
        than at the point before."""
        first = self.points[0]
        if conversations <= first[0]:
            return first[1]
        if len(self.points) == 1:
            raise InputError(
                f"the time of a step is known for {first[0]} conversations only; give two times at "
                "least (--step 1:12.5,8:21)"
            )
        # The first line that reaches so far, or the last one.
        lines = list(zip(self.points, self.points[1:], strict=False))
        low, high = next((line for line in lines if conversations <= line[1][0]), lines[-1])
        slope = (high[1] - low[1]) / (high[0] - low[0])
        return max(low[1], low[1] + slope * (conversations - low[0]))

    def most(self, budget: float, limit: int) -> int:
        """Most conversations, up to a limit, whose step takes no more than a budget in seconds."""
        found = 0
        for conversations in range(1, limit + 1):
            if self.seconds(conversations) > budget:
                break
            found = conversations
        return found

    def plus(self, seconds: float) -> StepTimes:
        """The same where each conversation takes so many seconds more."""
        points = tuple((n, t + n * seconds) for n, t in self.points)
        return StepTimes(points, self.measured, self.source)


def read(text: str) -> StepTimes:
    """Measured times from text: `1:12.5,8:21` is 12.5 ms with one conversation, 21 ms with eight.

    Raises:
        InputError: it is not a list of that form.
    """
    points = {}
    try:
        for part in text.split(","):
            count, _, time = part.partition(":")
            points[int(count)] = float(time) / 1000
    except ValueError:
        points = {}
    if not points or not all(n >= 1 and 0 < t < 60 for n, t in points.items()):
        raise InputError(
            f"step is {text[:60]!r}; give conversations and milliseconds such as 1:12.5,8:21"
        )
    return StepTimes(tuple(sorted(points.items())), True, "given")
