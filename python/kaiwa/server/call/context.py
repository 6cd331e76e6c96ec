"""What calls need of the server."""

from __future__ import annotations

from dataclasses import dataclass

from kaiwa.server.access import Access
from kaiwa.server.audit import AuditLog
from kaiwa.server.call.held import HeldCalls
from kaiwa.server.call.live import LiveCalls
from kaiwa.server.metrics import Metrics
from kaiwa.server.seldom import Seldom
from kaiwa.server.settings import ServerSettings
from kaiwa.server.shared import forward
from kaiwa.server.shared.admission import Admission
from kaiwa.server.shared.state import SharedState
from kaiwa.server.state import ServerState
from kaiwa.server.tracing import Tracing


@dataclass(frozen=True)
class CallContext:
    """The parts of a server that calls use."""

    settings: ServerSettings
    state: ServerState
    access: Access
    admission: Admission
    metrics: Metrics
    live: LiveCalls
    held: HeldCalls
    #: What all servers know; None if there is only this one.
    shared: SharedState | None
    audit: AuditLog
    #: Lines of the log that callers cause.
    seldom: Seldom
    tracing: Tracing
    #: Connects to the server that holds a call.
    reach: forward.Reach = forward.reach

    def now(self) -> float:
        """Seconds on the server's clock, which never goes back."""
        return self.state.clock()
