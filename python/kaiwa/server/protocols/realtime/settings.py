"""What a client may set, and the session as it is told: what is in force, in either dialect."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from kaiwa.server.protocols import openai
from kaiwa.server.protocols.formats import ALAW, MULAW, PCM_24K, AudioFormat

#: The one voice of the model; whatever a client asks for, it gets this one.
VOICE = "default"

_BETA_FORMATS = {"pcm16": PCM_24K, "g711_ulaw": MULAW, "g711_alaw": ALAW}
_FORMATS = (PCM_24K, MULAW, ALAW)


@dataclass(frozen=True)
class TurnDetection:
    """Whether and how the client is told when the caller speaks (docs/spec/protocols.md 3.8)."""

    semantic: bool = False
    threshold: float = 0.5
    prefix_ms: int = 300
    silence_ms: int = 500
    #: The caller's speech ends a response. Otherwise it is told after the response.
    interrupts: bool = True

    def told(self) -> dict[str, Any]:
        """In the words of the protocol. The model always answers."""
        common = {"create_response": True, "interrupt_response": self.interrupts}
        if self.semantic:
            return {"type": "semantic_vad", "eagerness": "auto", **common}
        return {
            "type": "server_vad",
            "threshold": self.threshold,
            "prefix_padding_ms": self.prefix_ms,
            "silence_duration_ms": self.silence_ms,
            **common,
        }


class BadValue(Exception):  # noqa: N818
    """A member of `session.update` cannot be used.

    Attributes:
        param: which one.
        wanted: what can.
    """

    def __init__(self, param: str, wanted: str) -> None:
        super().__init__(f"{param} cannot be used; send {wanted}")
        self.param = param


@dataclass
class Settings:
    """What is in force in a session."""

    model: str
    input: AudioFormat = PCM_24K
    output: AudioFormat = PCM_24K
    #: None: the client is told nothing. Clients that say nothing about it need to know of turns,
    #: but are not to take a word of agreement for an interruption.
    detection: TurnDetection | None = field(default_factory=lambda: TurnDetection(interrupts=False))

    def update(self, asked: dict[str, Any], *, heard: bool, spoke: bool) -> None:
        """Takes over what is set, in either dialect; what has no effect here is passed over.

        Args:
            asked: the `session` of `session.update`.
            heard: audio has come, so that its format stays.
            spoke: audio was sent, likewise.

        Raises:
            BadValue: A format cannot be used. The rest is taken over.
        """
        audio = _member(asked, "audio")
        into, out = _member(audio, "input"), _member(audio, "output")
        for source in (asked, into):
            if "turn_detection" in source:
                self.detection = _detection(source["turn_detection"])
        bad: BadValue | None = None
        for name, source, flat in (("input", into, "input"), ("output", out, "output")):
            try:
                found = _format(source, asked, name, flat)
            except BadValue as error:
                bad = error
                continue
            if found is not None and not (heard if name == "input" else spoke):
                setattr(self, name, found)
        if bad is not None:
            raise bad

    def kept(self) -> dict[str, Any]:
        """As a session that `update` makes the same settings of, and in which OpenAI's other
        protocol finds its format; nothing for a session as it is by itself."""
        if self == Settings(self.model):
            return {}
        detection = None if self.detection is None else self.detection.told()
        return {
            "audio": {
                "input": {
                    "format": openai.write_format(self.input),
                    "turn_detection": detection,
                },
                "output": {"format": openai.write_format(self.output)},
            }
        }

    def told(self, session_id: str, expires_at: int) -> dict[str, Any]:
        """The whole session."""
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": session_id,
            "model": self.model,
            "expires_at": expires_at,
            "output_modalities": ["audio"],
            "instructions": "",
            "audio": {
                "input": {
                    "format": _told_format(self.input),
                    "turn_detection": None if self.detection is None else self.detection.told(),
                    "transcription": None,
                    "noise_reduction": None,
                },
                "output": {**self.told_output(), "speed": 1.0},
            },
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "tracing": None,
            "truncation": "auto",
            "prompt": None,
            "include": None,
        }

    def told_output(self) -> dict[str, Any]:
        """Format and voice of the answers."""
        return {"format": _told_format(self.output), "voice": VOICE}


def beta_format(audio_format: dict[str, Any]) -> str:
    """A format in the older dialect."""
    names = {"audio/pcm": "pcm16", "audio/pcmu": "g711_ulaw", "audio/pcma": "g711_alaw"}
    return names[audio_format["type"]]


def _told_format(audio_format: AudioFormat) -> dict[str, Any]:
    told = openai.write_format(audio_format)
    return told if audio_format.coding == "pcm" else {"type": told["type"]}


def _member(value: dict[str, Any], name: str) -> dict[str, Any]:
    """An object in another; an empty one in place of anything else."""
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _format(
    source: dict[str, Any], asked: dict[str, Any], name: str, flat: str
) -> AudioFormat | None:
    """A format that is set; None if none is.

    Raises:
        BadValue: It cannot be used.
    """
    if f"{flat}_audio_format" in asked:
        value = asked[f"{flat}_audio_format"]
        found = _BETA_FORMATS.get(value) if isinstance(value, str) else None
        if found is None and value is not None:
            raise BadValue(f"session.{flat}_audio_format", "pcm16, g711_ulaw or g711_alaw")
        return found
    value = source.get("format")
    if value is None:
        return None
    found = openai.read_format(value)
    if found not in _FORMATS:
        raise BadValue(
            f"session.audio.{name}.format",
            "audio/pcm with rate 24000, or audio/pcmu or audio/pcma with rate 8000",
        )
    return found


def _detection(value: Any) -> TurnDetection | None:
    """How turns are told; what cannot be used is left at its default."""
    if not isinstance(value, dict):
        return None
    return TurnDetection(
        semantic=value.get("type") == "semantic_vad",
        threshold=min(1.0, max(0.0, _number(value.get("threshold"), 0.5))),
        prefix_ms=int(min(5000.0, max(0.0, _number(value.get("prefix_padding_ms"), 300)))),
        silence_ms=int(min(10_000.0, max(0.0, _number(value.get("silence_duration_ms"), 500)))),
        interrupts=value.get("interrupt_response") is not False,
    )


def _number(value: Any, default: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    try:
        number = float(value)
    except OverflowError:
        return default
    return number if math.isfinite(number) else default
