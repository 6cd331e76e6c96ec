"""What servers tell one another through Redis.

=====================  ======  ==========================================  =====================
Redis key              type    holds                                       until
=====================  ======  ==========================================  =====================
`kaiwa:used:ID`        string  that a token was used                       it would be too old
`kaiwa:live:{KEY}`     zset    leases of conversations by their end        the last lease ends
`kaiwa:rate:{KEY}`     zset    connections of the last minute by time      the minute is over
`kaiwa:call:DIGEST`    string  signed: address of the call's server        it is not renewed
=====================  ======  ==========================================  =====================

ID names a token, KEY is the id of a caller's key, DIGEST is the SHA-256 of a resume token; times
are those of Redis. Addresses are signed, so that whoever can write to Redis cannot send calls
elsewhere. Keys that one script uses have the same part in braces, which keeps them together where
Redis is divided over several machines (Redis Cluster's hash tags).

Leases and addresses are renewed every `RENEW_SECONDS` for as long as they are true. Those of a
server that died are gone after `LEASE_SECONDS`, and a Redis that lost everything has them back
after `RENEW_SECONDS`.
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
from kaiwa.server.shared import redis_scripts
from kaiwa.server.shared.redis_client import RedisClient, SharedStateUnavailable
from kaiwa.server.shared.signed_tokens import SKEW

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

    from kaiwa.server.shared.signing import Signer

log = logging.getLogger("kaiwa.server")

#: Seconds after which a lease or an address that was not renewed is gone.
LEASE_SECONDS = 15.0
#: Seconds between renewals.
RENEW_SECONDS = 5.0
#: Seconds between two looks whether Redis answers.
PROBE_SECONDS = 1.0

#: What the signed addresses are signed for.
_OWNER = "owner"

#: Adds one write to a pipeline, when it is sent.
_Write = Callable[["Pipeline"], object]


class SharedState:
    """One server's view of the shared state.

    Questions (`mark_used`, `enter`, `owner`) wait for Redis. Facts about this server (`add_lease`,
    `add_call` and their opposites) are noted at once and written by `maintain`, in order.
    """

    def __init__(
        self,
        redis: RedisClient,
        signer: Signer,
        find_address: Callable[[], Awaitable[str | None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked or written yet.

        Args:
            redis: where the shared state is.
            signer: holds the common secret.
            find_address: gives where other servers reach this one; None if that is not known yet.
            clock: seconds, for when a renewal or a look at Redis is due.
        """
        self.redis = redis
        self._signer = signer
        self._find_address = find_address
        self._clock = clock
        #: Where other servers reach this one; None while it is not known.
        self.address: str | None = None
        #: Ids of keys by the leases of conversations that are live here.
        self._leases: dict[str, str] = {}
        #: Digests of the resume tokens of calls that are here.
        self._calls: dict[str, None] = {}
        self._warned = False
        self._pending: list[_Write] = []
        self._wake = asyncio.Event()
        self._renewed = self._probed = -math.inf

    # ---- questions -------------------------------------------------------------------------

    async def mark_used(self, token_id: str, until: float) -> bool:
        """Marks a token as used; False if it was marked before, or is too old.

        Args:
            token_id: names the token.
            until: when it will be too old, in seconds since 1970; the mark lives as long.

        Raises:
            SharedStateUnavailable: Redis cannot tell.
        """
        name = f"kaiwa:used:{token_id}"

        async def question(redis: Any) -> bool:
            return int(await redis.eval(redis_scripts.USE, 1, name, _ms(until))) == 1

        return await self.redis.ask(question)

    async def enter(
        self,
        key_id: str,
        lease: str,
        *,
        concurrency: int | None,
        per_minute: int | None,
        counted: bool,
    ) -> None:
        """Counts a connection of a key over all servers; call `add_lease` afterwards.

        Args:
            key_id: id of the caller's key.
            lease: name of the lease of its conversation.
            concurrency: most conversations at once; None is any number.
            per_minute: most connections in 60 seconds; None is any number.
            counted: the conversation is counted already, and is taken up again.

        Raises:
            LimitReached: there is no room; nothing was counted.
            SharedStateUnavailable: Redis cannot tell; it may have counted the conversation, which
                then ends after `LEASE_SECONDS`.
        """
        arguments: list[str | int] = [
            lease,
            _ms(LEASE_SECONDS),
            int(counted),
            -1 if concurrency is None else concurrency,
            -1 if per_minute is None else per_minute,
            _ms(WINDOW),
            secrets.token_hex(8),
        ]
        names = [_live(key_id), _rate(key_id)]

        async def question(redis: Any) -> tuple[str, int]:
            word, wait = await redis.eval(redis_scripts.ENTER, 2, *names, *arguments)
            return word.decode(), int(wait)

        code, wait = await self.redis.ask(question)
        if code != "in":
            limit = (per_minute if code == "rate" else concurrency) or 0
            raise LimitReached(code, limit, max(1, math.ceil(wait / 1000)))

    async def owner(self, token: str) -> str | None:
        """Address of the other server that has the call of a resume token.

        None if none has it, if it is this one, or if the address was not written by a server.

        Raises:
            SharedStateUnavailable: Redis cannot tell.
        """
        digest = _digest(token)
        found = await self.redis.ask(lambda redis: redis.get(f"kaiwa:call:{digest}"))
        text = found.decode("ascii", "replace") if isinstance(found, bytes) else ""
        record = self._signer.check(_OWNER, text)
        if not isinstance(record, dict) or record["call"] != digest:
            if text:
                self._warn_of_forgery()
            return None
        if record["end"] + SKEW < self.redis.now() or record["at"] == self.address:
            return None
        return str(record["at"])

    def _warn_of_forgery(self) -> None:
        """Says once that an address in Redis does not count."""
        if not self._warned:
            self._warned = True
            log.warning(
                "the address of a call in Redis has a signature that does not count here; give all "
                "servers the same token_secret_file, and let nobody else write to Redis"
            )

    # ---- facts about this server -----------------------------------------------------------

    def add_lease(self, key_id: str, lease: str) -> None:
        """A conversation of a key is live here, until `remove_lease`."""
        self._leases[lease] = key_id
        self._write(lambda pipe: _renew(pipe, key_id, [lease]))

    def remove_lease(self, lease: str) -> None:
        """A conversation is over."""
        key_id = self._leases.pop(lease, None)
        if key_id is not None:
            self._write(lambda pipe: pipe.zrem(_live(key_id), lease))

    def add_call(self, token: str) -> None:
        """The call of a resume token is here, until `remove_call`."""
        digest = _digest(token)
        self._calls[digest] = None
        self._write(lambda pipe: self._write_address(pipe, digest))

    def remove_call(self, token: str) -> None:
        """The call of a resume token is over."""
        self._remove_call(_digest(token))

    def _remove_call(self, digest: str) -> None:
        if digest in self._calls:
            del self._calls[digest]
            self._write(lambda pipe: pipe.delete(f"kaiwa:call:{digest}"))

    # ---- writing ---------------------------------------------------------------------------

    async def maintain(self) -> None:
        """Calls `sync` when there is something to write, and at least every `PROBE_SECONDS`.

        Ends only by cancellation.
        """
        while True:
            try:
                await self.sync()
            except Exception:
                log.exception("the shared state could not be written")
                await asyncio.sleep(PROBE_SECONDS)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), PROBE_SECONDS)

    async def sync(self) -> None:
        """Writes what waits, renews what is due, and finds out whether Redis answers."""
        if self.address is None:
            self.address = await self._find_address()
        writes, was_up = self._take_pending(), self.redis.up
        with contextlib.suppress(SharedStateUnavailable):
            now = self._clock()
            if not was_up or now - self._probed >= PROBE_SECONDS:
                self._probed = now
                if not await self.redis.probe():
                    # The writes are dropped: once Redis answers again, everything that is true
                    # then is written anew.
                    return
            due = not was_up or now - self._renewed >= RENEW_SECONDS
            if due:
                writes.append(self._renew_all)
            if writes:
                await self._send(writes)
            if due:
                self._renewed = now

    async def close(self) -> None:
        """Removes this server's leases and calls, if Redis answers, and disconnects."""
        for lease in list(self._leases):
            self.remove_lease(lease)
        for digest in list(self._calls):
            self._remove_call(digest)
        with contextlib.suppress(SharedStateUnavailable):
            await self._send(self._take_pending())
        await self.redis.close()

    def _take_pending(self) -> list[_Write]:
        """The writes that wait; afterwards none does."""
        writes, self._pending = self._pending, []
        self._wake.clear()
        return writes

    def _write(self, write: _Write) -> None:
        """Adds a write to those that wait. Without Redis there are none, see `sync`."""
        if self.redis.up:
            self._pending.append(write)
            self._wake.set()

    async def _send(self, writes: list[_Write]) -> None:
        """Sends writes in one go.

        Raises:
            SharedStateUnavailable: it is unknown which of them were made.
        """

        async def question(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipe:
                for write in writes:
                    write(pipe)
                await pipe.execute()

        await self.redis.ask(question)

    def _renew_all(self, pipe: Pipeline) -> None:
        """Writes all leases and calls of this server."""
        by_key = defaultdict(list)
        for lease, key_id in self._leases.items():
            by_key[key_id].append(lease)
        for key_id, leases in by_key.items():
            _renew(pipe, key_id, leases)
        for digest in self._calls:
            self._write_address(pipe, digest)

    def _write_address(self, pipe: Pipeline, digest: str) -> None:
        """Writes that a call is on this server."""
        if self.address is not None:
            end = round(self.redis.now() + LEASE_SECONDS, 3)
            record = self._signer.sign(_OWNER, {"call": digest, "at": self.address, "end": end})
            pipe.set(f"kaiwa:call:{digest}", record, px=_ms(LEASE_SECONDS))


def _live(key_id: str) -> str:
    return f"kaiwa:live:{{{key_id}}}"


def _rate(key_id: str) -> str:
    return f"kaiwa:rate:{{{key_id}}}"


def _renew(pipe: Pipeline, key_id: str, leases: list[str]) -> None:
    pipe.eval(redis_scripts.RENEW, 1, _live(key_id), _ms(LEASE_SECONDS), *leases)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _digest(token: str) -> str:
    """What Redis is told in place of a token, so that whoever reads it cannot use the token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
