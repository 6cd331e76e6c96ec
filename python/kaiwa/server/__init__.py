"""The server: settings, keys, limits, websockets, health and metrics over the engine."""
