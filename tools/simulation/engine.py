"""The real engine, turned by the simulation: slots, queue, pacing and holding are those of the
compiled core; the model gives every frame back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kaiwa import _native
from kaiwa.engine import Engine
from kaiwa.moshi import Sampling
from tools.simulation.loop import Process, VirtualLoop

#: One row of a step: slot, number of the caller, number of the frame.
Stepped = tuple[int, int, int]


class SimulatedEngine(Engine):
    """An engine in the virtual time of a loop.

    Attributes:
        hangs: its thread does nothing, as when a device does not answer.
        turns: how often it was turned.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        process: Process,
        *,
        slots: int,
        queue: int,
        step_budget: float,
        step_seconds: tuple[float, float],
        on_steps: Callable[[list[Stepped]], None],
    ) -> None:
        self._set("simulated", True, None, Sampling())
        self.moshi = None
        self._native, self.hand = _native.Engine.start_by_hand(slots, queue, step_budget)
        self.hand.set_step_seconds(*step_seconds)
        self.hangs = False
        self.turns = 0
        self._loop = loop
        self._process = process
        self._on_steps = on_steps
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self.pump()

    def pump_if_woken(self) -> bool:
        """Does what is to be done, if there is something; whether there was."""
        if self._over or self.hangs or self._process.stopped or not self.hand.woken():
            return False
        self.pump()
        return True

    def pump(self) -> None:
        """What the engine's thread would do now."""
        if self._over or self.hangs:
            return
        self.turns += 1
        until = self.hand.turn(self._loop.now)
        steps = self.hand.take_steps()
        if steps:
            unit = 1 << 20
            self._on_steps([(s, int(b * unit), int(a * unit)) for s, _, a, b in steps])
        if until is None:
            self._over = True
        elif self._timer is None or self._timer.when() > until + 1e-6:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._process.context.run(self._loop.call_at, until, self._due)

    def _due(self) -> None:
        self._timer = None
        self.pump()

    def hang(self, seconds: float) -> None:
        """Its thread hangs for a while."""
        self.hangs = True
        self._loop.exactly_at(self._loop.now + seconds, self._go_on)

    def _go_on(self) -> None:
        self.hangs = False
        if not self._process.stopped:
            self.pump()
        elif self._timer is None:
            self._timer = self._process.context.run(self._loop.call_soon, self._due)  # type: ignore[assignment]
