"""Puts a server together: every part is made here, and given what it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kaiwa import __version__, _native
from kaiwa.engine import Engine
from kaiwa.server.access import Access
from kaiwa.server.apart import Apart, on_a_thread
from kaiwa.server.audit import AuditLog
from kaiwa.server.call.call import Call
from kaiwa.server.call.context import CallContext
from kaiwa.server.call.held import HeldCalls
from kaiwa.server.call.live import LiveCalls
from kaiwa.server.caller import Caller
from kaiwa.server.channel import Channel
from kaiwa.server.collector import ServerCollector
from kaiwa.server.connections import Connections
from kaiwa.server.keys import KeyFile
from kaiwa.server.metrics import Metrics
from kaiwa.server.protocols.base import ServerInfo, Services, WireProtocol
from kaiwa.server.protocols.registry import PROTOCOLS
from kaiwa.server.seldom import Seldom
from kaiwa.server.settings import ServerSettings
from kaiwa.server.shared import forward, replicas
from kaiwa.server.shared.admission import Admission
from kaiwa.server.shared.state import SharedState
from kaiwa.server.state import ServerState
from kaiwa.server.tracing import Tracing

Load = Callable[[ServerSettings], Engine]


@dataclass(frozen=True, eq=False)
class Server(Services):
    """The parts of a server."""

    settings: ServerSettings
    #: Loads the engine; called once.
    load: Load
    #: Where it is loaded and closed.
    apart: Apart[Any]
    state: ServerState
    access: Access
    admission: Admission
    metrics: Metrics
    live: LiveCalls
    held: HeldCalls
    #: What all servers know; None if there is only this one.
    shared: SharedState | None
    protocols: tuple[WireProtocol, ...]
    calls: CallContext
    connections: Connections

    @property
    def uploads(self) -> dict[str, int]:
        """Most bytes of a request's body, for paths that take files."""
        return {path: most for known in self.protocols for path, most in known.uploads.items()}

    def info(self) -> ServerInfo:
        """What protocols may tell about the server."""
        engine = self.state.engine
        readiness = engine.readiness if engine is not None else None
        return ServerInfo(
            model=self.state.model,
            version=__version__,
            revision=_native.build_info()["revision"],
            slots_total=readiness.slots_total if readiness else self.settings.slots,
            slots_used=readiness.slots_used if readiness else 0,
            task=engine.task if engine is not None else None,
            prefix_seconds=engine.prefix_seconds if engine is not None else 0.0,
        )

    def check_page(self, headers: Mapping[str, str]) -> None:
        """Refuses web pages of other origins."""
        self.access.check_page(headers)

    async def authorize(
        self, headers: Mapping[str, str], query: Mapping[str, str], protocol: str
    ) -> Caller:
        """Who sent a request."""
        return await self.admission.authorize(headers, query, self.state.clock(), protocol=protocol)

    def issue_token(self, caller: Caller) -> str | None:
        """A token for one connection."""
        if self.access.is_open:
            return None
        return self.access.issue_token(caller, self.state.clock())[0]

    def check_room(self) -> None:
        """Refuses a request for a call that has no chance of a slot."""
        self.state.admit()

    def issue_client_secret(
        self, caller: Caller, seconds: float, origin: str | None, session: Mapping[str, Any]
    ) -> tuple[str, int]:
        """A secret with which a browser may call for a while."""
        model = self.state.engine.name if self.state.engine is not None else None
        return self.access.issue_secret(
            caller, seconds, model=model, origin=origin, session=session
        )

    async def run_call(self, protocol: WireProtocol, channel: Channel) -> None:
        """Leads a call to its end."""
        await Call(self.calls, protocol, channel).run()


def build(
    settings: ServerSettings,
    load: Load,
    *,
    port: int,
    protocols: Iterable[WireProtocol] = PROTOCOLS,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
    keys: KeyFile | None = None,
    reach: forward.Reach = forward.reach,
    apart: Apart[Any] = on_a_thread,
) -> Server:
    """Makes a server, which does nothing yet.

    Args:
        settings: what it was told.
        load: loads the engine.
        port: where it listens.
        protocols: what it speaks.
        clock: seconds, never going back.
        wall: seconds since 1970 by the clock of this machine.
        keys: the keys; None are those of the file that the settings name, if they name one.
        reach: connects to the server that holds a call.
        apart: does what would hold the event loop up.

    Raises:
        InputError: A file that the settings name is missing or damaged.
        KaiwaError: The package redis is missing.
    """
    spoken = tuple(protocol.configure(settings) for protocol in protocols)
    signer = replicas.signer(settings)
    shared = replicas.shared_state(settings, signer, port, clock, wall)
    tokens = replicas.tokens(settings, signer, shared, wall)
    secrets = replicas.client_secrets(signer, shared, wall)
    access = Access(settings, wall, tokens=tokens, secrets=secrets, keys=keys)
    state = ServerState(settings, clock)
    metrics = Metrics()
    admission = replicas.admission(
        settings,
        access,
        signer,
        shared,
        model=lambda: state.engine.name if state.engine is not None else None,
        on_unanswered=lambda what: metrics.shared_unanswered.labels(what).inc(),
        wall=wall,
    )
    live = LiveCalls()
    audit = AuditLog(settings.audit_log)
    tracing = Tracing(settings.otlp_endpoint, __version__)
    held = HeldCalls(state, access, metrics, shared, settings.resume_seconds, audit)
    names = [name for protocol in spoken for name in (protocol.name, *protocol.dialects)]
    metrics.registry.register(ServerCollector(state, live, held, shared, names))
    calls = CallContext(
        settings,
        state,
        access,
        admission,
        metrics,
        live,
        held,
        shared,
        audit,
        Seldom(clock=clock),
        tracing,
        reach,
    )
    return Server(
        settings=settings,
        load=load,
        apart=apart,
        state=state,
        access=access,
        admission=admission,
        metrics=metrics,
        live=live,
        held=held,
        shared=shared,
        protocols=spoken,
        calls=calls,
        connections=Connections(metrics.connection_cut),
    )
