"""Tokens that every server with the same secret knows, without anything being stored."""

from __future__ import annotations

import hashlib
import secrets
import struct
import time
from collections import OrderedDict
from collections.abc import Callable

from kaiwa.server.redaction import TOKEN_PREFIX
from kaiwa.server.shared.signing import Signer
from kaiwa.server.tokens import Issued, TokensFull

#: Seconds by which the clocks of two servers may differ.
SKEW = 2.0

_PURPOSE = "token"
_HEAD = struct.Struct(">d12s")


class SignedTokens:
    """Tokens in the form of `TokenStore`: a token names its key and its end, and is signed.

    Each server keeps the tokens that were used on it until they are too old; that one was used on
    another server is for Redis to know (`SharedState.mark_used`).
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
            wall: seconds since 1970, on a clock that all servers share but for `SKEW`.
            most: used tokens that are kept; beyond, none is taken until some are too old.
        """
        self._signer = signer
        self._seconds = seconds
        self._wall = wall
        self._most = most
        self._used: OrderedDict[bytes, float] = OrderedDict()

    def issue(self, key_id: str, now: float) -> Issued:
        """See `TokenStore`; there is no end to these."""
        del now
        head = _HEAD.pack(self._wall() + self._seconds, secrets.token_bytes(12))
        signed = self._signer.sign(_PURPOSE, head + key_id.encode())
        return Issued(TOKEN_PREFIX + signed, self._seconds)

    def redeem(self, text: str, now: float) -> str | None:
        """See `TokenStore`.

        Raises:
            TokensFull: more were used within their life than are kept.
        """
        del now
        payload = None
        if text.startswith(TOKEN_PREFIX) and text.isascii():
            payload = self._signer.check(_PURPOSE, text[len(TOKEN_PREFIX) :])
        if payload is None or len(payload) <= _HEAD.size:
            return None
        end, _ = _HEAD.unpack_from(payload)
        wall = self._wall()
        if end + SKEW <= wall:
            return None
        self._forget(wall)
        digest = hashlib.sha256(payload).digest()
        if digest in self._used:
            return None
        if len(self._used) >= self._most:
            raise TokensFull
        self._used[digest] = end + SKEW
        return payload[_HEAD.size :].decode("utf-8", "replace")

    def _forget(self, wall: float) -> None:
        """Drops what is too old by itself, as far as it came first."""
        while self._used and next(iter(self._used.values())) <= wall:
            self._used.popitem(last=False)
