"""Everything together: callers, cells, and what is counted."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from tools.scale.cell import Cell
from tools.scale.clock import Clock
from tools.scale.server import Call
from tools.scale.setup import Setup


@dataclass
class Counts:
    """What happened after the warm-up."""

    callers: int = 0
    #: Callers who gave up after their last attempt.
    refused: int = 0
    #: Callers who were refused at first.
    tried_again: int = 0
    #: Seconds from first attempt to slot, of those who did not get one at once.
    waits: list[float] = field(default_factory=list)
    began: int = 0
    #: Conversations that broke off with their server.
    broken: int = 0
    began_in_second: Counter[int] = field(default_factory=Counter)


class World:
    """One run."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.clock = Clock()
        self.rng = random.Random(setup.seed)
        self.counts = Counts()
        self.cells = [
            Cell(setup, self.clock, self.rng, self._lost, self._began) for _ in range(setup.cells)
        ]
        #: Cells that DNS names.
        self.named = list(self.cells)
        self._home: dict[Call, Cell] = {}
        #: Seconds with so many calls on a server, of all servers that ever were.
        self.time_with = [0.0] * (setup.slots + 1)

    def run(self) -> World:
        """Lets it all happen."""
        setup = self.setup
        end = setup.warm_seconds + setup.seconds
        self._fill()
        self._next_caller()
        self.clock.run(setup.warm_seconds)
        self.counts = Counts()
        for cell in self.cells:
            cell.past.clear()
            for server in cell.servers:
                server.forget()
            if setup.update_at is not None:
                self.clock.after(setup.update_at, cell.start_update)
        if setup.cell_lost_at is not None:
            self.clock.after(setup.cell_lost_at, self._lose_cell)
        self.clock.run(end)
        for cell in self.cells:
            for server in cell.servers:
                server.look()
            for server in [*cell.servers, *cell.past]:
                for count, seconds in enumerate(server.time_with):
                    self.time_with[count] += seconds
        return self

    def _lose_cell(self) -> None:
        cell = self.cells[0]
        cell.lose()
        self.clock.after(self.setup.dns_seconds, lambda: self.named.remove(cell))

    def _fill(self) -> None:
        """Calls that are there at the beginning, so that no hour of warming up is needed."""
        setup = self.setup
        for _ in range(int(setup.load)):
            call = Call(0.0, self._length())
            call.left *= self.rng.random()
            self._attempt(call)

    def _next_caller(self) -> None:
        self.clock.after(self.rng.expovariate(self.setup.arrivals), self._arrive)

    def _arrive(self) -> None:
        self._next_caller()
        self.counts.callers += 1
        self._attempt(Call(self.clock.now, self._length()))

    def _length(self) -> float:
        setup = self.setup
        return min(setup.max_seconds, self.rng.lognormvariate(setup.mu, setup.sigma))

    def _attempt(self, call: Call) -> None:
        cell = self.named[self.rng.randrange(len(self.named))]
        self._home[call] = cell
        result = cell.take(call)
        if result == "in":
            self._began(call)
        elif result == "refused":
            self._again(call)

    def _again(self, call: Call) -> None:
        """Refused; tries again after a while, or gives up."""
        del self._home[call]
        call.attempts += 1
        if call.attempts == 1:
            self.counts.tried_again += 1
        if call.attempts > self.setup.retries:
            self.counts.refused += 1
            return
        self.clock.after(self.setup.retry_seconds, lambda: self._attempt(call))

    def _began(self, call: Call) -> None:
        now = self.clock.now
        self.counts.began += 1
        self.counts.began_in_second[int(now)] += 1
        if now > call.since:
            self.counts.waits.append(now - call.since)
        began = call.began
        self.clock.at(call.ends, lambda: self._ended(call, began))

    def _ended(self, call: Call, began: float) -> None:
        """Its time is over, unless its server died before."""
        if call.server is not None and call in call.server.active and call.began == began:
            self._home.pop(call).end(call)

    def _lost(self, call: Call, broken: bool) -> None:
        """Its server is gone, or it waited too long."""
        call.server = None
        if not broken:
            self._again(call)
            return
        self.counts.broken += 1
        call.left = call.ends - self.clock.now
        call.since, call.attempts = self.clock.now, 0
        del self._home[call]
        self._attempt(call)
