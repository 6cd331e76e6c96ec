"""What a caller of `/api/chat` asks for in the address (docs/spec/protocols.md 1.6)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kaiwa.server.protocols.base import CallRequest
from kaiwa.server.refusal import Refused

# Parameters that other clients of this protocol send and that no model here has. They are checked
# like the rest and have no effect; the metadata after the handshake says what is in force.
_NUMBERS_WITHOUT_EFFECT = ("pad_mult", "repetition_penalty")
_WHOLE_WITHOUT_EFFECT = ("repetition_penalty_context", "image_resolution")
# Python's own conversions would also take `1_000` and digits of other scripts.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.I | re.A)
_WHOLE = re.compile(r"[+-]?\d{1,40}", re.A)


@dataclass(frozen=True)
class ChatQuery:
    """An address, read."""

    request: CallRequest
    #: The client is one of Kaiwa's: it is told states of the call, and its pings are sent back.
    is_kaiwa_client: bool


def parse_query(query: Mapping[str, str]) -> ChatQuery:
    """Reads the address. Unknown parameters are ignored, and numbers brought into their range.

    Raises:
        Refused: 400; a value is not a number, or not one of the choices.
    """
    seeds = [_whole(query, name, 0, 2**64 - 1) for name in ("seed", "audio_seed", "text_seed")]
    for name in _NUMBERS_WITHOUT_EFFECT:
        _number(query, name, -math.inf, math.inf)
    for name in _WHOLE_WITHOUT_EFFECT:
        _whole(query, name, 0, 0)
    request = CallRequest(
        temp=_number(query, "audio_temperature", 0.0, 10.0),
        temp_text=_number(query, "text_temperature", 0.0, 10.0),
        top_k=_whole(query, "audio_topk", 0, 1 << 20),
        top_k_text=_whole(query, "text_topk", 0, 1 << 20),
        seed=next((seed for seed in seeds if seed is not None), None),
        max_frames=_whole(query, "max_steps", 1, 1 << 40),
        server_clock=_choice(query, "clock", ("input", "server")) == "server",
        realtime=_choice(query, "pace", ("realtime", "none")) == "realtime",
        transport="pcm" if _choice(query, "format", ("opus", "pcm")) == "pcm" else "opus",
        resumable=query.get("resumable") == "1",
        resume=query.get("resume") or None,
    )
    return ChatQuery(request, is_kaiwa_client=query.get("client") == "kaiwa")


def _bad(name: str, value: str, wanted: str) -> Refused:
    shown = value[:40].encode("ascii", "backslashreplace").decode()
    return Refused(400, "bad_parameter", f"{name} is '{shown}'; use {wanted}, or leave it out")


def _number(query: Mapping[str, str], name: str, low: float, high: float) -> float | None:
    text = query.get(name)
    if text is None or text == "":
        return None
    if not _NUMBER.fullmatch(text):
        raise _bad(name, text, "a number")
    value = float(text)
    return min(max(value, low), high)


def _whole(query: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    text = query.get(name)
    if text is None or text == "":
        return None
    if not _WHOLE.fullmatch(text):
        raise _bad(name, text, "a whole number")
    value = int(text)
    return min(max(value, low), high)


def _choice(query: Mapping[str, str], name: str, choices: tuple[str, str]) -> str:
    text = query.get(name) or choices[0]
    if text not in choices:
        raise _bad(name, text, " or ".join(choices))
    return text
