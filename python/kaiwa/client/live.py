"""A call with a person: samples from a microphone's thread to the server, answers to a player."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kaiwa.client.connection import ChatClient
from kaiwa.client.messages import FRAME, Audio, Text

Array = NDArray[np.float32]

#: Frames that may wait to be sent; beyond, the oldest is dropped.
WAITING = 4
#: Level of silence in dB below full scale.
FLOOR = -60.0


def level(pcm: Array) -> float:
    """Level in dB below full scale, at least FLOOR."""
    power = float(np.dot(pcm, pcm)) / len(pcm) if len(pcm) else 0.0
    return max(FLOOR, 10 * math.log10(power)) if power > 0 else FLOOR


class LiveCall:
    """Both directions of a call, in the event loop in which it is made.

    Args:
        chat: a call that has its slot.
        play: given the answer's samples.
        on_text: given pieces of text.

    Attributes:
        muted: silence is sent in place of the microphone.
        dropped: frames of the microphone that were not sent, because the network was too slow.
        heard, said: levels of the last frame of the microphone and of the answer.
    """

    def __init__(
        self,
        chat: ChatClient,
        *,
        play: Callable[[Array], object],
        on_text: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.muted = False
        self.dropped = 0
        self.heard = self.said = FLOOR
        self._chat = chat
        self._play, self._on_text = play, on_text
        self._loop = asyncio.get_running_loop()
        self._rest = np.zeros(0, np.float32)
        self._waiting: deque[Array] = deque()
        self._more = asyncio.Event()

    def microphone(self, pcm: Array) -> None:
        """Takes finite samples at 24 kHz, in any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, pcm)

    def _take(self, pcm: Array) -> None:
        """Cuts what came into frames; of too many the oldest are dropped."""
        self._rest = np.concatenate([self._rest, pcm])
        while len(self._rest) >= FRAME:
            self._waiting.append(self._rest[:FRAME])
            self._rest = self._rest[FRAME:]
        while len(self._waiting) > WAITING:
            self._waiting.popleft()
            self.dropped += 1
        if self._waiting:
            self._more.set()

    async def run(self) -> None:
        """Converses until the call ends.

        Raises:
            ServerError: it ended with an error.
        """
        sender = asyncio.create_task(self._send())
        try:
            async for event in self._chat:
                if isinstance(event, Audio) and len(event.pcm):
                    self.said = level(event.pcm)
                    self._play(event.pcm)
                elif isinstance(event, Text):
                    self._on_text(event.text)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self) -> None:
        """Frames as they come."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                frame = self._waiting.popleft()
                self.heard = FLOOR if self.muted else level(frame)
                if not await self._chat.send_pcm(np.zeros_like(frame) if self.muted else frame):
                    return
