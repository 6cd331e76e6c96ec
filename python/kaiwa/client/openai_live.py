"""OpenAI's Live protocol: an answer for every frame."""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any

from kaiwa.client.messages import Audio, Event, Handshake, Metadata, Text
from kaiwa.client.openai_json import NO_PCM, OpenAiWire, frame_at
from kaiwa.client.wire import Message

_START = {
    "type": "session.start",
    "session": {"model": "gpt-live-1", "audio": {"format": {"type": "audio/pcm", "rate": 24_000}}},
}


class LiveWire(OpenAiWire):
    """One session."""

    name = "live"
    path = "/v1/live/sessions"
    append = "session.input_audio.append"

    def hello(self, key: str | None) -> Iterable[Message]:
        """The start of the session."""
        yield json.dumps(_START)

    def goodbye(self) -> Iterable[Message]:
        """Its end."""
        yield '{"type":"session.close"}'

    def event(self, values: Mapping[str, Any], at: float) -> Event | None:
        """What an event of the server means; others than these are not needed."""
        kind = values["type"]
        if kind == "session.output_audio.delta":
            return Audio(NO_PCM, binascii.a2b_base64(str(values["delta"])), at)
        if kind == "session.output_transcript.delta":
            return Text(str(values["delta"]), at, frame_at(values.get("start_ms")))
        if kind == "session.started":
            return Handshake(0, 0, at)
        if kind == "session.usage.updated":
            return Metadata({"usage": values["usage"]}, at)
        return None
