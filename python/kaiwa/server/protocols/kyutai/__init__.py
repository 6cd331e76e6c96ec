"""Kyutai's duplex protocol at `/api/chat` (spec protocols.md 1; docs/server.md)."""

from __future__ import annotations

from kaiwa.server.protocols.kyutai.protocol import KyutaiProtocol

__all__ = ["KyutaiProtocol"]
