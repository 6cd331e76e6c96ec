"""Kyutai's streaming speech to text at `/api/asr-streaming` (docs/spec/protocols.md 2.3)."""
