"""A conversation with recorded audio: its frames go out, the answer comes in on the same clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kaiwa.client.connection import ChatClient
from kaiwa.client.messages import FRAME, FRAME_SECONDS, Audio, Text
from kaiwa.client.schedule import Schedule
from kaiwa.client.timeline import Timeline
from kaiwa.errors import ServerError

Array = NDArray[np.float32]
Pace = Literal["realtime", "none"]

#: Frames of silence sent at most to fetch what the model holds back: in real time one each 80 ms
#: while answers are missing, otherwise all at once.
TRAILING = {"realtime": 25, "none": 4}
#: Seconds without any progress after which no more answers are expected, once all is sent.
ANSWER_SECONDS = {"realtime": 3.0, "none": 30.0}
#: The same before that: the server takes no input and gives nothing.
STALL = 30.0
#: Seconds that the text of the last frame may come after its audio.
LINGER = 0.1


class Conversation:
    """Sends frames and collects the answer; the `n`-th frame of the answer to come is what was
    said while the `n`-th frame of the input was heard.

    Args:
        chat: a call that has its slot.
        pace: "realtime": a frame each 80 ms; "none": as fast as the server takes them (it should
            have been told).
        on_audio: given the answer in order, never more of it than was sent so far.
        on_text: given the time of the frame in seconds and a piece of text.
        on_frame: called for each frame of the answer.

    Attributes:
        timeline: when frames went out and came in.
        schedule: how punctual the sending was; only with "realtime".
        samples: samples of the input so far.
        frames: frames of the input so far, without trailing silence.
        trailing: frames of silence sent behind the input.
        first_audio: when the first part of the answer came.
    """

    def __init__(
        self,
        chat: ChatClient,
        *,
        pace: Pace = "realtime",
        on_audio: Callable[[Array], object] = lambda pcm: None,
        on_text: Callable[[float, str], object] = lambda t, text: None,
        on_frame: Callable[[], object] = lambda: None,
        answer_seconds: float | None = None,
    ) -> None:
        self.timeline = Timeline(continuous=chat.wire.continuous)
        self.schedule: Schedule | None = None
        self.samples = self.frames = self.trailing = 0
        self.first_audio: float | None = None
        self._chat = chat
        self._pace = pace
        self._on_audio, self._on_text, self._on_frame = on_audio, on_text, on_frame
        self._answer_seconds = ANSWER_SECONDS[pace] if answer_seconds is None else answer_seconds
        self._pending: list[Array] = []
        self._given = 0
        self._all_in = False
        self._all_sent = False
        self._complete = asyncio.Event()
        self._progress = time.perf_counter()

    @property
    def missing(self) -> int:
        """Frames of the input that have no answer."""
        return self.timeline.missing_of(self.frames)

    @property
    def _open(self) -> bool:
        """Whether answers to the input may still come."""
        return len(self.timeline.answered) < self.frames

    async def run(self, pieces: Iterable[Array]) -> None:
        """Converses to the end of the input and its answers, of the call, or until none come.

        Args:
            pieces: 1920 samples each; the last may be shorter.

        Raises:
            ServerError: the call ended with an error, or the server stalled.
        """
        receiver = asyncio.create_task(self._receive())
        sender = asyncio.create_task(self._send(pieces))
        complete = asyncio.create_task(self._complete.wait())
        try:
            while not (receiver.done() or complete.done() or self._given_up()):
                waiting: set[asyncio.Task[Any]] = {receiver, complete}
                if sender.done():
                    sender.result()
                else:
                    waiting.add(sender)
                await asyncio.wait(
                    waiting, timeout=self._answer_seconds / 10, return_when=asyncio.FIRST_COMPLETED
                )
            if complete.done():
                await asyncio.wait({receiver}, timeout=LINGER)
            if receiver.done():
                receiver.result()
                await sender
        finally:
            tasks = (receiver, sender, complete)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._finish()

    def _given_up(self) -> bool:
        """Whether nothing more is worth waiting for."""
        idle = time.perf_counter() - self._progress
        if self._all_sent:
            return idle > self._answer_seconds
        if idle > STALL:
            raise ServerError(
                f"{self._chat.url} has neither taken nor given audio for {STALL:g} s; try again",
                code="stalled",
            )
        return False

    async def _send(self, pieces: Iterable[Array]) -> None:
        """The input, then silence for what the model holds back."""
        if self._pace == "realtime":
            self.schedule = Schedule(time.perf_counter())
        taken = True
        for piece in pieces:
            frame = np.zeros(FRAME, np.float32)
            frame[: len(piece)] = piece
            self.samples += len(piece)
            self.frames += 1
            # When the call is over, the rest of the input is only counted.
            taken = taken and await self._send_frame(frame)
        self._all_in = True
        self._check_complete()
        while self.trailing < TRAILING[self._pace] and self._open and not self._chat.closed:
            self.trailing += 1
            await self._send_frame(np.zeros(FRAME, np.float32))
        self._all_sent = True

    def _check_complete(self) -> None:
        """Notes that every frame of the input has its answer."""
        if self._all_in and not self._open:
            self._complete.set()

    async def _send_frame(self, frame: Array) -> bool:
        """A frame at its time; False if the call is over."""
        if self.schedule is not None:
            await asyncio.sleep(self.schedule.due - time.perf_counter())
            self.schedule.go(time.perf_counter())
        else:
            await asyncio.sleep(0)  # lets the answers in, however fast the server takes frames
        sent = await self._chat.send_pcm(frame)
        self._progress = time.perf_counter()
        self.timeline.sent.append(self._progress)
        return sent

    async def _receive(self) -> None:
        """The answer, until the call ends."""
        async for event in self._chat:
            if isinstance(event, Audio):
                self._progress = event.at
                if self.first_audio is None:
                    self.first_audio = event.at
                self._take(event)
            elif isinstance(event, Text):
                number = len(self.timeline.answered) - 1 if event.frame is None else event.frame
                if not self._all_in or number < self.frames:
                    self._on_text(max(0, number) * FRAME_SECONDS, event.text)

    def _take(self, event: Audio) -> None:
        """Counts frames and hands out what belongs to the input so far."""
        line = self.timeline
        left_out = 0 if event.frame is None else line.skip_to(event.frame, silent=event.begins)
        self._pending += [np.zeros(FRAME, np.float32)] * left_out
        for _ in range(left_out + line.receive(len(event.pcm), event.at)):
            self._on_frame()
        self._pending.append(event.pcm)
        self._hand_out()
        self._check_complete()

    def _hand_out(self) -> None:
        """Gives pending audio, at most up to the end of the input so far."""
        room = self.samples - self._given
        while self._pending and room > 0:
            piece = self._pending.pop(0)
            if len(piece) > room:
                self._pending.insert(0, piece[room:])
                piece = piece[:room]
            self._on_audio(piece)
            self._given += len(piece)
            room -= len(piece)

    def _finish(self) -> None:
        """Silence where no answer came."""
        self._hand_out()
        lack = self.samples - self._given
        while lack > 0:
            piece = np.zeros(min(lack, 100 * FRAME), np.float32)
            self._on_audio(piece)
            self._given += len(piece)
            lack -= len(piece)
