"""One server: slots, a queue, and how long it had how many calls."""

from __future__ import annotations

from collections.abc import Callable

from tools.scale.clock import Clock
from tools.scale.setup import Setup


class Call:
    """A caller, from the first attempt to the end."""

    __slots__ = ("attempts", "began", "ends", "left", "server", "since")

    def __init__(self, since: float, left: float) -> None:
        #: When it came, and how long it still wants to talk.
        self.since, self.left = since, left
        self.attempts = 0
        self.server: Server | None = None
        #: Begin of the present conversation, and its end as planned.
        self.began = self.ends = 0.0


class Server:
    """What its balancer sees of it, and what it is."""

    def __init__(self, setup: Setup, clock: Clock, changed: Callable[[Server], object]) -> None:
        self._setup, self._clock, self._changed = setup, clock, changed
        #: In order of their coming: a set's order would not be the same in every run.
        self.active: dict[Call, None] = {}
        self.waiting: list[Call] = []
        self.up = True
        self.draining = False
        #: What the balancer knows, and its place in the balancer's list.
        self.believed = False
        self.listed_at = -1
        self.listed_under = 0
        #: Seconds with so many calls.
        self.time_with = [0.0] * (setup.slots + 1)
        self._looked = clock.now

    @property
    def ready(self) -> bool:
        """What `/readyz` says."""
        return self.up and not self.draining and len(self.active) < self._setup.slots

    @property
    def connections(self) -> int:
        """Those that the balancer counts."""
        return len(self.active) + len(self.waiting)

    def take(self, call: Call) -> str:
        """What becomes of a caller: `in`, `waits` or `refused`."""
        if not self.up or self.draining:
            return "refused"
        call.server = self
        if len(self.active) < self._setup.slots and not self.waiting:
            self.begin(call)
            return "in"
        if len(self.waiting) < self._setup.queue:
            self.waiting.append(call)
            return "waits"
        call.server = None
        return "refused"

    def begin(self, call: Call) -> None:
        """A call has its slot."""
        self.look()
        self.active[call] = None
        call.began = self._clock.now
        call.ends = call.began + call.left
        self._changed(self)

    def end(self, call: Call) -> None:
        """A call is over."""
        self.look()
        self.active.pop(call, None)
        self._changed(self)

    def look(self) -> None:
        """Notes how long it was as it is."""
        now = self._clock.now
        self.time_with[len(self.active)] += now - self._looked
        self._looked = now

    def forget(self) -> None:
        """Begins to note anew."""
        self.look()
        self.time_with = [0.0] * len(self.time_with)
