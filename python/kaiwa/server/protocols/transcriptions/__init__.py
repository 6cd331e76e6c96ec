"""OpenAI's transcriptions of files at `POST /v1/audio/transcriptions` (docs/server.md)."""
