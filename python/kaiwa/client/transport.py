"""Samples to the payload of audio messages and back, in the two formats of `/api/chat`."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from kaiwa.client import opus

Format = Literal["opus", "pcm"]


class Transport(Protocol):
    """Both directions of one conversation."""

    def encode(self, pcm: NDArray[np.float32]) -> bytes:
        """The payload for samples; empty if more are needed first."""

    def decode(self, payload: bytes) -> NDArray[np.float32]:
        """The samples of a payload."""


class PcmTransport:
    """16-bit little-endian PCM; a sample that is cut in two waits for its other half."""

    def __init__(self) -> None:
        self._rest = b""

    def encode(self, pcm: NDArray[np.float32]) -> bytes:
        """Rounds and clips."""
        data: bytes = np.rint(np.clip(pcm, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
        return data

    def decode(self, payload: bytes) -> NDArray[np.float32]:
        """Whole samples."""
        data = self._rest + payload
        whole = len(data) & ~1
        self._rest = data[whole:]
        pcm: NDArray[np.float32] = np.frombuffer(data[:whole], "<i2") * np.float32(1 / 32768)
        return pcm


class OpusTransport:
    """Ogg/Opus. After bytes that are no such stream, a new stream is looked for.

    Attributes:
        damaged: payloads that could not be decoded.
    """

    def __init__(self) -> None:
        self._writer = opus.writer()
        self._reader = opus.reader()
        self.damaged = 0

    def encode(self, pcm: NDArray[np.float32]) -> bytes:
        """Pages that are complete; the headers come with the first."""
        return self._writer.write(pcm)

    def decode(self, payload: bytes) -> NDArray[np.float32]:
        """The samples of the packets that are complete."""
        try:
            return self._reader.read(payload)
        except (ValueError, RuntimeError):
            self.damaged += 1
            self._reader = opus.reader()
            return np.zeros(0, np.float32)


def transport(audio_format: Format) -> Transport:
    """A new transport.

    Raises:
        InputError: there is no such format.
    """
    if audio_format == "pcm":
        return PcmTransport()
    if audio_format == "opus":
        return OpusTransport()
    from kaiwa.errors import InputError

    raise InputError(f"format is {audio_format!r}; choose 'opus' or 'pcm'")
