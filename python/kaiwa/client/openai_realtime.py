"""OpenAI's Realtime protocol: the model's turns, and nothing between them."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

from kaiwa.client.messages import Audio, Event, Handshake, Text
from kaiwa.client.openai_json import NO_PCM, OpenAiWire, frame_at


class RealtimeWire(OpenAiWire):
    """One session. With `extensions=1` Kaiwa's server says when on the answer's clock each part
    was said; other servers do not, and their answers are put together without pauses."""

    name = "realtime"
    path = "/v1/realtime"
    append = "input_audio_buffer.append"
    continuous = False

    def __init__(self) -> None:
        super().__init__()
        #: The response whose audio came last.
        self._response: object = None

    def query(self, given: Mapping[str, str]) -> dict[str, str]:
        """The parameters, and that times are wanted."""
        return {**given, "extensions": "1"}

    def event(self, values: Mapping[str, Any], at: float) -> Event | None:
        """What an event of the server means; others than these are not needed."""
        kind = values["type"]
        if kind == "response.output_audio.delta":
            response = values.get("response_id")
            begins, self._response = response != self._response, response
            payload = binascii.a2b_base64(str(values["delta"]))
            return Audio(NO_PCM, payload, at, frame_at(values.get("start_ms")), begins)
        if kind == "response.output_audio_transcript.delta":
            return Text(str(values["delta"]), at, frame_at(values.get("start_ms")))
        if kind == "session.created":
            return Handshake(0, 0, at)
        return None
