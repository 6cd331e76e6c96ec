"""The protocols of telephony providers, as the life of a call sees them."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter

from kaiwa.server.protocols.base import CallCodec, Entry, Services, WireProtocol
from kaiwa.server.protocols.telephony import signature, voice
from kaiwa.server.protocols.telephony.codec import TelephonyCodec
from kaiwa.server.protocols.telephony.provider import Provider
from kaiwa.server.protocols.telephony.providers import TWILIO
from kaiwa.server.protocols.telephony.signature import SignatureCheck
from kaiwa.server.settings import ServerSettings

PATH = "/telephony"


class TelephonyProtocol(WireProtocol):
    """Media streams of one provider, at `/telephony/NAME`."""

    def __init__(self, provider: Provider) -> None:
        """The protocol of a provider."""
        self._provider = provider
        self.name = provider.name
        self.paths = (f"{PATH}/{provider.name}",)

    def codec(self) -> CallCodec:
        """What translates for a new stream."""
        return TelephonyCodec(self._provider)


class TwilioProtocol(TelephonyProtocol):
    """Twilio's, whose requests are signed, and which asks what to do with a call."""

    def __init__(self, check: SignatureCheck | None = None) -> None:
        """The protocol.

        Args:
            check: of signatures; None takes requests without one.
        """
        super().__init__(TWILIO)
        self._check = check

    def configure(self, settings: ServerSettings) -> WireProtocol:
        """With the auth tokens that the settings name."""
        path = settings.twilio_auth_token_file
        return self if path is None else TwilioProtocol(SignatureCheck.read(path))

    def codec(self) -> CallCodec:
        """What translates for a new stream."""
        if self._check is None:
            return super().codec()
        return TelephonyCodec(self._provider, SignedStream(self._check, self.paths[0]))

    def add_routes(self, router: APIRouter, services: Services) -> None:
        """What Twilio asks when somebody calls."""
        voice.add(router, services, self.name, self.paths[0], self._check)


@dataclass(frozen=True)
class SignedStream:
    """Looks at the request with which Twilio opens a stream.

    Attributes:
        check: of signatures.
        path: of the request. Twilio sends no query.
    """

    check: SignatureCheck
    path: str

    def __call__(self, entry: Entry) -> None:
        """Refuses a request that is not signed.

        Raises:
            Refused: 403.
        """
        host = entry.headers.get("host", "")
        known = signature.addresses(host, self.path, "", ("wss", "https", "ws", "http"))
        self.check.require(entry.headers.get(signature.HEADER), known)
