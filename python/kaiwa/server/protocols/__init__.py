"""Wire protocols, a folder each; `base` says what one is."""

from __future__ import annotations

from kaiwa.server.protocols.base import WireProtocol
from kaiwa.server.protocols.kyutai import KyutaiProtocol

#: The protocols that a server speaks.
PROTOCOLS: tuple[WireProtocol, ...] = (KyutaiProtocol(),)
