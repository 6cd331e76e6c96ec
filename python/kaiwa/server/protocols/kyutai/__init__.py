"""Kyutai's duplex protocol at `/api/chat` (docs/spec/protocols.md 1; docs/server.md)."""
