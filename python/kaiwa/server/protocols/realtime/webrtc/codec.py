"""The protocol's events beside sound on a track."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa.server.channel import Message
from kaiwa.server.protocols import openai
from kaiwa.server.protocols.base import CallRequest, Entry, Input, Pause, Reply, Unknown
from kaiwa.server.protocols.formats import PCM_24K, Decoder, Encoder
from kaiwa.server.protocols.realtime.protocol import Event, RealtimeCodec
from kaiwa.server.protocols.realtime.responses import Response
from kaiwa.server.protocols.realtime.settings import BadValue, Settings
from kaiwa.server.protocols.realtime.turns import Frame, State


class WebRtcCodec(RealtimeCodec):
    """Translates for one client. Sound is a message of its own: 16 bits at 24 kHz. One without
    samples means, from the client, that it is connected, and to it, that what was sent is not to be
    heard."""

    def __init__(self) -> None:
        super().__init__()
        # The format of the track is Opus; what clients set for others is not taken over.
        self._decoder, self._encoder = Decoder(PCM_24K), Encoder(PCM_24K)

    async def open(self, entry: Entry) -> CallRequest:
        """The first message is the session of the request with the offer."""
        await entry.authorize(openai.with_key(entry.headers))
        asked = openai.parse(await entry.receive()) or {}
        self._settings = Settings(entry.model)
        openai.check_model(asked.get("model", entry.query.get("model")), entry.model)
        for wished in (dict(entry.preset), asked):
            with contextlib.suppress(BadValue):
                self._settings.update(wished, heard=True, spoke=True)
        self._callers.configure(self._settings.detection)
        return CallRequest(server_clock=True, paused=True)

    def decode(self, message: Message) -> Iterable[Input]:
        """Sound, or an event."""
        if isinstance(message, bytes):
            if not message:
                return [Pause(False)]
            samples = np.frombuffer(message, "<i2").astype(np.float32)
            samples /= 32768
            return self._listen(samples)
        muted = self._turns.state is State.MUTED
        inputs = list(super().decode(message))
        if self._turns.state is State.MUTED and not muted:
            inputs.insert(0, Reply((b"",)))
        return inputs

    def _hear(self, event: Event) -> list[Input]:
        text = "sound comes by the audio track of this call; send it there"
        error = self._error("unsupported_operation", text, event, "audio")
        return [*self._reply([error]), Unknown()]

    def _step(self, frame: Frame) -> list[Message]:
        """Sound goes out as the model gives it, without waiting for a turn to begin."""
        messages = super()._step(frame)
        if frame.pcm is None or self._turns.state is State.MUTED:
            return messages
        return [*messages, Encoder(PCM_24K).encode(frame.pcm)]

    def _audio(self, response: Response, pcm: NDArray[np.float32], start_ms: int) -> list[str]:
        return []

    def _begin_turn(self) -> list[Event]:
        events = super()._begin_turn()
        return [*events, self._buffer("started", self._response)]

    def _end_response(self, reason: str | None) -> list[Event]:
        response = self._response
        events = super()._end_response(reason)
        if response is not None and response.item_id is not None:
            events.append(self._buffer("stopped", response))
        return events

    def _buffer(self, what: str, response: Response | None) -> dict[str, Any]:
        """What the protocol tells about sound that is on its way, by WebRTC alone."""
        return {
            "type": f"output_audio_buffer.{what}",
            "response_id": self._last_response if response is None else response.id,
        }
