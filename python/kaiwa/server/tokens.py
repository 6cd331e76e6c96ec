"""Tokens: each lets whoever got it by a key connect once, within a minute or so."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kaiwa.server.redaction import TOKEN_PREFIX


@dataclass(frozen=True)
class Issued:
    """A new token and the seconds it lives."""

    text: str = field(repr=False)
    seconds: float


@dataclass(frozen=True)
class Redeemed:
    """A token that was accepted.

    Attributes:
        key_id: id of the key that it was issued for.
        id: names the token to other servers, and tells nothing about its text; empty if only this
            server knows the token.
        until: when every server will find it too old, in seconds since 1970; 0 likewise.
    """

    key_id: str
    id: str = ""
    until: float = 0.0


class TokensFull(Exception):  # noqa: N818
    """More tokens are waiting to be used, or were used lately, than are kept."""


class TokenStore(Protocol):
    """Issues tokens, and accepts each once: `LocalTokens` or `SignedTokens`.

    `now` is in seconds on a clock of this process; `SignedTokens`, whose tokens other servers know
    too, has a clock of its own.
    """

    def issue(self, key_id: str, now: float) -> Issued:
        """A new token for the key with an id.

        Raises:
            TokensFull: there are too many already.
        """

    def redeem(self, text: str, now: float) -> Redeemed | None:
        """Uses a token up; None if it is unknown, used or too old.

        Afterwards the token does not count any more, whatever was returned.

        Raises:
            TokensFull: too many were used lately to tell.
        """


@dataclass(frozen=True)
class Secret:
    """A secret for a browser that counts.

    Attributes:
        key_id: id of the key that it was issued for.
        model: name of the model that it is for; None is every one.
        origin: of the web pages that it is for; None is every one.
        session: with what its sessions begin, in the words of the protocol that made it; empty for
            that protocol's own beginnings.
    """

    key_id: str
    model: str | None = None
    origin: str | None = None
    session: Mapping[str, Any] = field(default_factory=dict, hash=False)


class SecretStore(Protocol):
    """Issues secrets for browsers, which count for any number of calls until they are too old:
    `shared.client_secrets`."""

    def issue(self, secret: Secret, seconds: float) -> tuple[str, int]:
        """The text of a new secret that counts so long, and when it expires in seconds since
        1970."""

    def check(self, text: str) -> Secret | None:
        """What a text says that is a secret and counts; None for any other."""


class LocalTokens:
    """Tokens in the memory of this process; only their hashes are kept."""

    def __init__(self, seconds: float, *, most: int = 100_000, most_per_key: int = 1000) -> None:
        """An empty store.

        Args:
            seconds: how long a token lives.
            most: tokens kept; beyond, none is issued.
            most_per_key: tokens kept of one key; beyond, its oldest is dropped, so that one key
                cannot keep the others from getting any.
        """
        self._seconds = seconds
        self._most = most
        self._most_per_key = most_per_key
        # All live equally long, so they expire in the order in which they were issued.
        self._tokens: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._per_key: dict[str, OrderedDict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def issue(self, key_id: str, now: float) -> Issued:
        """See `TokenStore`."""
        self._expire(now)
        own = self._per_key.get(key_id, OrderedDict())
        if len(own) >= self._most_per_key:
            self._drop(next(iter(own)))
        elif len(self._tokens) >= self._most:
            raise TokensFull
        text = TOKEN_PREFIX + secrets.token_urlsafe(32)
        digest = _digest(text)
        self._tokens[digest] = (key_id, now + self._seconds)
        self._per_key.setdefault(key_id, OrderedDict())[digest] = None
        return Issued(text, self._seconds)

    def redeem(self, text: str, now: float) -> Redeemed | None:
        """See `TokenStore`."""
        self._expire(now)
        digest = _digest(text)
        found = self._tokens.get(digest)
        if found is None:
            return None
        self._drop(digest)
        return Redeemed(found[0])

    def _expire(self, now: float) -> None:
        """Drops what is too old."""
        while self._tokens:
            digest, (_, end) = next(iter(self._tokens.items()))
            if end > now:
                return
            self._drop(digest)

    def _drop(self, digest: bytes) -> None:
        """Forgets a token."""
        key_id, _ = self._tokens.pop(digest)
        own = self._per_key[key_id]
        del own[digest]
        if not own:
            del self._per_key[key_id]


def _digest(text: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
