"""Where calls by WebRTC listen, and which servers help clients to reach them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kaiwa.errors import InputError
from kaiwa.server.settings import ServerSettings


@dataclass(frozen=True)
class Network:
    """What the operator has set.

    Attributes:
        host: where the server itself listens; 0.0.0.0 and :: are all addresses.
        ports: UDP ports to choose from; None is any.
        address: what clients are told in place of the machine's own addresses; None: those.
        stun: address of a STUN server (`stun:HOST:PORT`).
        turn: address of a TURN server (`turn:HOST:PORT`).
        turn_user, turn_password: for that one.
    """

    host: str
    ports: range | None = None
    address: str | None = None
    stun: str | None = None
    turn: str | None = None
    turn_user: str | None = None
    turn_password: str | None = None

    @property
    def helped(self) -> bool:
        """Whether a server was named. Then this one has to send to clients before they have sent
        anything; otherwise it sends to nobody who did not prove that they have its answer."""
        return self.stun is not None or self.turn is not None

    @classmethod
    def of(cls, settings: ServerSettings) -> Network:
        """The settings of a server.

        Raises:
            InputError: the file with the password cannot be read.
        """
        password = None
        if settings.webrtc_turn_password_file is not None:
            path = Path(settings.webrtc_turn_password_file)
            try:
                password = path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                raise InputError(
                    f"webrtc_turn_password_file {path} cannot be read; give a file with the "
                    "password alone"
                ) from None
        return cls(
            host=settings.host,
            ports=settings.webrtc_port_range,
            address=settings.webrtc_address,
            stun=settings.webrtc_stun,
            turn=settings.webrtc_turn,
            turn_user=settings.webrtc_turn_user,
            turn_password=password,
        )
