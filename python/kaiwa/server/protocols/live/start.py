"""What a client asks for in `session.start`, and the session as it is told to the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kaiwa.server.protocols import openai
from kaiwa.server.protocols.formats import PCM_24K, AudioFormat

#: Messages of a history that a session may begin with.
MOST_INPUT = 128
#: The one voice of the model; whatever a client asks for, it gets this one.
VOICE = "default"

#: What has no effect here and is told back as it came, with what it may be.
_REPEATED: dict[str, tuple[type, ...]] = {
    "instructions": (str,),
    "input": (list,),
    "delegation": (dict,),
    "client": (dict,),
    "store": (bool,),
    "safety_identifier": (str,),
    "triggers": (list,),
}


class Invalid(Exception):  # noqa: N818
    """An event cannot be carried out; the client may send another.

    Attributes:
        code: a word for programs.
        message: what is wrong, and what to do.
        param: the member of the event that is wrong.
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


@dataclass
class Session:
    """A session that was asked for.

    Attributes:
        format: of the audio in both directions.
        model: that is served.
        repeated: members that are told back.
    """

    format: AudioFormat
    model: str
    repeated: dict[str, Any] = field(default_factory=dict)

    def resource(self, session_id: str, expires_at: int) -> dict[str, Any]:
        """The session in the words of the protocol."""
        return {
            "id": session_id,
            "expires_at": expires_at,
            "model": self.model,
            "status": "active",
            "audio": {
                "format": openai.write_format(self.format),
                "output": {"voice": VOICE},
            },
            **self.repeated,
        }

    def update(self, asked: Any) -> None:
        """Changes what may change while the session lasts.

        Raises:
            Invalid: A member has a wrong type.
        """
        if not isinstance(asked, dict):
            raise _wrong("session", "an object")
        changed = {name: asked[name] for name in ("delegation", "triggers") if name in asked}
        self.repeated.update(_repeated(changed))


def read(asked: Any, model: str, preset: Mapping[str, Any] | None = None) -> Session:
    """Reads the `session` of `session.start`.

    Args:
        asked: of any type.
        model: that is served.
        preset: of the caller's secret: the format of its answers is the one of a session that names
            none.

    Raises:
        Invalid: The client may ask anew.
        Refused: 404, another model is asked for.
    """
    if not isinstance(asked, dict):
        raise _wrong("session", "an object with the model")
    name = asked.get("model", model)
    if not isinstance(name, str):
        raise _wrong("session.model", f'"{model}"')
    openai.check_model(name, model)
    audio = asked.get("audio")
    if audio is not None and not isinstance(audio, dict):
        raise _wrong("session.audio", "an object with a format")
    audio_format = _preset_format(preset or {})
    if audio is not None and audio.get("format") is not None:
        found = openai.read_format(audio["format"])
        if found is None:
            raise _wrong(
                "session.audio.format",
                "audio/pcm with rate 16000 or 24000, or audio/pcmu or audio/pcma with rate 8000",
            )
        audio_format = found
    return Session(audio_format, model, _repeated(asked))


def _repeated(asked: dict[str, Any]) -> dict[str, Any]:
    """The members that are told back.

    Raises:
        Invalid: One has a wrong type.
    """
    given = {name: asked[name] for name in _REPEATED if name in asked}
    for name, value in given.items():
        if value is not None and not isinstance(value, _REPEATED[name]):
            raise _wrong(f"session.{name}", f"a value of type {_REPEATED[name][0].__name__}")
    if len(given.get("input") or ()) > MOST_INPUT:
        raise _wrong("session.input", f"at most {MOST_INPUT} messages")
    return given


def _preset_format(preset: Mapping[str, Any]) -> AudioFormat:
    """The format that a secret is for. Here one counts both ways, and the answers' is the one that
    has to be played."""
    output = preset.get("audio", {}).get("output", {})
    return openai.read_format(output.get("format")) or PCM_24K


def _wrong(param: str, wanted: str) -> Invalid:
    return Invalid("invalid_value", f"{param} cannot be used; send {wanted}", param)
