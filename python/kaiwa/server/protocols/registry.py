"""The wire protocols that a server speaks."""

from __future__ import annotations

from kaiwa.server.protocols.base import WireProtocol
from kaiwa.server.protocols.kyutai.protocol import KyutaiProtocol
from kaiwa.server.protocols.live.protocol import LiveProtocol

PROTOCOLS: tuple[WireProtocol, ...] = (KyutaiProtocol(), LiveProtocol())
