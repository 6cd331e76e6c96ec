"""Whether a server takes calls: its engine once that is loaded, and whether it is about to stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from kaiwa import loading
from kaiwa.engine import Engine, Task
from kaiwa.server.refusal import Refused
from kaiwa.server.settings import ServerSettings

#: Seconds without a sign of life after which the engine counts as stuck.
STUCK = 5.0


class ServerState:
    """The state of one server.

    Attributes:
        settings: what the server was told.
        clock: seconds, never going back.
        began: when the server began, on that clock.
        engine: None until the model is loaded.
        draining: nobody new is taken, calls go on.
        drained: set once a drain has ended the last call.
        failure: why the model could not be loaded.
        failed: set with it; the server stops.
    """

    def __init__(
        self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.began = clock()
        self.engine: Engine | None = None
        self.draining = False
        self.drained = asyncio.Event()
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()

    @property
    def model(self) -> str:
        """Name of the model, also before it is loaded."""
        if self.engine is not None:
            return self.engine.name
        return loading.public_name(self.settings.model or "")

    @property
    def uptime(self) -> float:
        """Seconds since the server began."""
        return self.clock() - self.began

    @property
    def fault(self) -> str | None:
        """What is wrong with the engine so that only a new process helps: `failed` when its device
        is lost or a defect ended it, `stuck` when it has given no sign of life for too long."""
        if self.engine is None:
            return None
        engine = self.engine.readiness
        # Nobody closes it while the server runs, but a drain.
        if engine.state == "failed" or (engine.state == "closed" and not self.draining):
            return "failed"
        return "stuck" if engine.silent_seconds > STUCK else None

    @property
    def readiness(self) -> str:
        """`ready`, `starting`, `full`, `draining`, `overloaded`, `failed` or `stuck`."""
        if self.draining:
            return "draining"
        if self.engine is None:
            return "starting"
        return self.fault or self.engine.readiness.state

    def admit(self) -> Engine:
        """The engine, if a caller has a chance of a slot.

        Raises:
            Refused: 503.
        """
        engine = self.engine
        state = self.readiness
        if engine is None or state == "starting":
            raise Refused(503, "starting", "the model is still loading; try again shortly", 5)
        if state in ("draining", "closed"):
            raise Refused(503, "draining", "the server is about to stop; try again shortly", 5)
        if state == "failed":
            message = "the engine has failed and must be restarted; try again in a while"
            raise Refused(503, "failed", message, 10)
        if state == "stuck":
            raise Refused(503, "stuck", "the server does not answer at present; try again", 10)
        if state in ("full", "overloaded") and engine.readiness.queue >= self.settings.queue:
            message = {
                "full": "all conversations are taken; try again shortly",
                "overloaded": "the server has no time for another conversation; try again shortly",
            }[state]
            raise Refused(503, state, message, 5)
        return engine

    def check_task(self, task: Task) -> None:
        """Refuses what the model that is served cannot do; nothing while it is loading.

        Raises:
            Refused: 404.
        """
        if self.engine is None or self.engine.task == task:
            return
        does, instead = {
            "duplex": ("converses", "/api/chat"),
            "transcription": ("transcribes", "/api/asr-streaming or /v1/audio/transcriptions"),
        }[self.engine.task]
        raise Refused(
            404,
            "wrong_model",
            f"the model that is served here, {self.model}, {does}: use {instead}, or a server with "
            "another model",
        )

    def fail(self, error: BaseException) -> None:
        """The model could not be loaded; the server stops."""
        self.failure = error
        self.failed.set()

    def start_drain(self) -> None:
        """Takes nobody new; calls go on."""
        self.draining = True
        if self.engine is not None:
            self.engine.drain()
