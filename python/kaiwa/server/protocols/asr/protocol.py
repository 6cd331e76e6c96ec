"""The protocol as the life of a call sees it: audio in, words and pauses out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kaiwa import OggOpusReader, reasons
from kaiwa.server.channel import Message
from kaiwa.server.protocols import openai
from kaiwa.server.protocols.asr import messages
from kaiwa.server.protocols.base import (
    Audio,
    CallCodec,
    CallInfo,
    CallRequest,
    Ending,
    Entry,
    Input,
    Reply,
    Unknown,
    WireProtocol,
)
from kaiwa.server.refusal import Refused
from kaiwa.session import AudioEvent, StateEvent, StepEvent, TextEvent, TranscriptEvent
from kaiwa.words import WordEvent

PATH = "/api/asr-streaming"
FRAME_SIZE = 1920
#: Markers that may wait.
MOST_MARKERS = 1024

_UNKNOWN = (Unknown(),)


class AsrProtocol(WireProtocol):
    """Kyutai's streaming speech to text."""

    name = "asr"
    paths = (PATH,)
    task = "transcription"

    def codec(self) -> CallCodec:
        """What translates for a new connection."""
        return AsrCodec()


class AsrCodec(CallCodec):
    """Translates for one connection. Audio is never dropped: a client that sends faster than it is
    transcribed is made to wait."""

    def __init__(self) -> None:
        self._ogg = OggOpusReader()
        #: Samples that came, and frames that were looked at.
        self._samples = 0
        self._frames = 0
        self._delay = 0
        #: Frames of audio before a marker, and the marker's number.
        self._markers: deque[tuple[int, int]] = deque()

    async def open(self, entry: Entry) -> CallRequest:
        """Everything is said in the address. A client of this protocol reads of a full server in a
        message, so it is let in first."""
        query = dict(entry.query)
        if "auth_id" in query:
            # What browsers send in place of the header; here it is a token for one connection.
            query.setdefault("token", query.pop("auth_id"))
        await entry.authorize(openai.with_key(entry.headers), query)
        await entry.accept()
        entry.check_room()
        return CallRequest(realtime=False)

    def decode(self, message: Message) -> Iterable[Input]:
        """What a message means; text has no meaning, as in Kyutai's server."""
        if isinstance(message, str):
            return ()
        given = messages.unpack(message)
        if given is None:
            return _UNKNOWN
        kind = given["type"]
        if kind == "Audio":
            pcm = messages.samples(given.get("pcm"))
            if pcm is None:
                return _UNKNOWN
        elif kind == "OggOpus":
            data = messages.octets(given.get("data"))
            if data is None:
                return _UNKNOWN
            pcm = self._ogg.read(data)
        elif kind == "Marker":
            return self._mark(given)
        else:
            # An internal message of Kyutai's server that its clients could send.
            return () if kind == "Init" else _UNKNOWN
        self._samples += len(pcm)
        return (Audio(pcm),) if len(pcm) else ()

    def _mark(self, given: Mapping[str, Any]) -> Iterable[Input]:
        """The client wants to know when all audio so far was transcribed."""
        number = given.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            return _UNKNOWN
        if len(self._markers) >= MOST_MARKERS:
            return _UNKNOWN
        self._markers.append((-(-self._samples // FRAME_SIZE), number))
        due = self._due_markers()
        return (Reply(tuple(due)),) if due else ()

    def _due_markers(self) -> list[bytes]:
        """Markers whose audio was transcribed: the text of a frame comes with a delay."""
        due = []
        while self._markers and self._markers[0][0] + self._delay <= self._frames:
            due.append(messages.pack("Marker", id=self._markers.popleft()[1]))
        return due

    def started(self, info: CallInfo) -> Iterable[Message]:
        """The first message."""
        self._delay = info.delay_steps
        return (messages.pack("Ready"),)

    def encode(self, event: AudioEvent | TextEvent | StateEvent) -> Iterable[Message]:
        """Nothing: the protocol has no word for what these tell."""
        return ()

    def transcribed(self, events: Sequence[TranscriptEvent]) -> Iterable[Message]:
        """Pauses of each frame, then its words, then the markers that are due."""
        told: list[Message] = []
        for event in events:
            if isinstance(event, StepEvent):
                told.extend(self._due_markers())
                self._frames = event.frame + 1
                if event.pauses:
                    waiting = max(0, self._samples - self._frames * FRAME_SIZE)
                    told.append(
                        messages.pack(
                            "Step",
                            step_idx=self._frames,
                            prs=list(event.pauses),
                            buffered_pcm=waiting,
                        )
                    )
            elif isinstance(event, WordEvent):
                told.append(messages.pack("Word", text=event.text, start_time=event.start))
            else:
                told.append(messages.pack("EndWord", stop_time=event.stop))
        told.extend(self._due_markers())
        return told

    def end(self, reason: str, message: str) -> Ending:
        """The sentence as an error, unless the client ended the call itself."""
        said = message or reasons.sentence_of(reason)
        told = () if reasons.is_silent(reason) else (messages.pack("Error", message=said),)
        return replace(super().end(reason, message), messages=told)

    def refuse(self, refused: Refused) -> Ending:
        """The sentence as an error."""
        told = (messages.pack("Error", message=refused.message),)
        return replace(super().refuse(refused), messages=told)
