"""What carries the messages of one call: a websocket, or whatever a protocol brings with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from kaiwa.server.refusal import Refused

#: A message: binary, or text. A transport that carries audio beside its messages (WebRTC) hands the
#: audio over as binary and the messages as text.
Message: TypeAlias = bytes | str


class Disconnected(Exception):  # noqa: N818
    """The client has gone.

    Attributes:
        code: close code of its websocket; 1006 if the connection broke.
        flooded: it was cut off, for it sent far more messages than a conversation needs.
    """

    def __init__(self, code: int = 1006, *, flooded: bool = False) -> None:
        super().__init__(f"the client has gone ({code})")
        self.code = code
        self.flooded = flooded


class Channel(ABC):
    """The two-way connection of one call.

    Attributes:
        headers: of the request that opened it, by lower-case names.
        query: parameters of that request, decoded.
        path: of that request.
    """

    headers: Mapping[str, str]
    query: Mapping[str, str]
    path: str

    @property
    @abstractmethod
    def accepted(self) -> bool:
        """Whether :meth:`accept` was called."""

    @property
    @abstractmethod
    def open(self) -> bool:
        """Whether it was accepted and neither side has closed it."""

    @abstractmethod
    async def accept(self, subprotocol: str | None = None) -> None:
        """Lets the client in.

        Raises:
            Disconnected: It has gone.
        """

    @abstractmethod
    async def deny(self, refused: Refused) -> bool:
        """Answers the request with a refusal, in place of :meth:`accept`. False, and nothing was
        done, if this client could not read such an answer: it has to be accepted, told, and closed.
        """

    @abstractmethod
    async def receive(self) -> Message:
        """The next message of the client.

        Raises:
            Disconnected: It has gone.
        """

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Hands a message over; waits while the client takes nothing.

        Raises:
            Disconnected: It has gone.
        """

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Closes, behind what was sent.

        Raises:
            Disconnected: The client has gone already.
        """

    @abstractmethod
    def close_at_once(self, messages: Iterable[Message], code: int, reason: str) -> None:
        """Puts last messages and the close behind what waits for a client that takes nothing, and
        cuts the connection off if they are not taken soon."""

    @abstractmethod
    def abort(self) -> None:
        """Breaks the connection as if the network had done it."""

    def cut_flood(self) -> None:
        """Cuts off a client that sends far more than a conversation needs, saying so if the
        channel can: `receive` raises with `flooded`, or it breaks."""
        self.abort()

    def seconds_behind(self) -> float:
        """How long ago the client should have confirmed what was sent before; 0 if it has."""
        return 0.0
