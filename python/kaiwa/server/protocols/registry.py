"""The wire protocols that a server speaks."""

from __future__ import annotations

from kaiwa.server.protocols.base import WireProtocol
from kaiwa.server.protocols.kyutai.protocol import KyutaiProtocol

PROTOCOLS: tuple[WireProtocol, ...] = (KyutaiProtocol(),)
