"""Realtime calls by WebRTC: audio as a track, events on a data channel (docs/server.md)."""
