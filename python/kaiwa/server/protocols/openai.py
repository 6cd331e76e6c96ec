"""What OpenAI's two protocols have in common: keys, names of events and items, JSON, formats."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import string
from collections.abc import Collection, Mapping
from typing import Any

from kaiwa.server.channel import Message
from kaiwa.server.protocols.formats import ALAW, MULAW, PCM_16K, PCM_24K, AudioFormat
from kaiwa.server.refusal import Refused

#: The subprotocol that browsers offer beside their key, and what stands before the key.
SUBPROTOCOL = "realtime"
KEY_SUBPROTOCOL = "openai-insecure-api-key."
#: Longest name of an event that is repeated to the client that sent it.
LONGEST_ID = 512

_ALPHABET = string.ascii_letters + string.digits

# ---- who calls -----------------------------------------------------------------------------------


def offered(headers: Mapping[str, str]) -> list[str]:
    """The subprotocols that a client offers."""
    return [word.strip() for word in headers.get("sec-websocket-protocol", "").split(",")]


def subprotocol(headers: Mapping[str, str]) -> str | None:
    """What to answer: `realtime` if it was offered. The one with the key never is, or the key would
    be sent back."""
    return SUBPROTOCOL if SUBPROTOCOL in offered(headers) else None


def with_key(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request with its key where this server looks for it. Azure's clients send it
    as `api-key`, Kyutai's as `kyutai-api-key`, and browsers, which can send no headers, as a
    subprotocol."""
    found = {name.lower(): value for name, value in headers.items()}
    if "authorization" not in found:
        keys = [found.get("api-key"), found.get("kyutai-api-key")]
        keys += [
            word.removeprefix(KEY_SUBPROTOCOL)
            for word in offered(found)
            if word.startswith(KEY_SUBPROTOCOL)
        ]
        key = next(filter(None, keys), None)
        if key is not None:
            found["authorization"] = f"Bearer {key}"
    return found


def check_model(asked: Any, model: str, also: Collection[str] = ()) -> None:
    """Refuses a client that asks for a model that is not served. Clients for OpenAI's own models
    name one of those and get the one that is.

    Args:
        asked: of any type; None is no wish.
        model: that is served.
        also: names of OpenAI's models that do not begin like the others.

    Raises:
        Refused: 404.
    """
    if asked is None or asked == "" or asked == model or asked in also:
        return
    if not isinstance(asked, str) or not asked.startswith("gpt-"):
        shown = str(asked)[:80].encode("ascii", "backslashreplace").decode()
        raise Refused(
            404, "model_not_found", f"the model '{shown}' is not served here; ask for '{model}'"
        )


# ---- messages ------------------------------------------------------------------------------------


class Ids:
    """Names of events, items and responses: a kind, then 21 letters and digits. They are unique in
    a server and cannot be guessed from those of another call."""

    def __init__(self) -> None:
        self._own = "".join(secrets.choice(_ALPHABET) for _ in range(13))
        self._count = 0

    def __call__(self, kind: str) -> str:
        """A new one."""
        self._count += 1
        return f"{kind}_{self._own}{self._count:08d}"


def parse(message: Message) -> dict[str, Any] | None:
    """The object of a message; None if it holds none. A binary message counts, too."""
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write(event: Mapping[str, Any]) -> str:
    """An event as text. ASCII alone: names and texts of clients may hold halves of characters,
    which no UTF-8 can carry."""
    return json.dumps(event, separators=(",", ":"))


def event_id(event: Mapping[str, Any]) -> str | None:
    """The name that a client gave its event, if it may be repeated."""
    given = event.get("event_id")
    return given if isinstance(given, str) and len(given) <= LONGEST_ID else None


def audio_bytes(value: Any) -> bytes | None:
    """The bytes of a base64 text; None if it is none."""
    if not isinstance(value, str):
        return None
    try:
        return binascii.a2b_base64(value.encode("ascii"))
    except ValueError:
        return None


def audio_text(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode()


# ---- formats of audio ----------------------------------------------------------------------------

_BY_TYPE: dict[tuple[str, int], AudioFormat] = {
    ("audio/pcm", 24_000): PCM_24K,
    ("audio/pcm", 16_000): PCM_16K,
    ("audio/pcmu", 8000): MULAW,
    ("audio/pcma", 8000): ALAW,
}
_DEFAULT_RATES = {"audio/pcm": 24_000, "audio/pcmu": 8000, "audio/pcma": 8000}


def read_format(value: Any) -> AudioFormat | None:
    """The format that an object such as `{"type": "audio/pcm", "rate": 24000}` names; None if this
    server has none like it."""
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in _DEFAULT_RATES:
        return None
    rate = value.get("rate")
    rate = _DEFAULT_RATES[kind] if rate is None else rate
    if not isinstance(rate, int | float) or isinstance(rate, bool):
        return None
    return _BY_TYPE.get((kind, int(rate))) if rate == rate and abs(rate) < 1e6 else None


def write_format(audio_format: AudioFormat) -> dict[str, Any]:
    """A format as such an object."""
    kind = {"pcm": "audio/pcm", "mulaw": "audio/pcmu", "alaw": "audio/pcma"}[audio_format.coding]
    return {"type": kind, "rate": audio_format.rate}
