"""Messages of Kyutai's speech to text server: MessagePack maps, the key `type` first
(docs/spec/protocols.md 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

#: Longest text of a key or a type, and deepest nesting is that of a list in a map.
_LONGEST_TEXT = 1024


def pack(kind: str, **members: Any) -> bytes:
    """A message."""
    packed: bytes = msgpack.packb({"type": kind, **members}, use_single_float=False)
    return packed


def unpack(message: bytes) -> Mapping[str, Any] | None:
    """The map of a message; None if it holds none with a type."""
    try:
        value = msgpack.unpackb(
            message, max_str_len=_LONGEST_TEXT, max_map_len=16, max_ext_len=0, strict_map_key=True
        )
    except (ValueError, TypeError, RecursionError):
        return None
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        return value
    return None


def samples(value: Any) -> NDArray[np.float32] | None:
    """The samples of a list of finite numbers, float32 `[n]`; None if it is none."""
    if not isinstance(value, list):
        return None
    try:
        # What is too large for single precision becomes infinite, which is refused below.
        with np.errstate(over="ignore"):
            pcm = np.array(value, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        return None
    # Strings become numbers, too; nobody sends such.
    if pcm.ndim != 1 or not np.isfinite(pcm).all():
        return None
    return pcm


def octets(value: Any) -> bytes | None:
    """Bytes, which Kyutai's clients send as a list of numbers; None if they are none."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, list):
        return None
    try:
        return bytes(value)
    except (ValueError, TypeError):
        return None
