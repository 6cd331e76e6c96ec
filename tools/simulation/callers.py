"""Those who call: how they get in, what they send, and how they leave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kaiwa.server.channel import Message
from kaiwa.server.refusal import Refused
from tools.simulation.channel import Client, SimulatedChannel
from tools.simulation.instance import Instance
from tools.simulation.protocol import frame, numbers

if TYPE_CHECKING:
    from tools.simulation.world import World

#: Seconds of a frame.
FRAME = 0.08


class Connection(Client):
    """The caller's end of one connection.

    Attributes:
        number: numbers the connection in the world.
        opened: resolved once the request is answered: True if it was let in.
        over: resolved once the connection is over.
        active: the call has its slot.
        resume: token by which it can be taken up again.
        refused: why it was not let in.
        reason: why the server closed; empty if the connection broke.
    """

    def __init__(self, world: World, number: int) -> None:
        loop = world.loop
        self.world = world
        self.number = number
        self.opened: asyncio.Future[bool] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self.active = False
        self.resume = ""
        self.resumed = False
        self.refused: Refused | None = None
        self.reason = ""
        self.frames = 0
        self.heard = 0
        self.last_message = loop.now
        self.channel: SimulatedChannel
        self._error = ""

    def accepted(self) -> None:
        if not self.opened.done():
            self.opened.set_result(True)

    def denied(self, refused: Refused) -> None:
        self.refused = refused
        self.world.checks.refused(refused, self.channel)
        self._finish(False)

    def message(self, message: Message) -> None:
        assert isinstance(message, bytes)
        self.last_message = self.world.loop.now
        kind = message[:1]
        if kind == b"a":
            number, of = numbers(message[1:9])
            self.world.checks.heard(self.number, self.heard, number, of)
            self.heard = number or self.heard
        elif kind == b"s":
            self.active = True
            self.resumed = message[1:2] == b"r"
            self.resume = message[2:].decode()
        elif kind == b"e" and message[:4] != b"echo":
            self._error = message[1:].decode()

    def closed(self, code: int, reason: str) -> None:
        self.reason = reason
        self.world.checks.told_end(code, reason, self._error)
        self._finish(False)

    def lost(self) -> None:
        self._finish(False)

    def _finish(self, opened: bool) -> None:
        if not self.opened.done():
            self.opened.set_result(opened)
        if not self.over.done():
            self.over.set_result(None)

    def leave(self) -> None:
        """This end is not interested any more."""
        self._finish(False)

    def say(self) -> None:
        """One frame."""
        self.frames += 1
        self.channel.give(frame(self.number, self.frames))


class Caller:
    """One person: calls, perhaps again and again, and leaves."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.rng
        self.key = self.rng.choice(world.secrets) if world.secrets else ("", "")
        self.resumable = self.rng.random() < (0.25 if world.plan.quiet else 0.6)
        self.file = self.rng.random() < 0.15
        self.browser = self.rng.random() < 0.3

    async def run(self) -> None:
        """From the first attempt to the last end."""
        tries = 0
        resume = ""
        while not self.world.ending:
            connection = self._connect(resume)
            if connection is None:
                await asyncio.sleep(self.rng.uniform(0.2, 2.0))
                tries += 1
                if tries > 5:
                    return
                continue
            resume = await self._lead(connection)
            if resume and self.rng.random() < 0.9:
                if self.rng.random() < 0.15:
                    # Two at once want the same call.
                    self.world.start(self._rival(resume))
                await asyncio.sleep(self._pause_before_return())
                continue
            refused, tries = connection.refused, tries + 1
            if refused is not None and refused.retry_after and tries < 6:
                await asyncio.sleep(min(refused.retry_after, 10) * self.rng.uniform(0.3, 1.2))
                continue
            return

    def _pause_before_return(self) -> float:
        return self.rng.choice(
            (0.0, 0.02, 0.5, self.rng.uniform(0, self.world.plan.resume_seconds))
        )

    async def _rival(self, resume: str) -> None:
        await asyncio.sleep(self.rng.choice((0.0, 0.001, 0.02)))
        connection = self._connect(resume)
        if connection is not None:
            await self._lead(connection)

    def _connect(
        self, resume: str, token: str = "", at: Instance | None = None
    ) -> Connection | None:
        """A connection to some server that takes any."""
        world, rng = self.world, self.rng
        ready = [i for i in world.instances() if i.takes_connections]
        instance = at or (rng.choice(ready) if ready else None)
        if instance is None or instance.server is None:
            return None
        world.numbers += 1
        connection = Connection(world, world.numbers)
        query = {"seed": str(connection.number)}
        headers = {"host": "localhost"}
        if self.browser:
            headers["origin"] = "http://localhost"
        if resume:
            query["resume"] = resume
        if self.resumable:
            query["resumable"] = "1"
        if self.file:
            query["file"] = "1"
        elif rng.random() < 0.2 and not world.plan.quiet:
            query["clock"] = "1"
        if rng.random() < 0.1 and not resume:
            query["early"] = "1"
        if rng.random() < 0.1:
            query["max_frames"] = str(rng.randint(1, 400))
        key_id, secret = self.key
        if key_id:
            if token or rng.random() < 0.4:
                token = token or self._token(instance)
                query["token"] = token
            else:
                headers["authorization"] = f"Bearer {secret}"
        latency = rng.choice((0.001, 0.02, 0.02, 0.15))
        connection.channel = instance.connect(connection, headers, query, latency)
        connection.channel.caller_key = key_id
        if token and rng.random() < 0.3:
            # Somebody else got hold of the token.
            world.start(self._thief(token))
        return connection

    def _token(self, instance: Instance) -> str:
        """As `POST /v1/tokens` gives it."""
        access, now = instance.server.access, self.world.loop.now  # type: ignore[union-attr]
        headers = {"authorization": f"Bearer {self.key[1]}", "host": "localhost"}
        try:
            return access.issue_token(access.authorize(headers, {}, now), now)[0]
        except Refused:
            return "kt_none"

    async def _thief(self, token: str) -> None:
        """Uses a token that was used, or is about to be."""
        for _ in range(self.rng.randint(1, 3)):
            await asyncio.sleep(self.rng.choice((0.0, 0.001, 0.3, 4.0, 30.0)))
            other = Caller(self.world)
            other.key, other.file, other.browser = self.key, False, False
            ready = [i for i in self.world.instances() if i.takes_connections]
            if ready and not self.world.ending:
                connection = other._connect("", token, self.rng.choice(ready))
                if connection is not None:
                    await other._lead(connection)

    async def _lead(self, connection: Connection) -> str:
        """One connection to its end; the token by which the call can be taken up again."""
        world, rng, channel = self.world, self.rng, connection.channel
        if rng.random() < 0.04:
            # Gone before there is an answer.
            world.loop.exactly_at(world.loop.now + rng.uniform(0, 0.05), self._go, connection)
        if "early" in channel.query:
            world.loop.exactly_at(world.loop.now + rng.uniform(0, 1), channel.give, b"open")
        await connection.opened
        if not connection.over.done():
            await self._talk(connection)
        if not connection.over.done():
            await connection.over
        lost = connection.reason in ("", "drain", "error")
        return connection.resume if lost and connection.refused is None and self.resumable else ""

    async def _talk(self, connection: Connection) -> None:
        """Speaks for as long as the caller likes, and leaves."""
        world, rng = self.world, self.rng
        until = world.loop.now + rng.expovariate(1 / world.plan.call_seconds)
        while not connection.over.done():
            if world.ending or (world.loop.now > until and rng.random() < 0.5):
                break
            if world.lively and rng.random() < world.talkativeness:
                await self._burst(connection)
            else:
                connection.say()
                await self._rest(connection, self._interval())
        if not connection.over.done():
            self._go(connection)

    def _interval(self) -> float:
        """Seconds between two frames of one who hardly speaks."""
        world = self.world
        if world.lively and not world.plan.quiet:
            return self.rng.choice((FRAME, 0.5, 3.0))
        # The server ends calls without audio.
        return self.rng.uniform(0.2, 0.5) * world.plan.idle_seconds

    async def _rest(self, connection: Connection, seconds: float) -> None:
        """Waits, but not for a connection that is over."""
        loop = self.world.loop
        done: asyncio.Future[None] = loop.create_future()

        def wake(_: object = None) -> None:
            if not done.done():
                done.set_result(None)

        timer = loop.exactly_at(loop.now + seconds, wake)
        connection.over.add_done_callback(wake)
        await done
        timer.cancel()
        connection.over.remove_done_callback(wake)

    async def _burst(self, connection: Connection) -> None:
        """Does one thing for a while: speaks, mostly."""
        rng, channel = self.rng, connection.channel
        what = rng.random()
        if what < 0.55:
            for _ in range(rng.randint(1, 40)):
                connection.say()
                await self._rest(connection, FRAME)
                if connection.over.done():
                    return
        elif what < 0.62:
            channel.stand_still(rng.uniform(0.1, 12.0))
        elif what < 0.68:
            channel.read(False)
            await self._rest(connection, rng.uniform(0.5, 15.0))
            channel.read(True)
        elif what < 0.74:
            for _ in range(rng.randint(5, 60)):
                connection.say()
        elif what < 0.80:
            channel.give(b"stop")
            await self._rest(connection, rng.uniform(0.0, 5.0))
            channel.give(b"go  ")
        elif what < 0.83:
            for _ in range(rng.randint(1, 130)):
                channel.give(b"????")
        elif what < 0.88:
            channel.give(b"echo")
        elif what < 0.91 and self.file:
            channel.give(b"end ")
        elif what < 0.96:
            channel.cut()
        else:
            await self._rest(connection, rng.uniform(0.1, 3.0))

    def _go(self, connection: Connection) -> None:
        """Leaves, in one of the ways in which people do."""
        if connection.over.done():
            return
        way = self.rng.random()
        if way < 0.4:
            connection.channel.hang_up()
        elif way < 0.55:
            connection.channel.give(b"bye ")
            return
        elif way < 0.7:
            connection.channel.hang_up(self.rng.choice((1001, 1006, 1012)))
        elif way < 0.85:
            connection.channel.vanish()
        else:
            connection.channel.cut()
        connection.leave()
