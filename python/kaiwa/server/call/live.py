"""The calls of a server that have a connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from kaiwa.server.caller import Caller
from kaiwa.session import AsyncSession


class LiveCall(ABC):
    """What others may ask of a call that has a connection.

    Attributes:
        protocol: name of its wire protocol.
        caller: who calls, once that is known.
        session: its session here; None before there is one, and for a call that another server
            holds.
    """

    protocol: str
    caller: Caller | None
    session: AsyncSession | None

    @property
    @abstractmethod
    def active(self) -> bool:
        """Whether it has a slot here."""

    @property
    @abstractmethod
    def forwarded(self) -> bool:
        """Whether another server holds it and its messages pass through this one."""

    @abstractmethod
    def watch(self, now: float) -> None:
        """Called a few times a second, with the server's clock."""

    @abstractmethod
    def notify_drain(self, seconds: float) -> None:
        """Tells the client that the server stops, and will end the call in so many seconds."""

    @abstractmethod
    def drain(self) -> None:
        """Asks for its end, since the server stops."""

    @abstractmethod
    def drop(self) -> None:
        """Breaks its connection as if the network had done it."""

    @abstractmethod
    def listing(self) -> dict[str, Any]:
        """Its row in the list of sessions; empty if there is nothing to show."""


class LiveCalls:
    """All of them. Not for several threads at once."""

    def __init__(self) -> None:
        # In the order in which they came, which is the order in which they are looked after.
        self._calls: dict[LiveCall, None] = {}

    def add(self, call: LiveCall) -> None:
        """A call has a connection."""
        self._calls[call] = None

    def remove(self, call: LiveCall) -> None:
        """Its connection is over."""
        self._calls.pop(call, None)

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[LiveCall]:
        return iter(list(self._calls))
