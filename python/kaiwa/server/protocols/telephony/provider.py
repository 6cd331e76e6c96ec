"""What differs between telephony providers: names of events and fields, forms of audio.

All of them send JSON in text messages of a websocket that they open, with audio in base64, and
none of it needs code of its own. `providers` has a table for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from kaiwa.server.protocols.formats import AudioFormat

#: Where a value stands: keys from the outside in.
Path: TypeAlias = tuple[str, ...]
#: A message that is sent. Its values may be a `Blank`, to be filled in.
Template: TypeAlias = Mapping[str, Any]


class Blank(Enum):
    """A place in a message that is sent."""

    STREAM = "stream"
    PAYLOAD = "payload"
    MARK = "mark"
    #: As the start message named them.
    ENCODING = "encoding"
    RATE = "rate"


class Encoding(Enum):
    """How samples are written."""

    MULAW = "mulaw"
    ALAW = "alaw"
    #: 16 bits, little or big endian.
    LINEAR_LE = "pcm, little endian"
    LINEAR_BE = "pcm, big endian"

    def at(self, rate: int) -> AudioFormat:
        """The form with so many samples a second, as other protocols have it; the order of bytes is
        left out."""
        if self is Encoding.MULAW:
            return AudioFormat("mulaw", rate)
        return AudioFormat("alaw" if self is Encoding.ALAW else "pcm", rate)


@dataclass(frozen=True)
class Provider:
    """One provider.

    Attributes:
        name: label of its calls, and the last part of their address.
        start_event: name of the message that describes the call, before which there is nothing but
            greetings.
        stream: the stream's id in it.
        parameters: what the customer wants to be told, in it: a mapping, or text `a=b;c=d`.
        encoding, rate, channels: of the audio, in it.
        encodings: forms of audio that it names; "" is for a start message that names none.
        rates: samples a second that are possible.
        media_event, payload, track: audio of the caller.
        caller_tracks: names of the track that is the caller's; others are not heard.
        mark_event, mark: our mark was played.
        stop_event: the call is over; None if the websocket is just closed.
        media, mark_sent, clear: messages to the provider.
        frames: frames of 80 ms in an audio message.
        secret_header: header of the websocket's request that may hold a key or token.
    """

    name: str
    stream: Path
    parameters: Path
    encoding: Path
    rate: Path
    encodings: Mapping[str, Encoding]
    media: Template
    mark_sent: Template
    clear: Template
    channels: Path = ()
    rates: tuple[int, ...] = (8000,)
    start_event: str = "start"
    media_event: str = "media"
    payload: Path = ("media", "payload")
    track: Path = ("media", "track")
    caller_tracks: tuple[str, ...] = ("inbound", "inbound_track")
    mark_event: str = "mark"
    mark: Path = ("mark", "name")
    stop_event: str | None = "stop"
    frames: int = 1
    secret_header: str | None = None


def value_at(message: object, path: Path) -> object:
    """What stands at a place of a message; None if there is nothing."""
    for key in path:
        if not isinstance(message, Mapping):
            return None
        message = message.get(key)
    return message if path else None


def filled(template: object, values: Mapping[Blank, object]) -> object:
    """A message with its blanks filled in."""
    if isinstance(template, Blank):
        return values[template]
    if isinstance(template, Mapping):
        return {key: filled(value, values) for key, value in template.items()}
    return template
