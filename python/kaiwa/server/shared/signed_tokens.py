"""Tokens that every server with the same secret accepts, without anything being stored."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from kaiwa.server.redaction import TOKEN_PREFIX
from kaiwa.server.shared.used_once import TooManyUsed, UsedOnce
from kaiwa.server.tokens import Issued, Redeemed, TokensFull

if TYPE_CHECKING:
    from kaiwa.server.shared.signing import Signer

#: Seconds by which the clocks of two servers may differ.
SKEW = 2.0

_PURPOSE = "token"


class SignedTokens:
    """A `TokenStore` whose tokens name their key and their end, and are signed.

    Each server remembers the tokens that were used on it until they are too old. Whether a token
    was used on another server is for the shared state to tell (`SharedState.mark_used`).
    """

    def __init__(
        self,
        signer: Signer,
        seconds: float,
        *,
        wall: Callable[[], float] = time.time,
        most: int = 200_000,
    ) -> None:
        """No token was used yet.

        Args:
            signer: holds the common secret.
            seconds: how long a token lives.
            wall: seconds since 1970, on a clock that differs by at most `SKEW` between servers.
            most: used tokens that are remembered; beyond, none is accepted until some are too old.
        """
        self._signer = signer
        self._seconds = seconds
        self._wall = wall
        self._used = UsedOnce(most)

    def issue(self, key_id: str, now: float) -> Issued:
        """See `TokenStore`; there can be any number of these."""
        del now
        value = {
            "id": secrets.token_urlsafe(12),
            "key": key_id,
            "end": round(self._wall() + self._seconds, 3),
        }
        return Issued(TOKEN_PREFIX + self._signer.sign(_PURPOSE, value), self._seconds)

    def redeem(self, text: str, now: float) -> Redeemed | None:
        """See `TokenStore`.

        Raises:
            TokensFull: more were used within their life than are remembered.
        """
        del now
        if not text.startswith(TOKEN_PREFIX):
            return None
        value = self._signer.check(_PURPOSE, text.removeprefix(TOKEN_PREFIX))
        if not isinstance(value, dict):
            return None
        wall = self._wall()
        until = value["end"] + SKEW
        # An end further away than a token lives comes from a server whose clock is wrong, and would
        # have to be remembered for longer than the others.
        if not wall < until <= wall + self._seconds + 2 * SKEW:
            return None
        try:
            first = self._used.use(value["id"], until, wall)
        except TooManyUsed:
            raise TokensFull from None
        return Redeemed(value["key"], value["id"], until) if first else None
