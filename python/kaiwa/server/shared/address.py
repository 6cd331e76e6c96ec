"""Where other servers reach this one."""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets

#: Addresses to listen on that are no places to call.
_EVERYWHERE = ("", "0.0.0.0", "::", "*")
#: Seconds that a look-up may take.
_PATIENCE = 1.0
#: What a name of Redis without a port means.
_REDIS_PORT = 6379


async def find(host: str, port: int, secure: bool, redis: tuple[str, int | None] | None) -> str:
    """Address such as `http://10.0.1.5:8998`; empty if it cannot be told at present.

    A server that listens everywhere is in several networks, of which the one that reaches Redis
    is the one that servers share.

    Args:
        host: what this server listens on.
        port: likewise.
        secure: whether it speaks TLS.
        redis: host and port of Redis; None if it is not reached by a network.
    """
    if host in _EVERYWHERE:
        host = await _towards(redis) if redis is not None else ""
    if not host:
        return ""
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{port}"


async def _towards(place: tuple[str, int | None]) -> str:
    """This machine's own address in the network that leads to another; empty if none does."""
    loop = asyncio.get_running_loop()
    port = place[1] or _REDIS_PORT
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        asked = loop.getaddrinfo(place[0], port, type=sockets.SOCK_DGRAM)
        for family, kind, _, _, at in await asyncio.wait_for(asked, _PATIENCE):
            # Connecting a datagram socket sends nothing; it only chooses the way.
            with contextlib.suppress(OSError), sockets.socket(family, kind) as probe:
                probe.connect(at)
                return str(probe.getsockname()[0])
    return ""
