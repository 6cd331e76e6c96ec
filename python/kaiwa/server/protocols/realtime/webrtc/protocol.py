"""The protocol: opened by an offer over HTTP, not by a websocket."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType

from fastapi import APIRouter

from kaiwa.server.protocols.base import CallCodec, Services, WireProtocol
from kaiwa.server.protocols.realtime.webrtc import routes
from kaiwa.server.protocols.realtime.webrtc.codec import WebRtcCodec
from kaiwa.server.protocols.realtime.webrtc.network import Network
from kaiwa.server.settings import ServerSettings


class WebRtcProtocol(WireProtocol):
    """OpenAI's Realtime protocol by WebRTC."""

    name = "webrtc"
    cross_origin: Mapping[str, tuple[str, ...]] = MappingProxyType({routes.PATH: ("POST",)})

    def __init__(self, network: Network | None = None) -> None:
        """The protocol on a server that listens somewhere; None: on its own machine."""
        self._network = Network("127.0.0.1") if network is None else network

    def configure(self, settings: ServerSettings) -> WireProtocol:
        """With the ports and addresses of the settings. Its packages take a second or so to load,
        which the first caller is not to wait for."""
        threading.Thread(target=routes.load_early, name="kaiwa-webrtc", daemon=True).start()
        return WebRtcProtocol(Network.of(settings))

    def codec(self) -> CallCodec:
        """What translates for a new connection."""
        return WebRtcCodec()

    def add_routes(self, router: APIRouter, services: Services) -> None:
        """Where offers are posted."""
        routes.add(router, services, self, self._network)
