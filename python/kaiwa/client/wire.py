"""What a wire protocol is to a client: where it connects to, what it sends, and what messages mean.

A `Wire` is made for one connection and remembers what its protocol has to: filters, a stream of
Opus. `wires` lists them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kaiwa.client.messages import Event

Message: TypeAlias = bytes | str


@dataclass(frozen=True)
class Answer:
    """Messages that have to be sent back at once."""

    messages: tuple[Message, ...]


class Wire(ABC):
    """One wire protocol, as a client speaks it.

    Attributes:
        name: as the server's metrics call it.
        path: where its calls are opened.
        announces: the server says when the call has its slot; else audio is sent at once.
        sampling: parameters of a call can be sent with it.
        realtime: audio can only be sent at the pace of time.
        continuous: the server sends an answer for every frame, silence included; else only what
            the model says.
    """

    name: ClassVar[str]
    path: ClassVar[str]
    announces: ClassVar[bool] = True
    sampling: ClassVar[bool] = False
    realtime: ClassVar[bool] = True
    continuous: ClassVar[bool] = True

    def query(self, given: Mapping[str, str]) -> dict[str, str]:
        """The parameters of the address."""
        return dict(given)

    def headers(self, key: str | None) -> dict[str, str]:
        """Headers of the request."""
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def hello(self, key: str | None) -> Iterable[Message]:
        """What is sent first."""
        return ()

    def goodbye(self) -> Iterable[Message]:
        """What is sent before the connection is closed."""
        return ()

    @abstractmethod
    def audio(self, pcm: NDArray[np.float32]) -> list[Message]:
        """The messages for samples `[n]` at 24 kHz; none if more are needed first."""

    @abstractmethod
    def read(self, message: Message, at: float) -> list[Event | Answer]:
        """What a message means; nothing if it has no meaning. Audio is not decoded.

        Args:
            message: of the server.
            at: `time.perf_counter()` at its arrival.
        """

    @abstractmethod
    def decode(self, payload: bytes) -> NDArray[np.float32]:
        """The samples of an audio event at 24 kHz."""

    @abstractmethod
    def counter(self) -> Callable[[bytes], int]:
        """What tells how many samples at 24 kHz an audio event has, without decoding it."""

    def ping(self, stamp: bytes) -> Message | None:
        """A message that comes back with its 8 bytes; None if there is none in this protocol."""
        return None
