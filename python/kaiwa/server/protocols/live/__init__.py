"""OpenAI's Live protocol at `/v1/live/sessions` (docs/spec/protocols.md 3.3; docs/server.md)."""
