"""What OpenAI's two protocols have in common for a client: JSON in text messages, 16-bit PCM at
24 kHz in base64."""

from __future__ import annotations

import base64
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kaiwa.client.messages import FRAME_SECONDS, Error, Event
from kaiwa.client.transport import PcmTransport
from kaiwa.client.wire import Answer, Message, Wire

NO_PCM = np.zeros(0, np.float32)


class OpenAiWire(Wire):
    """One session of either protocol.

    Attributes:
        append: type of the event that carries the caller's audio.
    """

    append: ClassVar[str]

    def __init__(self) -> None:
        self._audio = PcmTransport()

    def audio(self, pcm: NDArray[np.float32]) -> list[Message]:
        """One message."""
        text = base64.b64encode(self._audio.encode(pcm)).decode("ascii")
        return [f'{{"type":"{self.append}","audio":"{text}"}}']

    def read(self, message: Message, at: float) -> list[Event | Answer]:
        """One event."""
        try:
            values = json.loads(message)
            event = error_of(values, at) or self.event(values, at)
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            return []
        return [] if event is None else [event]

    @abstractmethod
    def event(self, values: Mapping[str, Any], at: float) -> Event | None:
        """What an event of the server means; None if it is not needed."""

    def decode(self, payload: bytes) -> NDArray[np.float32]:
        """The samples of a message."""
        return self._audio.decode(payload)

    def counter(self) -> Callable[[bytes], int]:
        """A sample for every two bytes."""
        return lambda payload: len(payload) // 2


def error_of(values: Mapping[str, Any], at: float) -> Error | None:
    """The error that an event tells of."""
    if values["type"] != "error":
        return None
    error = values["error"]
    return Error(str(error["message"] if isinstance(error, dict) else error), at)


def frame_at(milliseconds: Any) -> int | None:
    """Number of the frame that begins then; None if it was not said when."""
    return None if milliseconds is None else round(milliseconds / (1000 * FRAME_SECONDS))
