"""The file of keys as bytes: JSON, `{"format": "kaiwa-keys", "version": 1, "keys": [...]}`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kaiwa.errors import InputError
from kaiwa.server import key_entry
from kaiwa.server.key_entry import Key

FORMAT = "kaiwa-keys"
VERSION = 1

#: Longest file: room for tens of thousands of keys. A longer one was named by mistake.
MAX_BYTES = 16 << 20


def encode(keys: Sequence[Key]) -> bytes:
    """The file with these keys."""
    entries = [key_entry.to_json(key) for key in keys]
    content = {"format": FORMAT, "version": VERSION, "keys": entries}
    return (json.dumps(content, indent=1) + "\n").encode()


def decode(data: bytes, name: str) -> tuple[Key, ...]:
    """The keys of a file.

    Args:
        data: its content.
        name: what to call it in an error.

    Raises:
        InputError: it is no file of keys, a newer one, or damaged. The message holds no hash.
    """
    content = _object(data, name)
    version = content.get("version")
    if type(version) is int and version > VERSION:
        raise InputError(
            f"{name} has version {version} of the file of keys and this Kaiwa knows {VERSION}; "
            "update Kaiwa"
        )
    entries = content.get("keys")
    if version != VERSION or not isinstance(entries, list):
        raise _damaged(name, "its version or its list of keys is missing")
    keys = []
    for number, entry in enumerate(entries, 1):
        try:
            keys.append(key_entry.from_json(entry))
        except ValueError as error:
            raise _damaged(name, f"key {number} {error}") from None
    _check_unique(keys, name)
    return tuple(keys)


def _object(data: bytes, name: str) -> dict[str, Any]:
    """The outermost JSON object, which must name the format."""
    try:
        content = json.loads(data) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        raise _damaged(name, "it is not JSON") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{name} is no file of keys; name one that `kaiwa key add NAME --file FILE` made"
        )
    return content


def _check_unique(keys: Sequence[Key], name: str) -> None:
    """Checks that ids and hashes are unique, and the names of the keys that are not revoked."""
    counting = [key.name for key in keys if key.revoked is None]
    for what, values in (
        ("id", [key.id for key in keys]),
        ("hash", [key.hash for key in keys]),
        ("name", counting),
    ):
        if len(set(values)) != len(values):
            raise _damaged(name, f"two keys have the same {what}")


def _damaged(name: str, how: str) -> InputError:
    """The error for a file that cannot be used."""
    return InputError(
        f"{name} is damaged: {how}; restore a copy, or make keys anew with `kaiwa key add`"
    )
