"""What a wire protocol is.

`kaiwa.server.call` leads a call from the request to its end and knows no protocol. A protocol is a
folder beside this module: a `WireProtocol`, which says where it is found, and a `CallCodec`, which
translates for one connection:

    request of the client      -> `CallRequest`           (CallCodec.open)
    messages of the client     -> inputs: `Audio`, ...    (CallCodec.decode)
    events of the session      -> messages                (CallCodec.started, CallCodec.encode)
    a refusal, an end          -> last messages and close (CallCodec.refuse, CallCodec.end)

A codec keeps what its protocol has to remember (a turn that is open, numbers of items, a
resampler's state). Its methods other than `open` do not wait: they are called once for every
message and every 80 ms frame, from one event loop, and the messages of one call of `decode` or
`encode` reach the client together, in the order in which the calls were made. A codec whose state
both of them change gives back lists: what a generator does is done when its messages are sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray

from kaiwa import reasons
from kaiwa.engine import Task
from kaiwa.server.caller import Caller
from kaiwa.server.channel import Channel, Message
from kaiwa.server.refusal import Refused
from kaiwa.server.settings import ServerSettings
from kaiwa.session import AudioEvent, StateEvent, TextEvent, TranscriptEvent

# ---- what a caller asks for ----------------------------------------------------------------------


@dataclass(frozen=True)
class CallRequest:
    """What a caller asks for, in no protocol's words. ``None`` is the server's own choice."""

    #: Temperatures of the audio codebooks and of the text; 0 takes the likeliest.
    temp: float | None = None
    temp_text: float | None = None
    #: Candidates of a draw; 0 is all.
    top_k: int | None = None
    top_k_text: int | None = None
    #: Same seed, same audio: same answer.
    seed: int | None = None
    #: Frames of input (80 ms) after which the call ends.
    max_frames: int | None = None
    #: The audio comes as it is spoken: what is too much or too late is dropped. False: from a file,
    #: as fast as it can be answered, and nothing is dropped.
    realtime: bool = True
    #: Silence is put in when no audio has come for 200 ms, so that the model goes on.
    server_clock: bool = False
    #: The conversation stands still until the codec gives `Pause(False)`: for clients whose sound
    #: can come only a while after they were let in.
    paused: bool = False
    #: How `Audio` goes in and `AudioEvent` comes out: Ogg pages, or float32 samples at 24 kHz.
    transport: Literal["opus", "pcm"] = "pcm"
    #: If the connection is lost, the slot is held for a while.
    resumable: bool = False
    #: Token of a lost call that is to be taken up again.
    resume: str | None = None


@dataclass(frozen=True)
class CallInfo:
    """What is in force for a call that has its slot."""

    session_id: str
    #: Name of the wire protocol.
    protocol: str
    #: Name of the model; and whether its weights are random.
    model: str
    synthetic: bool
    #: Version of Kaiwa.
    version: str
    temp: float
    temp_text: float
    top_k: int
    top_k_text: int
    seed: int
    #: Frames that the model remembers; None if it has no memory.
    context_frames: int | None
    #: Longest call; None is no limit.
    max_seconds: float | None
    #: With this a lost call is taken up again, within so many seconds; None: it cannot be.
    resume_token: str | None
    resume_seconds: float
    #: The call was lost before and goes on.
    resumed: bool
    #: Steps of 80 ms from a sound to the text of it, of a model that transcribes; else 0.
    delay_steps: int = 0


# ---- what a client sends -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Audio:
    """Audio of the caller, in the form of the request's `transport`: Ogg pages of any cut, or
    float32 samples `[n]` at 24 kHz."""

    data: bytes | NDArray[np.float32]


@dataclass(frozen=True)
class Reply:
    """Messages that answer the client at once."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Pause:
    """The conversation stands still, or goes on: nothing is heard and nothing said meanwhile."""

    paused: bool


@dataclass(frozen=True)
class ClearInput:
    """Audio that was sent and that the model has not heard yet is not to be heard."""


@dataclass(frozen=True)
class Finish:
    """No more audio will come: what is left is answered, then the call ends (`finished`)."""


@dataclass(frozen=True)
class HangUp:
    """The call ends now; what was not answered yet is not."""


@dataclass(frozen=True)
class Unknown:
    """A message that has no meaning here. It is counted; too many end the call (`garbage`)."""


Input: TypeAlias = Audio | Reply | Pause | ClearInput | Finish | HangUp | Unknown

# ---- what a server says at the end ---------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """Last messages, and how the connection is closed after them."""

    messages: tuple[Message, ...] = ()
    code: int = 1000
    #: At most 123 bytes; a word for programs.
    reason: str = ""


# ---- the protocol itself -------------------------------------------------------------------------


class Entry(ABC):
    """What a codec may use of the server while its call is let in.

    Attributes:
        headers: of the request, by lower-case names.
        query: parameters of the request, decoded.
        model: name of the model that is served.
        preset: with what the session is to begin, as whoever made the caller's secret has set it;
            empty without, and before `authorize`.
    """

    headers: Mapping[str, str]
    query: Mapping[str, str]
    model: str

    @property
    @abstractmethod
    def preset(self) -> Mapping[str, Any]: ...  # noqa: D102

    @abstractmethod
    async def authorize(
        self,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> None:
        """Finds out who calls, by key or token; every codec has to ask this once.

        Args:
            headers: in place of those of the request, for a protocol that carries the key
                elsewhere (a subprotocol, a first message).
            query: likewise.

        Raises:
            Refused: 401, 403, or 503 if nobody can tell.
        """

    @abstractmethod
    def check_page(self) -> None:
        """Refuses web pages of other origins, and names that are not the server's. `authorize` does
        so too; codecs that let clients in before they ask it, ask this first.

        Raises:
            Refused: 403.
        """

    @abstractmethod
    def check_room(self) -> None:
        """Refuses a caller who has no chance of a slot. Codecs that let clients in before they know
        the request ask it first, so that the refusal is still an answer to the request.

        Raises:
            Refused: 503.
        """

    @abstractmethod
    async def accept(self, subprotocol: str | None = None) -> None:
        """Lets the client in before the request is known, for protocols that say it in a message.
        Others leave it to the call, which accepts once the caller has a slot or a place in the
        queue.

        Raises:
            Disconnected: It has gone.
        """

    @abstractmethod
    async def receive(self) -> Message:
        """A message of a client that was let in.

        Raises:
            Disconnected: It has gone.
        """

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Sends one to it.

        Raises:
            Disconnected: It has gone.
        """


class CallCodec(ABC):
    """Translates for one connection.

    Attributes:
        subprotocol: of the websocket, with which the call accepts a client that the codec has not
            accepted itself; None is none. Set it in :meth:`open`, to one that the client offered.
        label: under which of the protocol's `dialects` the call is counted and listed; None is the
            protocol's name. Set it in :meth:`open`, if at all before the client is accepted.
    """

    subprotocol: str | None = None
    label: str | None = None

    @abstractmethod
    async def open(self, entry: Entry) -> CallRequest:
        """Finds out who calls (`Entry.authorize`) and for what. A codec that has to wait for
        messages here sets itself a limit.

        Raises:
            Refused: Nothing comes of it; the refusal is told by :meth:`refuse`, or as the answer
                to the request if the client was not accepted yet.
        """

    def admitted(self, request: CallRequest) -> None:  # noqa: B027
        """Told what is in force before the first message is decoded: a call that is taken up again
        keeps the form in which it began."""

    @abstractmethod
    def decode(self, message: Message) -> Iterable[Input]:
        """What a message of the client means; any number of inputs. Nothing that a client can send
        may raise here: a message without a meaning is `Unknown`."""

    @abstractmethod
    def started(self, info: CallInfo) -> Iterable[Message]:
        """The call has its slot, now or again."""

    @abstractmethod
    def encode(self, event: AudioEvent | TextEvent | StateEvent) -> Iterable[Message]:
        """What an event of the session is to the client; states also before :meth:`started`."""

    def encode_all(
        self, events: Sequence[AudioEvent | TextEvent | StateEvent]
    ) -> Iterable[Message]:
        """The same for events that came together: audio of a frame, then its text, if it has any.
        For protocols in which the order of the two is another, or which join them."""
        for event in events:
            yield from self.encode(event)

    def transcribed(self, events: Sequence[TranscriptEvent]) -> Iterable[Message]:
        """What the events of a frame are to the client of a model that transcribes."""
        return ()

    def notice(self, seconds: float) -> Iterable[Message]:
        """The server is about to stop, and ends the call in so many seconds (`drain`) if it lasts
        as long; nothing for protocols that have no word for it."""
        return ()

    def keepalive(self, *, started: bool) -> Message | None:
        """A message for a client to which nothing was sent for some seconds; None: none."""
        return None

    def end(self, reason: str, message: str) -> Ending:
        """The call is over.

        Args:
            reason: a word of `kaiwa.reasons`.
            message: a sentence for people; may be empty.
        """
        return Ending((), reasons.close_code(reason), reason)

    def refuse(self, refused: Refused) -> Ending:
        """The call is not let in, and the client, who was accepted, has to be told by messages."""
        return Ending((), reasons.close_code(refused.code, default=1008), refused.code)


@dataclass(frozen=True)
class ServerInfo:
    """What the routes of a protocol may tell about the server."""

    model: str
    version: str
    #: Of the source; empty if the build was not told.
    revision: str
    slots_total: int
    slots_used: int
    #: What the model does; None while it is loading.
    task: Task | None = None
    #: Seconds of silence that a model which transcribes wants before a recording.
    prefix_seconds: float = 0.0


class Services(ABC):
    """What the HTTP routes of a protocol may use of the server."""

    @abstractmethod
    def info(self) -> ServerInfo:
        """What there is to tell about the server."""

    @abstractmethod
    def check_page(self, headers: Mapping[str, str]) -> None:
        """Refuses web pages of other origins.

        Raises:
            Refused: 403.
        """

    @abstractmethod
    async def authorize(
        self, headers: Mapping[str, str], query: Mapping[str, str], protocol: str
    ) -> Caller:
        """Who sent a request, by key or token.

        Args:
            headers: by lower-case names.
            query: parameters, decoded.
            protocol: name of the protocol; keys may be limited to some.

        Raises:
            Refused: 401, 403, or 503 if nobody can tell.
        """

    @abstractmethod
    def issue_token(self, caller: Caller) -> str | None:
        """A token by which somebody may open one connection for a caller, soon and once; None if
        the server asks nobody for a key.

        Raises:
            Refused: 403, the caller came with a token; 401, 429.
        """

    @abstractmethod
    def check_room(self) -> None:
        """Refuses a request for a call that has no chance of a slot at present.

        Raises:
            Refused: 503.
        """

    @abstractmethod
    def issue_client_secret(
        self, caller: Caller, seconds: float, origin: str | None, session: Mapping[str, Any]
    ) -> tuple[str, int]:
        """A secret with which a browser may call for a while, as often as it likes, and when it
        expires in seconds since 1970.

        Args:
            caller: by key.
            seconds: how long it is to count.
            origin: of the page that asks; only pages of that origin can use it. None: no page asks.
            session: with what its sessions begin (`Entry.preset`): values of JSON, some hundred
                characters of them.

        Raises:
            Refused: 403, the caller came with a token or a secret; 401.
        """

    @abstractmethod
    async def run_call(self, protocol: WireProtocol, channel: Channel) -> None:
        """Leads a call over a channel that the protocol made, to its end."""


class WireProtocol(ABC):
    """One wire protocol.

    Attributes:
        name: its label in metrics, logs and lists, and in the limits of a key.
        paths: where its calls are opened as websockets.
        dialects: further labels, for calls whose codec says that they are of that dialect. To the
            limits of a key they are the protocol.
        cross_origin: what pages of allowed origins may fetch by HTTP: methods by path.
        task: what a model has to do to be called by this protocol.
        uploads: most bytes of a request's body, for paths of HTTP that take files.
    """

    name: str
    task: Task = "duplex"
    uploads: Mapping[str, int] = {}
    paths: tuple[str, ...] = ()
    dialects: tuple[str, ...] = ()
    cross_origin: Mapping[str, tuple[str, ...]] = {}

    def configure(self, settings: ServerSettings) -> WireProtocol:
        """The protocol as a server with these settings speaks it; asked for once, at the start.

        Raises:
            InputError: a file that the settings name is missing or damaged.
        """
        return self

    @abstractmethod
    def codec(self) -> CallCodec:
        """What translates for a new connection."""

    def add_routes(self, router: APIRouter, services: Services) -> None:  # noqa: B027
        """Adds what the protocol needs of HTTP besides its websockets."""
