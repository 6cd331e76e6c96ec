"""A balancer: the server with the fewest connections among those whose last check was good; if
there is none, callers go into the queues of any (deploy/haproxy)."""

from __future__ import annotations

import random

from tools.scale.clock import Clock
from tools.scale.server import Server
from tools.scale.setup import Setup


class Balancer:
    """Knows connections exactly, and readiness as of its last check."""

    def __init__(self, setup: Setup, clock: Clock, rng: random.Random) -> None:
        self._setup, self._clock, self._rng = setup, clock, rng
        most = setup.slots + setup.queue
        #: Servers believed ready, by connections.
        self._by_count: list[list[Server]] = [[] for _ in range(most + 1)]
        #: Servers that live, full and draining ones too, and their places.
        self._live: list[Server] = []
        self._place: dict[Server, int] = {}

    def add(self, server: Server) -> None:
        """A server that it finds, and checks for the first time at once."""
        self._place[server] = len(self._live)
        self._live.append(server)
        server.believed = server.ready
        self._list(server)

    def remove(self, server: Server) -> None:
        """A server that it knows to be gone."""
        place, last = self._place.pop(server), self._live.pop()
        if last is not server:
            self._live[place], self._place[last] = last, place
        server.believed = False
        self._list(server)

    def changed(self, server: Server) -> None:
        """A server has other connections, which it sees, and may be ready or not, which it checks
        later."""
        self._list(server)
        if server.ready != server.believed:
            self._clock.after(
                self._rng.random() * self._setup.check_seconds, lambda: self._check(server)
            )

    def pick(self) -> Server | None:
        """Where the next caller goes; None if no server said that it has room."""
        for servers in self._by_count:
            if servers:
                return servers[self._rng.randrange(len(servers))]
        return None

    def pick_any(self) -> Server | None:
        """Where a caller goes to wait: the less used of two by chance; None if nothing lives."""
        if not self._live:
            return None
        two = (self._live[self._rng.randrange(len(self._live))] for _ in range(2))
        return min(two, key=lambda server: server.connections)

    def _check(self, server: Server) -> None:
        if server.believed != server.ready:
            server.believed = server.ready
            self._list(server)

    def _list(self, server: Server) -> None:
        """Puts a server where it belongs."""
        count = server.connections if server.believed else -1
        if server.listed_at >= 0:
            if server.listed_under == count:
                return
            row = self._by_count[server.listed_under]
            last = row.pop()
            if last is not server:
                row[server.listed_at], last.listed_at = last, server.listed_at
            server.listed_at = -1
        if count >= 0:
            row = self._by_count[count]
            server.listed_at, server.listed_under = len(row), count
            row.append(server)
