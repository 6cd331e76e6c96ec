"""OpenAI's Realtime protocol at `/v1/realtime` (docs/spec/protocols.md 3.4; docs/server.md)."""
