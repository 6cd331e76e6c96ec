"""One key of the file of keys: who it is for, and what it allows.

A key is `kw_` and 256 random bits. Only its SHA-256 is kept; a salt would add nothing, because keys
are too long to be guessed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from kaiwa.server.redaction import KEY_PREFIX

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ID = re.compile(r"[0-9a-f]{8,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_MOMENT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Key:
    """An entry of the file of keys.

    Attributes:
        id: names the key within a server; random, and says nothing about the key itself.
        name: who it is for; shown in logs and metrics.
        hash: SHA-256 of the key, in hexadecimal digits.
        created: when it was made (UTC, ISO 8601).
        concurrency: conversations at once; None is as many as there are slots.
        per_minute: connections a minute; None is any number.
        max_seconds: seconds of a conversation; None is what the server allows.
        operator: whether it may see and end everybody's conversations.
        protocols: names of the wire protocols that it may be used for; None is every one.
        models: names of the models that it may be used for, as `GET /v1/models` lists them; None is
            every one.
        expires: from when on it does not count any more (UTC, ISO 8601); None is never.
        revoked: since when it does not count any more (UTC, ISO 8601); None if it counts.
    """

    id: str
    name: str
    hash: str = field(repr=False)
    created: str
    concurrency: int | None = None
    per_minute: int | None = None
    max_seconds: float | None = None
    operator: bool = False
    protocols: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    expires: str | None = None
    revoked: str | None = None

    def counts(self, now: float) -> bool:
        """Whether it is neither revoked nor expired, at a time in seconds since 1970."""
        # Times of one form are in the order of their texts.
        return self.revoked is None and (self.expires is None or moment(now) < self.expires)

    def allows(self, protocol: str | None, model: str | None) -> bool:
        """Whether it may be used for a protocol and a model.

        None is one that is not known, for which only a key without that limit may be used.
        """
        pairs = ((self.protocols, protocol), (self.models, model))
        return all(allowed is None or used in allowed for allowed, used in pairs)


def new_secret() -> str:
    """A new key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """What the file holds of a key."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def moment(now: float) -> str:
    """A time in seconds since 1970 as the file has it."""
    return datetime.fromtimestamp(now, timezone.utc).strftime(_MOMENT)


def is_name(name: str) -> bool:
    """Whether a key may have this name."""
    return _NAME.fullmatch(name) is not None


def to_json(key: Key) -> dict[str, Any]:
    """An entry of the file; what is not limited is left out."""
    entry = {name: getattr(key, name) for name in _CHECKS}
    kept = {
        name: value for name, value in entry.items() if value is not None and value is not False
    }
    return {name: list(v) if isinstance(v, tuple) else v for name, v in kept.items()}


def from_json(entry: Any) -> Key:
    """A key from an entry of the file.

    Raises:
        ValueError: the entry is damaged; says how, without its hash.
    """
    if not isinstance(entry, dict):
        raise ValueError("is no object")
    for name in entry:
        if name not in _CHECKS:
            raise ValueError(f"has the unknown member {name!r}")
    for name in ("id", "name", "hash", "created"):
        if name not in entry:
            raise ValueError(f"has no {name}")
    for name, value in entry.items():
        if not _CHECKS[name](value):
            raise ValueError(f"has a bad {name}")
    values: dict[str, Any] = dict(entry)
    for name in ("protocols", "models"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return Key(**values)


def _whole_or_none(value: Any) -> bool:
    """A limit of a count."""
    return value is None or (type(value) is int and value >= 1)


def _seconds_or_none(value: Any) -> bool:
    """A limit of a time."""
    return value is None or (type(value) in (int, float) and 0 < value < 1e9)


def _words_or_none(value: Any) -> bool:
    """What a key may be used for."""
    return value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def _moment_or_none(value: Any) -> bool:
    """A time, or never."""
    return value is None or _is_moment(value)


def _is_moment(value: Any) -> bool:
    """A time as `moment` writes it."""
    try:
        datetime.strptime(value, _MOMENT)
    except (TypeError, ValueError):
        return False
    return True


_CHECKS = {
    "id": lambda value: isinstance(value, str) and _ID.fullmatch(value) is not None,
    "name": lambda value: isinstance(value, str) and is_name(value),
    "hash": lambda value: isinstance(value, str) and _HASH.fullmatch(value) is not None,
    "created": _is_moment,
    "concurrency": _whole_or_none,
    "per_minute": _whole_or_none,
    "max_seconds": _seconds_or_none,
    "operator": lambda value: isinstance(value, bool),
    "protocols": _words_or_none,
    "models": _words_or_none,
    "expires": _moment_or_none,
    "revoked": _moment_or_none,
}
