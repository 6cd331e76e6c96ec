"""The way from a server to Redis: a connection that can be slow, broken, or lead nowhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from tools.simulation.loop import CURRENT, Process, VirtualLoop
from tools.simulation.redis_store import RedisStore, Reply, ReplyError


class RedisLine(asyncio.Transport):
    """One connection, seen from the server. Bytes arrive in order, or not at all."""

    def __init__(self, network: RedisNetwork, owner: Process | None, protocol: Any) -> None:
        super().__init__()
        self._network = network
        self.owner = owner
        self._protocol = protocol
        self._closing = False
        self.broken = False
        self._received = b""
        #: Bytes of one direction do not overtake each other.
        self._there = self._back = 0.0

    def _in_order(self, last: float, delay: float) -> float:
        # Timers of the same moment have no order.
        return max(last + 1e-7, self._network.loop.now + delay)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: Any) -> None:
        if self._closing or self.broken:
            return
        network = self._network
        delay = network.delay(self.owner)
        if delay is None:
            return
        self._there = self._in_order(self._there, delay)
        network.loop.exactly_at(self._there, self._arrive, bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def _arrive(self, data: bytes) -> None:
        """Bytes are at Redis."""
        network = self._network
        if self.broken or not network.listens:
            return
        self._received += data
        commands, self._received = _parse(self._received)
        reply = b"".join(_write(network.store.run(command)) for command in commands)
        if network.rng.random() < network.cut_after_command:
            # Carried out, and nobody learns of it.
            self.lose()
            return
        delay = network.delay(self.owner)
        if delay is not None and reply:
            self._back = self._in_order(self._back, delay)
            network.loop.exactly_at(self._back, self._deliver, reply)

    def _deliver(self, data: bytes) -> None:
        """Bytes are at the server, whose event loop has to find the time to read them."""
        if not (self.broken or self._closing):
            self._for_owner(self._protocol.data_received, data)

    def _for_owner(self, callback: Callable[..., object], *args: object) -> None:
        context = self.owner.context if self.owner is not None else None
        self._network.loop.call_soon(callback, *args, context=context)

    def lose(self) -> None:
        """The connection breaks, and the server notices."""
        if not self.broken:
            self.broken = True
            self._network.lines.pop(self, None)
            if not self._closing:
                self._closing = True
                lost = ConnectionResetError("simulated")
                self._for_owner(self._protocol.connection_lost, lost)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._network.lines.pop(self, None)
            self._for_owner(self._protocol.connection_lost, None)

    abort = close

    def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None:
        """Nothing waits here."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """Answers are short."""

    def resume_reading(self) -> None:
        """Answers are short."""

    def get_protocol(self) -> Any:
        return self._protocol


class RedisNetwork:
    """Redis, and all ways to it.

    Attributes:
        store: what is in Redis.
        listens: whether Redis runs.
        slow: seconds that are added to every message.
        cut_after_command: share of commands after which the connection breaks, before the answer.
    """

    def __init__(self, loop: VirtualLoop, rng: random.Random, clock: Callable[[], float]) -> None:
        self.loop = loop
        self.rng = rng
        self.store = RedisStore(clock)
        self.listens = True
        self.slow = 0.0
        self.cut_after_command = 0.0
        self.lines: dict[RedisLine, None] = {}

    def delay(self, owner: Process | None) -> float | None:
        """Seconds that a message travels; None: it is lost."""
        if owner is not None and (owner.cut_off or owner.dead):
            return None
        return self.slow + self.rng.uniform(0.0001, 0.001)

    async def connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """A new connection of the process that asks.

        Raises:
            OSError: nobody listens.
        """
        owner = CURRENT.get()
        if owner is not None and owner.dead:
            raise ConnectionRefusedError("simulated")
        delay = self.delay(owner)
        if delay is None:
            # Until the one who asks gives up.
            await asyncio.sleep(3600)
        await asyncio.sleep(delay or 0.0)
        if not self.listens:
            raise ConnectionRefusedError("simulated")
        line = RedisLine(self, owner, protocol)
        self.lines[line] = None
        protocol.connection_made(line)
        return line

    def stop(self) -> None:
        """Redis goes."""
        self.listens = False
        self.lose_all()

    def lose_all(self, owner: Process | None = None) -> None:
        """All connections break, or those of one process."""
        for line in list(self.lines):
            if owner is None or line.owner is owner:
                line.lose()


def _parse(data: bytes) -> tuple[list[list[bytes]], bytes]:
    """Whole commands, and the bytes behind them."""
    commands: list[list[bytes]] = []
    at = 0
    while True:
        got = _command(data, at)
        if got is None:
            return commands, data[at:]
        command, at = got
        commands.append(command)


def _command(data: bytes, at: int) -> tuple[list[bytes], int] | None:
    """An array of strings, and where it ends."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    count, at = int(data[at + 1 : end]), end + 2
    words = []
    for _ in range(count):
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size, at = int(data[at + 1 : end]), end + 2
        if len(data) < at + size + 2:
            return None
        words.append(data[at : at + size])
        at += size + 2
    return words, at


def _write(reply: Reply) -> bytes:
    """A reply in Redis' protocol."""
    if isinstance(reply, ReplyError):
        return f"-{reply}\r\n".encode()
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, str):
        return b"+%s\r\n" % reply.encode()
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(_write, reply))
