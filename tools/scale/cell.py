"""A cell: servers behind one balancer, which die, come back, and are updated."""

from __future__ import annotations

import random
from collections.abc import Callable

from tools.scale.balancer import Balancer
from tools.scale.clock import Clock
from tools.scale.server import Call, Server
from tools.scale.setup import Setup

#: Servers more that the balancer offers a caller whom one refuses.
_OTHERS = 5


class Cell:
    """One cluster. `lost` is told of calls that lost their place, and whether they had a slot;
    `began` of those that waited and got one."""

    def __init__(
        self,
        setup: Setup,
        clock: Clock,
        rng: random.Random,
        lost: Callable[[Call, bool], object],
        began: Callable[[Call], object],
    ) -> None:
        self._setup, self._clock, self._rng = setup, clock, rng
        self._lost, self._began = lost, began
        self.balancer = Balancer(setup, clock, rng)
        self.servers: dict[Server, None] = {}
        #: Servers that are no more.
        self.past: list[Server] = []
        self.gone = False
        #: When the update was through.
        self.updated_at: float | None = None
        self._to_update: list[Server] = []
        self._exchanging = 0
        for _ in range(setup.replicas):
            self._start()

    def take(self, call: Call) -> str:
        """What becomes of a caller; see `Server.take`."""
        if self.gone:
            return "refused"
        server = self.balancer.pick()
        result = server.take(call) if server is not None else "refused"
        for _ in range(_OTHERS):
            if result == "refused" and (server := self.balancer.pick_any()) is not None:
                result = server.take(call)
        if result == "waits" and server is not None:
            self.balancer.changed(server)
            self._clock.after(self._setup.queue_seconds, lambda: self._give_up(call, server))
        return result

    def end(self, call: Call) -> None:
        """A call is over; who waits there comes next."""
        server = call.server
        assert server is not None
        server.end(call)
        while server.waiting and len(server.active) < self._setup.slots:
            following = server.waiting.pop(0)
            server.begin(following)
            self._began(following)
        if server.draining and not server.active:
            self._drained(server)

    def start_update(self) -> None:
        """Exchanges every server, as many at once as there are spare devices."""
        self._to_update = [server for server in self.servers if not server.draining]
        for _ in range(self._setup.spare):
            self._exchanging += 1
            self._exchange_next()

    def lose(self) -> None:
        """The whole cell disappears."""
        self.gone = True
        for server in list(self.servers):
            self._die(server, for_good=True)

    def _start(self) -> Server:
        server = Server(self._setup, self._clock, self.balancer.changed)
        self.servers[server] = None
        self.balancer.add(server)
        if self._setup.mtbf_seconds is not None:
            life = self._rng.expovariate(1 / self._setup.mtbf_seconds)
            self._clock.after(life, lambda: self._die(server))
        return server

    def _die(self, server: Server, for_good: bool = False) -> None:
        if not server.up:
            return
        self._remove(server)
        calls, waiting = list(server.active), server.waiting
        server.active, server.waiting = {}, []
        if server.draining:
            # Another has taken its place already.
            self._exchange_next()
        elif not for_good:
            self._clock.after(self._setup.load_seconds, self._return)
        for call in calls:
            self._lost(call, True)
        for call in waiting:
            self._lost(call, False)

    def _remove(self, server: Server) -> None:
        server.look()
        server.up = False
        del self.servers[server]
        self.past.append(server)
        self.balancer.remove(server)

    def _return(self) -> None:
        """A server takes the place of one that died."""
        if not self.gone:
            self._start()

    def _give_up(self, call: Call, server: Server) -> None:
        """Waited too long."""
        if call in server.waiting:
            server.waiting.remove(call)
            self.balancer.changed(server)
            self._lost(call, False)

    def _exchange_next(self) -> None:
        """On a spare device a new server starts; when it is ready an old one drains."""
        while self._to_update and not self._to_update[-1].up:
            self._to_update.pop()
        if self._to_update and not self.gone:
            old = self._to_update.pop()
            self._clock.after(self._setup.load_seconds, lambda: self._exchange(old))
            return
        self._exchanging -= 1
        if not self._exchanging:
            self.updated_at = self._clock.now

    def _exchange(self, old: Server) -> None:
        """A new server is ready."""
        if self.gone or not old.up:
            # What died meanwhile was replaced as what dies is.
            self._exchange_next()
            return
        self._start()
        old.draining = True
        waiting, old.waiting = old.waiting, []
        self.balancer.changed(old)
        for call in waiting:
            self._lost(call, False)
        if not old.active:
            self._drained(old)

    def _drained(self, server: Server) -> None:
        """Its device is free for the next one."""
        self._remove(server)
        self._exchange_next()
