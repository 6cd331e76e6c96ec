"""The connection to Redis, with short timeouts; nobody waits while it does not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from kaiwa.errors import KaiwaError

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("kaiwa.server")

#: Seconds that Redis may take to answer.
ANSWER_SECONDS = 0.3
#: Connections of one server to Redis.
_CONNECTIONS = 16

T = TypeVar("T")


class SharedStateUnavailable(Exception):  # noqa: N818
    """Redis does not answer at present, or refuses what it is asked."""


class RedisClient:
    """Redis, and whether it answers.

    After a question without an answer every other one fails at once, until `probe` finds that Redis
    answers again.
    """

    def __init__(self, url: str, password: str | None, policy: str) -> None:
        """Connects to nothing yet.

        Args:
            url: `redis://`, `rediss://` or `unix://`.
            password: goes before one in the address.
            policy: what becomes of new calls while Redis does not answer, in words for the log.

        Raises:
            KaiwaError: the package redis is not installed.
        """
        try:
            from redis import asyncio as client
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise KaiwaError(
                "redis_url is given and the package redis is not installed; run pip install redis"
            ) from None
        options: dict[str, Any] = {"password": password} if password else {}
        pool = client.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=ANSWER_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            # A second attempt, because connections in the pool do not survive a restart of Redis.
            retry=Retry(NoBackoff(), 1),
            client_name="kaiwa",
            **options,
        )
        self._client: Redis = client.Redis(connection_pool=pool)
        parts = urlsplit(url)
        #: Host and port of Redis; None if it is reached by a socket of this machine.
        self.host_and_port = (
            None if parts.scheme == "unix" else (parts.hostname or "localhost", parts.port)
        )
        self._policy = policy
        #: None until the first answer or the first failure.
        self._up: bool | None = None
        self.failures = 0

    @property
    def up(self) -> bool:
        """Whether Redis answered the last question."""
        return bool(self._up)

    async def ask(self, question: Callable[[Redis], Awaitable[T]]) -> T:
        """The answer of Redis to a question.

        Raises:
            SharedStateUnavailable: it does not answer, did not answer the last time, or
                refuses what it is asked.
        """
        if not self._up:
            raise SharedStateUnavailable
        return await self._ask(question)

    async def probe(self) -> bool:
        """Asks whether Redis answers, also while it is thought not to."""
        try:
            await self._ask(lambda redis: redis.ping())
        except SharedStateUnavailable:
            return False
        return True

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def _ask(self, question: Callable[[Redis], Awaitable[T]]) -> T:
        from redis.exceptions import RedisError

        try:
            answer = await asyncio.wait_for(_awaited(question(self._client)), 2 * ANSWER_SECONDS)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            self._failed(error)
            raise SharedStateUnavailable from None
        if not self._up:
            if self._up is not None:
                log.info("the shared state answers again")
            self._up = True
        return answer

    def _failed(self, error: BaseException) -> None:
        """Counts a question without an answer, and logs the first one."""
        self.failures += 1
        if self._up is not False:
            why = str(error) or type(error).__name__
            log.warning("the shared state (Redis) does not answer: %s; %s", why, self._policy)
        self._up = False


async def _awaited(answer: Awaitable[T]) -> T:
    """`wait_for` wants a coroutine."""
    return await answer
