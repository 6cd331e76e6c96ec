"""Kyutai's protocol at `/api/chat`, with Kaiwa's additions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from kaiwa.client import messages
from kaiwa.client.messages import Event
from kaiwa.client.ogg_count import OggCounter
from kaiwa.client.transport import Format, transport
from kaiwa.client.url import PATH
from kaiwa.client.wire import Answer, Message, Wire


class KyutaiWire(Wire):
    """Binary messages, audio as Ogg/Opus or 16-bit PCM."""

    name = "kyutai"
    path = PATH
    sampling = True
    realtime = False

    def __init__(self, audio_format: Format = "opus") -> None:
        """The protocol with audio in a form.

        Raises:
            InputError: there is no such form.
        """
        self._format = audio_format
        self._audio = transport(audio_format)

    def query(self, given: Mapping[str, str]) -> dict[str, str]:
        """The parameters, and that this is a client of Kaiwa's."""
        form = {"format": "pcm"} if self._format == "pcm" else {}
        return {**given, "client": "kaiwa", **form}

    def audio(self, pcm: NDArray[np.float32]) -> list[Message]:
        """One message; none while the pages are not complete."""
        payload = self._audio.encode(pcm)
        return [bytes([messages.AUDIO]) + payload] if payload else []

    def read(self, message: Message, at: float) -> list[Event | Answer]:
        """One event."""
        event = messages.parse(message, at)
        return [] if event is None else [event]

    def decode(self, payload: bytes) -> NDArray[np.float32]:
        """The samples of pages or of PCM."""
        return self._audio.decode(payload)

    def counter(self) -> Callable[[bytes], int]:
        """By the pages' headers, or by bytes."""
        return OggCounter().feed if self._format == "opus" else lambda payload: len(payload) // 2

    def ping(self, stamp: bytes) -> Message | None:
        """A message of type 6, which Kaiwa's server sends back."""
        return bytes([messages.PING]) + stamp
