"""The connection to Redis, with short timeouts; nobody waits while it does not answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from kaiwa.errors import KaiwaError
from kaiwa.server.shared import redis_scripts

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("kaiwa.server")

#: Seconds that Redis may take to answer a question.
ANSWER_SECONDS = 0.3
#: Seconds that opening a connection may take, which needs several answers.
CONNECT_SECONDS = 2.0
#: Connections of one server to Redis.
_CONNECTIONS = 16

_NO_PASSWORD = "does not let this server in; put its password into the file of redis_password_file"

#: What reading an answer raises that is none of Redis', or not what was asked for.
_NONSENSE = (ValueError, TypeError, LookupError, AttributeError)
_NO_REDIS = "gives answers without a meaning; see whether redis_url is the address of Redis"

T = TypeVar("T")


class SharedStateUnavailable(Exception):  # noqa: N818
    """Redis does not answer at present, or refuses what it is asked."""


class RedisClient:
    """Redis, and whether it answers.

    After a question without an answer every other one fails at once, until `probe` finds that Redis
    answers again.
    """

    def __init__(
        self,
        url: str,
        password: str | None,
        policy: str,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Connects to nothing yet.

        Args:
            url: `redis://`, `rediss://` or `unix://`.
            password: goes before one in the address.
            policy: what becomes of new calls while Redis does not answer, in words for the log.
            wall: seconds since 1970 by the clock of this machine.

        Raises:
            KaiwaError: the package redis is not installed.
        """
        try:
            from redis import asyncio as client
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import ConnectionError as ConnectionLost
        except ImportError:
            raise KaiwaError(
                "redis_url is given and the package redis is not installed; run pip install redis"
            ) from None
        options: dict[str, Any] = {"password": password} if password else {}
        pool = client.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            # A second attempt, because connections in the pool do not survive a restart of Redis;
            # none after an answer that did not come in time.
            retry=Retry(NoBackoff(), 1, (ConnectionLost,)),
            # The newer protocol needs more answers before a connection is open.
            protocol=2,
            client_name="kaiwa",
            **options,
        )
        self._client: Redis = client.Redis(connection_pool=pool)
        parts = urlsplit(url)
        local = parts.scheme == "unix"
        #: Host and port of Redis; None if it is reached by a socket of this machine.
        self.host_and_port = None if local else (parts.hostname or "localhost", parts.port)
        self._policy = policy
        self._wall = wall
        #: None until the first answer or the first failure.
        self._up: bool | None = None
        self._refusal = ""
        #: Questions without an answer.
        self.failures = 0
        #: Seconds by which the clock of Redis is ahead of this machine's; 0 until it is known.
        self.clock_offset = 0.0

    @property
    def up(self) -> bool:
        """Whether Redis can be asked."""
        return bool(self._up)

    def now(self) -> float:
        """Seconds since 1970 by the clock of Redis, as far as it is known."""
        return self._wall() + self.clock_offset

    async def ask(self, question: Callable[[Redis], Awaitable[T]]) -> T:
        """The answer of Redis to a question.

        Raises:
            SharedStateUnavailable: Redis does not answer, did not answer the last time, or refuses
                what it is asked.
        """
        from redis.exceptions import AuthenticationError, RedisError, ResponseError

        if not self._up:
            raise SharedStateUnavailable
        try:
            return await self._limited(question)
        except AuthenticationError as error:
            self._failed(_NO_PASSWORD, error)
        except _NONSENSE as error:
            self._failed(_NO_REDIS, error)
        except ResponseError as error:
            # It does answer. If it refuses every write, the next probe finds out.
            self._refused(error)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            self._failed("does not answer", error)
        raise SharedStateUnavailable

    async def probe(self) -> bool:
        """Whether Redis answers and takes writes; asked also while it is thought not to.

        Compares the clocks, too.
        """
        from redis.exceptions import AuthenticationError, RedisError, ResponseError

        try:
            if not self._up and await self._is_cluster():
                self._failed("is a Redis Cluster", "give the address of a single Redis, or a proxy")
                return False
            before = self._wall()
            seconds, micros = await self._limited(_probe)
        except ResponseError as error:
            self._failed("refuses writes", error)
            return False
        except AuthenticationError as error:
            self._failed(_NO_PASSWORD, error)
            return False
        except _NONSENSE as error:
            self._failed(_NO_REDIS, error)
            return False
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            self._failed("does not answer", error)
            return False
        self.clock_offset = seconds + micros / 1e6 - (before + self._wall()) / 2
        if self._up is False:
            log.info("the shared state answers again")
        self._up = True
        return True

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def _is_cluster(self) -> bool:
        """Whether this is one of several machines over which a Redis Cluster divides its keys.

        Each of them would refuse most questions.
        """
        from redis.exceptions import ResponseError

        try:
            found = await self._limited(lambda redis: redis.info("cluster"))
        except ResponseError:
            # This user may not ask.
            return False
        return bool(found.get("cluster_enabled"))

    async def _limited(self, question: Callable[[Redis], Awaitable[T]]) -> T:
        """The answer to a question, or an error in a bounded time."""
        limit = CONNECT_SECONDS + ANSWER_SECONDS
        return await asyncio.wait_for(_asked(question, self._client), limit)

    def _failed(self, what: str, error: BaseException | str) -> None:
        """Counts a question without an answer. From now on Redis is not asked; logged once."""
        self.failures += 1
        if self._up is not False:
            why = str(error) or type(error).__name__
            log.warning("the shared state (Redis) %s: %s; %s", what, why, self._policy)
        self._up = False

    def _refused(self, error: BaseException) -> None:
        """Counts a question that Redis refused, and logs it unless the last one was the same."""
        self.failures += 1
        if str(error) != self._refusal:
            self._refusal = str(error)
            log.warning("the shared state (Redis) refuses a command: %s", error)


async def _probe(redis: Any) -> tuple[int, int]:
    """Seconds and microseconds of the clock of Redis."""
    seconds, micros = await redis.eval(redis_scripts.PROBE, 1, "kaiwa:probe")
    return int(seconds), int(micros)


async def _asked(question: Callable[[Redis], Awaitable[T]], redis: Redis) -> T:
    """Asks, once somebody waits: a question that was asked before and then given up would be a
    coroutine that nobody awaits.
    """
    return await question(redis)
