"""Who is told what comes from a client."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Listener(ABC):
    """Told by a `Peer`, in the event loop."""

    @abstractmethod
    def connected(self) -> None:
        """Sound can be sent from now on."""

    @abstractmethod
    def heard(self, pcm: bytes) -> None:
        """Sound of the client: 16 bits at 24 kHz, mono."""

    @abstractmethod
    def told(self, message: str) -> None:
        """An event of the client."""

    @abstractmethod
    def gone(self, code: int) -> None:
        """It has gone: 1000, it said so; 1006, it did not."""

    @abstractmethod
    def flooded(self) -> None:
        """It has sent far too much, and is not listened to any more."""
