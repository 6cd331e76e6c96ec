"""How a call appears in the list of sessions (`/v1/sessions`, docs/server.md)."""

from __future__ import annotations

from typing import Any

from kaiwa.server.caller import Caller
from kaiwa.session import AsyncSession


def row(session: AsyncSession | None, caller: Caller | None, protocol: str) -> dict[str, Any]:
    """A row of the list; empty for a call that is over or has no session yet."""
    info = session.info() if session is not None else None
    if info is None:
        return {}
    return {
        "id": str(info.id),
        "protocol": protocol,
        "key_name": caller.name if caller is not None else "",
        "state": info.state,
        "seconds": round(info.seconds, 1),
        "frames": info.frames_out,
        "backlog": info.backlog,
        "slot": info.slot,
    }
