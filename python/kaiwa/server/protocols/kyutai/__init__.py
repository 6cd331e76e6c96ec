"""Kyutai's duplex protocol at `/api/chat` (spec protocols.md 1; docs/server.md)."""
