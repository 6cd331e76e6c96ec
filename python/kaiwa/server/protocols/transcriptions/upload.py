"""The channel of a call whose audio is a file in the body of a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping

from kaiwa import reasons
from kaiwa.server.channel import Channel, Disconnected, Message
from kaiwa.server.refusal import Refused
from kaiwa.words import WordEndEvent, WordEvent


class UploadChannel(Channel):
    """Between the route that takes a file and the call that transcribes it.

    The route hands over :meth:`begin`, blocks of samples with :meth:`put` and :meth:`finish`, and
    reads :meth:`events`; a refusal or a failure of the call is raised there.
    """

    def __init__(self, headers: Mapping[str, str], query: Mapping[str, str], path: str) -> None:
        self.headers, self.query, self.path = headers, query, path
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue(1)
        #: Words of one file, then its end: no more than an answer holds.
        self._outbox: asyncio.Queue[Message | Refused | None] = asyncio.Queue()
        self._accepted = asyncio.Event()
        self._open = False
        self._aborted = False
        self._over = asyncio.Event()
        self._ending: Refused | None = None
        self._said = ""

    # ---- for the route ---------------------------------------------------------------------

    async def let_in(self) -> None:
        """Waits until the caller is known and there is a chance of a slot.

        Raises:
            Refused: There is none, or the caller may not.
        """
        waits = {asyncio.ensure_future(e.wait()) for e in (self._accepted, self._over)}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._ending is not None:
            raise self._ending

    async def begin(self) -> None:
        """The file has arrived and is audio: asks for a slot."""
        await self._hand("{}")

    async def put(self, block: bytes) -> None:
        """Hands over samples, float32; waits while there is no room."""
        if block:
            await self._hand(block)

    async def finish(self) -> None:
        """That was all."""
        await self._hand(b"")

    async def _hand(self, message: Message) -> None:
        """Puts a message in, unless the call is over and nobody takes any."""
        putting = asyncio.ensure_future(self._inbox.put(message))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({putting, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
            over.cancel()

    async def events(self) -> AsyncIterator[WordEvent | WordEndEvent]:
        """What the call gives, until all audio is transcribed.

        Raises:
            Refused: There was no slot, or the call ended before all was transcribed.
        """
        while True:
            message = await self._outbox.get()
            if message is None:
                return
            if isinstance(message, Refused):
                raise message
            event = json.loads(message)
            if event["type"] == "word":
                yield WordEvent(event["text"], event["start"])
            elif event["type"] == "word_end":
                yield WordEndEvent(event["stop"])

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        self.abort()

    # ---- for the call ----------------------------------------------------------------------

    @property
    def accepted(self) -> bool:
        """Whether the caller was let in."""
        return self._accepted.is_set()

    @property
    def open(self) -> bool:
        """Whether neither side has closed it."""
        return self._open

    async def accept(self, subprotocol: str | None = None) -> None:
        """Lets the caller in."""
        self._open = True
        self._accepted.set()

    async def deny(self, refused: Refused) -> bool:
        """Keeps the refusal, which is the answer to the request."""
        self._end(refused)
        return True

    async def receive(self) -> Message:
        """Samples of the file."""
        if self._aborted:
            raise Disconnected
        message = await self._inbox.get()
        if message is None or self._aborted:
            raise Disconnected
        return message

    async def send(self, message: Message) -> None:
        """An event of the call."""
        if self._aborted:
            raise Disconnected
        if isinstance(message, str):
            event = json.loads(message)
            if event["type"] == "end":
                self._said = event["message"]
                return
            if event["type"] == "started":
                return
        self._outbox.put_nowait(message)

    async def close(self, code: int, reason: str) -> None:
        """The call is over."""
        self._close(reason)

    def close_at_once(self, messages: Iterable[Message], code: int, reason: str) -> None:
        """The same for a client that takes nothing."""
        self._close(reason)

    def _close(self, reason: str) -> None:
        self._open = False
        if reason == "finished":
            self._end(None)
            return
        known = reasons.REASONS.get(reason)
        status = 503 if known is None or known.status is None else known.status
        message = self._said or reasons.sentence_of(reason) or "the transcription failed; try again"
        retry = None if known is None or known.retry is None else int(known.retry)
        self._end(Refused(status, reason, message, retry))

    def abort(self) -> None:
        """Breaks the connection."""
        self._aborted = True
        self._open = False
        if self._inbox.full():
            self._inbox.get_nowait()
        self._inbox.put_nowait(None)
        self._end(Refused(503, "error", "nobody waits for the answer any more"))

    def _end(self, ending: Refused | None) -> None:
        """Tells the route how the call ended; the first end counts."""
        if self._over.is_set():
            return
        self._ending = ending
        self._over.set()
        self._outbox.put_nowait(ending)
