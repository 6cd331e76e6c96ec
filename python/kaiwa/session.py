"""One conversation in an engine: its events, and its asynchronous and its blocking face."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kaiwa import _native
from kaiwa.errors import CapacityError, ClosedError, InputError
from kaiwa.text import Tokenizer
from kaiwa.words import WordEndEvent, WordEvent, Words

#: Seconds of a frame.
FRAME_SECONDS = 0.08
#: Reasons that mean that a caller never got a slot.
REFUSALS = ("full", "overloaded", "draining")


@dataclass(frozen=True)
class StateEvent:
    """The session waits, runs, or stands still."""

    type: ClassVar[str] = "state"
    #: ``queued``, ``active`` or ``paused``.
    state: str
    #: Place in the queue (1 is next), else 0.
    position: int = 0


@dataclass(frozen=True, eq=False)
class AudioEvent:
    """80 ms of the answer."""

    type: ClassVar[str] = "audio"
    #: Seconds on the answer's clock at which the frame begins.
    t: float
    #: float32 ``[1920]`` at 24 kHz; empty with transport ``opus``.
    pcm: NDArray[np.float32]
    #: Whole Ogg pages; empty with transport ``pcm``.
    data: bytes = b""


@dataclass(frozen=True)
class TextEvent:
    """A piece of the inner monologue; it follows the audio of the same frame."""

    type: ClassVar[str] = "text"
    #: Seconds on the answer's clock.
    t: float
    #: The piece; a leading space begins a word. Empty without a tokenizer.
    text: str
    #: The token that completed it.
    token: int


@dataclass(frozen=True)
class EndEvent:
    """The last event."""

    type: ClassVar[str] = "end"
    #: A word such as ``client``, ``finished``, ``expired``; see docs/engine.md.
    reason: str
    #: A sentence, or nothing where the word says all.
    message: str = ""


@dataclass(frozen=True)
class StepEvent:
    """80 ms of the input were looked at, by a model that transcribes; the words that it then knew
    follow."""

    type: ClassVar[str] = "step"
    #: Frames of input that were looked at before this one.
    frame: int
    #: Probabilities, 0 to 1, that nobody speaks, one for each stretch of time that the model looks
    #: at (of the released one 0.5, 1, 2 and 3 s); empty if it tells of none.
    pauses: tuple[float, ...] = ()


#: What a model that transcribes gives.
TranscriptEvent = StepEvent | WordEvent | WordEndEvent
Event = StateEvent | AudioEvent | TextEvent | TranscriptEvent | EndEvent

_NO_PCM: NDArray[np.float32] = np.zeros(0, np.float32)


def by_frame(events: Iterable[TranscriptEvent]) -> list[list[TranscriptEvent]]:
    """The events of each frame together: a step, and the words that it completed."""
    frames: list[list[TranscriptEvent]] = []
    for event in events:
        if isinstance(event, StepEvent) or not frames:
            frames.append([])
        frames[-1].append(event)
    return frames


class Monologue:
    """Text of a model that hears and speaks: pieces of what it says."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._text = tokenizer.stream() if tokenizer is not None else None

    def text(self, frame: int, token: int) -> Iterable[Event]:
        """What a frame's token means."""
        text = self._text.push(token) if self._text is not None else ""
        if text or (self._text is None and token > 3):
            yield TextEvent(_t(frame), text, token)

    def pauses(self, frame: int, probabilities: list[float]) -> Iterable[Event]:
        """Nothing: such a model does not tell of pauses."""
        return ()


class Transcription:
    """Text of a model that transcribes: words of what it hears.

    Args:
        words: Puts them together.
        tells_pauses: Every token is followed by probabilities of pauses.
    """

    def __init__(self, words: Words, *, tells_pauses: bool) -> None:
        self._words = words
        self._tells_pauses = tells_pauses
        self._known: list[WordEvent | WordEndEvent] = []

    def text(self, frame: int, token: int) -> Iterable[Event]:
        """The words that a frame's token completes; they wait for its pauses."""
        known: list[WordEvent | WordEndEvent] = self._words.push(token)
        if self._tells_pauses:
            self._known = known
            return ()
        return (StepEvent(frame), *known)

    def pauses(self, frame: int, probabilities: list[float]) -> Iterable[Event]:
        """A frame is complete."""
        known, self._known = self._known, []
        return (StepEvent(frame, tuple(probabilities)), *known)


#: Makes events of the text that a model gives.
Reader = Monologue | Transcription


class _Events:
    """From the native session's events to those of this module, text put together."""

    def __init__(self, native: _native.Session, reader: Reader, seed: int) -> None:
        self._native = native
        self._reader = reader
        self._buffer: deque[Event] = deque()
        self._last: EndEvent | None = None
        self._taken = False
        self.seed = seed

    @property
    def id(self) -> int:
        """Number of the session in its engine."""
        return self._native.id

    @property
    def ended(self) -> bool:
        """Whether the session is over; events may still be waiting."""
        return self._last is not None or self._native.ended()

    @property
    def end_reason(self) -> str | None:
        """Why the session ended, once its last event was seen."""
        return self._last.reason if self._last is not None else None

    def why_ended(self) -> str | None:
        """The same for a session whose events nobody reads any more."""
        if self._last is None:
            self._take(self._native.events())
        return self.end_reason

    def info(self) -> _native.SessionInfo | None:
        """What is known about the session; ``None`` when it is over."""
        try:
            return self._native.info()
        except ClosedError:
            return None

    def finish(self) -> None:
        """Input is over: what is left is answered, then the session ends (``finished``)."""
        self._native.finish()

    def clear_input(self) -> None:
        """Throws away what was sent and has not been stepped; what is sent from now on is heard."""
        self._native.clear_input()

    def pause(self) -> None:
        """The conversation stands still; what is sent is not heard."""
        self._native.pause(True)

    def unpause(self) -> None:
        """The conversation goes on."""
        self._native.pause(False)

    @property
    def bad_messages(self) -> int:
        """Messages so far that held no audio."""
        return 0 if self.ended else self._native.bad_messages()

    def _take(self, events: list[_native._Event]) -> None:
        """Adds the native events to the buffer."""
        for event in events:
            if isinstance(event, _native.AudioEvent):
                self._buffer.append(AudioEvent(_t(event.frame), event.pcm))
            elif isinstance(event, _native.PagesEvent):
                self._buffer.append(AudioEvent(_t(event.frame), _NO_PCM, event.data))
            elif isinstance(event, _native.TextEvent):
                self._buffer.extend(self._reader.text(event.frame, event.token))
            elif isinstance(event, _native.PauseEvent):
                self._buffer.extend(self._reader.pauses(event.frame, event.probabilities))
            elif isinstance(event, _native.StateEvent):
                self._buffer.append(StateEvent(event.state, event.position))
            elif isinstance(event, _native.EndEvent):
                self._last = EndEvent(event.reason, event.message)
                self._buffer.append(self._last)

    def _pop(self) -> Event | None:
        """The next event of the buffer."""
        if not self._buffer:
            return None
        event = self._buffer.popleft()
        if isinstance(event, EndEvent):
            self._taken = True
            self._native.release()
        return event

    def _started(self) -> bool:
        """Whether the slot is there; raises if it never will be."""
        for event in self._buffer:
            if isinstance(event, StateEvent) and event.state == "active":
                return True
            if isinstance(event, EndEvent):
                raise refusal(event)
        return False


def refusal(end: EndEvent) -> CapacityError | ClosedError:
    """The exception for a session that ended before it began."""
    if end.reason in REFUSALS:
        return CapacityError(end.message, end.reason)
    return ClosedError(end.message or f"the session ended before it began ({end.reason})")


def _t(frame: int) -> float:
    """When a frame begins, in seconds."""
    return round(frame * FRAME_SECONDS, 3)


class BlockingSession(_Events):
    """A conversation for programs without an event loop. One thread may send while another reads.

    Iterating gives events and ends after the :class:`EndEvent`.
    """

    def __init__(self, native: _native.Session, reader: Reader, seed: int) -> None:
        super().__init__(native, reader, seed)
        self._lock = threading.Lock()

    def wait_active(self) -> None:
        """Waits for the slot.

        Raises:
            CapacityError: There is none.
        """
        while True:
            self._native.wait_ready(0.1)
            with self._lock:
                self._take(self._native.events())
                if self._started():
                    return

    def send(self, pcm: NDArray[np.float32] | bytes) -> None:
        """Takes samples (float32 ``[n]``, 24 kHz) or, with transport ``opus``, bytes. Waits while
        there is no room, unless the session is paced; events that come meanwhile are kept.

        Raises:
            InputError: Not of this kind, or not finite.
            ClosedError: The session is over.
        """
        _push(self._native, pcm)
        while not self._native.wait_room(0.05):
            with self._lock:
                self._take(self._native.events())
            if self.ended:
                return

    def __iter__(self) -> Iterator[Event]:
        while not self._taken:
            with self._lock:
                event = self._pop()
            if event is not None:
                yield event
                continue
            self._native.wait_ready(0.1)
            # Fetched under the lock: what two threads fetch must not change its order.
            with self._lock:
                self._take(self._native.events())

    def close(self) -> None:
        """Ends the session."""
        self._native.release()


class Dispatcher:
    """Wakes the sessions of one event loop: the engine makes a file descriptor readable, the loop
    calls back. No thread in between where the system has such descriptors."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.notifier = _native.Notifier()
        self._loop = loop
        self._sessions: dict[int, AsyncSession] = {}
        self._watching = False

    def add(self, session: AsyncSession) -> None:
        """Wakes a session from now on."""
        self._sessions[session.id] = session
        if self._watching:
            return
        self._watching = True
        descriptor = self.notifier.descriptor()
        if descriptor is not None:
            self._loop.add_reader(descriptor, self._ready)
        else:
            threading.Thread(target=self._watch, name="kaiwa-events", daemon=True).start()

    def remove(self, session: AsyncSession) -> None:
        """Wakes a session no more."""
        self._sessions.pop(session.id, None)
        if not self._sessions and self._watching:
            self._watching = False
            descriptor = self.notifier.descriptor()
            if descriptor is not None and not self._loop.is_closed():
                self._loop.remove_reader(descriptor)

    def _ready(self) -> None:
        self._wake(self.notifier.take())

    def _wake(self, numbers: list[int]) -> None:
        for number in numbers:
            session = self._sessions.get(number)
            if session is not None:
                session.wake()

    def _watch(self) -> None:
        while self._watching:
            numbers = self.notifier.wait(0.5)
            if numbers and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake, numbers)


class AsyncSession(_Events):
    """A conversation in an event loop. One task may send while another reads.

    Iterating gives events and ends after the :class:`EndEvent`.
    """

    def __init__(
        self,
        native: _native.Session,
        reader: Reader,
        seed: int,
        dispatcher: Dispatcher,
    ) -> None:
        super().__init__(native, reader, seed)
        self._news = asyncio.Event()
        #: Resumes the session after :meth:`Engine.hold`.
        self.resume_token = secrets.token_urlsafe(18)
        self._dispatcher = dispatcher
        dispatcher.add(self)

    def wake(self) -> None:
        """Something has happened."""
        self._news.set()

    async def wait_active(self) -> None:
        """Waits for the slot.

        Raises:
            CapacityError: There is none.
        """
        while not self._started():
            await self._more(len(self._buffer))

    async def send(self, pcm: NDArray[np.float32] | bytes) -> None:
        """Takes samples (float32 ``[n]``, 24 kHz) or, with transport ``opus``, bytes. Waits while
        there is no room, unless the session is paced; events that come meanwhile are kept.

        Raises:
            InputError: Not of this kind, or not finite.
            ClosedError: The session is over.
        """
        _push(self._native, pcm)
        while not self.ended and not self._native.has_room():
            self._news.clear()
            raw = self._native.events()
            self._take(raw)
            if raw:
                # For the task that reads, which may be waiting for just these.
                self._news.set()
            if not self.ended and not self._native.has_room():
                await self._news.wait()

    def push(self, pcm: NDArray[np.float32] | bytes) -> None:
        """:meth:`send` without waiting, for sessions that are paced."""
        _push(self._native, pcm)

    @property
    def has_room(self) -> bool:
        """Whether :meth:`send` would not wait."""
        return self.ended or self._native.has_room()

    async def room(self) -> None:
        """Waits until there is room, leaving events to whoever reads them."""
        while not self.has_room:
            self._news.clear()
            if not self.has_room:
                await self._news.wait()

    async def _more(self, have: int = 0) -> None:
        """Waits until the buffer has more than so many events. A task that sends fills it too."""
        while len(self._buffer) <= have:
            self._news.clear()
            self._take(self._native.events())
            if len(self._buffer) <= have:
                await self._news.wait()

    async def next(self) -> Event | None:
        """The next event; ``None`` after the last."""
        while not self._taken:
            event = self._pop()
            if event is not None:
                if isinstance(event, EndEvent):
                    self._dispatcher.remove(self)
                return event
            await self._more()
        return None

    def fetched(self) -> list[AudioEvent | TextEvent]:
        """Audio and text that came together with the last event of :meth:`next`, up to the next
        event of another kind."""
        together: list[AudioEvent | TextEvent] = []
        while self._buffer and isinstance(self._buffer[0], AudioEvent | TextEvent):
            together.append(self._buffer.popleft())  # type: ignore[arg-type]
        return together

    def fetched_transcript(self) -> list[TranscriptEvent]:
        """The same for what a model that transcribes gives."""
        together: list[TranscriptEvent] = []
        while self._buffer and isinstance(self._buffer[0], StepEvent | WordEvent | WordEndEvent):
            together.append(self._buffer.popleft())  # type: ignore[arg-type]
        return together

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self.next()) is not None:
            yield event

    def hold(self, seconds: float) -> bool:
        """Keeps the slot though the connection is lost; see :meth:`Engine.hold`."""
        if self.ended or not self._native.hold(seconds):
            return False
        self._buffer.clear()
        self._dispatcher.remove(self)
        return True

    def take_up(self, dispatcher: Dispatcher) -> bool:
        """A new connection; see :meth:`Engine.resume`."""
        if self.ended:
            return False
        self._buffer.clear()
        self._news = asyncio.Event()
        self._dispatcher = dispatcher
        dispatcher.add(self)
        if self._native.resume(dispatcher.notifier):
            return True
        dispatcher.remove(self)
        return False

    def ask_end(self, reason: str = "client", message: str = "") -> None:
        """Asks for the end; its event still comes."""
        if not self.ended:
            self._native.close(reason, message)

    def close(self) -> None:
        """Ends the session; no more events come."""
        self._taken = True
        self._native.release()
        self._dispatcher.remove(self)


def _push(native: _native.Session, pcm: NDArray[np.float32] | bytes) -> None:
    """Hands audio over, checked for its kind."""
    if isinstance(pcm, bytes | bytearray | memoryview):
        native.send_bytes(bytes(pcm))
        return
    if not isinstance(pcm, np.ndarray) or pcm.dtype != np.float32 or pcm.ndim != 1:
        kind = f"{pcm.dtype} {pcm.shape}" if isinstance(pcm, np.ndarray) else type(pcm).__name__
        raise InputError(f"audio is {kind}; pass a float32 array [samples] at 24 kHz, or bytes")
    native.send_pcm(pcm)
