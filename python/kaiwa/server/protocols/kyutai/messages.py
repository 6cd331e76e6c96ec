"""Messages of Kyutai's protocol: a byte of type, then the payload (docs/spec/protocols.md 1.1)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa.server.protocols.base import CallInfo

HANDSHAKE, AUDIO, TEXT, CONTROL, METADATA, ERROR, PING = range(7)

#: The strings that clients of Kyutai's Rust server want to read about the build.
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


def build_info(version: str) -> dict[str, str]:
    """Facts of the build, under the names that Kyutai's clients check."""
    return {**dict.fromkeys(_BUILD_KEYS, ""), "git_describe": f"kaiwa {version}"}


def call_metadata(info: CallInfo) -> dict[str, Any]:
    """The metadata after the handshake: what Kyutai's web client wants, and Kaiwa's own keys."""
    return {
        "text_temperature": info.temp_text,
        "text_topk": info.top_k_text,
        "audio_temperature": info.temp,
        "audio_topk": info.top_k,
        "pad_mult": 0,
        "repetition_penalty": 1.0,
        "repetition_penalty_context": 32,
        "lm_model_file": info.model,
        "mimi_model_file": "mimi",
        "instance_name": "kaiwa",
        "build_info": build_info(info.version),
        "protocol": info.protocol,
        "session_id": info.session_id,
        "max_seconds": info.max_seconds,
        "resume_token": info.resume_token,
        "resume_seconds": info.resume_seconds,
        "resumed": info.resumed,
        "model": info.model,
        "synthetic": info.synthetic,
        "seed": info.seed,
    }


# ---- messages from the client --------------------------------------------------------------


def split(message: bytes) -> tuple[int, bytes]:
    """Type and payload of a message that is not empty."""
    return message[0], message[1:]


def samples(payload: bytes) -> NDArray[np.float32]:
    """16-bit little-endian PCM as float32; a byte too many is left out."""
    whole = payload[: len(payload) // 2 * 2]
    made = np.frombuffer(whole, "<i2").astype(np.float32)
    made /= 32768
    return made


def pcm(values: NDArray[np.float32]) -> bytes:
    """Float32 as 16-bit little-endian PCM, clipped."""
    return np.clip(np.rint(values * 32767), -32768, 32767).astype("<i2").tobytes()
