"""What servers write down for one another in Redis.

=====================  ======  ==========================================  =====================
key                    type    holds                                       until
=====================  ======  ==========================================  =====================
`kaiwa:used:DIGEST`    string  a token was used                            it would be too old
`kaiwa:live:KEY`       zset    leases of conversations by their end        the last lease ends
`kaiwa:rate:KEY`       zset    connections of the last minute by time      the minute is over
`kaiwa:call:DIGEST`    string  address of the server that has the call     its lease ends
=====================  ======  ==========================================  =====================

Digests are SHA-256 of tokens, times are those of Redis. Leases and addresses are renewed while
they are true: those of a server that is no more are gone after `LEASE` seconds, and a Redis that
lost everything is told again within `RENEW` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from kaiwa.server.limits import WINDOW, LimitReached
from kaiwa.server.shared.link import Down, Link

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

log = logging.getLogger("kaiwa.server")

#: Seconds after which what was not renewed is gone.
LEASE = 15.0
#: Seconds between renewals.
RENEW = 5.0
#: Seconds between looks whether Redis answers.
PROBE = 1.0

_ENTER = """
local moment = redis.call('TIME')
local now = moment[1] * 1000 + math.floor(moment[2] / 1000)
local live, rate = KEYS[1], KEYS[2]
local lease, life, again = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local concurrency, per_minute = tonumber(ARGV[4]), tonumber(ARGV[5])
local window, connection = tonumber(ARGV[6]), ARGV[7]
if per_minute >= 0 then
  redis.call('ZREMRANGEBYSCORE', rate, '-inf', now - window)
  local count = redis.call('ZCARD', rate)
  if count >= per_minute then
    local at = count - per_minute
    local free = redis.call('ZRANGE', rate, at, at, 'WITHSCORES')[2] + window
    return {'rate', math.ceil(free - now)}
  end
end
redis.call('ZREMRANGEBYSCORE', live, '-inf', now)
if not again and concurrency >= 0 and redis.call('ZCARD', live) >= concurrency then
  return {'concurrency', 5000}
end
if per_minute >= 0 then
  redis.call('ZADD', rate, now, connection)
  redis.call('PEXPIRE', rate, window)
end
redis.call('ZADD', live, now + life, lease)
redis.call('PEXPIRE', live, life)
return {'in', 0}
"""

_RENEW = """
local moment = redis.call('TIME')
local now = moment[1] * 1000 + math.floor(moment[2] / 1000)
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""

#: A write that waits to be sent.
_Write = Callable[["Pipeline"], object]


class Ledger:
    """Asks and writes for one server. What needs no answer is written by `keep`, in order."""

    def __init__(self, link: Link, address: Callable[[], Awaitable[str | None]]) -> None:
        """Nothing is written yet.

        Args:
            link: to Redis.
            address: gives where other servers reach this one; None if that is not known yet.
        """
        self.link = link
        self._find_address = address
        #: Where other servers reach this one.
        self.address: str | None = None
        self._leases: dict[str, str] = {}
        self._calls: set[str] = set()
        self._writes: list[_Write] = []
        self._news = asyncio.Event()
        self._renewed = -math.inf

    # ---- questions -------------------------------------------------------------------------

    async def claim(self, token: str, seconds: float) -> bool:
        """Whether nobody used a token before; it counts as used from now on.

        Args:
            token: one that is genuine and not too old.
            seconds: after which it is too old.

        Raises:
            Down: nobody knows.
        """
        name, life = f"kaiwa:used:{_digest(token)}", math.ceil(seconds * 1000)
        return bool(await self.link.ask(lambda redis: redis.set(name, 1, nx=True, px=life)))

    async def enter(
        self,
        key_id: str,
        lease: str,
        *,
        concurrency: int | None,
        per_minute: int | None,
        again: bool,
    ) -> None:
        """Counts a connection of a key over all servers; `adopt` its lease afterwards.

        Args:
            key_id: whose it is.
            lease: names its conversation.
            concurrency: most conversations at once; None is any number.
            per_minute: most connections in 60 seconds; None is any number.
            again: the conversation is counted already.

        Raises:
            LimitReached: there is no room; nothing was counted.
            Down: nobody knows; it may have been counted for `LEASE` seconds.
        """
        arguments: list[str | int] = [
            lease,
            _ms(LEASE),
            int(again),
            -1 if concurrency is None else concurrency,
            -1 if per_minute is None else per_minute,
            _ms(WINDOW),
            secrets.token_hex(8),
        ]
        names = [f"kaiwa:live:{key_id}", f"kaiwa:rate:{key_id}"]

        def question(redis: Any) -> Awaitable[tuple[bytes, int]]:
            answer: Awaitable[tuple[bytes, int]] = redis.eval(_ENTER, 2, *names, *arguments)
            return answer

        word, wait = await self.link.ask(question)
        code = word.decode()
        if code != "in":
            limit = (per_minute if code == "rate" else concurrency) or 0
            raise LimitReached(code, limit, max(1, math.ceil(wait / 1000)))

    async def owner(self, token: str) -> str | None:
        """Address of the other server that has the call of a resume token; None if none has.

        Raises:
            Down: nobody knows.
        """
        name = f"kaiwa:call:{_digest(token)}"
        found = await self.link.ask(lambda redis: redis.get(name))
        address = found.decode("utf-8", "replace") if isinstance(found, bytes) else None
        return None if address == self.address else address

    # ---- what is true of this server -------------------------------------------------------

    def adopt(self, key_id: str, lease: str) -> None:
        """A conversation of a key is live here, until it is released."""
        self._leases[lease] = key_id
        self._write(lambda pipe: _renew(pipe, key_id, [lease]))

    def release(self, lease: str) -> None:
        """It is over."""
        key_id = self._leases.pop(lease, None)
        if key_id is not None:
            self._write(lambda pipe: pipe.zrem(f"kaiwa:live:{key_id}", lease))

    def publish(self, token: str) -> None:
        """The call of a resume token is here, until it is retracted."""
        digest = _digest(token)
        self._calls.add(digest)
        self._write(lambda pipe: self._tell(pipe, digest))

    def retract(self, token: str) -> None:
        """It is over."""
        self._retract(_digest(token))

    def _retract(self, digest: str) -> None:
        if digest in self._calls:
            self._calls.discard(digest)
            self._write(lambda pipe: pipe.delete(f"kaiwa:call:{digest}"))

    # ---- writing it down -------------------------------------------------------------------

    async def keep(self) -> None:
        """Writes what is to be written, renews it, and looks whether Redis answers; for ever."""
        while True:
            try:
                await self.turn()
            except Exception:
                log.exception("the shared state could not be written")
                await asyncio.sleep(PROBE)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), PROBE)

    async def turn(self) -> None:
        """Once of that."""
        if self.address is None:
            self.address = await self._find_address()
        writes, was_up = self._take(), self.link.up
        with contextlib.suppress(Down):
            if not was_up and not await self.link.probe():
                # Writes are dropped: what is true then will be told when it answers again.
                return
            now = time.monotonic()
            due = not was_up or now - self._renewed >= RENEW
            if due:
                writes.append(self._renew_all)
            if writes:
                await self._send(writes)
            else:
                await self.link.probe()
            if due:
                self._renewed = now

    async def close(self) -> None:
        """Takes back what is true no more, if Redis answers, and ends the connections."""
        for lease in list(self._leases):
            self.release(lease)
        for digest in list(self._calls):
            self._retract(digest)
        with contextlib.suppress(Down):
            await self._send(self._take())
        await self.link.close()

    def _take(self) -> list[_Write]:
        """What waits to be written, which waits no more."""
        writes, self._writes = self._writes, []
        self._news.clear()
        return writes

    def _write(self, write: _Write) -> None:
        if self.link.up:
            self._writes.append(write)
            self._news.set()

    async def _send(self, writes: list[_Write]) -> None:
        """Writes in one go.

        Raises:
            Down: it is unknown what was written.
        """

        async def question(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipe:
                for write in writes:
                    write(pipe)
                await pipe.execute()

        await self.link.ask(question)

    def _renew_all(self, pipe: Pipeline) -> None:
        """Everything that is true of this server."""
        by_key = defaultdict(list)
        for lease, key_id in self._leases.items():
            by_key[key_id].append(lease)
        for key_id, leases in by_key.items():
            _renew(pipe, key_id, leases)
        for digest in self._calls:
            self._tell(pipe, digest)

    def _tell(self, pipe: Pipeline, digest: str) -> None:
        """Where a call is."""
        if self.address is not None:
            pipe.set(f"kaiwa:call:{digest}", self.address, px=_ms(LEASE))


def _renew(pipe: Pipeline, key_id: str, leases: list[str]) -> None:
    pipe.eval(_RENEW, 1, f"kaiwa:live:{key_id}", _ms(LEASE), *leases)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
