"""The server's audio of a call as a track of WebRTC, and the caller's as samples."""

from __future__ import annotations

import asyncio
import fractions
from collections.abc import Iterator

import numpy as np
from aiortc import MediaStreamTrack
from av import AudioFrame, AudioResampler

RATE = 24_000
#: Bytes of 20 ms in 16 bits.
_PIECE = RATE // 50 * 2
#: Audio that may wait to be sent, in pieces of 20 ms: beyond the first number pauses are cut short,
#: beyond the second the oldest goes.
_SOON, _MOST = 8, 50
#: Quieter than -50 dBFS is a pause.
_PAUSE = 32768 * 10 ** (-50 / 20)
#: Longest gap between packets that is filled with silence, in samples at 48 kHz: longer ones are
#: no losses.
_LONGEST_GAP = 24_000


class OutgoingTrack(MediaStreamTrack):
    """What the caller hears: pieces of 20 ms at the pace of time, silence where there is nothing.

    The model's frames come every 80 ms, some of them late. The first one that is late makes a gap;
    from then on there is that much in hand.
    """

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._unsent = bytearray()
        self._sent = 0
        self._began: float | None = None

    def push(self, pcm: bytes) -> None:
        """Adds samples, 16 bits at 24 kHz."""
        self._unsent += pcm
        if len(self._unsent) > _MOST * _PIECE:
            del self._unsent[: len(self._unsent) - _MOST * _PIECE]

    def clear(self) -> None:
        """What waits is not sent."""
        self._unsent.clear()

    async def recv(self) -> AudioFrame:
        """The next piece, when it is due."""
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = loop.time()
        due = self._began + self._sent * 0.02
        await asyncio.sleep(max(0.0, due - loop.time()))
        frame = AudioFrame.from_ndarray(self._next(), format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.pts = self._sent * (RATE // 50)
        frame.time_base = fractions.Fraction(1, RATE)
        self._sent += 1
        return frame

    def _next(self) -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
        """The next piece, `[1, 480]`."""
        piece = self._take()
        while len(self._unsent) > _SOON * _PIECE and np.abs(piece).max() < _PAUSE:
            piece = self._take()
        return piece

    def _take(self) -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
        data = bytes(self._unsent[:_PIECE]).ljust(_PIECE, b"\0")
        del self._unsent[:_PIECE]
        return np.frombuffer(data, np.int16).reshape(1, -1)


class Incoming:
    """Makes samples of a caller's frames, with silence in place of those that were lost."""

    def __init__(self) -> None:
        self._resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
        self._next_pts: int | None = None

    def pcm(self, frame: AudioFrame) -> bytes:
        """The samples of a frame, 16 bits at 24 kHz, mono."""
        gap = 0
        if frame.pts is not None:
            gap = 0 if self._next_pts is None else frame.pts - self._next_pts
            self._next_pts = frame.pts + frame.samples
        lost = gap // 2 if 0 < gap <= _LONGEST_GAP else 0
        return bytes(2 * lost) + b"".join(self._converted(frame))

    def _converted(self, frame: AudioFrame) -> Iterator[bytes]:
        # Its own time would have the converter make up for gaps, too.
        frame.pts = None
        for made in self._resampler.resample(frame):
            yield made.to_ndarray().tobytes()
