"""Kyutai's duplex protocol, `/api/chat` (spec protocols 1; docs/server.md)."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa.server.refusal import Refused

HANDSHAKE, AUDIO, TEXT, CONTROL, METADATA, ERROR, PING = range(7)

#: What clients of Kyutai's Rust server ask for the build; ours are filled in where they mean
#: something.
_BUILD_KEYS = (
    "build_timestamp",
    "build_date",
    "git_branch",
    "git_timestamp",
    "git_date",
    "git_hash",
    "git_describe",
    "rustc_host_triple",
    "rustc_version",
    "cargo_target_triple",
)

#: What other clients of this protocol send and no model here has: checked like the rest, without
#: effect. The metadata says what is in force.
_NUMBERS_WITHOUT_EFFECT = ("pad_mult", "repetition_penalty")
_WHOLE_WITHOUT_EFFECT = ("repetition_penalty_context", "image_resolution")
#: Forms of numbers; Python itself would take `1_000` and digits of other scripts too.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.I | re.A)
_WHOLE = re.compile(r"[+-]?\d{1,40}", re.A)


@dataclass(frozen=True)
class ChatQuery:
    """What a caller asks for in the address."""

    temp: float | None = None
    temp_text: float | None = None
    top_k: int | None = None
    top_k_text: int | None = None
    seed: int | None = None
    max_frames: int | None = None
    server_clock: bool = False
    paced: bool = True
    pcm: bool = False
    #: The client is ours: states and echoed pings.
    ours: bool = False
    resumable: bool = False
    resume: str | None = None


def parse_query(query: Mapping[str, str]) -> ChatQuery:
    """Reads the address: unknown parameters are ignored, numbers brought into their range.

    Raises:
        Refused: 400, a value is none of its kind.
    """
    seeds = [_whole(query, name, 0, 2**64 - 1) for name in ("seed", "audio_seed", "text_seed")]
    for name in _NUMBERS_WITHOUT_EFFECT:
        _number(query, name, -math.inf, math.inf)
    for name in _WHOLE_WITHOUT_EFFECT:
        _whole(query, name, 0, 0)
    return ChatQuery(
        temp=_number(query, "audio_temperature", 0.0, 10.0),
        temp_text=_number(query, "text_temperature", 0.0, 10.0),
        top_k=_whole(query, "audio_topk", 0, 1 << 20),
        top_k_text=_whole(query, "text_topk", 0, 1 << 20),
        seed=next((seed for seed in seeds if seed is not None), None),
        max_frames=_whole(query, "max_steps", 1, 1 << 40),
        server_clock=_choice(query, "clock", ("input", "server")) == "server",
        paced=_choice(query, "pace", ("realtime", "none")) == "realtime",
        pcm=_choice(query, "format", ("opus", "pcm")) == "pcm",
        ours=query.get("client") == "kaiwa",
        resumable=query.get("resumable") == "1",
        resume=query.get("resume") or None,
    )


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


# ---- messages to the client ----------------------------------------------------------------


def handshake() -> bytes:
    """Slot acquired, model warm: protocol version 0, model version 0."""
    return struct.pack("<BII", HANDSHAKE, 0, 0)


def audio(payload: bytes) -> bytes:
    """Audio in the form that was agreed on."""
    return b"\x01" + payload


def text(piece: str) -> bytes:
    """A piece of text, always valid UTF-8."""
    return b"\x02" + piece.encode("utf-8", "replace")


def metadata(values: Mapping[str, Any]) -> bytes:
    """Facts as JSON."""
    return b"\x04" + json.dumps(values, ensure_ascii=False).encode("utf-8")


def error(message: str) -> bytes:
    """Why the connection is about to be closed."""
    return b"\x05" + message.encode("utf-8", "replace")


def ping(payload: bytes = b"") -> bytes:
    """Keepalive, or the echo of one."""
    return b"\x06" + payload


def about_session(
    *, model: str, sampling: Mapping[str, float], version: str, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """The metadata that follows the handshake: what Kyutai's web client wants, and our own."""
    build = dict.fromkeys(_BUILD_KEYS, "")
    build["git_describe"] = f"kaiwa {version}"
    return {
        "text_temperature": sampling["temp_text"],
        "text_topk": int(sampling["top_k_text"]),
        "audio_temperature": sampling["temp"],
        "audio_topk": int(sampling["top_k"]),
        "pad_mult": 0,
        "repetition_penalty": 1.0,
        "repetition_penalty_context": 32,
        "lm_model_file": model,
        "mimi_model_file": "mimi",
        "instance_name": "kaiwa",
        "build_info": build,
        **extra,
    }


# ---- messages from the client --------------------------------------------------------------


@dataclass(frozen=True)
class Incoming:
    """A message of the client: its type (``None``: none that is known) and payload."""

    kind: int | None
    payload: bytes


def parse(message: bytes | None) -> Incoming:
    """A binary message; text frames (``None``) and empty ones have no meaning."""
    if not message:
        return Incoming(None, b"")
    kind = message[0]
    return Incoming(kind if kind <= PING else None, message[1:])


def samples(payload: bytes) -> NDArray[np.float32]:
    """16-bit little-endian PCM as float32; a byte too many is left out."""
    whole = payload[: len(payload) // 2 * 2]
    made = np.frombuffer(whole, "<i2").astype(np.float32)
    made /= 32768
    return made


def pcm(values: NDArray[np.float32]) -> bytes:
    """Float32 as 16-bit little-endian PCM, clipped."""
    return np.clip(np.rint(values * 32767), -32768, 32767).astype("<i2").tobytes()
