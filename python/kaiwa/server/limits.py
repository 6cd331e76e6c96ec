"""What one key may do: conversations at once, and connections in any 60 seconds."""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

#: Seconds over which connections are counted.
WINDOW = 60.0

#: Seconds after which a caller is told to try again when all conversations of its key are in use.
#: Nobody knows when one will end.
_TRY_AGAIN = 5


class LimitReached(Exception):  # noqa: N818
    """A key has no more room.

    Attributes:
        code: `concurrency` or `rate`.
        limit: the number that was reached.
        retry_after: whole seconds after which another attempt makes sense.
    """

    def __init__(self, code: str, limit: int, retry_after: int) -> None:
        super().__init__(f"{code} {limit}, retry after {retry_after} s")
        self.code = code
        self.limit = limit
        self.retry_after = retry_after


@dataclass(eq=False)
class Lease:
    """A conversation of a key that counts until it is released. Usable as a context manager."""

    key_id: str
    _limits: Limits | None = field(repr=False)
    #: Names the lease to other servers.
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    #: Called once, when the lease is released.
    on_release: Callable[[], object] | None = field(default=None, repr=False)

    @property
    def released(self) -> bool:
        """Whether the conversation is over and does not count any more."""
        return self._limits is None

    def release(self) -> None:
        """The conversation is over; a second call does nothing."""
        limits, self._limits = self._limits, None
        if limits is not None:
            limits._end(self.key_id)
            if self.on_release is not None:
                self.on_release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Limits:
    """Counts the conversations and connections of every key.

    Has no clock of its own: `now` is in seconds, on a clock that never goes back.
    """

    def __init__(self) -> None:
        self._live: dict[str, int] = {}
        self._recent: dict[str, deque[float]] = {}

    def live(self, key_id: str) -> int:
        """How many conversations a key has now."""
        return self._live.get(key_id, 0)

    def enter(
        self,
        key_id: str,
        now: float,
        *,
        concurrency: int | None = None,
        per_minute: int | None = None,
        held: Lease | None = None,
    ) -> Lease:
        """Counts a connection that begins, if the key has room for it.

        Args:
            key_id: id of the key.
            now: seconds.
            concurrency: most conversations at once; None is any number.
            per_minute: most connections in 60 seconds; None is any number.
            held: lease of the conversation that this connection takes up again, which is counted
                already and given back.

        Raises:
            LimitReached: the key has no room; nothing was counted.
        """
        recent = self._recent.get(key_id, deque())
        while recent and recent[0] <= now - WINDOW:
            recent.popleft()
        if per_minute is not None and len(recent) >= per_minute:
            # Room comes when only per_minute - 1 are left in the window.
            until = recent[len(recent) - per_minute] + WINDOW - now
            raise LimitReached("rate", per_minute, max(1, math.ceil(until)))
        again = held is not None and not held.released and held.key_id == key_id
        if not again and concurrency is not None and self.live(key_id) >= concurrency:
            raise LimitReached("concurrency", concurrency, _TRY_AGAIN)
        if per_minute is not None:
            recent.append(now)
            self._recent[key_id] = recent
        self._forget(now)
        if held is not None and again:
            return held
        self._live[key_id] = self.live(key_id) + 1
        return Lease(key_id, self)

    def uncount(self, key_id: str, now: float) -> None:
        """Removes the connection that was counted at a time, if there is one."""
        recent = self._recent.get(key_id)
        if recent is not None and now in recent:
            recent.remove(now)

    def _end(self, key_id: str) -> None:
        """Counts one conversation less."""
        self._live[key_id] -= 1
        if not self._live[key_id]:
            del self._live[key_id]

    def _forget(self, now: float) -> None:
        """Forgets the keys that had no connection within the window."""
        old = [k for k, recent in self._recent.items() if not recent or recent[-1] <= now - WINDOW]
        for key_id in old:
            del self._recent[key_id]
