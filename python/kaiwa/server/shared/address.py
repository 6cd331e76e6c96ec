"""Where other servers reach this one."""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets

#: Listening addresses that stand for every network of the machine; nobody can connect to them.
_EVERYWHERE = ("", "0.0.0.0", "::", "*")
#: Seconds that looking up a name may take.
_LOOKUP_SECONDS = 1.0
#: The port of Redis where its address names none.
_REDIS_PORT = 6379


async def find(host: str, port: int, secure: bool, redis: tuple[str, int | None] | None) -> str:
    """The address by which other servers reach this one, such as `http://10.0.1.5:8998`.

    Empty if it cannot be found out at present. A server that listens on every network takes its
    address in the network that leads to Redis, because that one is common to all servers.

    Args:
        host: address or name that this server listens on.
        port: port that it listens on.
        secure: whether it speaks TLS.
        redis: host and port of Redis; None if Redis is on this machine, behind a Unix socket.
    """
    if host in _EVERYWHERE:
        host = await _towards(redis) if redis is not None else ""
    if not host:
        return ""
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{port}"


async def _towards(place: tuple[str, int | None]) -> str:
    """This machine's own address in the network that leads to a place; empty if none does."""
    loop = asyncio.get_running_loop()
    port = place[1] or _REDIS_PORT
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        asked = loop.getaddrinfo(place[0], port, type=sockets.SOCK_DGRAM)
        for family, kind, _, _, at in await asyncio.wait_for(asked, _LOOKUP_SECONDS):
            # Connecting a datagram socket sends nothing; it only chooses the network.
            with contextlib.suppress(OSError), sockets.socket(family, kind) as probe:
                probe.connect(at)
                return str(probe.getsockname()[0])
    return ""
