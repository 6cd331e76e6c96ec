"""The connections of a server: how many there may be, and why they are cut off."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable

from kaiwa.server.seldom import Seldom

log = logging.getLogger("kaiwa.server")

#: Connections of one address that have not asked for anything for some time.
SILENT_PER_ADDRESS = 64
#: Seconds after which a connection without a request counts as silent. Many callers behind one
#: balancer may connect in the same moment, and all of them ask at once.
SILENT_AFTER = 1.0
#: Files that are kept for everything but connections.
KEPT_FILES = 128

_SAID = {
    "silent": "connections that asked for nothing were cut off: too many from one address, or in "
    "all",
    "limit": "a connection was not taken: there are as many as this process may have files; raise "
    "the limit of open files (ulimit -n)",
    "flood": "a client was cut off: far more websocket frames than a conversation needs",
}


Client = tuple[str, int] | None


class Connections:
    """Keeps silent connections from taking the place of others, counts what is cut off, and says
    so now and then."""

    def __init__(
        self, count: Callable[[str], None] = lambda why: None, most: int | None = None
    ) -> None:
        """Without connections.

        Args:
            count: told why a connection is cut off, for the metrics.
            most: connections at once; None is what the limit of open files leaves.
        """
        self._count = count
        self._most = _files() - KEPT_FILES if most is None else most
        self._open: set[asyncio.Transport] = set()
        # In the order in which they came, with their sources and when that was.
        self._silent: dict[asyncio.Transport, tuple[str, float]] = {}
        self._silent_of: Counter[str] = Counter()
        self._seldom = Seldom()

    def came(self, transport: asyncio.Transport, client: Client) -> bool:
        """A connection was accepted; False if it was cut off, since there are too many."""
        source, now = _source(client), time.monotonic()
        while self._silent_of[source] >= SILENT_PER_ADDRESS:
            if not self._cut_silent(source, now - SILENT_AFTER):
                break
        if len(self._open) >= self._most and not self._cut_silent(None, now):
            self.cut("limit", client)
            transport.abort()
            return False
        self._open.add(transport)
        self._silent[transport] = source, now
        self._silent_of[source] += 1
        return True

    def asked(self, transport: asyncio.Transport) -> None:
        """A whole request has come over a connection, which is not silent any more."""
        source, _ = self._silent.pop(transport, (None, 0.0))
        if source is not None:
            self._silent_of[source] -= 1
            if not self._silent_of[source]:
                del self._silent_of[source]

    def went(self, transport: asyncio.Transport) -> None:
        """A connection has ended."""
        self.asked(transport)
        self._open.discard(transport)

    def _cut_silent(self, source: str | None, before: float) -> bool:
        """Cuts off the oldest silent connection of a source, or of all, if it came before a time;
        False if there is none."""
        for transport, (its, came) in self._silent.items():
            if came > before:
                return False
            if source in (None, its):
                self.cut("silent", transport.get_extra_info("peername"))
                self.went(transport)
                transport.abort()
                return True
        return False

    def cut(self, why: str, client: Client) -> None:
        """A connection is cut off, or not taken."""
        self._count(why)
        more = self._seldom.due(why)
        if more is None:
            return
        log.info(_SAID[why] + more, extra={"address": client[0] if client else None})


def _source(client: Client) -> str:
    """Who a connection comes from: an address, or the network of /64 that a house has in IPv6."""
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0]) if client else None
    except ValueError:
        address = None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


def _files() -> int:
    """How many files this process may have open."""
    if sys.platform == "win32":
        return 2048
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    endless = soft in (resource.RLIM_INFINITY, -1)
    return 1 << 20 if endless else max(2 * KEPT_FILES, soft)
